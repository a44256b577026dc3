"""What the HTTP app needs of the program around it."""

from __future__ import annotations

from typing import Annotated, Protocol, cast

from fastapi import Depends, Request

from logclf_daemon.telemetry import Running


class Host(Protocol):
    """The daemon, or `serve` without one."""

    def running(self) -> Running:
        """What runs at this moment."""

    async def reload(self) -> str | None:
        """Read configuration, rules and model again; the reason if they were refused."""

    async def reviewed(self) -> None:
        """People changed remembered verdicts: from now on they count."""


# Plain functions would be called in a thread, for each request.
async def _host(request: Request) -> Host:
    return cast(Host, request.app.state.host)


async def _running(request: Request) -> Running:
    return (await _host(request)).running()


TheHost = Annotated[Host, Depends(_host)]
Now = Annotated[Running, Depends(_running)]
