"""`logclf-daemon explain`: one line through the cascade."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from logclf_daemon.cli.options import base_config, cascade_options, config_option, log_to_stderr
from logclf_daemon.config import CascadeFlags, overridden

SHOWN = 160  # characters of a text that may be of any length


@click.command()
@click.argument("line", required=False)
@click.option("--source", default="", help="The tag or file the line would come from.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@config_option
@cascade_options
def explain(
    line: str | None,
    source: str,
    as_json: bool,
    config_path: Path | None,
    flags: CascadeFlags,
) -> None:
    """Show what each stage says of LINE (or of each line of standard input), why, how long it took, and the record.

    \b
    Example:
      logclf-daemon explain 'sshd[811]: Failed password for root from 10.0.0.9 port 22 ssh2'
    """
    from logclf_daemon.build import build_parts, cascade_of, close, tell_unused  # heavy: not needed for --help
    from logclf_daemon.cli.csv import state_of
    from logclf_daemon.explained import explained

    log_to_stderr(logging.WARNING)
    config = overridden(base_config(config_path), flags)
    parts = build_parts(config, state_of(config))
    tell_unused(parts)
    cascade = cascade_of(parts, patient=True)
    lines = (
        [line.encode("utf-8", "surrogateescape")]
        if line is not None
        else (text.rstrip(b"\r\n") for text in sys.stdin.buffer)
    )
    try:
        for text in lines:
            found = asyncio.run(explained(cascade, config, source, text))
            click.echo(json.dumps(found) if as_json else _words(found))
    finally:
        close(cascade, parts)


def _words(found: dict[str, Any]) -> str:
    verdict = found["logclf"]
    why = f"rule {verdict['rule']}" if "rule" in verdict else verdict.get("reason", "")
    sure = f"confidence {verdict['confidence']:.2f}" if "confidence" in verdict else ""
    rows = [f"{verdict['label']}  ({', '.join(filter(None, (verdict['stage'], sure, why)))})"]
    rows.append(f"  template {verdict['template']}  {_safe(found['template'])[:SHOWN]}")
    for step in found["steps"]:
        said = step["label"] or f"abstains{': ' + step['reason'] if step['reason'] else ''}"
        detail = f" rule {step['rule']}" if step["rule"] else ""
        if step["confidence"] is not None and step["stage"] != "rules":
            detail += f" confidence {step['confidence']:.2f}"
        rows.append(f"  {step['stage']:<9} {step['microseconds']:>10.1f} us  {said}{detail}")
    rows.append(f"  record    {json.dumps({name: _short(value) for name, value in found['record'].items()})}")
    return "\n".join(rows)


def _short(value: object) -> object:
    return f"{value[:SHOWN]}..." if isinstance(value, str) and len(value) > SHOWN else value


def _safe(text: str) -> str:
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)
