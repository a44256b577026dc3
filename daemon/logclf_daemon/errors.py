"""The few errors that cross a border, named by what the caller should do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class LogclfError(Exception):
    """Anything a person can act on: the text says where, what and what to do."""

    exit_code = 1


class ConfigError(LogclfError):
    """The configuration, a rule file or a model folder is wrong. Starting again changes nothing (exit 78).

    `key` is the option it is about, as far as who raises it knows; `config.located` adds file and line.
    """

    exit_code = 78

    def __init__(self, text: str, key: tuple[str | int, ...] = ()) -> None:
        super().__init__(f"{'.'.join(map(str, key))}: {text}" if key else text)
        self.text = text
        self.key = key


@contextmanager
def inside(*section: str | int) -> Iterator[None]:
    """A mistake of a part: its option is one of this section of the configuration."""
    try:
        yield
    except ConfigError as error:
        if not error.key:
            raise
        raise ConfigError(error.text, (*section, *error.key)) from error


class BadInput(LogclfError):
    """The data given on the command line cannot be read as what it should be (exit 65)."""

    exit_code = 65


class ServiceUnavailable(LogclfError):
    """Something this command needs does not answer: a port, a running daemon, Ollama (exit 69)."""

    exit_code = 69


class NoRoom(ServiceUnavailable):
    """The disk is full: it mends without us, so a daemon waits where a command gives up."""


class StageError(LogclfError):
    """A stage could not answer this time. The cascade counts it and goes on: the record is never lost."""


class OutputUnavailable(LogclfError):
    """The destination is away. The same records may be written again later; the pipeline keeps trying."""


class RecordRejected(LogclfError):
    """The destination will never take these records: count them, dead-letter them, go on."""

    def __init__(self, message: str, reason: str = "rejected") -> None:
        super().__init__(message)
        self.reason = reason
