"""The quality of a model as one HTML page that opens offline: tables and plots, no script, nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from logclf_daemon.quality import Quality, summary

_STYLE = """
:root { color-scheme: light dark; --line: #2a6fb0; --soft: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead th { border-bottom: 1px solid var(--soft); }
.matrix td { min-width: 2.5rem; } .matrix th { font-weight: normal; } svg { max-width: 100%; }
.bar { fill: var(--line); } .curve { fill: none; stroke: var(--line); stroke-width: 2; }
.axis { stroke: currentColor; stroke-width: 1; } text { fill: currentColor; font-size: 12px; }
"""
_WHITE = "; color: #fff"


def page(title: str, quality: Quality, remarks: Sequence[str] = ()) -> str:
    """The whole page. `title` may come from a file name: it is escaped like everything else."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(line)}</p>" for line in [*summary(quality).splitlines()[:2], *remarks]),
        "<h2>Labels</h2>",
        _labels(quality),
        "<h2>What abstaining buys</h2>",
        _curve(quality.risk_coverage),
        "<h2>Does its confidence mean what it says?</h2>",
        "<p>Each dot: the lines of one band of confidence; its size is their number. On the line, it does.</p>",
        _dots(quality.reliability),
        "<h2>Confusion</h2><p>Rows: the right label. Columns: the answer, when the model must give one.</p>",
        _matrix(quality),
    ]
    body = "\n".join(parts)
    head = f"<meta charset=utf-8><title>{escape(title)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang=en>{head}{body}</html>\n"


def _labels(quality: Quality) -> str:
    rows = "".join(
        f"<tr><td>{escape(label)}<td>{of.precision:.3f}<td>{of.recall:.3f}<td>{of.f1:.3f}<td>{of.rows}"
        f"<td><svg width=160 height=12 role=img aria-label='F1 {of.f1:.2f}'>"
        f"<rect class=bar width={of.f1 * 160:.0f} height=12 /></svg>"
        for label, of in quality.labels.items()
    )
    return f"<table><thead><tr><th>label<th>precision<th>recall<th>F1<th>rows<th></thead>{rows}</table>"


def _curve(points: Sequence[tuple[float, float]]) -> str:
    """Share answered against share of the answers that is wrong."""
    width, height, left, foot = 520, 240, 60, 40
    top = max((risk for _, risk in points), default=0.0) or 0.01

    def at(share: float, risk: float) -> str:
        return f"{left + share * (width - left - 30):.1f},{10 + (1 - risk / top) * (height - foot - 10):.1f}"

    line = " ".join(at(share, risk) for share, risk in points)
    marks = "".join(
        f"<text x={left + share * (width - left - 30):.0f} y={height - foot + 18} text-anchor=middle>{share:.0%}</text>"
        for share, _ in points[1::2]
    )
    return (
        f"<svg viewBox='0 0 {width} {height}' width={width} role=img aria-label='risk and coverage'>"
        f"<path class=axis d='M{left},10 V{height - foot} H{width - 30}' fill=none />"
        f"<polyline class=curve points='{line}' />{marks}"
        f"<text x={left - 8} y=16 text-anchor=end>{top:.1%}</text>"
        f"<text x={left - 8} y={height - foot} text-anchor=end>0%</text>"
        f"<text x={width / 2:.0f} y={height - 4} text-anchor=middle>"
        "share answered; up: share of the answers wrong</text></svg>"
    )


def _dots(bands: Sequence[tuple[float, float, float]]) -> str:
    """Confidence against the share that is right."""
    side, left, top = 260, 60, 20
    foot = top + side

    def at(confidence: float, right: float) -> tuple[float, float]:
        return left + confidence * side, top + (1 - right) * side

    dots = "".join(
        f"<circle class=bar fill-opacity=.7 cx={x:.1f} cy={y:.1f} r={3 + 14 * share**0.5:.1f} />"
        for (x, y), share in ((at(confidence, right), share) for confidence, right, share in bands)
    )
    return (
        f"<svg viewBox='0 0 {left + side + 30} {foot + 50}' width={left + side + 30} role=img"
        " aria-label='confidence and share that is right'>"
        f"<path class=axis d='M{left},{top} V{foot} H{left + side}' fill=none />"
        f"<path class=axis d='M{left},{foot} L{left + side},{top}' fill=none stroke-dasharray=4 />{dots}"
        f"<text x={left - 8} y={top + 6} text-anchor=end>100%</text>"
        f"<text x={left - 8} y={foot} text-anchor=end>0%</text>"
        f"<text x={left + side} y={foot + 18} text-anchor=end>100%</text>"
        f"<text x={left + side / 2:.0f} y={foot + 36} text-anchor=middle>confidence; up: share right</text></svg>"
    )


def _matrix(quality: Quality) -> str:
    labels = list(quality.labels)
    head = "".join(f"<th>{escape(label)}" for label in labels)
    rows = []
    for label, counts in zip(labels, quality.confusion, strict=True):
        total = sum(counts) or 1
        cells = "".join(
            f"<td style='background: rgb(42 111 176 / {count / total:.2f}){_WHITE if count > total * 0.65 else ''}'>"
            f"{count or ''}"
            for count in counts
        )
        rows.append(f"<tr><td>{escape(label)}{cells}")
    return f"<table class=matrix><thead><tr><th>{head}</thead>{''.join(rows)}</table>"
