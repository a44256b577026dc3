"""The corpus as plain lines with labels: what a new rule must not contradict."""

from __future__ import annotations

from logclf_training.corpus import load, shipped
from logclf_training.generate import lines

LINES_PER_TEMPLATE = 2
SEED = 0


def labelled_lines() -> list[tuple[str, str]]:
    """Some lines of each template of the shipped corpus with their labels, always the same ones.

    Raises:
        BadInput: The installation is incomplete.
    """
    return [(line.text, line.label) for program in load(shipped()) for line in lines(program, LINES_PER_TEMPLATE, SEED)]
