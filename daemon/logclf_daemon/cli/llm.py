"""`logclf-daemon llm`: how good and how fast the configured LLM is."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import click

from logclf_daemon.cli import harmless
from logclf_daemon.cli.options import base_config, config_option, log_to_stderr


@click.group()
def llm() -> None:
    """Measure the LLM."""


@llm.command()
@click.argument("labelled", type=click.Path(path_type=Path))
@config_option
@click.option("--model", "name", help="A model of the server; instead of the configuration's.")
@click.option("--url", help="The Ollama server; instead of the configuration's.")
@click.option("--limit", type=click.IntRange(1), help="Only so many rows.")
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
def evaluate(
    labelled: Path, config_path: Path | None, name: str | None, url: str | None, limit: int | None, as_json: bool
) -> None:
    """Measure the LLM on LABELLED, a CSV with log_message, target_label and, better, source.

    It prints accuracy, calibration, seconds a question and tokens, so that you can choose a model.

    \b
    Example:
      logclf-daemon llm evaluate labelled.csv --model qwen3:1.7b
    """
    from logclf_daemon.llm_quality import measure  # heavy: not needed for --help
    from logclf_daemon.quality import foreign_labels, read_labelled
    from logclf_daemon.stages.llm import LlmStage

    log_to_stderr(logging.ERROR)
    config = base_config(config_path, flags_given=url is not None)
    given = {option: value for option, value in (("model", name), ("url", url)) if value is not None}
    stage = LlmStage(config.llm.model_copy(update=given), config.taxonomy)
    rows = read_labelled(labelled)[:limit]
    if (words := foreign_labels(rows, config.taxonomy)) is not None:
        click.echo(harmless(f"warning: {words}"), err=True)
    bar: Any
    try:
        with click.progressbar(length=len(rows), label="asking", file=sys.stderr) as bar:
            found = measure(stage, rows, bar.update if sys.stderr.isatty() else None)
    finally:
        stage.close()
    click.echo(json.dumps(found.as_json(), indent=2) if as_json else found.as_text())
