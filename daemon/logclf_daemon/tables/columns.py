"""Finding the columns of a table by name, and saying what was probably meant when one is missing."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from logclf_daemon.errors import BadInput
from logclf_daemon.tables.rows import EXPLAINED, TableOptions

MAX_NAMES = 20  # listed in a message
MAX_NAME = 60  # letters of one of them
MAX_SEARCHED = 1000  # for one that is similar

# What other tools call these columns, the likeliest first.
ALIASES = {
    "message_column": (
        *("log_message", "message", "msg", "log", "text", "line", "raw_message", "_raw", "event", "content", "body"),
        *("textpayload", "log.message", "details"),
    ),
    "source_column": (
        *("source", "src", "app", "application", "program", "service", "service.name", "logger", "component", "host"),
        *("hostname", "tag", "file", "path", "sourcetype", "system", "facility", "container"),
    ),
}
TIMES = (
    *("timestamp", "@timestamp", "time", "datetime", "date", "event_time", "_time", "ts", "log_time", "created_at"),
    *("created", "asctime", "eventtime"),
)


def place_of(option: str, names: Sequence[str], options: TableOptions, where: str) -> int:
    """The position of the column that `source_column` or `message_column` names.

    Raises:
        BadInput: There is none; the text says which one it could be.
    """
    column: str = getattr(options, option)
    if column in names:
        return names.index(column)
    similar, called = _similar(column, names, option), options.called(option)
    hint = f"did you mean {called} {similar!r}?" if similar else f"name it with {called}"
    raise BadInput(f"{where}: no column {column!r} (there are: {_listed(names)}); {hint}")


def _listed(names: Sequence[str]) -> str:
    """The names, as far as a person would read them: what is no table has a header, too."""
    listed = [repr(name if len(name) <= MAX_NAME else f"{name[:MAX_NAME]}\u2026") for name in names[:MAX_NAMES]]
    more = [f"{len(names) - MAX_NAMES} more"] if len(names) > MAX_NAMES else []
    return ", ".join(listed + more)


def _similar(column: str, names: Sequence[str], option: str) -> str | None:
    names = [name for name in names[:MAX_SEARCHED] if len(name) <= MAX_NAME]
    lowered = {name.lower(): name for name in reversed(names)}
    known = next((lowered[alias] for alias in ALIASES[option] if alias in lowered), None)
    if column.lower() in lowered:
        return lowered[column.lower()]
    close = get_close_matches(column.lower(), list(lowered), n=1, cutoff=0.5)
    return known or (lowered[close[0]] if close else None)


def refuse_taken(names: Sequence[str], options: TableOptions, where: str) -> None:
    """A column that would be there twice is an error.

    Raises:
        BadInput: The table has a column of this name already, or two of those that are added have the same.
    """
    if not options.label_column or (options.explain and options.label_column in EXPLAINED):
        called = options.called("label_column")
        raise BadInput(f"{called}: {options.label_column!r} is no name for the label; choose another")
    if options.label_column in names:
        called = options.called("label_column")
        raise BadInput(f"{where}: there is a column {options.label_column!r} already; choose another with {called}")
    taken = [name for name in EXPLAINED if name in names] if options.explain else []
    if taken:
        called = options.called("explain")
        raise BadInput(f"{where}: there is a column {taken[0]!r} already; rename it or leave {called} out")


def time_place(names: Sequence[str], options: TableOptions, where: str) -> int | None:
    """The position of the column with the time, where the report can use one."""
    if not options.details:
        return None
    if options.time_column is not None:
        if options.time_column not in names:
            raise BadInput(f"{where}: no column {options.time_column!r}; name another with --time-column")
        return names.index(options.time_column)
    lowered = [name.lower() for name in names]
    return next((lowered.index(name) for name in TIMES if name in lowered), None)
