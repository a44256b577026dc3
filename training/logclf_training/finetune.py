"""Teaching the encoder: cross-entropy through mean pooling, from a fitted linear head on (Kumar et al., 2022).

Starting from a head that already fits keeps the encoder from bending to a random one, which costs on unseen programs.
The word embeddings stay: they carry what the encoder knows of words the corpus does not have, and a third of the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from logclf_training import encoder
from logclf_training.encoder import Floats

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class TuningSettings:
    """How the encoder is taught."""

    epochs: int = 2
    batch: int = 48
    encoder_rate: float = 5e-5
    head_rate: float = 1e-2
    smoothing: float = 0.05
    warm_up: float = 0.1


@dataclass(frozen=True, slots=True)
class Lessons:
    """Texts with the position of their label, and how much each counts."""

    texts: Sequence[str]
    truth: NDArray[np.intp]
    weights: NDArray[np.floating]
    labels: int


def tune(model: SentenceTransformer, lessons: Lessons, settings: TuningSettings, seed: int, say: Say) -> None:
    """Change the model's weights in place. The same for the same seed, on the same machine and thread count."""
    import torch

    torch.manual_seed(seed)
    start = _linear_probe(embed_fast(model, lessons.texts), lessons)
    transformer = model[0].auto_model
    transformer.embeddings.requires_grad_(False)
    learning = [weight for weight in transformer.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(
        [
            {"params": learning, "lr": settings.encoder_rate, "weight_decay": 0.01},
            {"params": start.parameters(), "lr": settings.head_rate, "weight_decay": 0.01},
        ]
    )
    pieces = _word_pieces(model, lessons.texts)
    steps = settings.epochs * math.ceil(len(pieces) / settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: _ramp(step / steps, settings.warm_up))
    random = Random(seed)
    transformer.train()
    for epoch in range(settings.epochs):
        losses = []
        for batch in _batches(random, [len(ids) for ids in pieces], settings.batch):
            loss = _loss(transformer, start, [pieces[at] for at in batch], lessons, batch, settings.smoothing)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learning, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            schedule.step()
            losses.append(loss.item())
        say(f"epoch {epoch + 1} of {settings.epochs}: loss {np.mean(losses):.3f}")
    transformer.eval()


def _ramp(done: float, warm_up: float) -> float:
    return min(1.0, done / warm_up if warm_up else 1.0) * max(0.0, 1.0 - done)


def _linear_probe(embeddings: Floats, lessons: Lessons) -> Any:
    """A torch layer with the weights of a logistic regression on the untouched encoder."""
    import torch
    from sklearn.linear_model import LogisticRegression

    probe = LogisticRegression(C=10, max_iter=200, tol=1e-3)
    probe.fit(embeddings, lessons.truth, sample_weight=lessons.weights)
    layer = torch.nn.Linear(embeddings.shape[1], lessons.labels)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.fill_(-10.0)
        if len(probe.classes_) > 2:
            layer.weight[probe.classes_] = torch.tensor(probe.coef_, dtype=torch.float32)
            layer.bias[probe.classes_] = torch.tensor(probe.intercept_, dtype=torch.float32)
    return layer


def _word_pieces(model: SentenceTransformer, texts: Sequence[str]) -> list[list[int]]:
    ids: list[list[int]] = model.tokenizer(list(texts), truncation=True, max_length=model.max_seq_length)["input_ids"]
    return ids


def _batches(random: Random, lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Shuffled batches of texts of like length: little padding."""
    order = list(range(len(lengths)))
    random.shuffle(order)
    batches = []
    for start in range(0, len(order), size * 20):
        window = sorted(order[start : start + size * 20], key=lambda at: lengths[at])
        batches += [window[at : at + size] for at in range(0, len(window), size)]
    random.shuffle(batches)
    yield from batches


def _padded(pieces: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    import torch

    longest = max(map(len, pieces))
    ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in pieces])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in pieces])
    return ids, mask


def _embedded(transformer: Any, pieces: Sequence[Sequence[int]]) -> Any:
    import torch

    ids, mask = _padded(pieces)
    # bfloat16 doubles the speed on processors that have it and changes the result less than the seed does.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        states = transformer(input_ids=ids, attention_mask=mask).last_hidden_state
    return encoder.pooled(states.float(), mask)


def _loss(
    transformer: Any, layer: Any, pieces: Sequence[Sequence[int]], lessons: Lessons, batch: list[int], smoothing: float
) -> Any:
    import torch

    weights = torch.tensor(lessons.weights[batch], dtype=torch.float32)
    losses = torch.nn.functional.cross_entropy(
        layer(_embedded(transformer, pieces)),
        torch.tensor(lessons.truth[batch]),
        reduction="none",
        label_smoothing=smoothing,
    )
    return (losses * weights).sum() / weights.sum()


def embed_fast(model: SentenceTransformer, texts: Sequence[str], batch: int = 64) -> Floats:
    """Embeddings in batches with torch: for training only, the daemon's differ a little."""
    import torch

    pieces = _word_pieces(model, texts)
    order = sorted(range(len(pieces)), key=lambda at: len(pieces[at]))
    found = np.zeros((len(pieces), encoder.dimensions(model)), np.float32)
    transformer = model[0].auto_model.eval()
    with torch.inference_mode():
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            found[chosen] = _embedded(transformer, [pieces[at] for at in chosen]).numpy()
    return found
