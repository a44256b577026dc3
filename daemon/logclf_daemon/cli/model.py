"""`logclf-daemon model`: what the local model is, and how good."""

from __future__ import annotations

import json
from pathlib import Path

import click

from logclf_daemon.cli.options import base_config, config_option
from logclf_daemon.errors import BadInput
from logclf_daemon.stages.model import ModelOptions, ModelStage


@click.group()
def model() -> None:
    """Show and measure the local model."""


_FOLDER = click.option("--path", type=click.Path(path_type=Path, file_okay=False), help="A model folder.")


def _options(config_path: Path | None, path: Path | None) -> ModelOptions:
    options = base_config(config_path, flags_given=path is not None).model
    return options.model_copy(update={"path": path}) if path is not None else options


@model.command()
@config_option
@_FOLDER
def show(config_path: Path | None, path: Path | None) -> None:
    """Show the model card: data, figures, limits, licence.

    \b
    Example:
      logclf-daemon model show
    """
    stage = ModelStage(_options(config_path, path))
    card = stage.path / "README.md"
    click.echo(card.read_text(encoding="utf-8") if card.is_file() else f"{stage.path}: has no card")
    click.echo(f"folder {stage.path}, digest {stage.digest}")


@model.command()
@click.argument("labelled", type=click.Path(path_type=Path))
@config_option
@_FOLDER
@click.option("--json", "as_json", is_flag=True, help="Machine-readable.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots too.")
def evaluate(labelled: Path, config_path: Path | None, path: Path | None, as_json: bool, html: Path | None) -> None:
    """Measure the model on LABELLED, a CSV with log_message and target_label.

    \b
    Example:
      logclf-daemon model evaluate labelled.csv --html quality.html
    """
    from logclf_daemon.quality import as_text, quality_of, read_labelled
    from logclf_daemon.report import page

    stage = ModelStage(_options(config_path, path))
    quality = quality_of(stage, read_labelled(labelled))
    click.echo(json.dumps(quality.as_json(), indent=2) if as_json else as_text(quality))
    if html is not None:
        try:
            html.write_text(page(f"{stage.config.name} on {labelled.name}", quality), encoding="utf-8")
        except OSError as error:
            raise BadInput(f"{html}: cannot be written: {error.strerror}") from error
