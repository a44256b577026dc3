"""`logclf-train`: build, fit, measure, export and convert models. Needs the extra `train`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec, TypeVar

import click

from logclf_daemon.errors import BadInput, LogclfError
from logclf_daemon.stages._model.folder import Runtime

EXTRA = {
    "all_minilm_l6_v2",
    "joblib",
    "onnx",
    "onnxruntime",
    "scipy",
    "sentence_transformers",
    "sklearn",
    "threadpoolctl",
    "torch",
    "transformers",
}
P = ParamSpec("P")
T = TypeVar("T")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
SHIPPED = Path("shipped")
_FP32 = click.option("--fp32", is_flag=True, help="Full precision: four times the size, half the speed, no rounding.")


def say(text: str) -> None:
    """Progress and remarks, on stderr."""
    click.echo(text, err=True)


class _Failure(click.ClickException):
    """One line on stderr and the exit code of the error."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class


@contextmanager
def _one_line_errors() -> Iterator[None]:
    """A user's mistake is one line and an exit code, never a traceback."""
    try:
        yield
    except LogclfError as error:
        raise _Failure(str(error), error.exit_code) from error
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in EXTRA:
            raise
        raise click.ClickException(f"{error.name} is not installed; pip install 'logclf-daemon[train]'") from error


def _command(function: Callable[P, T]) -> Callable[P, T]:
    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        with _one_line_errors():
            return function(*args, **kwargs)

    return run


@click.group(context_settings={"auto_envvar_prefix": "LOGCLF_TRAIN", "help_option_names": ["-h", "--help"]})
def main() -> None:
    """Train the local model of logclf-daemon."""


@main.command()
@click.option("--corpus", type=FOLDER, default=SHIPPED, show_default=True, help="A folder, or `shipped`: ours.")
@click.option("--out", type=FOLDER, default=Path("models/default"), show_default=True)
@click.option(
    "--measure", "rows", type=FILE, help="Labelled CSV to measure on, for the card; nothing of it is learned."
)
@click.option("--measure-name", default="other real lines", show_default=True, help="What the card calls it.")
@_FP32
@click.option("--replace", is_flag=True, help="Put the result in the place of an existing model folder.")
@click.option("--threads", default=1, show_default=True, type=click.IntRange(1), help="Cores for training.")
@_command
def default(
    corpus: Path, out: Path, rows: Path | None, measure_name: str, fp32: bool, replace: bool, threads: int
) -> None:
    """Rebuild the shipped model from the corpus. The same bytes come out with the same tools and number of threads.

    Example: logclf-train default --corpus training/corpus --out models/default --replace
    """
    from dataclasses import replace as changed

    from logclf_training import default as build
    from logclf_training.encoder import cores
    from logclf_training.export import check_place, write_folder

    check_place(out, replace=replace)
    made_by = changed(build.RECIPE, quantised=not fp32)
    with cores(threads):
        parts = build.build(_corpus(corpus), rows, measure_name, say, made_by)
    write_folder(parts, out, replace=replace)
    say(f"{out}: written")


def _corpus(folder: Path) -> Path:
    from logclf_training.corpus import shipped

    return shipped() if folder == SHIPPED else folder


@main.command()
@click.argument("labelled", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="The model folder to make.")
@click.option(
    "--encoder",
    default="all-MiniLM-L6-v2",
    show_default=True,
    help="This one, a local sentence-transformers folder, a hub name, or `shipped`: the one of the shipped model.",
)
@click.option("--runtime", type=click.Choice(["onnx", "sentence-transformers"]), default="onnx", show_default=True)
@_FP32
@click.option("--mix", type=FOLDER, help="Learn from a corpus too, `shipped`: from ours; its labels join yours.")
@click.option(
    "--min-rows", default=8, show_default=True, type=click.IntRange(2), help="Least different rows of a label."
)
@click.option("--compare", type=FOLDER, help="Model folder to compare with; without it the shipped one.")
@click.option("--replace", is_flag=True, help="Put the result in the place of an existing model folder.")
@click.option("--even-if-worse", is_flag=True, help="Replace it even by one that is right on fewer of your rows.")
@_command
def fit(
    labelled: Path,
    out: Path,
    encoder: str,
    runtime: Runtime,
    fp32: bool,
    mix: Path | None,
    min_rows: int,
    compare: Path | None,
    replace: bool,
    even_if_worse: bool,
) -> None:
    """Train on your own rows: columns log_message, target_label and, better, source.

    Example: logclf-train fit labelled.csv --out /var/lib/logclf-daemon/model
    """
    from logclf_training import dataset, fit
    from logclf_training.export import check_place, write_folder
    from logclf_training.recipe import Recipe

    check_place(out, replace=replace)
    rows = fit.examined(dataset.read_labelled(labelled), min_rows, say)
    made_by = Recipe(encoder=encoder, runtime=runtime, quantised=not fp32)
    mixed = fit.corpus_examples(_corpus(mix), made_by) if mix else []
    fitted = fit.fit(rows, mixed, made_by, fit.existing(compare), say)
    click.echo(fitted.as_text())
    if remark := fit.silence(fitted.trained.thresholds):
        say(remark)
    if fitted.worse and (out / "config.json").exists() and not even_if_worse:
        raise BadInput(f"{out}: kept, the new model is worse; add rows, --mix shipped, or give --even-if-worse")
    write_folder(fitted.parts(labelled, made_by), out, replace=replace)
    say(f"{out}: written; use it with `model: {{path: {out.absolute()}}}`" + runtime_note(runtime))


