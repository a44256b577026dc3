"""What `ctl top` shows: two looks at a daemon, as tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from logclf_daemon.cli import harmless

Facts = dict[str, Any]


def screen(before: Facts, now: Facts) -> RenderableType:
    """Rates between two answers of `live`. Nothing in them is markup."""
    secs = max(0.001, now["at"] - before["at"])
    state = Text("ready", "bold green") if now["ready"] else Text("not ready", "bold red")
    head = Text.assemble(
        ("logclf-daemon ", "bold"),
        f"{now['version']}  ",
        state,
        f"  generation {now['generation']}, {now['rules']} rules, model {now['model']}, up {now['uptime_secs']:.0f} s",
    )
    notes = [Text(harmless(line), "red") for line in now["troubles"]] + [
        Text(harmless(line), "yellow") for line in now["notes"]
    ]
    both = Table.grid(padding=(0, 4))
    both.add_row(_rates("label", before, now, secs), _rates("stage", before, now, secs))
    return Group(head, *notes, "", both, "", _flow(before, now, secs), _llm(now))


def _counts(facts: Facts, field: str) -> Counter[str]:
    found: Counter[str] = Counter()
    for row in facts["verdicts"]:
        found[row[field]] += row["count"]
    return found


def _rates(field: str, before: Facts, now: Facts, secs: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, right in ((field, False), ("lines/s", True), ("lines", True)):
        table.add_column(name, justify="right" if right else "left")
    past = _counts(before, field)
    for name, count in _counts(now, field).most_common():
        table.add_row(Text(harmless(name)), f"{(count - past[name]) / secs:,.1f}", f"{count:,}")
    return table


def _flow(before: Facts, now: Facts, secs: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name, right in (("in and out", False), ("records/s", True), ("under way", True), ("state", False)):
        table.add_column(name, justify="right" if right else "left")
    for name, facts in now["inputs"].items():
        rate = (facts["read"] - before["inputs"].get(name, facts)["read"]) / secs
        late = facts["lag_secs"]
        state = (
            Text("up to date", "green") if late < 1 else Text(f"{late:.0f} s behind", "red" if late > 60 else "yellow")
        )
        table.add_row(Text(f"> {name}"), f"{rate:,.1f}", f"{facts['in_flight']:,.0f}", state)
    for name, facts in now["outputs"].items():
        rate = (facts["written"] - before["outputs"].get(name, facts)["written"]) / secs
        away = facts["away_secs"]
        state = Text("takes records", "green") if away is None else Text(f"away for {away} s", "red")
        table.add_row(Text(f"{name} >"), f"{rate:,.1f}", "", state)
    return table


def _llm(now: Facts) -> Text:
    llm = now["llm"]
    if llm["state"] == "off":
        return Text("llm off", "dim")
    style = "green" if llm["available"] and llm["state"] == "ready" else "yellow"
    waiting = f", {llm['questions']} questions, {llm['records_waiting']} lines wait"
    return Text.assemble("llm ", (llm["state"].replace("_", " "), style), f" ({harmless(str(llm['model']))}{waiting})")
