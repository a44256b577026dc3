"""The model stage: a sentence embedding and a linear head that says how sure it is, and abstains when it is not.

It sees the canonical text of a template and nothing else, so its answer is a function of the template alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from logclf_daemon import resources
from logclf_daemon.cache import TwoGenerations
from logclf_daemon.errors import ConfigError, StageError
from logclf_daemon.record import Question, Verdict, abstention
from logclf_daemon.stages._model import folder, head
from logclf_daemon.stages._model.encoders import Encoder, OnnxEncoder, SentenceTransformersEncoder
from logclf_daemon.stages._model.folder import WHAT_TO_DO, ModelFolder, Runtime

BUILTIN = "default"
REMEMBERED = 8192  # texts a generation of the cache, half a kilobyte each
LEANS = 0.5  # the confidence from which an unsure answer is more than noise


class ModelOptions(BaseModel):
    """The local model."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="Ask the model what the rules leave open.")
    path: Literal["builtin"] | Path = Field(
        "builtin", description="A model folder made by `logclf-train`, or `builtin` for the one that ships."
    )
    max_error_rate: float = Field(
        0.02,
        gt=0,
        le=1,
        description="How many of its answers may be wrong; it abstains from the rest. 1 answers always.",
    )
    wait_secs: float = Field(
        5.0, gt=0, description="How long a batch may wait for the model; lines still open then leave as `model_busy`."
    )
    runtime: Runtime = Field(
        "onnx", description="Must be the one the folder was made for; sentence-transformers needs the extra `train`."
    )

    @property
    def folder(self) -> Path:
        """Where the model is."""
        return resources.folder("models") / BUILTIN if self.path == "builtin" else Path(self.path)


class ModelStage:
    """Answers by the local model. Immutable after construction, but for what it remembers of its own answers.

    A text costs a millisecond, and each save of a rule empties the caches before this stage: without a memory of its
    own a busy daemon would then spend seconds on texts it has judged before.

    Raises:
        ConfigError: From the constructor: the folder is missing, damaged or made for something else.
    """

    name = "model"

    def __init__(self, options: ModelOptions) -> None:
        if not options.folder.is_dir():
            raise ConfigError(
                f"{options.folder}: no such model folder; give `model.path` a folder made by `logclf-train`",
                ("model", "path"),
            )
        loaded = folder.read(options.folder)
        self.path, self.config, self.digest = loaded.path, loaded.config, loaded.digest
        self.labels = loaded.config.labels
        self._encoder = _encoder(loaded, options.runtime)
        self._answered: TwoGenerations[str, Verdict] = TwoGenerations(REMEMBERED)
        try:
            self._head = head.read(
                loaded.files[folder.HEAD],
                labels=len(self.labels),
                dimensions=loaded.config.dimensions,
                temperature=loaded.config.temperature,
            )
        except ValueError as error:
            raise ConfigError(f"{loaded.path / folder.HEAD}: {error}; {WHAT_TO_DO}") from error
        try:
            self.least_confidence = loaded.config.least_confidence(options.max_error_rate)
        except ValueError as error:
            raise ConfigError(f"{error}; raise it or use another model", ("model", "max_error_rate")) from error

    def unchanged(self) -> bool:
        """Whether the folder still holds the model that was loaded, whole: damage must be told before a restart."""
        try:
            return folder.read(self.path).digest == self.digest
        except ConfigError:
            return False

    def classify(self, questions: Sequence[Question]) -> list[Verdict | None]:
        """One verdict for each question, in order; unsure ones abstain with `low_confidence`."""
        answers: list[Verdict | None] = []
        for question in questions:
            verdict = self._answered.find(question.text)
            if verdict is None:
                verdict = self._answered.young[question.text] = self._verdict(question.text)
            answers.append(verdict)
        self._answered.trim()
        return answers

    def probabilities(self, text: str) -> dict[str, float]:
        """How likely each label is, for a canonical text.

        Raises:
            StageError: The runtime failed on this text.
        """
        return dict(zip(self.labels, map(float, self._probabilities(text)), strict=True))

    def _probabilities(self, text: str) -> head.Floats:
        try:
            return self._head.probabilities(self._encoder.embed(text), text)
        except Exception as error:  # the runtimes' exceptions share no base
            raise StageError(f"model: {type(error).__name__}: {error}") from error

    def _verdict(self, text: str) -> Verdict:
        probabilities = self._probabilities(text)
        best = int(np.argmax(probabilities))
        confidence = round(float(probabilities[best]), 4)
        if not confidence >= self.least_confidence[best]:
            return abstention("low_confidence", confidence, self.labels[best] if confidence >= LEANS else None)
        return Verdict(self.labels[best], confidence, "model")


def _encoder(loaded: ModelFolder, runtime: Runtime) -> Encoder:
    config = loaded.config
    if config.runtime != runtime:
        raise ConfigError(
            f"{loaded.path / folder.CONFIG}: made for the runtime {config.runtime!r}, "
            f"the configuration says {runtime!r}; "
            f"set `model.runtime: {config.runtime}` or make a folder for {runtime!r} with `logclf-train`"
        )
    try:
        if runtime == "onnx":
            return OnnxEncoder(
                loaded.files[folder.ENCODER],
                loaded.files[folder.TOKENIZER],
                max_tokens=config.max_tokens,
                dimensions=config.dimensions,
            )
        return SentenceTransformersEncoder(config.encoder, max_tokens=config.max_tokens, dimensions=config.dimensions)
    except ImportError as error:
        extra = "logclf-daemon[train]" if runtime == "sentence-transformers" else "logclf-daemon"
        raise ConfigError(f"model.runtime: {error.name} is not installed; pip install '{extra}'") from error
    except ValueError as error:
        what, why = error.args
        raise ConfigError(f"{loaded.path / what}: {why}; {WHAT_TO_DO}") from error
