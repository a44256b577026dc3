"""Training: whole programs held out, thresholds that keep their promise, folders that load, errors of one line."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import joblib
import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from logclf_daemon import quality
from logclf_daemon.errors import BadInput
from logclf_daemon.record import Question
from logclf_daemon.stages._model.encoders import OnnxEncoder
from logclf_daemon.stages._model.head import Floats
from logclf_daemon.stages.model import ModelOptions, ModelStage
from logclf_training import calibrate, cli, convert, dataset, fit, head, recipe
from logclf_training.dataset import Example, folds
from logclf_training.encoder import Exported, embed
from logclf_training.export import Parts, check_place, write_folder
from logclf_training.head import HeadSettings
from logclf_training.recipe import Data, Recipe, train
from model_doubles import LABELS, WORDS, tiny_encoder, tiny_head, tiny_model, tiny_tokenizer

RESOURCES = Path(__file__).parent.parent / "resources"
TORCH = importlib.util.find_spec("torch") is not None
needs_torch = pytest.mark.skipif(not TORCH, reason="the extra `train` is not installed")


def silent(_text: str) -> None:
    return


def csv_file(path: Path, rows: Sequence[Sequence[str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def rows(count: int, groups: int = 4) -> list[Example]:
    """Lines of `groups` programs, `failed` ones and `started` ones."""
    words = [word for word in WORDS if word.isalpha()]
    found = []
    for number in range(count):
        label = LABELS[number % 2]
        event = ("failed", "started")[number % 2]
        filler = " ".join(words[2 + (number >> bit & 1)] for bit in range(8))
        found.append(
            Example(f"{event} {event} {filler}", label, f"program-{number // 2 % groups}", f"row {number + 2}")
        )
    return found


@pytest.fixture
def tiny_shipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe `shipped` finds the five-word encoder."""
    monkeypatch.setattr(recipe, "shipped_encoder", lambda: Exported(tiny_encoder(), tiny_tokenizer(), 4))


SMALL = Recipe(encoder=recipe.SHIPPED, folds=3, head=HeadSettings(char_buckets=64, word_buckets=64))


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.booleans()), min_size=1, max_size=60), st.integers(2, 5))
def test_a_fold_never_splits_a_group_and_every_row_is_held_out_once(drawn: list[tuple[str, bool]], count: int) -> None:
    examples = [Example(f"t{at}", str(flag), group, "") for at, (group, flag) in enumerate(drawn)]

    splits = folds(examples, count, 1)

    assert sorted(at for _, held_out in splits for at in held_out) == list(range(len(examples)))
    for known, held_out in splits:
        assert not {examples[at].group for at in known} & {examples[at].group for at in held_out}


def test_rows_without_a_source_are_held_out_by_text() -> None:
    examples = [Example(text, "Error", "", "") for text in "aabbcc"]

    for known, held_out in folds(examples, 3, 1):
        assert not {examples[at].text for at in known} & {examples[at].text for at in held_out}


def test_many_scores_at_once_are_those_of_each_alone() -> None:
    random = np.random.default_rng(0)
    texts = ["disk failed", "service started well", "x"]
    settings = HeadSettings(char_buckets=32, word_buckets=16)
    made = head.from_coefficients(random.normal(size=(3, 4 + 48)), random.normal(size=3), 4, settings)
    embeddings = random.normal(size=(3, 4)).astype(np.float32)

    together = head.scores(made, head.features(embeddings, texts, settings))

    alone = [made.scores(embedding, text) for embedding, text in zip(embeddings, texts, strict=True)]
    assert together == pytest.approx(np.array(alone), abs=1e-4)


def test_a_label_without_examples_in_a_fold_is_never_its_answer() -> None:
    settings = HeadSettings(char_buckets=0, word_buckets=0)
    known = head.features(np.eye(4, dtype=np.float32), ["a", "b", "c", "d"], settings)

    fitted = head.fit(known, ("A", "B", "C"), np.array([0, 0, 2, 2]), np.ones(4), settings)

    assert head.scores(fitted, known).argmax(1).tolist() == [0, 0, 2, 2]
    assert (head.scores(fitted, known)[:, 1] < -1000).all()


