"""A model folder: config.json, encoder, tokenizer, head and card; every file is checked against its hash when read."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from logclf_daemon.errors import ConfigError

FORMAT = 1
CONFIG, ENCODER, TOKENIZER, HEAD, CARD = "config.json", "encoder.onnx", "tokenizer.json", "head.npz", "README.md"
MAX_FILE_BYTES = 2 * 1024**3
WHAT_TO_DO = "install the model again, or rebuild it with `logclf-train`"

Runtime = Literal["onnx", "sentence-transformers"]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ModelConfig(BaseModel):
    """What `config.json` says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = Field(description="Version of this folder's layout.")
    name: str = Field(min_length=1)
    labels: tuple[str, ...] = Field(min_length=2)
    runtime: Runtime = Field(description="What turns a text into an embedding.")
    encoder: str = Field(
        description="Where the encoder came from; for sentence-transformers: the folder or name to load."
    )
    pooling: Literal["mean"] = Field("mean", description="How word pieces become one embedding, inside the encoder.")
    dimensions: int = Field(gt=0)
    max_tokens: int = Field(gt=2, le=8192, description="Word pieces of a line that count.")
    temperature: float = Field(gt=0)
    thresholds: dict[str, dict[str, float | None]] = Field(
        description="For an error rate, the least confidence of each label; null: never answer this label."
    )
    sha256: dict[str, Sha256] = Field(description="Hash of every other file.")
    provenance: dict[str, JsonValue] = Field(default_factory=dict, description="How it was made, and its measurements.")

    @model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError("a label stands twice")
        for rate, least in self.thresholds.items():
            if not 0 < float(rate) <= 1 or set(least) != set(self.labels):
                raise ValueError(f"thresholds.{rate}: needs a rate between 0 and 1 and one threshold for each label")
        needed = {HEAD} | ({ENCODER, TOKENIZER} if self.runtime == "onnx" else set())
        if missing := needed - set(self.sha256):
            raise ValueError(f"sha256: no hash for {', '.join(sorted(missing))}")
        if any(Path(name).name != name or name in {"", ".", "..", CONFIG} for name in self.sha256):
            raise ValueError("sha256: only plain file names of this folder")
        return self

    def least_confidence(self, max_error_rate: float) -> tuple[float, ...]:
        """The threshold of each label so that at most this share of the answers is wrong; above 1: never answer.

        Raises:
            ValueError: No threshold keeps the error so low; the text says which rate can be kept.
        """
        rates = {float(rate): least for rate, least in self.thresholds.items()} | {1.0: dict.fromkeys(self.labels, 0.0)}
        kept = [rate for rate in rates if rate <= max_error_rate]
        if not kept:
            raise ValueError(f"{max_error_rate} is less than this model can promise; the least is {min(rates)}")
        least = rates[max(kept)]
        return tuple(2.0 if (value := least[label]) is None else value for label in self.labels)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder that was read and is whole."""

    path: Path
    config: ModelConfig
    files: dict[str, bytes]
    digest: str


def read(path: Path) -> ModelFolder:
    """Read the folder and check it.

    Raises:
        ConfigError: A file is missing, damaged or not what `config.json` says; names the file and what to do.
    """
    if not path.is_dir():
        raise ConfigError(f"{path}: no such model folder; give `model.path` a folder made by `logclf-train`")
    raw = read_file(path / CONFIG)
    try:
        config = ModelConfig.model_validate_json(raw)
    except ValidationError as error:
        raise ConfigError(f"{path / CONFIG}: {_first(error)}; {WHAT_TO_DO}") from error
    files = {}
    for name, expected in config.sha256.items():
        data = read_file(path / name)
        if hashlib.sha256(data).hexdigest() != expected:
            raise ConfigError(f"{path / name}: damaged or changed (its SHA-256 is not that of {CONFIG}); {WHAT_TO_DO}")
        files[name] = data
    return ModelFolder(path, config, files, digest_of(raw))


def digest_of(config: bytes) -> str:
    """What names a model: its `config.json` holds the hash of every other file."""
    return hashlib.sha256(config).hexdigest()[:16]


def read_file(path: Path) -> bytes:
    """The bytes of one file of the folder.

    Raises:
        ConfigError: It is missing, not readable, not a plain file or absurdly large.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: missing; {WHAT_TO_DO}")
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES >> 30} GiB; {WHAT_TO_DO}")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give the daemon's user access") from error


def _first(error: ValidationError) -> str:
    """The first complaint of pydantic as `key: what`."""
    complaint = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(str(part) for part in complaint["loc"])
    return f"{where}: {complaint['msg']}" if where else complaint["msg"]
