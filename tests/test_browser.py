"""The live page in a real browser: hostile lines stay text, review works in place, nothing comes from elsewhere."""

from __future__ import annotations

import asyncio
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import REQUIRED
from daemon_process import Daemon
from http_doubles import SmallHost
from logclf_daemon.config import Config, HttpOptions
from logclf_daemon.http.app import create_app
from logclf_daemon.http.server import HttpServer
from logclf_daemon.inputs.memory import MemoryInput
from logclf_daemon.pipeline import Pipeline
from logclf_daemon.record import Question, Verdict
from logclf_daemon.stages.llm import LlmOptions, LlmStage
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.telemetry import Running

pytestmark = [
    pytest.mark.browser,
    pytest.mark.timeout(120),
    # A connection that Chromium opens ahead of need may come while the server goes away.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    "\"><svg onload=window.pwned=1> ' onmouseover=window.pwned=1",
    "{{7*7}} ${7*7} javascript:window.pwned=1",
    "\x1b[31mred\x1b[0m \u202egnp.exe \u0000 zero\u200bwidth \u061c\u2028\u2029\xad\u180e\U000e0041",
    "x" * 5000,
]
WORDS = [start + end for start in ("al", "be", "ga", "de") for end in ("pha", "ta", "mma", "lta", "psilon")]
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Text on what is behind it, as WCAG 2.1 counts (1.4.3: at least 4.5:1): `[text, contrast]` of each that is too faint.
FAINT = """(() => {
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => rgb(color).slice(0, 3)
    .map((part) => part / 255).map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, at) => sum + part * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (node) => {
    for (; node; node = node.parentElement) {
      const color = getComputedStyle(node).backgroundColor;
      if ((rgb(color)[3] ?? 1) === 1) return light(color);
    }
  };
  return [...document.querySelectorAll("body *")]
    .filter((node) => node.checkVisibility() && !node.matches(":disabled, option, svg *"))
    .filter((node) => [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()))
    .map((node) => [node.textContent, light(getComputedStyle(node).color), behind(node)])
    .map(([text, one, other]) => [text, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)])
    .filter(([, contrast]) => contrast < 4.5);
})()"""
TAGS = """for (const name of ["l0", "l1", "l2", "l3", "l4", "l5", "l6", "l7", "l8", "l9", "none"]) {
  const tag = document.createElement("span");
  tag.className = "tag";
  tag.textContent = name;
  tag.style.color = `var(--${name})`;
  document.querySelector("#review .section-head").append(tag);
}"""
SHOTS = os.environ.get("LOGCLF_TEST_SHOTS")


def odd_lines(count: int) -> list[str]:
    """So many lines, each a template of its own."""
    size = len(WORDS)
    return [f"{WORDS[at % size]} {WORDS[at // size % size]} {WORDS[at // size // size % size]}" for at in range(count)]


class Served:
    """An app in a thread of its own, with lines coming in all the time."""

    def __init__(self, folder: Path, host: Callable[[Path], SmallHost] = SmallHost, **http: Any) -> None:
        self.folder = folder
        self._host = host
        self._http = http
        self.contexts: list[Any] = []  # closed before the server stops: it is never asked while it goes away
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Served:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        for context in self.contexts:
            context.close()
        self._loop.call_soon_threadsafe(self.server.stop)
        self._thread.join(60)

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.host = self._host(self.folder)
        options = HttpOptions(listen="127.0.0.1:0", requests_per_sec=1000, **self._http)
        self.server = HttpServer(options, lambda: create_app(self.host, options))
        self.server.open()
        traffic = asyncio.create_task(self._traffic())
        await self.server.serve()
        traffic.cancel()
        await asyncio.gather(traffic, return_exceptions=True)
        self.server.close()
        self.host.close()

    async def _traffic(self) -> None:
        raw = [line.encode("utf-8", "surrogateescape") for line in (*odd_lines(1000), *HOSTILE)]
        await self.host.cascade.classify("app.log", raw)
        self._ready.set()
        while True:
            await self.host.cascade.classify("auth.log", [b"sshd: no", b"disk 7 full", b"sshd: yes", raw[0]] * 50)
            await asyncio.sleep(0.05)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        if "browser" in REQUIRED:
            pytest.fail("playwright is required here and not installed")
        pytest.skip("playwright is not installed (extra `browser`)")
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        if "browser" in REQUIRED:
            pytest.fail("chromium is required here and not installed")
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=str(chromium), args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page_of(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page, and fails afterwards if it complained or asked another host for anything."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def complain(said: Any) -> None:
        if said.type == "error" and "Failed to load resource" not in said.text:  # a refusal, which the page shows
            complaints.append(said.text)

    def opened(served: Served | str, *, width: int = 1280, scheme: str = "light") -> Any:
        url = served if isinstance(served, str) else served.url
        context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
        (contexts if isinstance(served, str) else served.contexts).append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((url, "blob:", "data:")) else complaints.append(sent.url),
        )
        page.goto(url)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert complaints == []


