"""What a model leans to when there is nothing to label, taken out of its answers.

Small models prefer some labels whatever the line says. Measured on a 1.5B model and 60 lines: 87 % right without,
93 % with the shares of a line "N/A" divided out (contextual calibration, Zhao et al. 2021); a handful of lines, so
`llm evaluate` measures both on the user's own.
"""

from __future__ import annotations

from collections.abc import Mapping

LEAST = 0.01  # of the prior: a label the server did not name among the likely ones is not divided by nothing

Shares = Mapping[str, float]
"""How likely each label is, of the labels: they add up to 1, or to 0 where none was among the likely tokens."""


def corrected(shares: Shares, prior: Shares) -> dict[str, float]:
    """The shares with the prior divided out, renormalised."""
    divided = {label: share / max(prior.get(label, 0.0), LEAST) for label, share in shares.items()}
    total = sum(divided.values())
    return {label: share / total if total else 0.0 for label, share in divided.items()}


def likeliest(shares: Shares, said: str) -> str:
    """The label with the largest share; what the model said where another has no more (labels that begin alike)."""
    best = max(shares, key=shares.__getitem__)
    return best if shares[best] > shares.get(said, 0.0) * (1 + 1e-9) else said
