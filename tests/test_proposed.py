"""The pattern that the words of a template make, and what templates of one label share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import re2

from logclf_daemon.masking import masked
from logclf_daemon.stages._rules.alike import Labelled, Nearest, general, phrases
from logclf_daemon.stages._rules.dialect import complaint, options
from logclf_daemon.stages._rules.files import Rule, RuleOptions
from logclf_daemon.stages._rules.proposed import pattern_of
from logclf_daemon.stages.rules import RuleSet
from logclf_daemon.template import canonical
from logclf_training.known import labelled_lines


def matches(pattern: str, line: str) -> bool:
    """Whether a rule with this pattern matches, with the engine that rules run on."""
    assert complaint(pattern) is None
    rule = RuleOptions(id="own", label="Error", pattern=pattern, examples=("any",))
    return bool(RuleSet([Rule(rule, Path("own.yaml"), 1, 1)]).matches(line.encode()))


def labelled(texts: Sequence[str], label: str = "Error") -> list[Labelled]:
    return [Labelled(text, label, text) for text in texts]


@pytest.mark.parametrize(
    ("line", "pattern"),
    [
        ("backup of volume 7 stalled after 31 s", "backup of volume.*stalled after.*s"),
        ("cron [__main__] killed the nightly job", r"cron[\W_]+main[\W_]+killed the nightly job"),
        ("job[17]: sync-queue (main) stalled", r"job.*sync-queue\W+main\W+stalled"),
        ("user=<user> backup (weekly) failed from <address>", r"user.*backup\W+weekly\W+failed from"),
        ("user.name [x] logged (in)", r"user\.name\W+x\W+logged\W+in"),
        ("café a|b [x] is served", r"café a\W+b\W+x\W+is served"),
        ("nightly backup stalled\nat line 7 of the job", "nightly backup stalled"),
        ("7 up", None),
        ("a b c d e", None),
    ],
)
def test_a_pattern_has_the_words_of_the_template_and_gaps_for_what_varies(line: str, pattern: str | None) -> None:
    real = line.replace("<user>", "ann").replace("<address>", "10.0.0.9")

    assert pattern_of(canonical(real.encode()), line) == pattern
    assert pattern is None or (matches(pattern, line) and matches(pattern, real))


@pytest.mark.parametrize(
    ("line", "alike", "other"),
    [
        ('"GET /backup/all HTTP/1.1" 200 7', '"GET /backup/all HTTP/2" 204 9', '"GET /backup/all HTTP/1.1" 500 7'),
        ("the nightly backup ended, exit code 0", "the nightly backup ended, exit code 0", "ended, exit code 1"),
        ("the nightly backup ended, exit code 1", "the nightly backup ended, exit code 137", "backup ended, code 0"),
        ("the nightly backup ended: exit status -1", "the nightly backup ended: exit status 10", "exit status 0"),
        ("12 errors in the nightly backup", "3 errors in the nightly backup", "0 errors in the nightly backup"),
        ("0 errors in the nightly backup", "0 errors in the nightly backup", "10 errors in the nightly backup"),
        ("upstream replied with status: 404", "upstream replied with status: 410", "upstream replied, status: 200"),
        (
            "write to volume 7 failed, errno 28",
            "write to volume 9 failed, errno 28",
            "write to volume 7 failed, errno 17",
        ),
        ("device temperature is at 47 Celsius", "device temperature is at 41 Celsius", "temperature is at 97 Celsius"),
    ],
)
def test_a_number_that_carries_meaning_matches_those_that_mean_the_same(line: str, alike: str, other: str) -> None:
    pattern = pattern_of(canonical(line.encode()), line)

    assert pattern is not None
    assert matches(pattern, line)
    assert matches(pattern, alike)
    assert not matches(pattern, other)


def test_a_pattern_matches_its_own_line_as_it_is_and_masked() -> None:
    lines = labelled_lines()[::30]
    made = 0

    for line, _ in lines:
        raw, shown = line.encode("utf-8", "surrogateescape"), masked(line)
        pattern = pattern_of(masked(canonical(raw)), shown)
        if pattern is not None:
            assert complaint(pattern) is None, pattern
            compiled = re2.compile(pattern.encode(), options(ignore_case=False))
            assert compiled.search(raw), (pattern, line)
            assert compiled.search(shown.encode()), (pattern, shown)
            made += 1

    assert made > 0.9 * len(lines)


def test_what_was_masked_is_no_number() -> None:
    line = "for <user> failed to start the backup"

    assert pattern_of(canonical(b"for ann failed to start the backup"), line) == "for.*failed to start the backup"


def test_a_word_varies_where_three_templates_differ_in_nothing_else() -> None:
    names = ("ann", "bob", "eve")

    found = general(labelled([f"backup of {name} stalled" for name in names]))

    assert set(found.values()) == {"backup of stalled"}
    two = [f"backup of {name} stalled" for name in names[:2]]
    assert list(general(labelled(two)).values()) == two


def test_one_message_in_many_wrappings_is_known_by_its_words() -> None:
    message = "cannot sync the volume now"
    wrapped = labelled([message, f"app: {message}", f"level err {message} later"])

    found = phrases(wrapped)

    assert set(found.values()) == {message}
    assert phrases(wrapped[:2]) == {}, "two are no pattern"


def test_words_that_another_label_has_too_are_no_phrase() -> None:
    wrapped = [f"{word} cannot sync the volume" for word in ("app", "db", "web")]

    assert phrases([*labelled(wrapped), *labelled(["cannot sync the volume yet"], "System Notification")]) == {}


def test_the_nearest_lines_have_another_label_and_share_rarer_words() -> None:
    lines = {"backup of ann stalled": "Error", "backup of bob finished": "User Action", "queue idle": "User Action"}

    assert Nearest(lines).of("backup of cyd stalled", "Error") == ["backup of bob finished"]