def until(page: Any, condition: str) -> None:
    """Poll a condition of the page: its policy forbids the evaluating kind of waiting."""
    deadline = time.monotonic() + 40
    while not page.evaluate(condition):
        assert time.monotonic() < deadline, f"never true: {condition}"
        page.wait_for_timeout(50)


def kept(page: Any, name: str) -> None:
    """A screenshot where CI keeps them."""
    if SHOTS:
        page.screenshot(path=str(Path(SHOTS) / f"{name}.png"))


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (360, "light")])
def test_a_thousand_templates_and_hostile_lines_are_shown_as_text_under_load(
    tmp_path: Path, page_of: Callable[..., Any], width: int, scheme: str
) -> None:
    with Served(tmp_path) as served:
        page = page_of(served, width=width, scheme=scheme)
        page.wait_for_selector("#health.good")
        page.wait_for_selector(".template")
        until(page, "document.querySelectorAll('#chart polygon').length > 0")
        kept(page, f"page-{scheme}-{width}")
        page.select_option("#order", "newest")
        page.fill("#filter", "pwned")
        until(page, "document.querySelectorAll('.template').length === 4")
        page.fill("#filter", "gnp")
        until(page, "document.querySelectorAll('.template').length === 1")
        shown = page.inner_text(".template .example")
        kept(page, f"hostile-{scheme}-{width}")
        page.fill("#filter", "")
        until(page, "document.querySelectorAll('.template').length > 900")

        assert "\\x1b[31m" in shown and "\\x202e" in shown
        assert "\\x61c\\x2028\\x2029\\xad\\x180e\\xe0041" in shown
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.querySelectorAll('.template script, .template img').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        assert paint < 3000  # 0.4 s where the machine has nothing else to do


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_and_every_label_stands_out_from_what_is_behind_it(
    tmp_path: Path, page_of: Callable[..., Any], scheme: str
) -> None:
    with Served(tmp_path) as served:
        page = page_of(served, scheme=scheme)
        page.wait_for_selector("#health.good")
        page.click("[data-kind=all]")
        page.wait_for_selector(".template")

        page.evaluate(TAGS)

        kept(page, f"tags-{scheme}")
        assert page.evaluate(FAINT) == []


def test_an_explained_line_without_a_space_does_not_widen_a_phone(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path) as served:
        page = page_of(served, width=360)
        page.fill("#line", "w" * 300)
        page.click("text=Explain >> nth=-1")
        page.wait_for_selector("#explained code")
        kept(page, "explained-360")

        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_a_template_is_reviewed_in_place_by_keyboard(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path) as served:
        page = page_of(served)
        page.wait_for_selector(".template")
        page.keyboard.press("/")
        page.keyboard.type("alpsilon alpha alpha")
        until(page, "document.querySelectorAll('.template').length === 1")
        page.focus(".template select")
        page.keyboard.type("User")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_selector("#toast:not([hidden])")

        (verdict,) = served.host.memory.listed()
        assert (verdict.label, verdict.origin, verdict.text) == ("User Action", "human", "alpsilon alpha alpha")
        until(page, "document.querySelectorAll('.template').length === 0")
        page.click("[data-kind=all]")
        until(page, "document.querySelector('.template .tag')?.textContent === 'User Action'")