@main.command()
@click.argument("verdicts", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="The model folder to make.")
@click.option("--corpus", type=FOLDER, default=SHIPPED, show_default=True, help="A folder, or `shipped`: ours.")
@click.option(
    "--min-confidence", default=0.5, show_default=True, type=click.FloatRange(0, 1), help="Of the LLM; people are sure."
)
@click.option("--replace", is_flag=True, help="Put the result in the place of an existing model folder.")
@_command
def distil(verdicts: Path, out: Path, corpus: Path, min_confidence: float, replace: bool) -> None:
    """Teach the model what people and the LLM said (`logclf-daemon verdicts export`), so that it is not asked again.

    The new head is written only if it is not worse on held-out lines; else exit 1, and everything stays as it was.

    Example: logclf-train distil verdicts.jsonl --out /var/lib/logclf-daemon/model
    """
    from logclf_training import distil, fit
    from logclf_training.export import check_place, write_folder
    from logclf_training.recipe import SHIPPED as SHIPPED_ENCODER
    from logclf_training.recipe import Recipe

    check_place(out, replace=replace)
    made_by = Recipe(encoder=SHIPPED_ENCODER)
    said = distil.read_verdicts(verdicts)
    examples = fit.corpus_examples(_corpus(corpus), made_by)
    taught = distil.taught(said, examples, min_confidence, say)
    made = distil.distil(examples, taught, made_by, say)
    click.echo(made.as_text())
    if made.worse:
        raise LogclfError(f"{out}: not written, the new head is worse; look at `logclf-daemon verdicts list`")
    if remark := fit.silence(made.trained.thresholds):
        say(remark)
    write_folder(distil.parts(made, taught, made_by), out, replace=replace)
    say(f"{out}: written; use it with `model: {{path: {out.absolute()}}}`")


def runtime_note(runtime: Runtime) -> str:
    """What else the configuration needs."""
    return "" if runtime == "onnx" else f" and `runtime: {runtime}`"


@main.command()
@click.argument("model", type=FOLDER)
@click.argument("labelled", type=FILE)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--max-error-rate", default=0.02, show_default=True, type=click.FloatRange(0, 1, min_open=True))
@_command
def evaluate(model: Path, labelled: Path, as_json: bool, max_error_rate: float) -> None:
    """Measure a model folder on labelled rows: forced to answer, and with abstention.

    Example: logclf-train evaluate models/default labelled.csv
    """
    from logclf_daemon.quality import as_text
    from logclf_training import dataset, fit

    stage = fit.stage_of(model, max_error_rate)
    quality = fit.quality_of(stage, dataset.read_labelled(labelled))
    click.echo(json.dumps(quality.as_json(), indent=2) if as_json else as_text(quality))


@main.command()
@click.argument("encoder")
@click.argument("out", type=FOLDER)
@_FP32
@click.option("--max-tokens", default=64, show_default=True, type=click.IntRange(8, 512))
@_command
def export(encoder: str, out: Path, fp32: bool, max_tokens: int) -> None:
    """Write an encoder as encoder.onnx and tokenizer.json, and say how far it is from the original.

    Example: logclf-train export all-MiniLM-L6-v2 /tmp/encoder
    """
    from logclf_daemon.stages._model.encoders import OnnxEncoder
    from logclf_training import encoder as making

    model = making.load(encoder, max_tokens)
    found = making.export(model, quantised=not fp32)
    out.mkdir(parents=True, exist_ok=True)
    (out / "encoder.onnx").write_bytes(found.model)
    (out / "tokenizer.json").write_bytes(found.tokenizer)
    texts = making.sample_texts()
    runs = OnnxEncoder(found.model, found.tokenizer, max_tokens=max_tokens, dimensions=found.dimensions)
    mean, least = making.agreement(making.original_embeddings(model, texts), making.embed(runs, texts))
    click.echo(f"{out}: {len(found.model) / 1e6:.1f} MB; cosine to the original: mean {mean:.4f}, least {least:.4f}")


@main.command()
@click.argument("head", type=FILE)
@click.option("--out", type=FOLDER, required=True, help="The model folder to make.")
@click.option("--trust", is_flag=True, help="A .joblib file runs code when it is loaded: say that you know its origin.")
@click.option("--encoder", default="all-MiniLM-L6-v2", show_default=True, help="What the head was fitted on.")
@click.option(
    "--labels", default="", help="Names of the classes, in order and separated by commas, if they are numbers."
)
@_FP32
@click.option("--calibrate", "rows", type=FILE, help="Labelled CSV the head has not seen: probabilities, thresholds.")
@click.option("--replace", is_flag=True, help="Put the result in the place of an existing model folder.")
@_command
def convert(
    head: Path, out: Path, trust: bool, encoder: str, labels: str, fp32: bool, rows: Path | None, replace: bool
) -> None:
    """Make a model folder from a scikit-learn LogisticRegression saved with joblib.

    Example: logclf-train convert head.joblib --trust --out /var/lib/logclf-daemon/model
    """
    if not trust:
        raise BadInput(f"{head}: loading it runs code that is in it; add --trust if you made it yourself")
    from logclf_training import convert
    from logclf_training.export import check_place, write_folder
    from logclf_training.recipe import Recipe

    check_place(out, replace=replace)
    made_by = Recipe(encoder=encoder, head=convert.EMBEDDING_ONLY, quantised=not fp32)
    names = tuple(name.strip() for name in labels.split(",") if name.strip())
    write_folder(convert.converted(head, made_by, names, rows), out, replace=replace)
    say(f"{out}: written")
    if rows is None:
        say("not calibrated: use it with `model: {max_error_rate: 1}`, or convert again with --calibrate rows.csv")


if __name__ == "__main__":
    main()