def test_temperature_finds_the_overconfidence_that_was_put_in() -> None:
    random = np.random.default_rng(1)
    honest = random.normal(size=(4000, 3)).astype(np.float32) * 2
    shares = np.exp(honest) / np.exp(honest).sum(1, keepdims=True)
    truth = np.array([random.choice(3, p=share / share.sum()) for share in shares.astype(float)])

    found = calibrate.temperature(honest * 3, truth, np.ones(len(truth)))

    assert found == pytest.approx(3, rel=0.1)


def test_cuts_keep_the_error_rate_on_lines_they_have_not_seen_as_often_as_promised() -> None:
    kept, answered = 0, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        trust = random.normal(size=4000)
        right = random.uniform(size=4000) < 1 / (1 + np.exp(-4 - trust))
        cut = calibrate.least_trust(trust, right, np.ones(4000), 0.02)
        above = np.linspace(6 if cut is None else cut, 6, 2000)
        density = np.exp(-(above**2) / 2)
        kept += (density / (1 + np.exp(4 + above))).sum() / density.sum() <= 0.02
        answered += cut is not None and cut < 0.5

    assert kept >= 200 * (1 - calibrate.DOUBT) - 12  # two standard deviations
    assert answered > 140


def test_no_cut_is_promised_from_too_few_lines() -> None:
    trust, right = np.arange(20.0), np.ones(20, bool)

    assert calibrate.least_trust(trust, right, np.ones(20), 0.02) is None
    assert calibrate.least_trust(trust, right, np.ones(20), 0.2) is not None
    assert calibrate.least_trust(trust[:0], right[:0], np.ones(0), 0.2) is None


def test_a_label_that_is_less_reliable_than_it_says_gets_a_higher_threshold() -> None:
    random = np.random.default_rng(5)
    scores = random.normal(size=(6000, 2)).astype(np.float32) * 3
    probabilities = (np.exp(scores) / np.exp(scores).sum(1, keepdims=True)).astype(np.float32)
    chance = np.where(probabilities.argmax(1) == 0, probabilities.max(1), probabilities.max(1) * 0.9)
    truth = np.where(random.uniform(size=6000) < chance, probabilities.argmax(1), 1 - probabilities.argmax(1))

    table = calibrate.thresholds(("A", "B"), probabilities, truth, np.ones(6000), (0.05,))

    honest, boastful = table["0.05"]["A"], table["0.05"]["B"]
    assert honest is not None and boastful is not None
    assert honest < boastful


def test_measures_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, f1_score

    random = np.random.default_rng(2)
    probabilities = random.dirichlet((1, 1, 1), size=200).astype(np.float32)
    truth = random.integers(0, 3, 200)
    predicted = probabilities.argmax(1)

    found = quality.measure(("A", "B", "C"), probabilities, truth)

    assert found.accuracy == pytest.approx(accuracy_score(truth, predicted), abs=1e-4)
    assert found.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-4)
    assert found.confusion == confusion_matrix(truth, predicted).tolist()
    assert found.risk_coverage[-1][1] == pytest.approx(1 - found.accuracy, abs=1e-3)
    assert json.loads(json.dumps(found.as_json()))["rows"] == 200


@pytest.mark.usefixtures("tiny_shipped")
def test_rows_become_a_folder_that_the_daemon_loads(tmp_path: Path) -> None:
    fitted = fit.fit(rows(300), [], SMALL, None, silent)
    write_folder(fitted.parts(tmp_path / "mine.csv", SMALL), tmp_path / "model")

    stage = ModelStage(ModelOptions(path=tmp_path / "model", max_error_rate=0.1))
    first, second = stage.classify([Question("", text, "", b"") for text in ("failed failed disk", "started started")])

    assert fitted.own.accuracy == 1
    assert first is not None and second is not None
    assert (first.label, second.label) == LABELS
    assert "rows of `mine.csv`" in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.usefixtures("tiny_shipped")
def test_the_same_rows_and_seed_give_the_same_folder(tmp_path: Path) -> None:
    for name in ("one", "two"):
        fitted = fit.fit(rows(60), [], SMALL, None, silent)
        write_folder(fitted.parts(Path("mine.csv"), SMALL), tmp_path / name)

    first, second = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))

    assert first == second