def test_after_a_review_the_next_row_has_the_focus_and_nothing_moves_under_the_hand(
    tmp_path: Path, page_of: Callable[..., Any]
) -> None:
    with Served(tmp_path) as served:
        page = page_of(served)
        page.fill("#filter", "alpha beta al")
        until(page, "document.querySelectorAll('.template').length === 3")
        assert page.inner_text("#review-note").startswith("3 of ")
        page.select_option(".template >> nth=0 >> select", "Error")
        page.focus(".template >> nth=0 >> .set")
        assert "waits while you work in it" in page.inner_text("#held")
        page.keyboard.press("Enter")

        focused = "[...document.querySelectorAll('.template')].indexOf(document.activeElement.closest('.template'))"
        until(page, f"{focused} === 1")
        page.keyboard.press("E")  # the select of a row that nobody has labelled yet
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        until(page, f"{focused} === 2")
        assert page.evaluate("document.querySelectorAll('.template').length") == 3
        assert page.evaluate("document.querySelectorAll('.template.done').length") == 2
        kept(page, "reviewed")
        page.focus("#filter")
        until(page, "document.querySelectorAll('.template').length === 1")
        assert page.inner_text("#held") == ""
        assert len(served.host.memory.listed(origin="human")) == 2


def test_what_the_llm_said_is_accepted_with_one_click(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path) as served:
        (seen,) = (seen for seen in served.host.cascade.traffic.all() if seen.text == "gamma gamma alta")
        said = Verdict("Resource Usage", 0.71, "llm")
        served.host.memory.remember(Question(seen.template, seen.source, seen.text, seen.example), said)
        seen.verdict = said
        page = page_of(served)
        page.fill("#filter", "gamma gamma alta")
        until(page, "document.querySelector('.template .tag')?.textContent === 'Resource Usage'")
        assert page.inner_text(".template .set") == "Accept"
        kept(page, "accept")

        page.click(".template .set")
        page.wait_for_selector("#toast:not([hidden])")

        (verdict,) = served.host.memory.listed(origin="human")
        assert (verdict.label, verdict.origin, verdict.text) == ("Resource Usage", "human", "gamma gamma alta")
        until(page, "document.querySelectorAll('.template').length === 0")  # nothing is open about it any more


def test_a_rule_is_made_in_place(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path) as served:
        page = page_of(served)
        page.fill("#filter", "beta beta alta")
        until(page, "document.querySelectorAll('.template').length === 1")
        page.click("text=Make a rule")
        until(page, "document.getElementById('rule-pattern').value === 'beta beta alta'")
        assert page.input_value("#rule-label") == ""  # it is Unclassified: nothing is suggested
        page.click("#rule-cancel")
        page.select_option(".template select", "Error")
        page.click("text=Make a rule")
        until(page, "document.getElementById('rule-pattern').value === 'beta beta alta'")
        assert page.input_value("#rule-label") == "Error"
        assert page.inner_text("#rule-place") == f"It is saved to {tmp_path}."
        page.fill("#rule-pattern", "(?=beta)")
        page.wait_for_selector("#rule-error:not([hidden])")
        page.fill("#rule-pattern", "beta .* alta")
        until(page, "document.getElementById('rule-matches').textContent.includes('template')")
        kept(page, "rule")
        page.click("#rule-save")
        page.wait_for_selector("#rule", state="hidden")

        (saved,) = yaml.safe_load((tmp_path / "review.yaml").read_text())["rules"]
        assert (saved["pattern"], saved["label"]) == ("beta .* alta", "Error")
        assert served.host.reloads == 1


