"""Certificates and keys that the configuration names. `ssl` does not say which of its files is missing; this does."""

from __future__ import annotations

import ssl
from pathlib import Path

from logclf_daemon.errors import ConfigError

Key = tuple[str | int, ...]
CA = ("tls", "ca")


def load_certificate(context: ssl.SSLContext, cert: Path, key: Path | None) -> None:
    """Have the context show a certificate.

    Raises:
        ConfigError: A file cannot be read, or they are no certificate and its key.
    """
    _refuse_unreadable(cert, ("tls", "cert"))
    if key is not None:
        _refuse_unreadable(key, ("tls", "key"))
    try:
        context.load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{cert} and {key or 'no key'} are no certificate with its key: {error}; both must be PEM, and a pair",
            ("tls", "cert"),
        ) from error


def load_authorities(context: ssl.SSLContext, path: Path, option: Key) -> None:
    """Have the context trust the authorities in a file.

    Raises:
        ConfigError: It cannot be read, or there are none in it.
    """
    _refuse_unreadable(path, option)
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{path} holds no certificates: {error}; it must be PEM", option) from error


def client_context(authorities: Path | None) -> ssl.SSLContext:
    """For connecting to servers of these authorities, else of those this system trusts.

    Raises:
        ConfigError: As `load_authorities`.
    """
    if authorities is None:
        return ssl.create_default_context()
    load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), authorities, CA)
    return ssl.create_default_context(cafile=authorities)


def _refuse_unreadable(path: Path, option: Key) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}; correct the path, or let the daemon's user read it", option
        ) from error