@pytest.mark.usefixtures("tiny_shipped")
def test_the_existing_model_is_measured_on_the_same_rows(tmp_path: Path) -> None:
    existing = ModelStage(ModelOptions(path=tiny_model(tmp_path)))

    fitted = fit.fit(rows(60), [], SMALL, existing, silent)

    assert fitted.shipped is not None
    assert fitted.shipped.rows == 60
    assert "The new model is right on" in fitted.as_text()


@pytest.mark.usefixtures("tiny_shipped")
def test_a_model_is_not_compared_with_one_that_does_not_know_the_labels(tmp_path: Path) -> None:
    told: list[str] = []
    existing = ModelStage(ModelOptions(path=tiny_model(tmp_path)))

    fitted = fit.fit([*rows(40), *[Example("disk", "Fire", "", "")] * 8], [], SMALL, existing, told.append)

    assert (fitted.shipped, fitted.worse) == (None, False)
    assert any("it does not know the label Fire" in text for text in told)


@pytest.mark.usefixtures("tiny_shipped")
def test_a_better_model_is_not_replaced_by_a_worse_one_unless_asked(tmp_path: Path) -> None:
    """Each source has one label only: whoever has not seen the other source is always wrong."""
    better, out = tiny_model(tmp_path / "better"), tiny_model(tmp_path / "model")
    mine = [[row.text, row.label, row.label] for row in rows(40)]
    labelled = csv_file(tmp_path / "rows.csv", [["log_message", "target_label", "source"], *mine])
    arguments = ("fit", labelled, "--out", out, "--encoder", "shipped", "--compare", better, "--replace")
    before = (out / "config.json").read_bytes()

    refused, kept = run(*arguments), (out / "config.json").read_bytes()
    replaced = run(*arguments, "--even-if-worse")

    assert (refused.exit_code, kept) == (65, before)
    assert "kept, the new model is worse" in refused.output
    assert replaced.exit_code == 0, replaced.output
    assert (out / "config.json").read_bytes() != before


def test_the_shipped_encoder_is_int8_and_says_so_when_fp32_is_asked(tmp_path: Path) -> None:
    labelled = csv_file(
        tmp_path / "rows.csv", [["log_message", "target_label"], *[[row.text, row.label] for row in rows(40)]]
    )

    result = run("fit", labelled, "--out", tmp_path / "model", "--encoder", "shipped", "--fp32")

    assert result.exit_code == 65
    assert "encoder shipped: it is int8 already" in result.output


@pytest.mark.usefixtures("tiny_shipped")
def test_what_is_mixed_in_is_learned_but_not_measured() -> None:
    mine, mixed = rows(40), [Example("disk disk disk", "Third", "other", "corpus")] * 10

    fitted = fit.fit(mine, mixed, SMALL, None, silent)

    assert fitted.data.labels == (*LABELS, "Third")
    assert fitted.own.rows == 40


@pytest.mark.usefixtures("tiny_shipped")
def test_a_model_of_few_rows_says_that_it_would_not_answer_and_what_helps() -> None:
    few, many = (fit.fit(rows(count), [], SMALL, None, silent).trained.thresholds for count in (40, 250))

    assert fit.silence(many) is None
    assert "the least it can promise is 0.1" in (fit.silence(few) or "")


def test_a_label_with_too_few_different_rows_is_refused_with_its_count() -> None:
    few = [*rows(40), *[Example("disk", "Rare", "", "row 50")] * 20]

    with pytest.raises(BadInput, match=r"too few different rows: Rare \(1\); give each label at least 8"):
        fit.examined(few, 8, silent)


def test_contradictory_rows_are_named_and_left_out() -> None:
    told: list[str] = []
    contradictory = [Example("same text", label, "", f"row {at}") for at, label in enumerate(LABELS, 90)]

    kept = fit.examined([*rows(80), *contradictory], 8, told.append)

    assert "row 90, row 91" in told[0]
    assert "same text" not in {row.text for row in kept}


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ([["message", "target_label"], ["a", "b"]], r"rows.csv:1: no column log_message; there is: message, target"),
        ([["log_message", "target_label"]], r"rows.csv: no rows below the header"),
        ([["log_message", "target_label"], ["a", " "]], r"rows.csv: row 2 has no target_label"),
    ],
)
def test_a_csv_that_is_not_labelled_is_refused(tmp_path: Path, table: list[list[str]], complaint: str) -> None:
    with pytest.raises(BadInput, match=complaint):
        dataset.read_labelled(csv_file(tmp_path / "rows.csv", table))