def test_a_line_explains_itself_and_a_csv_comes_back(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    table = tmp_path / "a.csv"
    table.write_text("source,log_message\nx,sshd: no\nx,<b>disk</b>\n")
    with Served(tmp_path) as served:
        page = page_of(served)
        page.wait_for_selector("#health.good")
        page.fill("#line", "<b>disk</b> 7 full")
        page.click("text=Explain >> nth=-1")
        page.wait_for_selector(".verdict b")
        assert page.inner_text(".verdict b") == "Resource Usage"
        assert page.inner_text(".record code").startswith('{"log":"<b>disk</b> 7 full","logclf":{"label":')
        page.check("#with-reasons")
        page.set_input_files("#file", str(table))
        page.wait_for_selector("#csv-result a")
        kept(page, "explain")
        with page.expect_download() as download:
            page.click("#csv-result a")

        saved = Path(download.value.path()).read_text().splitlines()
        assert saved[0] == "source,log_message,target_label,confidence,stage,rule"
        assert saved[1].startswith("x,sshd: no,Security Alert,1,rules,")


def test_a_table_with_other_columns_is_labelled_too(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    table = tmp_path / "a.csv"
    table.write_text("host,text,target_label\nx,sshd: no,Error\n")
    with Served(tmp_path) as served:
        page = page_of(served)
        page.wait_for_selector("#health.good")
        page.set_input_files("#file", str(table))
        page.wait_for_selector("#csv-result .error")
        page.wait_for_selector("#columns[open]")
        page.fill("#source_column", "host")
        page.fill("#message_column", "text")
        page.fill("#label_column", "ours")
        page.set_input_files("#file", str(table))
        page.wait_for_selector("#csv-result a")
        kept(page, "columns")
        with page.expect_download() as download:
            page.click("#csv-result a")

        saved = Path(download.value.path()).read_text().splitlines()
        assert saved == ["host,text,target_label,ours", "x,sshd: no,Error,Security Alert"]


class Stuck(MemoryInput):
    """An input with many troubles, one of them with seconds that count up."""

    unread_secs = 3.0

    def troubles(self) -> list[str]:
        return [f"/var/log/{at}.log: permission denied for {time.monotonic():.3f} s" for at in range(300)]


class StuckHost(SmallHost):
    def running(self) -> Running:
        pipeline = Pipeline([Stuck([], "stuck")], self.cascade, [self.slot])
        return replace(super().running(), pipeline=pipeline)


def test_of_many_troubles_five_are_shown_and_none_is_read_out_twice(
    tmp_path: Path, page_of: Callable[..., Any]
) -> None:
    with Served(tmp_path, StuckHost) as served:
        page = page_of(served)
        page.wait_for_selector("#health.bad")
        until(page, "document.getElementById('alarm').textContent.includes('/var/log/4.log')")
        page.evaluate(
            """(() => {
              window.said = [];
              const observer = new MutationObserver((found) => window.said.push(...found.map((one) => one.target.id)));
              for (const node of document.querySelectorAll("[role=alert], [role=status], [aria-live]"))
                observer.observe(node, { childList: true, characterData: true, subtree: true });
            })()"""
        )
        before = page.inner_text("#first-troubles p >> nth=0")
        for _ in range(2):
            with page.expect_response("**/api/v1/status"):
                pass
        until(page, f"document.querySelector('#first-troubles p').innerText !== {before!r}")

        assert page.evaluate("window.said") == []
        assert page.locator(".troubles p:visible").count() == 5
        assert page.inner_text("#more-troubles summary") == "295 more"
        kept(page, "troubles")
        page.click("#more-troubles summary")
        assert page.locator(".troubles p:visible").count() == 300


class AskingHost(SmallHost):
    """One whose LLM went away: nothing listens on port 9 here."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.llm = LlmStage(LlmOptions(url="http://127.0.0.1:9"), Taxonomy())
        self.llm.warm_up()

    def running(self) -> Running:
        running = super().running()
        return replace(running, parts=replace(running.parts, llm=self.llm))

    def close(self) -> None:
        self.llm.close()
        super().close()


def test_the_breaker_of_the_llm_is_shown(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path, AskingHost) as served:
        page = page_of(served)
        page.wait_for_selector("#flow li")

        assert re.search(r"0 lines wait, breaker (half )?open", page.inner_text("#flow li:last-child"))


def test_an_output_that_is_away_says_why(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path) as served:
        served.host.slot.away_since, served.host.slot.error = time.monotonic(), "127.0.0.1:9: Connection refused"
        page = page_of(served)
        page.wait_for_selector("#flow .state.bad")

        assert "0 delivered; 127.0.0.1:9: Connection refused" in page.inner_text("#flow")


def test_when_the_daemon_is_killed_the_page_says_of_when_its_numbers_are(
    tmp_path: Path, page_of: Callable[..., Any]
) -> None:
    config = tmp_path / "config.yaml"
    (tmp_path / "a.log").write_text("sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2\n")
    config.write_text(
        f"inputs: [{{type: files, paths: [{tmp_path}/a.log]}}]\n"
        f"outputs: [{{type: jsonl, path: {tmp_path}/out}}]\n"
        "model: {enabled: false}\nllm: {enabled: false}\nhttp: {listen: '127.0.0.1:0'}\n"
    )
    with Daemon("--config", str(config), environment={"STATE_DIRECTORY": str(tmp_path / "state")}) as daemon:
        daemon.wait_for(lambda daemon: "url=http://127.0.0.1:" in daemon.said)
        page = page_of(daemon.said.split("url=")[1].split()[0])
        page.wait_for_selector("#health.good")
        page.wait_for_selector("#tiles .tile")
        assert page.is_hidden("#stale")

        daemon.kill()
        page.wait_for_selector("#stale")

        said = r"All below is of \d+:\d\d:\d\d.*, \d+ s ago: the daemon does not answer\."
        assert re.fullmatch(said, page.inner_text("#stale"))
        assert page.inner_text("#health") == "no answer"
        assert page.evaluate("getComputedStyle(document.getElementById('now')).opacity") == "0.5"
        kept(page, "stale")


def test_one_of_a_thing_is_told_in_the_singular(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    def one_of_each(route: Any) -> None:
        now = route.fetch().json()
        one = {"stage": "rules", "label": "Security Alert", "count": 1}
        llm = now["llm"] | {"state": "ready", "available": True, "model": "small", "questions": 1, "records_waiting": 1}
        route.fulfill(json=now | {"templates": 1, "verdicts": [one], "llm": llm})

    with Served(tmp_path) as served:
        page = page_of(served)
        page.route("**/api/v1/status", one_of_each)
        page.route("**/api/v1/templates?*", lambda route: route.fulfill(json={"total": 1, "templates": []}))
        page.reload()
        until(page, "document.getElementById('review-note').textContent === '1 of 1 template'")
        page.wait_for_selector("#flow li")

        assert " · 1 rule · " in page.inner_text("#about")  # the host has one
        assert "line since the start" in page.inner_text("#tiles")
        assert "template known" in page.inner_text("#tiles")
        assert "small: 1 question queued, 1 line waits" in page.inner_text("#flow")


def test_where_a_token_is_needed_the_page_asks_for_it(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path, token="s3cret") as served:
        page = page_of(served)
        page.wait_for_selector("#ask-token[open]")
        page.fill("#token", "s3cret")
        page.click("text=Go on")
        page.wait_for_selector("#health.good")
        page.click("#metrics")
        page.wait_for_url("blob:**")

        assert "logclf_ready" in page.inner_text("body")


def test_a_wrong_token_is_refused_with_words_and_a_dialog_that_was_closed_stays_closed(
    tmp_path: Path, page_of: Callable[..., Any]
) -> None:
    with Served(tmp_path, token="s3cret") as served:
        page = page_of(served)
        page.wait_for_selector("#ask-token[open]")
        assert page.is_hidden("#token-error")
        page.fill("#token", "wrong")
        page.click("text=Go on")
        page.wait_for_selector("#token-error:not([hidden])")
        page.keyboard.press("Escape")
        page.wait_for_selector("#give-token:not([hidden])")
        for _ in range(2):
            with page.expect_response("**/api/v1/status"):
                pass
        assert page.is_hidden("#ask-token")
        assert page.inner_text("#health") == "locked"
        page.click("#give-token")
        page.fill("#token", "s3cret")
        page.click("text=Go on")
        page.wait_for_selector("#health.good")

        assert page.is_hidden("#give-token")


def test_where_review_is_off_there_is_nothing_to_review_with(tmp_path: Path, page_of: Callable[..., Any]) -> None:
    with Served(tmp_path, review=False) as served:
        page = page_of(served)
        page.wait_for_selector(".template")

        assert page.locator(".template").count() == 20
        assert page.locator(".template :is(button, select):visible").count() == 0
        assert "http.review is off" in page.inner_text("#review")


class NowhereHost(SmallHost):
    """One that may write to no folder of rules."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.config = Config.model_validate({"rules": {"builtin": False}})


def test_where_a_rule_cannot_be_saved_the_dialog_says_so_before_one_types(
    tmp_path: Path, page_of: Callable[..., Any]
) -> None:
    with Served(tmp_path, NowhereHost) as served:
        page = page_of(served)
        page.click(".template >> nth=0 >> text=Make a rule")
        until(page, "document.getElementById('rule-pattern').value !== ''")

        assert "Name one in rules.paths" in page.inner_text("#rule-place")
        assert page.is_disabled("#rule-save")
        kept(page, "rule-nowhere")


@pytest.mark.parametrize(("path", "wanted"), [("/docs", ".opblock"), ("/redoc", "[id^='tag/']")])
def test_the_api_documents_work_without_another_host(
    tmp_path: Path, page_of: Callable[..., Any], path: str, wanted: str
) -> None:
    with Served(tmp_path) as served:
        page = page_of(served)
        page.goto(served.url + path)
        page.wait_for_selector(wanted, timeout=60_000)  # a megabyte of script
