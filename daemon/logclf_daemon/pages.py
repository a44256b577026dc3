"""Pages that open offline: one HTML file, plots as SVG, no script, nothing from elsewhere, light and dark.

Whatever is written here is escaped: log text and file names are hostile.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_STYLE = """
:root { color-scheme: light dark; --line: #2a6fb0; --soft: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .6rem; text-align: right; }
th:first-child, td:first-child, .text { text-align: left; } thead th { border-bottom: 1px solid var(--soft); }
td:first-child { white-space: nowrap; } .lines th:last-child { text-align: left; }
.matrix td { min-width: 2.5rem; } .matrix th { font-weight: normal; } svg { max-width: 100%; height: auto; }
.bar { fill: var(--line); } .curve { fill: none; stroke: var(--line); stroke-width: 2; }
.axis { stroke: currentColor; stroke-width: 1; fill: none; } text { fill: currentColor; font-size: 12px; }
.text { font: 12px/1.4 ui-monospace, monospace; overflow-wrap: anywhere; }
.key { display: inline-block; margin-right: 1rem; }
.key svg { margin-right: .3rem; vertical-align: -1px; }
"""
# Told apart by people who see colours differently, on light and on dark.
COLOURS = (
    "#2a6fb0", "#e0762a", "#3f9a53", "#c9434f", "#8a63b8", "#93714f", "#d36fb1", "#8c8c8c", "#a8a52d", "#2aa7b5",
)  # fmt: skip


def page(title: str, parts: Sequence[str]) -> str:
    """The whole page from parts that are HTML already; the title is text."""
    title = escape(printable(title))
    head = (
        "<meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<meta HTTP-EQUIV=Content-Security-Policy content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    body = "\n".join([f"<h1>{title}</h1>", *parts])
    return f"<!doctype html><html lang=en>{head}{body}</html>\n"


def heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def bar(share: float, words: str) -> str:
    """A small bar for a cell of a table."""
    return (
        f"<svg width=160 height=12 role=img aria-label='{escape(words)}'>"
        f"<rect class=bar width={min(max(share, 0.0), 1.0) * 160:.0f} height=12 /></svg>"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, style: str = "") -> str:
    """A table; the cells of `rows` are HTML already (see `cell`)."""
    titles = "".join(f"<th>{escape(title)}" for title in head)
    lines = "".join("<tr>" + "".join(row) for row in rows)
    return f"<table class='{style}'><thead><tr>{titles}</thead>{lines}</table>"


def cell(text: object, *, style: str = "") -> str:
    """A cell of a table, escaped."""
    return f"<td class='{style}'>{escape(printable(str(text)))}"


def printable(text: str) -> str:
    """Text without letters that steer: none on a page, but some in what it is copied to, or the order of others."""
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)


def legend(names: Sequence[str]) -> str:
    """Which colour is which."""
    keys = "".join(
        f"<span class=key><svg width=12 height=12><rect width=12 height=12 fill='{colour_of(at)}' /></svg>"
        f"{escape(name)}</span>"
        for at, name in enumerate(names)
    )
    return f"<p>{keys}</p>"


def colour_of(at: int) -> str:
    return COLOURS[at % len(COLOURS)]


def shares(parts: Sequence[tuple[str, int]]) -> str:
    """One bar made of its parts, with a legend."""
    total = sum(count for _, count in parts) or 1
    drawn, at = [], 0.0
    for number, (name, count) in enumerate(parts):
        width = count / total * 800
        drawn.append(
            f"<rect x={at:.1f} width={width:.1f} height=28 fill='{colour_of(number)}'>"
            f"<title>{escape(name)}: {count:,}</title></rect>"
        )
        at += width
    names = [f"{name} {count / total:.1%}" for name, count in parts]
    return f"<svg viewBox='0 0 800 28' width=800 role=img aria-label='shares'>{''.join(drawn)}</svg>{legend(names)}"


def stacked(columns: Sequence[tuple[str, Sequence[int]]], names: Sequence[str]) -> str:
    """Columns of counts over time, one colour a name, with a legend."""
    width, height, left, foot = 900, 260, 60, 40
    top = max((sum(counts) for _, counts in columns), default=0) or 1
    step = (width - left - 10) / max(len(columns), 1)
    drawn = []
    for at, (moment, counts) in enumerate(columns):
        base = float(height - foot)
        for number, count in enumerate(counts):
            tall = count / top * (height - foot - 10)
            base -= tall
            if count:
                drawn.append(
                    f"<rect x={left + at * step:.1f} y={base:.1f} width={max(step * 0.92, 0.5):.1f} height={tall:.1f} "
                    f"fill='{colour_of(number)}'><title>{escape(f'{moment} {names[number]}: {count:,}')}</title></rect>"
                )
    every = max(1, len(columns) // 5)
    marks = "".join(
        f"<text x={left + (at + 0.5) * step:.0f} y={height - foot + 18} text-anchor=middle>{escape(moment)}</text>"
        for at, (moment, _) in enumerate(columns)
        if at % every == every // 2
    )
    return (
        f"<svg viewBox='0 0 {width} {height}' width={width} role=img aria-label='counts over time'>"
        f"<path class=axis d='M{left},10 V{height - foot} H{width - 10}' />{''.join(drawn)}{marks}"
        f"<text x={left - 8} y=16 text-anchor=end>{top:,}</text>"
        f"<text x={left - 8} y={height - foot} text-anchor=end>0</text></svg>{legend(names)}"
    )


def curve(points: Sequence[tuple[float, float]], words: str) -> str:
    """A line over shares from 0 to 1; up: a share as well, the largest at the top."""
    width, height, left, foot = 520, 240, 60, 40
    top = max((up for _, up in points), default=0.0) or 0.01

    def across(share: float) -> float:
        return left + share * (width - left - 30)

    line = " ".join(f"{across(share):.1f},{10 + (1 - up / top) * (height - foot - 10):.1f}" for share, up in points)
    marks = "".join(
        f"<text x={across(share):.0f} y={height - foot + 18} text-anchor=middle>{share:.0%}</text>"
        for share, _ in points[1::2]
    )
    return (
        f"<svg viewBox='0 0 {width} {height}' width={width} role=img aria-label='{escape(words)}'>"
        f"<path class=axis d='M{left},10 V{height - foot} H{width - 30}' />"
        f"<polyline class=curve points='{line}' />{marks}"
        f"<text x={left - 8} y=16 text-anchor=end>{top:.1%}</text>"
        f"<text x={left - 8} y={height - foot} text-anchor=end>0%</text>"
        f"<text x={width / 2:.0f} y={height - 4} text-anchor=middle>{escape(words)}</text></svg>"
    )


def dots(bands: Sequence[tuple[float, float, float]], words: str) -> str:
    """Dots over shares from 0 to 1 (across, up, and how much each weighs) beside the line where both are the same."""
    side, left, top = 260, 60, 20
    foot = top + side
    drawn = "".join(
        f"<circle class=bar fill-opacity=.7 cx={left + across * side:.1f} cy={top + (1 - up) * side:.1f}"
        f" r={3 + 14 * weight**0.5:.1f} />"
        for across, up, weight in bands
    )
    return (
        f"<svg viewBox='0 0 {left + side + 30} {foot + 50}' width={left + side + 30} role=img"
        f" aria-label='{escape(words)}'><path class=axis d='M{left},{top} V{foot} H{left + side}' />"
        f"<path class=axis d='M{left},{foot} L{left + side},{top}' stroke-dasharray=4 />{drawn}"
        f"<text x={left - 8} y={top + 6} text-anchor=end>100%</text>"
        f"<text x={left - 8} y={foot} text-anchor=end>0%</text>"
        f"<text x={left + side} y={foot + 18} text-anchor=end>100%</text>"
        f"<text x={left + side / 2:.0f} y={foot + 36} text-anchor=middle>{escape(words)}</text></svg>"
    )
