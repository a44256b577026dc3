"""`logclf-daemon model`: what the local model is, and how good."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from logclf_daemon.cli import harmless
from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.config import Config
from logclf_daemon.errors import BadInput
from logclf_daemon.stages.model import ModelStage

if TYPE_CHECKING:
    from logclf_daemon.quality import LabelledRow, Together


@click.group()
def model() -> None:
    """Show and measure the local model."""


_FOLDER = click.option("--path", type=click.Path(path_type=Path, file_okay=False), help="A model folder.")


def _config(config_path: Path | None, path: Path | None, max_error_rate: float | None = None) -> Config:
    config = base_config(config_path, flags_given=path is not None)
    changes = {"path": path, "max_error_rate": max_error_rate}
    given = {name: value for name, value in changes.items() if value is not None}
    return config.model_copy(update={"model": config.model.model_copy(update=given)})


@model.command()
@config_option
@_FOLDER
def show(config_path: Path | None, path: Path | None) -> None:
    """Show the model card: data, figures, limits, licence.

    \b
    Example:
      logclf-daemon model show
    """
    stage = ModelStage(_config(config_path, path).model)
    card = stage.path / "README.md"
    click.echo(card.read_text(encoding="utf-8") if card.is_file() else f"{stage.path}: has no card")
    click.echo(f"folder {stage.path}, digest {stage.digest}")


@model.command()
@click.argument("labelled", type=click.Path(path_type=Path))
@config_option
@_FOLDER
@click.option(
    "--max-error-rate",
    type=click.FloatRange(0, 1, min_open=True),
    help="How many of its answers may be wrong; instead of the configuration's.",
)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots too.")
def evaluate(
    labelled: Path,
    config_path: Path | None,
    path: Path | None,
    max_error_rate: float | None,
    as_json: bool,
    html: Path | None,
) -> None:
    """Measure the model on LABELLED, a CSV with log_message and target_label: alone, and behind the rules.

    \b
    Example:
      logclf-daemon model evaluate labelled.csv --html quality.html
    """
    from logclf_daemon.quality import as_text, foreign_labels, quality_of, read_labelled
    from logclf_daemon.report import page

    config = _config(config_path, path, max_error_rate)
    stage, rows = ModelStage(config.model), read_labelled(labelled)
    if (words := foreign_labels(rows, stage.labels)) is not None:
        click.echo(harmless(f"warning: {words}"), err=True)
    quality, both = quality_of(stage, rows), _behind_the_rules(config, stage, rows)
    if as_json:
        click.echo(json.dumps({**quality.as_json(), "with_rules": both and both.as_json()}, indent=2))
    else:
        click.echo(as_text(quality))
        click.echo(f"\n{both.as_text() if both else 'rules not asked: their labels are not those of the model'}")
    if html is not None:
        title = f"{stage.config.name} on {labelled.name}"
        try:
            html.write_text(page(title, quality, [both.as_text()] if both else []), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{html}: cannot be written: {error.strerror}") from error


def _behind_the_rules(config: Config, stage: ModelStage, rows: list[LabelledRow]) -> Together | None:
    """What the daemon itself answers with this model; None if the configuration does not know the model's labels."""
    from logclf_daemon.cascade import Cascade
    from logclf_daemon.generation import Generation
    from logclf_daemon.quality import together
    from logclf_daemon.resources import cache_directory, folder
    from logclf_daemon.stages.rules import load_rules

    taxonomy = config.taxonomy
    if any(label not in taxonomy for label in stage.labels):
        return None
    rules = load_rules(config.rules, taxonomy, folder("rules"), cache_directory())
    cascade = Cascade(Generation(1, rules, [stage], taxonomy))
    try:
        return asyncio.run(together(cascade, rows))
    finally:
        cascade.close()
