"""Templates: what stays of a line, and which numbers may never be lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logclf_daemon.generation import Generation
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages._rules.engines import HyperscanEngine, Pattern, Re2Engine
from logclf_daemon.stages.rules import RuleSet, RulesOptions, load_rules
from logclf_daemon.taxonomy import Taxonomy
from logclf_daemon.template import FOLD, KEPT, MAX_BYTES, canonical, fold, key, spell_kept, template_id

POLAR = [
    ('GET /a HTTP/1.1" 200 12', 'GET /a HTTP/1.1" 500 12'),
    ("request done status=200", "request done status=500"),
    ("process exited with code 0", "process exited with code 1"),
    ("exit status 0", "exit status 137"),
    ("backup finished: 0 errors", "backup finished: 12 errors"),
    ("check: errors=0 of 900", "check: errors=3 of 900"),
    ("0 warnings, 0 errors", "0 warnings, 5 errors"),
    ("open failed, errno=2", "open failed, errno=28"),
    ("event severity=6 logged", "event severity=2 logged"),
    ("Temperature of disk sda is 35 C", "Temperature of disk sda is 95 C"),
    ("rc=0", "rc=-1"),
    ("answered HTTP 200", "answered HTTP 503"),
    ("response code 200", "response code 404"),
    ("child terminated with code 0", "child terminated with code 139"),
    ("[Errno 2] opened", "[Errno 28] opened"),
    ("Media and Data Integrity Errors: 0", "Media and Data Integrity Errors: 9"),
    ("Device: /dev/sda, 0 Offline uncorrectable sectors", "Device: /dev/sda, 12 Offline uncorrectable sectors"),
    ("Device: /dev/sda, 0 Currently unreadable sectors", "Device: /dev/sda, 8 Currently unreadable sectors"),
    ("5 Reallocated_Sector_Ct raw 0", "5 Reallocated_Sector_Ct raw 812"),
    ("197 Current_Pending_Sector: 0", "197 Current_Pending_Sector: 16"),
    ("nvme0: critical_warning : 0", "nvme0: critical_warning : 4"),
    ("critical warning: 0x00", "critical warning: 0x04"),
    ("SMART overall-health: PASSED", "SMART overall-health: FAILED"),
    ("feature x enabled", "feature x disabled"),
    ("job 17 succeeded", "job 17 failed"),
]


@pytest.fixture(scope="module")
def shipped() -> RuleSet:
    return load_rules(RulesOptions(), Taxonomy(), folder("rules"), cache_directory())


@pytest.mark.parametrize(("one", "other"), POLAR)
def test_opposite_lines_never_share_a_template(one: str, other: str) -> None:
    assert canonical(one.encode()) != canonical(other.encode())


@pytest.mark.parametrize("engine", [HyperscanEngine, Re2Engine])
@pytest.mark.parametrize(("one", "other"), POLAR)
def test_opposite_lines_never_share_a_cache_key(engine: type, one: str, other: str) -> None:
    scan = engine([Pattern(kept.pattern, ends=True) for kept in KEPT])
    folds = [
        fold(line, [(pattern, end) for _, pattern, end in scan.hits([line])]) for line in (one.encode(), other.encode())
    ]

    assert folds[0] != folds[1]


@pytest.mark.parametrize(("one", "other"), POLAR)
def test_opposite_lines_never_share_a_verdict(shipped: RuleSet, one: str, other: str) -> None:
    """By a rule or by their templates: what the later stages are asked about one is not the answer to the other."""
    answers, opened = Generation(1, shipped, [], Taxonomy()).recall("x", [one.encode(), other.encode()])

    decided = [answer for answer in answers if answer is not None]
    assert len({id(answer) for answer in decided}) == len(decided)
    assert [positions for _, positions in opened if len(positions) > 1] == []


@pytest.mark.parametrize(
    ("line", "template"),
    [
        (
            "Nov 22 09:55:17 web1 sshd[811]: Failed password for root from 10.0.0.9 port 22 ssh2",
            "sshd : Failed password for root from port",
        ),
        ("2026-11-22T09:55:17.123Z db2 postgres[9]: connection received", "postgres : connection received"),
        ("<34>Oct 11 22:14:15 host su: gone", "su: gone"),
        ("2015-10-18 18:05:27,570 WARN org.apache.Lease: Failed to renew", "WARN org.apache.Lease: Failed to renew"),
        ("2026-11-22T09:55:17.123Z\twarn\tcluster/peer.go:12\tlost", "warn lost"),
        ("job ended: exit status 126", "job ended: exit status some"),
        ("exited with status 404", "exited with status some"),
        ("[2026-11-22 09:55:17] cpu=93 load=high", "cpu load high"),
        ("12345 67890", "00000 00000"),
        ("", ""),
    ],
)
def test_templates_look_like_this(line: str, template: str) -> None:
    assert canonical(line.encode()) == template


def test_the_same_event_of_another_month_and_host_has_the_same_template() -> None:
    assert canonical(b"Jan  2 03:04:05 a cron[1]: run") == canonical(b"Dec 30 23:59:59 other cron[22]: run")


@pytest.mark.parametrize("event", ["Connection lost", "error in block", "web1 app: failed", "Warning: low"])
@pytest.mark.parametrize("time", ["2026-11-22 09:55:{}", "2026-11-22 09:55:17,1{}", "Nov 22 09:55:{}"])
def test_the_second_of_an_event_is_no_count(time: str, event: str) -> None:
    assert canonical(f"{time.format('00')} {event}".encode()) == canonical(f"{time.format('17')} {event}".encode())


KEPT_NUMBERS = HyperscanEngine([Pattern(kept.pattern, ends=True) for kept in KEPT])

text = st.text(st.sampled_from('abcE:= 0129[]"/.-sterocdHTP%'), max_size=80).map(str.encode)


@given(text)
def test_a_fold_has_the_template_of_its_line(line: bytes) -> None:
    spelled = spell_kept(line)

    assert key(spelled) == key(spelled.translate(FOLD))


@given(
    st.lists(st.sampled_from(["0", "1", "200", "500", "12", "9"]), min_size=2, max_size=2), text, st.sampled_from(POLAR)
)
def test_lines_with_one_fold_have_one_template(numbers: list[str], tail: bytes, pair: tuple[str, str]) -> None:
    """The contract of the first cache level, for real kept patterns with any numbers beside them."""
    lines = [f"{number} {side} ".encode() + tail for number in numbers for side in pair]

    seen: dict[bytes, bytes] = {}
    for line in lines:
        found = [(pattern, end) for _, pattern, end in KEPT_NUMBERS.hits([line])]
        template = key(spell_kept(line))
        assert seen.setdefault(fold(line, found), template) == template


def test_only_the_head_of_a_long_line_counts() -> None:
    head = b"word " * (MAX_BYTES // 5) + b"end "

    assert canonical(head + b"tail" * 1000) == canonical(head + b"other" * 100_000)


def test_a_number_cut_off_with_the_head_is_not_taken_for_another() -> None:
    pad = b"x" * (MAX_BYTES - len(b" status=200"))

    assert fold(pad + b" status=200 ok") != fold(pad + b" status=500 ok")


def test_ids_are_stable() -> None:
    assert template_id(b"a template") == template_id(b"a template")
    assert len(template_id(b"")) == 16
