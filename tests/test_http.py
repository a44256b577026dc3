"""The HTTP API: the same labels as everywhere, errors that say what to do, and nobody in who should not be."""

from __future__ import annotations

import asyncio
import io
import json
from pathlib import Path

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from doubles import FixedStage
from http_doubles import Raw, SmallHost, talk
from logclf_daemon.config import HttpOptions
from logclf_daemon.errors import BadInput, ConfigError, ServiceUnavailable
from logclf_daemon.http.app import create_app
from logclf_daemon.http.guard import Guard, Rate
from logclf_daemon.http.proposals import proposed_pattern
from logclf_daemon.http.server import HttpServer, split_listen
from logclf_daemon.stages._rules.files import RuleFile, read_rules
from logclf_daemon.table import TableOptions, classify_table
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import canonical

LINES = ["sshd: no", "disk full", "hello", ""]
CSV = 'id,source,log_message\r\n001,a,sshd: no\r\n002,b,"disk, full"\r\n003,a,hello\r\n'


def records(*lines: str) -> dict[str, object]:
    return {"records": [{"source": "app.log", "log_message": line} for line in lines]}


# --- labels ---------------------------------------------------------------------------------------------------------


def test_json_lines_csv_and_cascade_give_the_same_labels(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, host: SmallHost) -> None:
        expected = [
            answer.fields
            for answer in (await host.cascade.classify("app.log", [line.encode() or None for line in LINES])).answers
            if answer
        ]

        found = (await asked.post("/api/v1/classify", json=records(*LINES))).json()["records"]
        body = "".join(json.dumps(row) + "\n" for row in records(*LINES)["records"])  # type: ignore[attr-defined]
        streamed = await asked.post("/api/v1/classify", content=body, headers={"Content-Type": "application/x-ndjson"})
        table = "source,log_message\n" + "".join(f"app.log,{line}\n" for line in LINES)
        labelled = await asked.post("/classify", files={"file": ("a.csv", table)})

        assert found == expected
        assert [json.loads(line) for line in streamed.text.splitlines()] == expected
        assert [row.rsplit(",", 1)[1] for row in labelled.text.splitlines()[1:]] == [row["label"] for row in expected]

    talk(tmp_path, conversation)


@pytest.mark.parametrize("plain", [True, False])
def test_a_csv_comes_back_as_the_csv_command_would_write_it(tmp_path: Path, plain: bool) -> None:
    async def conversation(asked: httpx.AsyncClient, host: SmallHost) -> None:
        expected = io.BytesIO()
        await classify_table(io.BytesIO(CSV.encode()), expected, host.cascade, TableOptions(explain=True))

        if plain:
            answer = await asked.post("/classify?explain=true", content=CSV, headers={"Content-Type": "text/csv"})
        else:
            answer = await asked.post("/classify?explain=true", files={"file": ("a.csv", CSV)})

        assert answer.status_code == 200
        assert answer.content == expected.getvalue()
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"

    talk(tmp_path, conversation)


def test_a_confidence_that_was_not_measured_is_left_out_of_verdicts_and_told_as_nothing_elsewhere(
    tmp_path: Path,
) -> None:
    host = SmallHost(tmp_path)
    host.cascade.generation.stages = (FixedStage({"disk": "Error"}, name="llm", confidence=None),)
    line, table = {"source": "a", "log_message": "disk"}, "source,log_message\na,disk\n"

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        (answer,) = (await asked.post("/api/v1/classify", json={"records": [line]})).json()["records"]
        ndjson = {"Content-Type": "application/x-ndjson"}
        streamed = (await asked.post("/api/v1/classify", content=json.dumps(line), headers=ndjson)).json()
        labelled = await asked.post("/classify?explain=true", content=table, headers={"Content-Type": "text/csv"})
        explained = (await asked.post("/api/v1/explain", json=line)).json()
        (template,) = (await asked.get("/api/v1/templates?kind=all")).json()["templates"]

        assert answer["label"] == streamed["label"] == "Error"
        assert not {"confidence"} & (answer.keys() | streamed.keys() | explained["record"]["logclf"].keys())
        assert labelled.text.splitlines()[1] == "a,disk,Error,,llm,"
        assert [found["confidence"] for found in (explained["logclf"], explained["steps"][-1], template)] == [None] * 3

    talk(tmp_path, conversation, host)


