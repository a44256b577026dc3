"""What libraries log themselves: as events, like everything else, and not as lines that anyone outside can multiply."""

from __future__ import annotations

import logging

from logclf_daemon.events import LOGGER, Bug, LibraryTrouble, emit

TOLD = frozenset({"Exception in ASGI application"})  # where it was met, with its traceback


class Libraries(logging.Handler):
    """A handler for the root logger: warnings and errors of all loggers but our own."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it without its arguments: they may be what a client sent."""
        library = record.name.partition(".")[0]
        said = str(record.msg).strip().partition("\n")[0]
        if library == LOGGER.name or said in TOLD:
            return
        error = record.exc_info[1] if record.exc_info else None
        if library == "asyncio" and error is not None and not isinstance(error, OSError):
            try:
                raise error  # for the traceback
            except BaseException:
                emit(Bug(where="asyncio", error=f"{said}: {error!r}"))
            return
        emit(LibraryTrouble(library=library, detail=f"{said}: {error!r}" if error is not None else said))


def hear_libraries() -> None:
    """From now on nothing of theirs goes to standard error by itself."""
    root = logging.getLogger()
    if not any(isinstance(handler, Libraries) for handler in root.handlers):
        root.addHandler(Libraries())
