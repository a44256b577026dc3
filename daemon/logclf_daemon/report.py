"""The quality of a model as one HTML page that opens offline: tables and plots."""

from __future__ import annotations

from collections.abc import Sequence

from logclf_daemon import pages
from logclf_daemon.quality import Quality, summary

_WHITE = "; color: #fff"


def page(title: str, quality: Quality, remarks: Sequence[str] = ()) -> str:
    """The whole page. `title` may come from a file name: it is escaped like everything else."""
    return pages.page(
        title,
        [
            *(pages.paragraph(line) for line in [*summary(quality).splitlines()[:2], *remarks]),
            pages.heading("Labels"),
            _labels(quality),
            pages.heading("What abstaining buys"),
            pages.curve(quality.risk_coverage, "share answered; up: share of the answers wrong"),
            pages.heading("Does its confidence mean what it says?"),
            pages.paragraph(
                "Each dot: the lines of one band of confidence; its size is their number. On the line, it does."
            ),
            pages.dots(quality.reliability, "confidence; up: share right"),
            pages.heading("Confusion"),
            pages.paragraph("Rows: the right label. Columns: the answer, when the model must give one."),
            _matrix(quality),
        ],
    )


def _labels(quality: Quality) -> str:
    rows = [
        [
            pages.cell(label),
            *(pages.cell(f"{figure:.3f}") for figure in (of.precision, of.recall, of.f1)),
            pages.cell(of.rows),
            f"<td>{pages.bar(of.f1, f'F1 {of.f1:.2f}')}",
        ]
        for label, of in quality.labels.items()
    ]
    return pages.table(["label", "precision", "recall", "F1", "rows", ""], rows)


def _matrix(quality: Quality) -> str:
    rows = []
    for label, counts in zip(quality.labels, quality.confusion, strict=True):
        total = sum(counts) or 1
        cells = [
            f"<td style='background: rgb(42 111 176 / {count / total:.2f}){_WHITE if count > total * 0.65 else ''}'>"
            f"{count or ''}"
            for count in counts
        ]
        rows.append([pages.cell(label), *cells])
    return pages.table(["", *quality.labels], rows, style="matrix")
