"""What a table held as one HTML page: labels over time, stages, frequent templates, answers to trust least."""

from __future__ import annotations

from collections.abc import Sequence

from logclf_daemon import pages
from logclf_daemon.tables.summary import Details, Summary, Template

TOP_TEMPLATES = 25
MAX_COLUMNS = 120


def page(title: str, summary: Summary) -> str:
    """The whole page. Nothing of the table reaches it unescaped."""
    details = summary.details or Details()
    labels = [label for label, _ in summary.labels.most_common()]
    frequent = sorted(details.templates.values(), key=lambda template: (-template.count, template.line))
    return pages.page(
        title,
        [
            pages.paragraph(
                f"{summary.rows:,} rows, {summary.unclassified:,} of them unclassified"
                + (f"; {summary.odd_count:,} rows were not as they should be" if summary.odd_count else "")
            ),
            pages.heading("Labels"),
            _labels(summary),
            pages.heading("Labels over time"),
            _over_time(details, labels),
            pages.heading("Which stage answered"),
            pages.shares(summary.stages.most_common()),
            pages.heading("Most frequent lines"),
            pages.paragraph("One line stands for all that differ from it only in numbers and identifiers."),
            _templates(frequent[:TOP_TEMPLATES], summary.rows),
            pages.heading("Least certain answers"),
            pages.paragraph("Where a look pays most: a rule or a labelled example settles all lines of this form."),
            _uncertain([template for _, template in details.least_certain()]),
        ],
    )


def _labels(summary: Summary) -> str:
    rows = [
        [
            pages.cell(label),
            pages.cell(f"{count:,}"),
            pages.cell(f"{count / max(summary.rows, 1):.1%}"),
            f"<td>{pages.bar(count / max(summary.rows, 1), f'{count:,} rows')}",
        ]
        for label, count in summary.labels.most_common()
    ]
    return pages.table(["label", "rows", "share", ""], rows)


def _over_time(details: Details, labels: Sequence[str]) -> str:
    if not details.times:
        return pages.paragraph("The table has no column with a time that could be read (--time-column names one).")
    moments = sorted(details.times)
    size = -(-len(moments) // MAX_COLUMNS)
    columns = []
    for start in range(0, len(moments), size):
        together = [details.times[moment] for moment in moments[start : start + size]]
        columns.append(
            (moments[start].replace("T", " "), [sum(of.get(label, 0) for of in together) for label in labels])
        )
    return pages.stacked(columns, labels)


def _templates(templates: Sequence[Template], rows: int) -> str:
    return pages.table(
        ["label", "stage", "rows", "share", "such as"],
        [
            [
                pages.cell(template.label),
                pages.cell(template.stage),
                pages.cell(f"{template.count:,}"),
                pages.cell(f"{template.count / max(rows, 1):.1%}"),
                pages.cell(template.example, style="text"),
            ]
            for template in templates
        ],
        style="lines",
    )


def _uncertain(templates: Sequence[Template]) -> str:
    if not templates:
        return pages.paragraph("None: rules and people answered everything.")
    return pages.table(
        ["label", "confidence", "row", "source", "line"],
        [
            [
                pages.cell(template.label),
                pages.cell(f"{template.confidence or 0.0:.2f}"),
                pages.cell(template.line),
                pages.cell(template.source),
                pages.cell(template.example, style="text"),
            ]
            for template in templates
        ],
        style="lines",
    )
