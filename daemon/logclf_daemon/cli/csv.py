"""`logclf-daemon csv`: one-off classification of a table."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from logclf_daemon.cli.options import base_config, cascade_options, config_option, log_to_stderr
from logclf_daemon.config import CascadeFlags, Config, overridden, state_directory
from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.writable import look_at_file

if TYPE_CHECKING:
    from logclf_daemon.cli.csv_run import Order
    from logclf_daemon.table import Summary

_KINDS = click.Choice(["csv", "jsonl", "log", "parquet"])


@click.command("csv")
@click.argument("source", metavar="INPUT")
@click.option("-o", "--output", "target", default="-", metavar="OUT", help="Where to write; - is standard output.")
@click.option("--source-column", default="source", show_default=True)
@click.option("--message-column", default="log_message", show_default=True)
@click.option("--label-column", default="target_label", show_default=True)
@click.option("--delimiter", metavar="CHAR", help="Default: found in the header. `tab` is a tab.")
@click.option("--encoding", default="utf-8", show_default=True, help="utf-8, utf-16, latin-1 and the like.")
@click.option("--input-format", "kind", type=_KINDS, help="Default: by the name of INPUT.")
@click.option("--output-format", "into", type=_KINDS, help="Default: by the name of OUT.")
@click.option("--explain", is_flag=True, help="Add confidence, stage and rule.")
@click.option(
    "--bad-rows",
    default="keep",
    show_default=True,
    metavar="keep|drop|FILE",
    help="Rows with another number of cells: label them all the same, leave them out, or send them to FILE.",
)
@click.option(
    "--safe-cells", is_flag=True, help="Put ' before each cell that a spreadsheet would take for a formula (CSV)."
)
@click.option("-j", "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes.")
@click.option("--resume", is_flag=True, help="Keep a journal beside OUT; go on where an interrupted run stopped.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots (HTML).")
@click.option("--time-column", metavar="NAME", help="For the report. Default: found by its name.")
@click.option(
    "--llm-budget", type=click.IntRange(0), metavar="N", help="Ask the LLM at most N times; answers are kept."
)
@config_option
@cascade_options
def csv_command(
    source: str,
    target: str,
    config_path: Path | None,
    flags: CascadeFlags,
    **given: Any,
) -> None:
    """Add the column target_label to a table with the columns source and log_message.

    INPUT is a CSV, JSON lines (.jsonl), Parquet (.parquet) or plain lines (.log), packed or not (.gz, .xz, .bz2, .zst),
    or - for standard input. Other cells stay as they are.

    \b
    Examples:
      logclf-daemon csv logs.csv -o labelled.csv
      logclf-daemon csv huge.csv.gz -o labelled.csv.gz --jobs 4 --resume --report report.html
    """
    from logclf_daemon.cli.csv_run import labelled  # heavy: not needed for --help

    log_to_stderr(logging.WARNING)
    config = overridden(base_config(config_path), flags)
    order = _order(source, target, given)
    _tell(labelled(order, config, state_of(config)), order)


def state_of(config: Config) -> Path | None:
    """Where LLM verdicts are remembered; nowhere if there is no place to write."""
    try:
        return state_directory(config.state)
    except ConfigError:
        return None


def _order(source: str, target: str, given: dict[str, Any]) -> Order:
    from logclf_daemon.cli.csv_run import Order
    from logclf_daemon.table import TableOptions, kind_of
    from logclf_daemon.tables.encodings import checked

    kind = given["kind"] or kind_of(source)
    into = given["into"] or (kind if target == "-" else kind_of(target))
    bad_rows = given["bad_rows"]
    aside = bad_rows if bad_rows not in ("keep", "drop") else None
    options = TableOptions(
        given["source_column"],
        given["message_column"],
        given["label_column"],
        given["explain"],
        _delimiter(given["delimiter"]),
        checked(given["encoding"]),
        "aside" if aside else bad_rows,
        given["safe_cells"],
        given["time_column"],
        details=given["report"] is not None,
    )
    order = Order(
        source,
        target,
        kind,
        into,
        options,
        aside,
        given["jobs"],
        given["resume"],
        given["report"],
        given["llm_budget"],
    )
    _refuse(order)
    return order


def _delimiter(text: str | None) -> str | None:
    character = {"tab": "\t", "\\t": "\t"}.get(text or "", text)
    if character is not None and (len(character) != 1 or not character.isascii() or character in '"\r\n'):
        raise click.BadParameter("one ASCII character, no quote and no line end", param_hint="--delimiter")
    return character


def _refuse(order: Order) -> None:
    """Options that do not go together."""
    from logclf_daemon.tables.files import PACKED

    unresumable = "-" in (order.source, order.target) or "parquet" in (order.kind, order.into)
    if order.resume and unresumable:
        raise click.UsageError("--resume needs files for INPUT and -o OUT, and not Parquet, which is one piece.")
    if order.options.safe_cells and order.into != "csv":
        raise click.UsageError("--safe-cells is for CSV: nothing else is opened by a spreadsheet as formulas.")
    if order.kind == "parquet" and order.source == "-":
        raise click.UsageError("Parquet cannot be read from standard input: its index is at the end of the file.")
    if order.options.encoding != "utf-8" and "parquet" in (order.kind, order.into):
        raise click.UsageError("--encoding: Parquet is UTF-8.")
    if order.options.encoding != "utf-8" and (order.kind != order.into or order.kind == "jsonl"):
        raise click.UsageError("--encoding: only where a CSV or a log stays what it is.")
    if order.resume and Path(order.target).exists() and not Path(order.target).is_file():
        raise click.UsageError("--resume needs a file for -o OUT.")
    if order.into == "parquet" and Path(order.target).suffix in PACKED:
        raise click.UsageError(f"Parquet packs its columns itself: leave {Path(order.target).suffix} off the name.")
    if order.aside == "-":
        raise click.UsageError("--bad-rows: name a file; standard output is for OUT.")
    _refuse_the_same(order)
    if order.report is not None:
        try:
            look_at_file(order.report)  # before the work
        except OSError as error:
            raise BadInput(f"{order.report}: cannot be written: {error.strerror}") from error


def _refuse_the_same(order: Order) -> None:
    """What is read or written under two names would be lost."""
    report = str(order.report) if order.report is not None else None
    named = {
        "INPUT": (order.source, 0),
        "OUT": (order.target, 1),
        "--bad-rows": (order.aside, 1),
        "--report": (report, 1),
    }
    seen: dict[object, str] = {}
    for what, (name, standard) in named.items():
        file = _file(name, standard) if name is not None else None
        if file is None:
            continue
        if file in seen:
            raise click.UsageError(f"{what} is {seen[file]}; choose another name.")
        seen[file] = what


def _file(name: str, standard: int) -> object:
    """What tells a file from others, under whatever name; None for a pipe, a terminal or a device."""
    try:
        state = os.fstat(standard) if name == "-" else Path(name).stat()
    except OSError:
        return None if name == "-" else Path(name).resolve()
    return (state.st_dev, state.st_ino) if stat.S_ISREG(state.st_mode) else None


def _tell(summary: Summary, order: Order) -> None:
    click.echo(f"{summary.rows} rows, {summary.unclassified} unclassified", err=True)
    for title, counts in (("label", summary.labels), ("stage", summary.stages)):
        for name, count in counts.most_common():
            click.echo(f"  {title} {name:<22} {count:>9}  {count / max(summary.rows, 1):6.1%}", err=True)
    if summary.odd_count:
        lines = ", ".join(map(str, summary.odd_rows[:5]))
        more = f" and {summary.odd_count - 5} more" if summary.odd_count > 5 else ""
        click.echo(f"  {_what_is_bad(order)}: line {lines}{more}; {_what_became(order)}", err=True)
    if summary.lost:
        names = ", ".join(repr(name[:60]) for name in summary.lost[:5])
        more = " and others" if len(summary.lost) > 5 else ""
        click.echo(f"  left out, since the first objects have no such member: {names}{more}", err=True)
    if order.report is not None:
        from logclf_daemon.tables.files import writing
        from logclf_daemon.tables.report import page

        try:
            with writing(str(order.report)) as file:
                file.write(page(f"Labels of {Path(order.name).name}", summary).encode())
        except OSError as error:
            raise BadInput(f"{order.report}: cannot be written: {error.strerror}") from error


def _what_is_bad(order: Order) -> str:
    return "no JSON object" if order.kind == "jsonl" else "another number of cells than the header"


def _what_became(order: Order) -> str:
    if order.aside:
        return f"sent to {order.aside}"
    return "left out" if order.options.bad_rows == "drop" else "kept"
