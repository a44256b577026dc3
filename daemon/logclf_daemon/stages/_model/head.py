"""The classifier on top: one linear layer over embedding and hashed n-grams, then calibrated probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.stages._model.features import char_buckets, word_buckets

Floats = NDArray[np.float32]
ARRAYS = ("embedding", "chars", "words", "bias")


@dataclass(frozen=True, slots=True)
class Head:
    """Weights of a linear classifier with L labels.

    `embedding` is (dimensions, L), `chars` and `words` are (buckets, L) with a power of two of buckets (or none, when
    the head does not use them), `bias` is (L,). `temperature` divides the scores before the softmax.
    """

    embedding: Floats
    chars: NDArray[np.floating]
    words: NDArray[np.floating]
    bias: Floats
    temperature: float = 1.0

    def scores(self, embedding: Floats, text: str) -> Floats:
        """One score for each label, before calibration."""
        scores = embedding @ self.embedding + self.bias
        for weights, buckets in ((self.chars, char_buckets), (self.words, word_buckets)):
            if len(weights) and len(found := buckets(text, len(weights))):
                # Unit length, so that a long line does not shout.
                scores = scores + weights[found].sum(axis=0, dtype=np.float32) / np.float32(np.sqrt(len(found)))
        return scores

    def probabilities(self, embedding: Floats, text: str) -> Floats:
        """Calibrated probabilities of the labels."""
        return softmax(self.scores(embedding, text) / np.float32(self.temperature))


def softmax(scores: Floats) -> Floats:
    """Probabilities from scores along the last axis."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True), np.float32)


def read(data: bytes, *, labels: int, dimensions: int, temperature: float) -> Head:
    """The head in the bytes of an `.npz` file; never unpickles.

    Raises:
        ValueError: It is no such file, or an array is missing, misshapen or not finite.
    """
    arrays: dict[str, NDArray[np.floating]] = {}
    try:
        with np.load(BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in ARRAYS}
    except KeyError as error:
        raise ValueError(f"the array {error} is missing") from error
    except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged bytes
        raise ValueError(f"not a readable .npz file: {error}") from error
    _check(arrays, labels, dimensions)
    return Head(
        embedding=arrays["embedding"].astype(np.float32),
        chars=arrays["chars"],
        words=arrays["words"],
        bias=arrays["bias"].astype(np.float32),
        temperature=temperature,
    )


def _check(arrays: Mapping[str, NDArray[np.floating]], labels: int, dimensions: int) -> None:
    for name, shape in (("embedding", (dimensions, labels)), ("bias", (labels,))):
        if arrays[name].shape != shape:
            raise ValueError(f"the array {name!r} has shape {arrays[name].shape}, not {shape}")
    for name in ("chars", "words"):
        rows = len(arrays[name]) if arrays[name].ndim == 2 else -1
        if rows < 0 or arrays[name].shape[1] != labels or rows & (rows - 1):
            raise ValueError(f"the array {name!r} has shape {arrays[name].shape}, not (a power of two, {labels})")
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"the array {name!r} holds something else than finite numbers")


def write(head: Head) -> bytes:
    """The head as the bytes of an `.npz` file, the same for the same weights."""
    buffer = BytesIO()
    np.savez_compressed(
        buffer,
        allow_pickle=False,
        embedding=head.embedding.astype(np.float32),
        chars=head.chars.astype(np.float16),
        words=head.words.astype(np.float16),
        bias=head.bias.astype(np.float32),
    )
    return buffer.getvalue()
