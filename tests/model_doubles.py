"""A model of five words and two labels: a folder that loads in milliseconds."""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from pathlib import Path

import numpy as np

from logclf_daemon.stages._model import folder
from logclf_daemon.stages._model.head import Head, write

WORDS = {"[UNK]": 0, "failed": 1, "started": 2, "disk": 3, "service": 4}
LABELS = ("Error", "System Notification")

# An ONNX graph: the rows of a 5 x 4 table, averaged over the words, then of length one. `failed` is (1, 0, 0, 0),
# `started` (0, 1, 0, 0), `disk` (0, 0, 1, 0), `service` (1, 1, 0, 0), an unknown word (0, 0, 0, 1).
_ENCODER = (
    "c-nnXJx{|h5UmrJI)`Y35uytcvS7)`z`#-z2BeB2gv8P%a+(uZt({OiDs<wf@Vodm<b#1y#7TELKixgQdyHLv`fvhWC({K&piEJ^"
    "L}ixKWxldv=SI3`T*4{zrE_SU%1xrBopYiEy_VKR0eCJSk`Lm+5fBZ&Tjku-=OTDC_N7EzBOF3Q2Nlfe91AD>Nx6UvXdawult#b<"
    "X5|bgRUhpFm9J>8D%xH&05(S~GNtXXQ~wh~v%$Ho6rq`6f;z=4Q|3twZi~BospUegWv#ZQQnpbTF(Adzt2$1dGH+4Bx{QV-Ztox8"
    "cQ)dE)aLK_58K>{4j2i0aqY>NdEeml_@~h!^jVJs_?)D5aZ|Bn_SQ^#27esS2e8Ko58648(U?Lf-2VdG$Y_8"
)


def tiny_encoder() -> bytes:
    """The encoder as ONNX."""
    return zlib.decompress(base64.b85decode(_ENCODER))


def tiny_tokenizer() -> bytes:
    """One number for each of the five words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel(WORDS, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.enable_padding(length=128)  # as real ones have; the stage must undo it
    return tokenizer.to_str().encode()


def tiny_head() -> Head:
    """`failed` says Error, `started` says System Notification, the rest says nothing."""
    embedding = np.array([[4, 0], [0, 4], [0, 0], [0, 0]], np.float32)
    nothing = np.zeros((0, 2), np.float16)
    return Head(embedding, nothing, nothing, np.zeros(2, np.float32))


def tiny_model(path: Path, **changes: object) -> Path:
    """A model folder; `changes` go into its config.json."""
    files = {folder.ENCODER: tiny_encoder(), folder.TOKENIZER: tiny_tokenizer(), folder.HEAD: write(tiny_head())}
    config = {
        "format": 1,
        "name": "tiny",
        "labels": LABELS,
        "runtime": "onnx",
        "encoder": "tiny",
        "dimensions": 4,
        "max_tokens": 16,
        "temperature": 1.0,
        "thresholds": {"0.02": dict.fromkeys(LABELS, 0.9), "0.1": dict.fromkeys(LABELS, 0.6)},
    }
    write_model(path, files, config | changes)
    return path


def write_model(path: Path, files: dict[str, bytes], config: dict[str, object]) -> None:
    """A folder whose hashes are right, whatever else is wrong with it."""
    path.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (path / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    (path / folder.CONFIG).write_text(json.dumps({"sha256": hashes} | config), encoding="utf-8")