def test_rows_are_read_as_the_model_will_see_them(tmp_path: Path) -> None:
    path = csv_file(
        tmp_path / "rows.csv",
        [["source", "log_message", "target_label"], ["a", "Nov 22 09:55:17 web1 cron[7]: job 17 done", "Error"]],
    )

    (row,) = dataset.read_labelled(path)

    assert (row.group, row.label, row.origin) == ("a", "Error", "row 2")
    assert "17" not in row.text


def test_a_folder_is_replaced_only_when_asked_and_only_by_a_good_one(tmp_path: Path) -> None:
    fitted = train_tiny()
    out = tmp_path / "model"
    write_folder(fitted, out)
    before = (out / "config.json").read_bytes()

    with pytest.raises(BadInput, match="exists; give --replace"):
        write_folder(fitted, out)
    write_folder(fitted, out, replace=True)

    assert (out / "config.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_place_that_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(BadInput, match=r"file/model: .*file cannot be written: .*; give another --out"):
        check_place(tmp_path / "file" / "model", replace=False)
    check_place(tmp_path / "new" / "model", replace=False)

    assert list((tmp_path / "new").iterdir()) == []


def test_nobody_trains_the_answer_of_who_is_unsure() -> None:
    unsure = Example("what is this", "Unclassified", "a", "row 7")

    with pytest.raises(BadInput, match="row 7: Unclassified is what the daemon says when it is unsure"):
        fit.examined([*rows(80), unsure], 8, silent)


def test_a_folder_of_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")

    with pytest.raises(BadInput, match="exists and is no model folder"):
        write_folder(train_tiny(), tmp_path, replace=True)

    assert (tmp_path / "letter.txt").read_text() == "dear"


def train_tiny() -> Parts:
    thresholds: dict[str, dict[str, float | None]] = {"1.0": dict.fromkeys(LABELS, 0.0)}
    exported = Exported(tiny_encoder(), tiny_tokenizer(), 4)
    return Parts("tiny", LABELS, tiny_head(), "tiny", exported, 16, thresholds, "# card\n")


def test_a_joblib_head_keeps_its_probabilities(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    known = random.normal(size=(60, 4)).astype(np.float32)
    regression = LogisticRegression().fit(known, np.array(["A", "B", "C"] * 20))
    joblib.dump(regression, tmp_path / "head.joblib")

    labels, converted = convert.read_joblib(tmp_path / "head.joblib", 4, ())

    assert labels == ("A", "B", "C")
    expected = regression.predict_proba(known)
    assert np.array([converted.probabilities(row, "") for row in known]) == pytest.approx(expected, abs=1e-4)


def test_a_joblib_head_of_two_labels_keeps_its_probabilities(tmp_path: Path) -> None:
    known = np.random.default_rng(4).normal(size=(40, 4)).astype(np.float32)
    regression = LogisticRegression().fit(known, np.array([0, 1] * 20))
    joblib.dump(regression, tmp_path / "head.joblib")

    labels, converted = convert.read_joblib(tmp_path / "head.joblib", 4, ("no", "yes"))

    assert labels == ("no", "yes")
    expected = regression.predict_proba(known)
    assert np.array([converted.probabilities(row, "") for row in known]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("content", "dimensions", "labels", "complaint"),
    [
        ({"not": "a head"}, 4, (), "holds a dict; only a fitted LogisticRegression"),
        (
            LogisticRegression().fit(np.eye(4), [0, 1, 2, 3]),
            384,
            (),
            "was fitted on 4 numbers a line, the encoder gives",
        ),
        (LogisticRegression().fit(np.eye(4), [0, 1, 2, 3]), 4, (), "its classes are numbers; name them"),
        (LogisticRegression().fit(np.eye(4), [0, 1, 2, 3]), 4, ("a", "b"), "has 4 classes, --labels names 2"),
    ],
)
def test_a_joblib_file_that_is_no_fitting_head_is_refused(
    tmp_path: Path, content: object, dimensions: int, labels: tuple[str, ...], complaint: str
) -> None:
    joblib.dump(content, tmp_path / "head.joblib")

    with pytest.raises(BadInput, match=complaint):
        convert.read_joblib(tmp_path / "head.joblib", dimensions, labels)


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def test_a_joblib_file_is_not_loaded_without_trust(tmp_path: Path) -> None:
    (tmp_path / "head.joblib").write_bytes(b"anything")

    result = run("convert", tmp_path / "head.joblib", "--out", tmp_path / "model")

    assert result.exit_code == 65
    assert "loading it runs code that is in it; add --trust" in result.output


def test_evaluate_measures_a_folder(tmp_path: Path) -> None:
    model = tiny_model(tmp_path / "model")
    labelled = csv_file(
        tmp_path / "rows.csv",
        [["log_message", "target_label"], ["failed", "Error"], ["started", LABELS[1]], ["disk", "Unheard of"]],
    )

    text, parsed = run("evaluate", model, labelled), run("evaluate", model, labelled, "--json")

    assert "3 rows: accuracy 0.667" in text.output
    assert json.loads(parsed.output)["answered"] == pytest.approx(0.6667)


def test_a_missing_extra_is_one_line_that_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("torch", "sentence_transformers"):
        monkeypatch.setitem(sys.modules, name, None)

    result = run("export", "all-MiniLM-L6-v2", tmp_path / "out")

    assert result.exit_code == 1
    assert "is not installed; pip install 'logclf-daemon[train]'" in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("command", ["default", "fit", "distil", "evaluate", "export", "convert"])
def test_every_command_has_help_with_an_example(command: str) -> None:
    result = run(command, "--help")

    assert result.exit_code == 0
    assert "Example: logclf-train" in " ".join(result.output.split())


def test_the_sample_files_are_whole() -> None:
    labelled = dataset.read_labelled(RESOURCES / "labelled.csv")

    assert len(labelled) >= 200
    assert all(Counter(row.label for row in labelled)[row.label] >= 8 for row in labelled)
    for name in ("app.log", "auth.log", "access.log"):
        assert len((RESOURCES / name).read_text(encoding="utf-8").splitlines()) == 200
    with (RESOURCES / "sample.csv").open(encoding="utf-8", newline="") as file:
        assert list(next(csv.reader(file))) == ["source", "log_message"]


@pytest.mark.usefixtures("tiny_shipped")
def test_held_out_scores_come_from_models_that_have_not_seen_the_program() -> None:
    """A label that exists in one program only can't be known when that program is held out."""
    lonely = [Example(f"disk disk {word}", "Lonely", "one", "") for word in ("disk", "service", "started")] * 4
    data = Data.of([*rows(40), *lonely], (*LABELS, "Lonely"))

    trained = train(data, SMALL, silent)

    assert trained.held_out.labels["Lonely"].recall == 0
    assert trained.held_out.labels["Error"].recall == 1


@needs_torch
@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_users_rows_train_on_sentence_transformers_and_load(tmp_path: Path) -> None:
    importlib.import_module("all_minilm_l6_v2")
    out = tmp_path / "model"

    result = run("fit", RESOURCES / "labelled.csv", "--out", out)

    assert result.exit_code == 0, result.output
    assert "New model, on rows held out of its training" in result.output
    stage = ModelStage(ModelOptions(path=out, max_error_rate=1))
    assert set(stage.labels) == {row.label for row in dataset.read_labelled(RESOURCES / "labelled.csv")}


@needs_torch
@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("flags", "cosine"), [((), 0.98), (("--fp32",), 0.9999)])
def test_the_export_agrees_with_the_original(tmp_path: Path, flags: tuple[str, ...], cosine: float) -> None:
    result = run("export", "all-MiniLM-L6-v2", tmp_path, *flags)

    assert result.exit_code == 0, result.output
    assert float(result.output.split("mean ")[1].split(",")[0]) > cosine
    encoder = OnnxEncoder(
        (tmp_path / "encoder.onnx").read_bytes(),
        (tmp_path / "tokenizer.json").read_bytes(),
        max_tokens=64,
        dimensions=384,
    )
    assert np.linalg.norm(embed(encoder, ["disk failed"])) == pytest.approx(1, abs=1e-3)


CORPUS = """\
# program: doord
# area: security
# prefix: syslog bare
[Security Alert]
Key refused at the front door for %{user}
Wrong code entered %{small} times by %{user}
[System Notification]
The front door opened after %{ms} ms
Warden process started
[Error]
Motor of the back door failed: %{errtext}
Hinge sensor timed out
"""


@needs_torch
@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_default_model_is_built_the_same_twice(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for name in ("doord", "gated", "locksd"):
        own = "\n".join(f"{line} {name}" if line[:1].isalpha() else line for line in CORPUS.splitlines())
        (corpus / f"{name}.txt").write_text(own.replace("doord", name, 1) + "\n", encoding="utf-8")

    results = [run("default", "--corpus", corpus, "--out", tmp_path / name) for name in ("one", "two")]

    assert [result.exit_code for result in results] == [0, 0], results[0].output
    first, second = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [path.name for path in first] == ["README.md", "config.json", "encoder.onnx", "head.npz", "tokenizer.json"]
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@needs_torch
@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_local_model_runs_on_sentence_transformers_and_each_answer_is_made_alone(tmp_path: Path) -> None:
    from logclf_training.encoder import MINILM, keep_layers, load

    local, out = tmp_path / "encoder", tmp_path / "model"
    encoder = load(MINILM, 32)
    keep_layers(encoder, [0])
    encoder.save(str(local))
    runtime = ("--runtime", "sentence-transformers")

    refused = run("fit", RESOURCES / "labelled.csv", "--out", out, *runtime)
    result = run("fit", RESOURCES / "labelled.csv", "--out", out, "--encoder", local, *runtime)

    assert "give --encoder a local folder" in refused.output
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "config.json", "head.npz"]
    stage = ModelStage(ModelOptions(path=out, runtime="sentence-transformers", max_error_rate=1))
    questions = [Question(str(at), text, "", b"") for at, text in enumerate(("disk failed", "x " * 99, "started"))]
    assert stage.classify(questions) == [stage.classify([question])[0] for question in questions]


@needs_torch
@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_joblib_head_of_the_tutorial_kind_becomes_a_folder_that_the_daemon_loads(tmp_path: Path) -> None:
    from logclf_training.encoder import MINILM, load, original_embeddings

    known = dataset.read_labelled(RESOURCES / "labelled.csv")[::2]
    embeddings = original_embeddings(load(MINILM, 64), [row.text for row in known])
    regression = LogisticRegression(max_iter=500).fit(embeddings, [row.label for row in known])
    joblib.dump(regression, tmp_path / "head.joblib")
    out = tmp_path / "model"

    result = run("convert", tmp_path / "head.joblib", "--trust", "--out", out, "--fp32")

    assert result.exit_code == 0, result.output
    assert "not calibrated: use it with `model: {max_error_rate: 1}`" in result.output
    stage = ModelStage(ModelOptions(path=out, max_error_rate=1))
    answered = [max(shares := stage.probabilities(row.text), key=lambda name: shares[name]) for row in known[:40]]
    assert answered == regression.predict(embeddings[:40]).tolist()


@needs_torch
@pytest.mark.train
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_teaching_moves_the_encoder_the_same_way_for_the_same_seed() -> None:
    from logclf_training.encoder import MINILM, keep_layers, load
    from logclf_training.finetune import Lessons, TuningSettings, embed_fast, tune

    texts = [
        f"{event} {word}" for event in ("disk failed", "link started") for word in ("now", "again", "today", "twice")
    ]
    lessons = Lessons(texts, np.repeat([0, 1, 2, 3], 2), np.ones(8), 4)
    found: list[Floats] = []
    losses: list[str] = []
    for _ in range(2):
        model = load(MINILM, 16)
        keep_layers(model, [0])
        before = embed_fast(model, texts)
        tune(model, lessons, TuningSettings(epochs=2, batch=4, encoder_rate=1e-3), 7, losses.append)
        found.append(embed_fast(model, texts))

    assert (found[0] == found[1]).all()
    assert np.abs(found[0] - before).max() > 0.01
    assert losses[:2] == losses[2:]
