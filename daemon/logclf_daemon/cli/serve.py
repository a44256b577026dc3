"""`logclf-daemon serve`: the HTTP API and the live page without inputs and outputs."""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logclf_daemon import hangup
from logclf_daemon.cli.options import base_config, cascade_options, config_option, log_to_stderr, tell_misspelt
from logclf_daemon.config import CascadeFlags, Config, located, overridden, secret_in

if TYPE_CHECKING:
    from logclf_daemon.http.standalone import Standalone  # heavy: not needed for --help

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

    Rules and the model are read again when their files change, and at SIGHUP; another configuration needs a restart.

    \b
    Example:
      logclf-daemon serve --listen 127.0.0.1:24280
    """
    log_to_stderr(logging.INFO)
    tell_misspelt()
    config = base_config(config_path)
    http = config.http.model_dump() | {"listen": listen or config.http.listen or DEFAULT_LISTEN}
    if token_file is not None:
        http["token"] = secret_in(token_file, "--token-file").strip()
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
            asked = asyncio.Event()
            background = [asyncio.create_task(task) for task in (host.watch(), _reloads(host, asked))]
            try:
                with hangup.heard(asked.set):
                    await server.serve()
            finally:
                for task in background:
                    task.cancel()
                await asyncio.gather(*background, return_exceptions=True)


async def _reloads(host: Standalone, asked: asyncio.Event) -> None:
    while True:
        await asked.wait()
        asked.clear()
        await host.reload()