def test_a_large_csv_comes_back_whole(tmp_path: Path) -> None:
    rows = 60_000
    table = "source,log_message\n" + "".join(
        f"app,{'disk' if at % 2 else 'hello'} number {at} {'x' * 80}\n" for at in range(rows)
    )

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answer = await asked.post("/classify", files={"file": ("a.csv", table)}, timeout=50)

        lines = answer.text.splitlines()
        assert len(lines) == rows + 1
        assert lines[2].endswith(",Resource Usage")

    talk(tmp_path, conversation)


def test_a_bad_line_of_ndjson_is_answered_in_its_place(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        body = b'{"log_message": "sshd"}\n\nno json\n{"log_message": 7}\n{"log_message": "disk"}'
        answer = await asked.post("/api/v1/classify", content=body, headers={"Content-Type": "application/x-ndjson"})

        rows = [json.loads(line) for line in answer.text.splitlines()]
        assert [row.get("label", "error") for row in rows] == ["Security Alert", "error", "error", "Resource Usage"]
        assert "log_message" in rows[2]["error"]

    talk(tmp_path, conversation)


def test_a_line_is_explained(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        found = (await asked.post("/api/v1/explain", json={"log_message": "disk 7 full"})).json()

        assert found["logclf"]["label"] == "Resource Usage"
        assert found["template"] == "disk full"
        assert [(step["stage"], step["label"]) for step in found["steps"]] == [
            ("rules", None),
            ("verdicts", None),
            ("model", "Resource Usage"),
        ]

    talk(tmp_path, conversation)


def test_the_record_that_would_be_written_is_explained_with_its_standard_fields(tmp_path: Path) -> None:
    host = SmallHost(tmp_path, record={"enrich": ["otel"], "message_keys": ["msg"], "field": "seen"})

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        found = (await asked.post("/api/v1/explain", json={"log_message": "sshd: no", "source": "app"})).json()

        assert found["record"] == {
            "msg": "sshd: no",
            "severityNumber": 17,
            "severityText": "ERROR",
            "seen": {name: value for name, value in found["logclf"].items() if value is not None},
        }

    talk(tmp_path, conversation, host)


# --- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "kind", "status", "words"),
    [
        ("/api/v1/classify", b"{", "application/json", 422, "body: Input data was truncated"),
        ("/api/v1/classify", b'{"records": []}', "application/json", 422, "records"),
        ("/api/v1/classify", b'{"records": [{"log_message": 1}]}', "application/json", 422, "records[0].log_message"),
        ("/api/v1/classify", b"x", "text/plain", 415, "application/json"),
        ("/api/v1/explain", b'{"log_message": "x"}', "text/plain", 422, "valid"),
        ("/classify", b"a,b\n1,2\n", "text/csv", 422, "no column 'source'"),
        ("/classify", b"src,log_message\n", "text/csv", 422, "did you mean source_column 'src'?"),
        ("/classify", b"a,log_message\n", "text/csv", 422, "name it with source_column"),
        ("/classify", b"source,log_message,target_label\n", "text/csv", 422, "choose another with label_column"),
        ("/classify?explain=1", b"source,log_message,rule\n", "text/csv", 422, "or leave explain out"),
        ("/classify", b"", "text/csv", 422, "is empty"),
        ("/classify", b'source,log_message\na,"never closed\n', "text/csv", 422, "never closed"),
        ("/classify", b"x", "application/json", 415, "text/csv"),
        ("/classify", b"x", "multipart/form-data; boundary=b", 400, ""),
        ("/api/v1/rules/try", b'{"pattern": "(?=x)"}', "application/json", 422, "pattern"),
        ("/nothing", b"", "text/csv", 404, "/docs"),
    ],
)
def test_mistakes_are_problems_that_say_what_to_do(
    tmp_path: Path, path: str, body: bytes, kind: str, status: int, words: str
) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answer = await asked.post(path, content=body, headers={"Content-Type": kind})

        assert (answer.status_code, answer.headers["content-type"]) == (status, "application/problem+json")
        assert answer.json()["status"] == status
        assert words in answer.json()["detail"]

    talk(tmp_path, conversation)


def test_a_bug_of_ours_is_a_problem_without_a_traceback(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, host: SmallHost) -> None:
        host.running = lambda: 1 / 0  # type: ignore[method-assign, assignment, return-value]

        answer = await asked.get("/api/v1/status")

        assert answer.status_code == 500
        assert "ZeroDivision" not in answer.text

    talk(tmp_path, conversation)


# --- state ----------------------------------------------------------------------------------------------------------


def test_readiness_tells_the_truth(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, host: SmallHost) -> None:
        assert (await asked.get("/readyz")).json() == {"ready": True, "troubles": [], "notes": []}

        host.slot.away_since = -1000.0
        answer = await asked.get("/readyz")

        assert answer.status_code == 503
        assert answer.json()["troubles"][0].startswith("output memory: unavailable for")
        assert (await asked.get("/healthz")).status_code == 200

    talk(tmp_path, conversation)


def test_metrics_and_status_are_there(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        await asked.post("/api/v1/classify", json=records("disk full"))

        metrics = await asked.get("/metrics")
        status = (await asked.get("/api/v1/status")).json()

        assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")
        assert 'logclf_verdicts_total{label="Resource Usage",stage="model"}' in metrics.text
        assert status["inputs"]["memory"]["lag_secs"] == 0
        assert {row["label"] for row in status["verdicts"]} >= {"Resource Usage"}
        assert (status["review"], status["rules_folder"]) == (False, str(tmp_path))
        assert len((await asked.get("/api/v1/history")).json()["times"]) == 0

    talk(tmp_path, conversation, review=False)


# --- review ---------------------------------------------------------------------------------------------------------


def test_what_nobody_was_sure_of_is_listed_reviewed_and_then_known(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        await asked.post("/api/v1/classify", json=records("hello 1", "hello 2", "disk full", "password=hunter2 odd"))
        listed = (await asked.get("/api/v1/templates?order=busiest")).json()
        row = listed["templates"][0]
        assert (listed["total"], row["count"], row["label"], row["minutes"][-1]) == (2, 2, "Unclassified", 2)
        assert "hunter2" not in json.dumps(listed)

        answer = await asked.put(
            f"/api/v1/verdicts/{row['template']}", json={"source": row["source"], "label": "User Action"}
        )

        assert answer.json()["verdicts"][0]["origin"] == "human"
        (found,) = (await asked.post("/api/v1/classify", json=records("hello 3"))).json()["records"]
        assert (found["label"], found["stage"], found["confidence"]) == ("User Action", "llm", 1.0)
        assert (await asked.get("/api/v1/verdicts?origin=human")).json()["total"] == 1
        assert (await asked.delete(f"/api/v1/verdicts/{row['template']}")).json() == {"forgotten": 1}
        assert (await asked.get(f"/api/v1/verdicts/{row['template']}")).status_code == 404
        (found,) = (await asked.post("/api/v1/classify", json=records("hello 3"))).json()["records"]
        assert found["label"] == "Unclassified"

    talk(tmp_path, conversation)


def test_an_unknown_label_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answer = await asked.put(f"/api/v1/verdicts/{'a' * 16}", json={"label": "Securty Alert"})

        assert answer.status_code == 422
        assert "did you mean 'Security Alert'?" in answer.json()["detail"]

    talk(tmp_path, conversation)


def test_a_rule_is_proposed_tried_saved_and_in_force(tmp_path: Path) -> None:
    lines = [f"backup of vol{at} finished in {at} s" for at in range(5)]

    async def conversation(asked: httpx.AsyncClient, host: SmallHost) -> None:
        await asked.post("/api/v1/classify", json=records(*lines, "other words here"))
        row = (await asked.get("/api/v1/templates?order=busiest")).json()["templates"][0]
        found = (await asked.post("/api/v1/rules/propose", json={"template": row["template"]})).json()
        assert (found["id"], found["pattern"]) == ("own-backup-of-finished-in", "backup of.*finished in.*s")
        assert (found["matches"]["templates"], found["matches"]["lines"]) == (1, 5)

        tried = (await asked.post("/api/v1/rules/try", json={"pattern": "WORDS", "ignore_case": True})).json()
        assert tried["lines"] == 1
        rule = {name: found[name] for name in ("id", "pattern", "example")} | {"label": "System Notification"}
        saved = await asked.post("/api/v1/rules", json=rule)

        assert saved.status_code == 201
        assert host.reloads == 1
        (read,) = read_rules([tmp_path], Taxonomy())
        assert (read.id, read.options.label) == ("own-backup-of-finished-in", "System Notification")
        again = await asked.post("/api/v1/rules", json=rule)
        assert again.status_code == 422
        assert "already used" in again.json()["detail"]
        assert len(read_rules([tmp_path], Taxonomy())) == 1

    talk(tmp_path, conversation)


@pytest.mark.parametrize(
    "change",
    [{"pattern": "(a)\\1"}, {"label": "Nonsense"}, {"example": "does not match"}, {"pattern": "x{0,900}{0,900}"}],
)
def test_a_rule_that_fails_any_check_changes_nothing(tmp_path: Path, change: dict[str, str]) -> None:
    async def conversation(asked: httpx.AsyncClient, host: SmallHost) -> None:
        rule = {"id": "own-x", "label": "Error", "pattern": "fine", "example": "fine"} | change

        answer = await asked.post("/api/v1/rules", json=rule)

        assert answer.status_code == 422
        assert str(tmp_path / "review.yaml") in answer.json()["detail"]
        assert not (tmp_path / "review.yaml").exists()
        assert host.reloads == 0

    talk(tmp_path, conversation)


def test_a_saved_file_is_a_valid_rule_file(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        for number in range(3):
            rule = {"id": f"own-{number}", "label": "Error", "pattern": f"'f: {number}", "example": f"'f: {number} é"}
            assert (await asked.post("/api/v1/rules", json=rule)).status_code == 201

        import yaml

        parsed = RuleFile.model_validate(yaml.safe_load((tmp_path / "review.yaml").read_text()))
        assert [rule.id for rule in parsed.rules] == ["own-0", "own-1", "own-2"]

    talk(tmp_path, conversation)


def test_a_proposed_rule_holds_nothing_personal_and_matches_its_own_example() -> None:
    line = b"job of user=ann failed after 3 attempts from 10.0.0.9"

    pattern, example = proposed_pattern(canonical(line), line)

    assert pattern == "job of user.*failed after.*attempts from"
    assert example == "job of user=<user> failed after 3 attempts from <address>"


def test_a_short_line_is_enough_where_a_person_looks_at_the_proposal() -> None:
    assert proposed_pattern("link down", b"link down") == ("link down", "link down")
    with pytest.raises(BadInput, match="too little"):
        proposed_pattern("a", b"a 1")


# --- who may ask ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Host": "localhost"}, 200),
        ({"Host": "[::1]:24280"}, 200),
        ({"Host": "logs.example:80"}, 200),
        ({"Host": "evil.example"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://127.0.0.1:24280"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
    ],
)
def test_pages_of_other_sites_may_not_ask(tmp_path: Path, headers: dict[str, str], status: int) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answer = await asked.post("/api/v1/classify", json=records("x"), headers=headers)

        assert answer.status_code == status

    talk(tmp_path, conversation, hosts=["logs.example"])


def test_with_a_token_only_who_has_it_sees_anything_of_the_logs(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        for path in ("/metrics", "/api/v1/status", "/api/v1/templates", "/api/v1/verdicts"):
            answer = await asked.get(path)
            assert (answer.status_code, "bearer" in answer.headers["www-authenticate"].lower()) == (401, True)
            assert (await asked.get(path, headers={"Authorization": "Bearer wrong"})).status_code == 401
            assert (await asked.get(path, headers={"Authorization": "Bearer s3cret"})).status_code == 200
        assert (await asked.post("/classify", content=CSV, headers={"Content-Type": "text/csv"})).status_code == 401
        for path in ("/healthz", "/readyz", "/", "/assets/page.js", "/openapi.json"):
            assert (await asked.get(path)).status_code == 200

    talk(tmp_path, conversation, token="s3cret")


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.0.0.1:80", "logs.example:80"])
def test_off_loopback_a_token_is_needed(listen: str) -> None:
    with pytest.raises(ConfigError, match=r"not loopback; set http\.token"):
        split_listen(HttpOptions(listen=listen))

    assert split_listen(HttpOptions(listen=listen, token="s3cret"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("server", "token", "status"),
    [
        (("192.0.2.7", 24280), None, 401),
        (("2001:db8::7", 24280), None, 401),
        (("::ffff:192.0.2.7", 24280), None, 401),
        (("192.0.2.7", 24280), "s3cret", 200),
        (("127.0.0.1", 24280), None, 200),
        (("::ffff:127.0.0.1", 24280), None, 200),
        (("/run/x.sock", None), None, 200),
    ],
)
def test_an_app_that_others_reach_asks_for_a_token_whoever_serves_it(
    tmp_path: Path, server: tuple[str, int | None], token: str | None, status: int
) -> None:
    host = SmallHost(tmp_path)

    async def scenario() -> None:
        app = create_app(host, HttpOptions.model_validate({"token": token}))
        asked, open_to_all = (Raw(path, "", authorization="Bearer s3cret") for path in ("/api/v1/status", "/healthz"))
        await asked.ask(app, "GET", server)
        await open_to_all.ask(app, "GET", server)

        assert (asked.status, open_to_all.status) == (status, 200)
        assert status == 200 or "http.token" in json.loads(asked.body)["detail"]

    asyncio.run(scenario())
    host.close()


def test_an_app_is_not_made_for_an_address_that_needs_a_token_and_has_none(tmp_path: Path) -> None:
    host = SmallHost(tmp_path, listen="0.0.0.0:24280")

    with pytest.raises(ConfigError, match=r"set http\.token"):
        create_app(host)

    host.close()


@pytest.mark.parametrize("listen", ["24280", "localhost", "localhost:x", "localhost:99999", ":80"])
def test_what_is_no_address_is_refused(listen: str) -> None:
    with pytest.raises(ConfigError, match="is no address"):
        split_listen(HttpOptions(listen=listen))


def test_a_port_that_is_taken_is_told_before_anything_starts() -> None:
    first = HttpServer(HttpOptions(listen="127.0.0.1:0"), object)
    first.open()

    with pytest.raises(ServiceUnavailable, match="cannot listen"):
        HttpServer(HttpOptions(listen=f"127.0.0.1:{first.port}"), object).open()

    first.close()


def test_with_review_off_nothing_is_changed(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        assert (await asked.put(f"/api/v1/verdicts/{'a' * 16}", json={"label": "Error"})).status_code == 403
        assert (await asked.get("/api/v1/verdicts")).status_code == 200

    talk(tmp_path, conversation, review=False)


@pytest.mark.parametrize("declared", [True, False])
def test_too_much_is_refused_declared_or_not(tmp_path: Path, declared: bool) -> None:
    async def slowly() -> object:
        for _ in range(40):
            yield b"x" * 100

    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        for path, kind in (("/classify", "text/csv"), ("/api/v1/classify", "application/json")):
            content = b"x" * 4000 if declared else slowly()
            answer = await asked.post(path, content=content, headers={"Content-Type": kind})  # type: ignore[arg-type]
            assert (answer.status_code, answer.headers["content-type"]) == (413, "application/problem+json")

    talk(tmp_path, conversation, max_upload_bytes=2000, max_body_bytes=2000)


def test_too_many_requests_are_told_when_to_come_again(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        answers = [await asked.get("/healthz") for _ in range(8)]

        assert answers[0].status_code == 200
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1

    talk(tmp_path, conversation, requests_per_sec=0.01)


def test_a_bucket_fills_up_again_and_the_clients_known_are_bounded() -> None:
    now = 0.0
    rate = Rate(10, lambda: now)
    assert [rate.wait_secs("a") for _ in range(20)] == [0.0] * 20
    assert rate.wait_secs("a") == pytest.approx(0.1)
    assert rate.wait_secs("b") == 0.0

    now = 0.1
    assert rate.wait_secs("a") == 0.0
    for number in range(10_000):
        rate.wait_secs(str(number))
    assert len(rate._buckets) <= 4096


def test_the_policy_allows_nothing_but_our_own_files(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        for path in ("/", "/docs", "/redoc", "/nothing", "/api/v1/status"):
            answer = await asked.get(path)
            assert "default-src 'none'; script-src 'self';" in answer.headers["content-security-policy"]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "http://" not in answer.text.replace("http://127.0.0.1", "")
            assert "https://" not in answer.text

    talk(tmp_path, conversation)


@pytest.mark.parametrize("path", ["/", "/docs", "/redoc", "/assets/page.js", "/healthz", "/readyz"])
def test_who_asks_for_the_head_of_a_page_gets_it(tmp_path: Path, path: str) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        whole, head = await asked.get(path), await asked.head(path)

        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == whole.headers["content-type"]
        assert head.headers["content-length"] == whole.headers["content-length"]

    talk(tmp_path, conversation)


def test_the_description_tells_every_refusal(tmp_path: Path) -> None:
    async def conversation(asked: httpx.AsyncClient, _host: SmallHost) -> None:
        paths = (await asked.get("/openapi.json")).json()["paths"]

        answers = {
            (method, path): operation["responses"] for path, item in paths.items() for method, operation in item.items()
        }
        assert len(answers) > 15
        for (method, _), described in answers.items():
            assert described.keys() >= {"401", "413", "421", "429", "503"}
            assert method == "get" or described.keys() >= {"403", "408"}
            assert "application/problem+json" in described["421"]["content"]
        assert (await asked.head("/metrics")).status_code == 200

    talk(tmp_path, conversation)


def test_what_is_no_http_goes_on_to_the_app() -> None:
    seen: list[str] = []

    async def app(scope: Scope, _receive: Receive, _send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Message) -> Message:
        return {}

    asyncio.run(Guard(app, HttpOptions())({"type": "lifespan"}, nothing, nothing))  # type: ignore[arg-type]

    assert seen == ["lifespan"]
