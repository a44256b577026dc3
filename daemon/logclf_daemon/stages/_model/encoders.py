"""What turns a text into an embedding: onnxruntime (no torch), or sentence-transformers where somebody wants it.

Dynamic int8 depends on what else is in the batch (its scales come from the whole tensor), so every text is a `run()`
of its own: the label of a line never depends on its neighbours. Batches would be a third faster (measured).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Floats = NDArray[np.float32]


class Encoder(Protocol):
    """Embeds one text at a time."""

    def embed(self, text: str) -> Floats:
        """The embedding, of length one."""


class OnnxEncoder:
    """An encoder exported with pooling and normalisation in the graph.

    Raises:
        ValueError: From the constructor: the bytes are no such encoder or tokenizer; `.args[0]` says which and why.
    """

    def __init__(self, encoder: bytes, tokenizer: bytes, *, max_tokens: int, dimensions: int) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_str(tokenizer.decode())
        except Exception as error:  # the binding raises bare Exception
            raise ValueError("tokenizer.json", f"not a tokenizer: {error}") from error
        # Files of this family have padding to 128 baked in: four times the work.
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        try:
            self._session = _session(encoder)
            inputs = {node.name for node in self._session.get_inputs()}
            outputs = {node.name: node.shape for node in self._session.get_outputs()}
        except Exception as error:  # the binding's exceptions share no base
            raise ValueError("encoder.onnx", f"not a model that onnxruntime loads: {error}") from error
        if inputs != {"input_ids", "attention_mask"} or outputs.get("sentence_embedding", [0])[-1] != dimensions:
            raise ValueError("encoder.onnx", f"has inputs {sorted(inputs)} and outputs {outputs}")

    def embed(self, text: str) -> Floats:
        """The embedding, of length one; a function of this text alone."""
        ids = np.array([self._tokenizer.encode(text).ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        embedding: Floats = self._session.run(["sentence_embedding"], feed)[0][0]
        return embedding


def _session(encoder: bytes) -> InferenceSession:
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read once, when the library is loaded
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(encoder, options, providers=["CPUExecutionProvider"])


class SentenceTransformersEncoder:
    """Any sentence-transformers model that is on this machine: nothing is downloaded, no code of the model is run.

    Raises:
        ImportError: From the constructor: sentence-transformers is not installed.
        ValueError: From the constructor: it cannot be loaded, or has other dimensions.
    """

    def __init__(self, source: str, *, max_tokens: int, dimensions: int) -> None:
        from sentence_transformers import SentenceTransformer

        try:
            model: Any = SentenceTransformer(
                source, local_files_only=True, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # hub, file and format errors of three libraries
            raise ValueError(source, f"sentence-transformers cannot load it: {error}") from error
        model.max_seq_length = max_tokens
        probe = model.encode("probe", normalize_embeddings=True)
        if probe.shape != (dimensions,):
            raise ValueError(source, f"gives {probe.shape[-1]} dimensions, not {dimensions}")
        self._model = model

    def embed(self, text: str) -> Floats:
        """The embedding, of length one."""
        return np.asarray(self._model.encode(text, normalize_embeddings=True, show_progress_bar=False), np.float32)
