"""The corpus says what it means: no mistakes, no line twice, no line under two labels; lines from it are repeatable."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from logclf_daemon import resources
from logclf_daemon.errors import BadInput
from logclf_training import corpus, dataset
from logclf_training.corpus import LABELS, Program
from logclf_training.default import RECIPE
from logclf_training.generate import line, lines, process_name
from logclf_training.prefixes import STYLES
from logclf_training.variables import SHARED

SAMPLE = """\
# program: doord
# area: security
# prefix: syslog json
# var door: front | back

[Security Alert]
Key refused at %{door} for %{user} from %{ip}
[System Notification]
\\[main] %{door} door %{opened|closed} after %{ms} ms
Error handler registered

[Error]
\\# motor of %{door} door failed: %{errtext}
"""


def written(folder: Path, text: str, name: str = "doord.txt") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def ours() -> list[Program]:
    return corpus.load(corpus.shipped())


def test_a_file_is_a_program_with_labelled_templates(tmp_path: Path) -> None:
    (program,) = corpus.load(written(tmp_path, SAMPLE))

    assert (program.name, program.area, program.prefixes) == ("doord", "security", ("syslog", "json"))
    assert program.variables == {"door": ("front", "back")}
    assert [(template.label, template.text.split()[0], template.line) for template in program.templates] == [
        ("Security Alert", "Key", 7),
        ("System Notification", "[main]", 9),
        ("System Notification", "Error", 10),
        ("Error", "#", 13),
    ]


@pytest.mark.parametrize(
    ("addition", "complaint"),
    [
        ("[Oops]\nline\n", r"doord.txt:14: unknown label \[Oops\]"),
        ("Lost %{key_id}\n", r"doord.txt:14: unknown variable %{key_id}; declare it"),
        ("Lost %{key\n", r"doord.txt:14: a %{ that is not closed"),
        ("# late: header\n", r"doord.txt:14: comments are"),
        ("Key refused at %{host} for %{user} from %{ip}\n", r"doord.txt:14: \[Error\] has another label than \[Sec"),
        ("[System Notification]\nerror handler  registered\n", r"doord.txt:15: .* is a duplicate of .*doord.txt:10"),
    ],
)
def test_a_mistake_is_told_with_file_and_line(tmp_path: Path, addition: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        corpus.load(written(tmp_path, SAMPLE + addition))


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("# prefix: sylog json", "unknown prefix 'sylog'; known: syslog"),
        ("# prfix: syslog", "unknown header 'prfix'"),
        ("", "the header `# prefix:` is missing"),
    ],
)
def test_a_wrong_header_is_told(tmp_path: Path, wrong: str, complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        corpus.load(written(tmp_path, SAMPLE.replace("# prefix: syslog json", wrong)))


def test_duplicates_are_found_across_files(tmp_path: Path) -> None:
    written(tmp_path, SAMPLE)
    written(tmp_path, "# program: b\n# prefix: bare\n[Critical Error]\nError handler registered\n", "b.txt")

    with pytest.raises(BadInput, match=r"doord.txt:10: .*another label than \[Critical Error\] .*b.txt:4"):
        corpus.load(tmp_path)


def test_an_empty_folder_and_a_file_that_is_no_text_are_told(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no corpus here"):
        corpus.load(tmp_path)
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe")

    with pytest.raises(BadInput, match=r"a\.txt: cannot be read as UTF-8"):
        corpus.load(tmp_path)


def test_the_same_seed_gives_the_same_lines_and_another_seed_others(tmp_path: Path) -> None:
    (program,) = corpus.load(written(tmp_path, SAMPLE))

    first, again, other = ([line.text for line in lines(program, 5, seed)] for seed in (1, 1, 2))

    assert first == again
    assert first != other
    assert len(first) == 5 * 4


def test_a_new_template_changes_no_line_of_the_others(tmp_path: Path) -> None:
    (before,) = corpus.load(written(tmp_path, SAMPLE))
    (after,) = corpus.load(written(tmp_path, SAMPLE.replace("Error handler", "Warm\nError handler")))

    assert {line.text for line in lines(before, 3, 1)} <= {line.text for line in lines(after, 3, 1)}


@pytest.mark.parametrize("style", STYLES)
def test_every_prefix_style_keeps_the_message_whole(tmp_path: Path, style: str) -> None:
    (program,) = corpus.load(written(tmp_path, SAMPLE.replace("syslog json", style)))

    for number in range(20):
        text = line(program, program.templates[2], number, 1).text

        assert "Error handler registered" in text
        assert "\n" not in text


def test_a_json_prefix_is_json(tmp_path: Path) -> None:
    (program,) = corpus.load(written(tmp_path, SAMPLE.replace("syslog json", "json")))

    wrapped = [line.text for line in lines(program, 10, 1) if line.text.startswith("{")]

    assert wrapped
    assert all(isinstance(json.loads(text), dict) for text in wrapped)


def test_a_collection_is_not_known_by_its_name() -> None:
    from random import Random

    names = {process_name(Random(number), "deprecation-collection") for number in range(50)}

    assert not any("deprecat" in name for name in names)


@pytest.mark.parametrize("name", SHARED)
def test_every_shared_variable_makes_one_line_of_text(name: str) -> None:
    from random import Random

    for number in range(30):
        value = SHARED[name](Random(number))

        assert value
        assert value.isprintable()


def test_equal_texts_of_a_template_are_one_example_and_weigh_one_together(tmp_path: Path) -> None:
    examples, contradictions = dataset.from_corpus(corpus.load(written(tmp_path, SAMPLE)), 6, 1)

    weights: Counter[str] = Counter()
    for example in examples:
        weights[example.origin] += example.weight  # type: ignore[assignment]  # typeshed: counts are whole

    assert not contradictions
    assert all(weight == pytest.approx(1) for weight in weights.values())
    assert len({example.text for example in examples}) == len(examples)


def test_texts_that_only_numbers_tell_apart_are_left_out_as_contradictions(tmp_path: Path) -> None:
    text = "# program: p\n# prefix: bare\n[Error]\nunit 7 odd\n[System Notification]\nunit 8 odd\nfine\n"

    examples, contradictions = dataset.from_corpus(corpus.load(written(tmp_path, text)), 3, 1)

    assert {example.text for example in examples} == {"fine"}
    assert [found.labels for found in contradictions] == [("Error", "System Notification")]


def test_our_corpus_has_no_mistakes_and_is_broad(ours: list[Program]) -> None:
    counts = corpus.count_by_label(ours)

    assert len(ours) >= 120
    assert counts.total() >= 4000
    assert set(counts) == set(LABELS)
    assert min(counts.values()) >= 250, counts


def test_the_shipped_model_was_made_from_this_corpus_by_this_recipe() -> None:
    """Whoever changes corpus or recipe rebuilds the model: `logclf-train default --out models/default --replace`."""
    made = json.loads((resources.folder("models") / "default" / "config.json").read_text(encoding="utf-8"))

    assert made["provenance"]["corpus"] == corpus.fingerprint(corpus.shipped())
    assert made["provenance"]["recipe"] == json.loads(json.dumps(asdict(RECIPE)))


def test_the_shipped_model_learned_from_the_very_texts_that_are_made_now(ours: list[Program]) -> None:
    """A change of `template.py` or of the generator asks for a rebuild, too."""
    made = json.loads((resources.folder("models") / "default" / "config.json").read_text(encoding="utf-8"))
    examples, _ = dataset.from_corpus(ours, RECIPE.lines_per_template, RECIPE.seed)

    assert made["provenance"]["examples"] == dataset.fingerprint(examples)


def test_the_card_tells_how_large_the_corpus_is(ours: list[Program]) -> None:
    card = (resources.folder("models") / "default" / "README.md").read_text(encoding="utf-8")

    assert f"{corpus.count_by_label(ours).total()} line templates of {len(ours)} programs" in card


def test_every_label_is_told_apart_from_lines_that_read_nearly_the_same(ours: list[Program]) -> None:
    """Hard negatives: pairs of one program that share two words of five or more and have other labels."""
    seen: Counter[str] = Counter()
    for program in ours:
        words = [(template.label, set(template.masked.split())) for template in program.templates]
        for at, (label, mine) in enumerate(words):
            for other, theirs in words[:at]:
                if label != other and len(mine & theirs) >= 0.4 * len(mine | theirs):
                    seen.update((label, other))

    assert set(seen) == set(LABELS)
    assert min(seen.values()) >= 20, seen


def test_few_lines_of_our_corpus_are_contradictory_to_the_model(ours: list[Program]) -> None:
    examples, contradictions = dataset.from_corpus(ours, 1, 1)

    assert len(contradictions) <= len(examples) / 200, contradictions
