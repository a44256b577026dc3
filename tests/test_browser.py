"""The live page in a real browser: hostile lines stay text, review works in place, nothing comes from elsewhere."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import REQUIRED
from http_doubles import SmallHost
from logclf_daemon.config import HttpOptions
from logclf_daemon.http.app import create_app
from logclf_daemon.http.server import HttpServer
from logclf_daemon.record import Question, Verdict

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
    "\x1b[31mred\x1b[0m \u202egnp.exe \u0000 zero\u200bwidth",
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
SHOTS = os.environ.get("LOGCLF_TEST_SHOTS")


def odd_lines(count: int) -> list[str]:
    """So many lines, each a template of its own."""
    size = len(WORDS)
    return [f"{WORDS[at % size]} {WORDS[at // size % size]} {WORDS[at // size // size % size]}" for at in range(count)]


class Served:
    """An app in a thread of its own, with lines coming in all the time."""

    def __init__(self, folder: Path, **http: Any) -> None:
        self.folder = folder
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
        self.host = SmallHost(self.folder)
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

    def complain(said: Any) -> None:
        if said.type == "error" and "Failed to load resource" not in said.text:  # a refusal, which the page shows
            complaints.append(said.text)

    def opened(served: Served, *, width: int = 1280, scheme: str = "light") -> Any:
        context = browser.new_context(viewport={"width": width, "height": 860}, color_scheme=scheme)
        served.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("console", complain)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda sent: None if sent.url.startswith((served.url, "blob:", "data:")) else complaints.append(sent.url),
        )
        page.goto(served.url)
        return page

    yield opened
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


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
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
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.querySelectorAll('.template script, .template img').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
        assert paint < 3000  # 0.4 s where the machine has nothing else to do


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
        page.fill("#rule-pattern", "(?=beta)")
        page.wait_for_selector("#rule-error:not([hidden])")
        page.fill("#rule-pattern", "beta .* alta")
        until(page, "document.getElementById('rule-matches').textContent.includes('template')")
        page.select_option("#rule-label", "Workflow Error")
        kept(page, "rule")
        page.click("#rule-save")
        page.wait_for_selector("#rule", state="hidden")

        assert "beta .* alta" in (tmp_path / "review.yaml").read_text()
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


@pytest.mark.parametrize(("path", "wanted"), [("/docs", ".opblock"), ("/redoc", "[id^='tag/']")])
def test_the_api_documents_work_without_another_host(
    tmp_path: Path, page_of: Callable[..., Any], path: str, wanted: str
) -> None:
    with Served(tmp_path) as served:
        page = page_of(served)
        page.goto(served.url + path)
        page.wait_for_selector(wanted, timeout=60_000)  # a megabyte of script
