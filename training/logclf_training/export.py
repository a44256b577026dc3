"""Writing a model folder: all files with their hashes, tried by the daemon's own loader, then put in place at once."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from logclf_daemon.errors import BadInput
from logclf_daemon.stages._model import head as run_time_head
from logclf_daemon.stages._model.folder import CARD, CONFIG, ENCODER, FORMAT, HEAD, TOKENIZER, Runtime
from logclf_daemon.stages._model.head import Head
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_training import card
from logclf_training.encoder import Exported
from logclf_training.recipe import Recipe, Trained


@dataclass(frozen=True, slots=True)
class Parts:
    """What a model folder is made of. `exported` is None where sentence-transformers is to load `encoder`."""

    name: str
    labels: Sequence[str]
    head: Head
    encoder: str
    exported: Exported | None
    max_tokens: int
    thresholds: Mapping[str, Mapping[str, float | None]]
    card: str
    provenance: Mapping[str, object] = field(default_factory=dict)

    @property
    def runtime(self) -> Runtime:
        return "onnx" if self.exported else "sentence-transformers"


def assembled(trained: Trained, story: card.Story, made_by: Recipe, made_from: dict[str, object]) -> Parts:
    """What goes in the folder."""
    figures = {"held-out sources": trained.held_out, **story.measured}
    return Parts(
        name=story.name,
        labels=trained.labels,
        head=trained.head,
        encoder=made_by.encoder,
        exported=trained.exported,
        max_tokens=made_by.max_tokens,
        thresholds=trained.thresholds,
        card=card.write(story),
        provenance={**made_from, "quality": {name: quality.as_json() for name, quality in figures.items()}},
    )


def write_folder(parts: Parts, out: Path, *, replace: bool = False) -> None:
    """Write the folder beside `out`, load it as the daemon does, and only then give it its name.

    Raises:
        BadInput: `out` exists and `replace` is not asked for, or is something else than a model folder.
        ConfigError: The daemon would refuse the folder; nothing was replaced.
    """
    check_place(out, replace=replace)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        fresh.mkdir()
        for name, data in _files(parts).items():
            _write(fresh / name, data)
        ModelStage(ModelOptions(path=fresh, max_error_rate=1, runtime=parts.runtime))
        if out.exists():
            out.rename(old)
        fresh.rename(out)
        _sync(out.parent)


def check_place(out: Path, *, replace: bool) -> None:
    """Refuse early what `write_folder` would refuse after the work.

    Raises:
        BadInput: `out` exists and `replace` is not asked for, or is something else than a model folder, or cannot be
            written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-").cleanup()
    except OSError as error:
        raise BadInput(f"{out}: {out.parent} cannot be written: {error.strerror}; give another --out") from error
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / CONFIG).is_file():
        raise BadInput(f"{out}: exists and is no model folder; give another --out")
    if not replace:
        raise BadInput(f"{out}: exists; give --replace to put the new model in its place, or another --out")


def _files(parts: Parts) -> dict[str, bytes]:
    files = {HEAD: run_time_head.write(parts.head), CARD: parts.card.encode()}
    if parts.exported:
        files |= {ENCODER: parts.exported.model, TOKENIZER: parts.exported.tokenizer}
    config = {
        "format": FORMAT,
        "name": parts.name,
        "labels": list(parts.labels),
        "runtime": parts.runtime,
        "encoder": parts.encoder,
        "pooling": "mean",
        "dimensions": len(parts.head.embedding),
        "max_tokens": parts.max_tokens,
        "temperature": parts.head.temperature,
        "thresholds": parts.thresholds,
        "sha256": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(files.items())},
        "provenance": parts.provenance,
    }
    return files | {CONFIG: (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
