"""`logclf-daemon serve`: the HTTP API and the live page without inputs and outputs."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import closing
from pathlib import Path

import click

from logclf_daemon.cli.options import base_config, cascade_options, config_option, log_to_stderr
from logclf_daemon.config import CascadeFlags, Config, located, overridden

DEFAULT_LISTEN = "127.0.0.1:24280"


@click.command()
@click.option("--listen", metavar="ADDR", help=f"host:port. Default: http.listen, else {DEFAULT_LISTEN}.")
@click.option("--token-file", type=click.Path(path_type=Path, dir_okay=False), help="File with the token to ask for.")
@config_option
@cascade_options
def serve(
    listen: str | None,
    token_file: Path | None,
    config_path: Path | None,
    flags: CascadeFlags,
) -> None:
    """Serve the HTTP API and the live page alone: label lines and CSV files, review verdicts.

    \b
    Example:
      logclf-daemon serve --listen 127.0.0.1:24280
    """
    log_to_stderr(logging.INFO)
    config = base_config(config_path)
    http = config.http.model_dump() | {"listen": listen or config.http.listen or DEFAULT_LISTEN}
    if token_file is not None:
        http["token"] = token_file.read_text(encoding="utf-8").strip()
    asyncio.run(_served(overridden(config, flags, sections={"http": http})))


async def _served(config: Config) -> None:
    from logclf_daemon.http.app import create_app  # heavy: not needed for --help
    from logclf_daemon.http.server import HttpServer
    from logclf_daemon.http.standalone import Standalone

    loop = asyncio.get_running_loop()
    with closing(Standalone(config)) as host:
        server = HttpServer(config.http, lambda: create_app(host))
        with located(config):
            server.open()
        with closing(server):
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, server.stop)
            await server.serve()
