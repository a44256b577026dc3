"""Configuration files: mistakes are told with their line, secrets come from elsewhere."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from logclf_daemon.build import build_parts
from logclf_daemon.cli import main
from logclf_daemon.cli.options import cascade_options
from logclf_daemon.config import (
    CascadeFlags,
    Config,
    StateOptions,
    load_config,
    overridden,
    state_directory,
    with_defaults,
)
from logclf_daemon.documents import parse
from logclf_daemon.errors import ConfigError
from logclf_daemon.resources import cache_directory
from logclf_daemon.sandbox import Sandbox


def load(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load_config(path)


FULL = """\
inputs:
  - {type: files, paths: ["/var/log/*.log"], exclude: ["*.gz"], start_at: checkpoint, multiline: none}
  - {type: forward, listen: "127.0.0.1:24224", shared_key: "file:KEY"}
outputs:
  - {type: forward, address: "127.0.0.1:24225", tag_prefix: "classified.", ack: true}
  - {type: jsonl, path: "-"}
rules:  {paths: ["/etc/logclf/rules.d"], builtin: true}
model:  {path: builtin, max_error_rate: 0.02}
llm:    {enabled: auto, url: "http://127.0.0.1:11434", model: "qwen3:1.7b", wait_secs: 10}
state:  {directory: /var/lib/logclf-daemon}
http:   {listen: "127.0.0.1:24280"}
labels: {}
"""


def test_the_documented_configuration_is_valid(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("s3cret\n")

    config = load(tmp_path, FULL.replace("KEY", str(key)))

    assert [options.type for options in config.inputs] == ["files", "forward"]  # type: ignore[attr-defined]
    assert config.inputs[1].shared_key.get_secret_value() == "s3cret"  # type: ignore[attr-defined]
    assert "s3cret" not in repr(config)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("llm:\n  urll: x\n", "config.yaml:2: llm.urll: unknown option; did you mean 'url'?"),
        (
            "inputs:\n  - type: files\n    path: [a]\n",
            "config.yaml:3: inputs.0.path: unknown option; did you mean 'paths'?",
        ),
        ("inputs:\n  - type: fiels\n", "config.yaml:2: inputs.0: 'type' must be one of files, forward,"),
        ("inputs:\n  - type: fiels\n", "; did you mean 'files'?"),
        ("inputs:\n  - {type: files}\n", "config.yaml:2: inputs.0.paths: missing"),
        ("modle: {}\n", "config.yaml:1: modle: unknown option; did you mean 'model'?"),
        ("model: {max_error_rate: lots}\n", "config.yaml:1: model.max_error_rate: must be a number"),
        ("model: {max_error_rate: 7}\n", "config.yaml:1: model.max_error_rate: must be less than or equal to 1"),
        ("llm: {max_waiting: 1.5}\n", "config.yaml:1: llm.max_waiting: must be a whole number"),
        ("llm: {enabled: maybe}\n", "config.yaml:1: llm.enabled: must be 'auto', or true or false"),
        ("llm: {model: 5}\n", "config.yaml:1: llm.model: must be text; put it in quotes"),
        ("llm: []\n", "config.yaml:1: llm: must hold keys and values"),
        ("inputs:\n  - files\n", "config.yaml:2: inputs.0: must hold keys and values"),
        ("inputs:\n  - paths: [a]\n", "config.yaml:2: inputs.0: 'type' must be one of files, forward,"),
        (
            "inputs:\n  - {type: files, paths: [/a],\n     start_at: begining}\n",
            "config.yaml:3: inputs.0.start_at: must be 'checkpoint', 'beginning' or 'end'; did you mean 'beginning'?",
        ),
        ("state: {on_lost_state: heads}\n", "did you mean 'head'?"),
        ("? [a]\n: b\n", "config.yaml:1: a key must be plain text"),
        ("llm: {url: '${CREDENTIALS_DIRECTORY}/x'}\n", "write credential:NAME, which is found outside"),
        ("model:\n\tpath: x\n", "config.yaml:2: not valid YAML"),
        ("- a list\n", "config.yaml:1: a configuration is a mapping"),
        (
            "llm: {url: '${NOT_SET_AT_ALL}'}\n",
            "config.yaml:1: llm.url: the environment variable NOT_SET_AT_ALL is not set",
        ),
        ("llm: {url: 'file:/no/such/file'}\n", "config.yaml:1: llm.url: /no/such/file cannot be read"),
        ("labels: {Only: one}\n", "config.yaml:1: labels: at least two labels are needed"),
        ("labels: {Unclassified: x, Other: y}\n", "'Unclassified' is what the daemon says when it is unsure"),
        ("labels: {'': x, Other: y}\n", "config.yaml:1: labels: '' is no name; write at most 100 printable characters"),
        ('labels: {"two\\nlines": x, Other: y}\n', "config.yaml:1: labels: 'two\\nlines' is no name"),
        ('labels: {"\\u202egnp": x, Other: y}\n', "config.yaml:1: labels: '\\u202egnp' is no name"),
        (
            "llm:\n  protected_labels:\n  - Error\n  - Securty Alert\n",
            "config.yaml:4: llm.protected_labels.1: 'Securty Alert' is not a label; did you mean 'Security Alert'?",
        ),
        ("record:\n  meanings:\n    Eror: {}\n", "config.yaml:3: record.meanings.Eror: 'Eror' is not a label; did you"),
        ("http: {listen: '127.0.0.1:1', token: ''}\n", "config.yaml:1: http.token: is empty"),
        (
            "http: {token: 'file:/dev/null'}\n",
            "config.yaml:1: http.token: /dev/null is empty; write the secret into it",
        ),
        ("llm:\n  model: 'a\u0001'\n", "config.yaml:2: not valid YAML: the character U+0001 may not stand in it"),
        ("# ä€\nllm:\n  model: \u009b\n", "config.yaml:3: not valid YAML: the character U+009B"),
        ("llm: {}\nllm: {}\n", "config.yaml:2: llm: given twice, first in line 1"),
        ("llm: {wait_secs: 0}\nmodle: 1\n", "config.yaml:2: modle"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)

    assert complaint in str(error.value)
    assert error.value.exit_code == 78


def test_kinds_that_are_for_tests_are_not_offered(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "inputs:\n  - type: fiels\n")

    assert str(error.value).endswith("must be one of files, forward, journald, stdin; did you mean 'files'?")


def test_the_verdicts_of_the_service_are_never_mistaken_for_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "own"))
    service = tmp_path / "service"
    service.symlink_to(tmp_path / "closed")  # as DynamicUser= leaves it for everybody but root
    monkeypatch.setattr("logclf_daemon.config.SYSTEM_STATE", service)

    listed = CliRunner().invoke(main, ["verdicts", "list"])
    own = CliRunner().invoke(main, ["verdicts", "list", "--state-dir", str(tmp_path / "own")])

    assert f"{service}: the verdicts of the service: permission denied; use sudo, or --state-dir" in listed.output
    assert (listed.exit_code, own.exit_code) == (1, 0)
    assert "0 of 0 verdicts" in own.output


def checked(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["config", "check", *arguments], env=environment, catch_exceptions=False)
    return done.exit_code, done.output


def test_the_file_to_check_may_be_named_as_everywhere_else(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rules: {builtin: false}\nmodel: {enabled: false}\n")
    path = str(tmp_path / "c.yaml")

    assert checked("--config", path) == checked(path) == (0, f"ok: {path}: 0 inputs, 0 outputs, 0 rules\n")
    assert checked("--config", path, path)[0] == 2


def test_one_input_is_one_input(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        "inputs: [{type: files, paths: [/none/*.log]}]\nrules: {builtin: false}\nmodel: {enabled: false}\n"
    )

    assert "1 input, 0 outputs, 0 rules\n" in checked(str(tmp_path / "c.yaml"))[1]


def test_a_check_tells_what_labels_of_ones_own_leave_unused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("labels: {Apfel: a, Birne: b}\n")
    code, said = checked(str(path))
    path.write_text("labels: {Apfel: a, Birne: b}\nrules: {builtin: false}\nmodel: {enabled: false}\n")

    assert code == 0
    assert "note: labels of your own: shipped rules for other labels and the shipped model are not used" in said
    assert "shipped_rules=0 shipped_model=unused" in said
    assert "note" not in checked(str(path))[1]


def test_a_check_tells_variables_that_are_no_option(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("rules: {builtin: false}\nmodel: {enabled: false}\n")
    environment = {"LOGCLF_LLM_URLL": "x", "LOGCLF_LLM_FROBNICATE": "x", "LOGCLF_MODEL_EVALUATE_JSON": "1"}
    environment |= {"LOGCLF_HTTP_SERVICE_HOST": "10.0.0.1", "LOGCLF_HTTP_PORT_24280_TCP": "tcp://10.0.0.1:24280"}

    _, said = checked(str(tmp_path / "c.yaml"), environment=environment)

    assert "LOGCLF_LLM_URLL is no option; did you mean LOGCLF_LLM_URL?" in said
    assert "LOGCLF_LLM_FROBNICATE is no option; all of them: logclf-daemon config reference" in said
    assert said.count("note") == 2


@pytest.mark.parametrize("named", ["LogsDirectory=logclf-daemon", "ReadWritePaths=/srv"])
def test_a_check_of_the_services_configuration_knows_what_its_unit_forbids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("rules: {builtin: false}\nmodel: {enabled: false}\noutputs: [{type: jsonl, path: /srv/no/x}]\n")
    unit = Sandbox.parsed(f"ProtectSystem=strict\n{named}\n")
    monkeypatch.setattr("logclf_daemon.cli.config.DEFAULT_PATH", path)
    monkeypatch.setattr("logclf_daemon.cli.config.service_sandbox", lambda: unit)

    code, said = checked()

    assert code == (0 if "/srv" in named else 78)
    assert ("is read-only for the service (ProtectSystem=strict); name it in ReadWritePaths=" in said) == (code == 78)


def test_environment_variables_have_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_HOST", "box")

    config = load(tmp_path, "llm: {url: 'http://${LLM_HOST}:${LLM_PORT:-11434}'}\n")

    assert config.llm.url == "http://box:11434"


def test_with_nothing_said_it_takes_forward_and_prints() -> None:
    config = with_defaults(Config())

    assert [options.type for options in config.inputs] == ["forward"]  # type: ignore[attr-defined]
    assert [options.type for options in config.outputs] == ["jsonl"]  # type: ignore[attr-defined]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "nothing.yaml")


def test_an_alias_bomb_is_refused() -> None:
    bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{name}: &{name} [{','.join(['*' + before] * 10)}]\n"
        for before, name in zip("abcdefgh", "bcdefghi", strict=True)
    )

    with pytest.raises(ConfigError, match="too large once its aliases are unfolded"):
        parse(bomb, "bomb.yaml")


@pytest.mark.parametrize("text", ["!!python/object:os.system x", "a: !unknown x"])
def test_yaml_tags_do_nothing(text: str) -> None:
    with pytest.raises(ConfigError, match="not valid YAML"):
        parse(text, "t.yaml")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("version: 1\nrules: " + "[" * 200_000 + "]" * 200_000, 2),
        ("- " * 200_000, 1),
        ('{"a":\n' * 200_000, 100),
        ("version: 1\nrules: &all [*all]\n", 2),
    ],
)
def test_what_is_nested_without_end_is_refused_and_does_not_end_the_process(text: str, line: int) -> None:
    with pytest.raises(ConfigError, match=f"^deep.yaml:{line}: not valid YAML: nested deeper than 100 levels$"):
        parse(text, "deep.yaml")


def test_state_goes_where_systemd_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "systemd"))

    assert state_directory(StateOptions()) == tmp_path / "systemd"
    assert state_directory(StateOptions(directory=tmp_path / "own")) == tmp_path / "own"


def test_a_user_without_a_home_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the dynamic user of the service, on a system without libnss-systemd."""

    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nobody)
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "CACHE_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))

    assert state_directory(StateOptions()) == tmp_path
    assert cache_directory() is None


def test_a_state_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ConfigError, match="cannot be written"):
        state_directory(StateOptions(directory=tmp_path / "file" / "x"))


FORWARD = "inputs:\n  - type: forward\n    listen: {listen}\n{more}"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "rules:\n  paths:\n    - FOLDER\n    - FOLDER/own\n",
            "config.yaml:4: rules.paths.1: FOLDER/own: no such rule file or folder; create it or correct the path",
        ),
        (
            "model:\n  path: FOLDER/m\n",
            "config.yaml:2: model.path: FOLDER/m: no such model folder; give",
        ),
        (
            "model: {max_error_rate: 0.00001}\n",
            "config.yaml:1: model.max_error_rate: 1e-05 is less than this",
        ),
        ("http:\n  listen: abc\n", "config.yaml:2: http.listen: 'abc' is no address; write host:port, such as"),
        ("http: {listen: '0.0.0.0:24280'}\n", "config.yaml:1: http.listen: 0.0.0.0 is not loopback; set http.token"),
        ("llm:\n  url: localhost:11434\n", "config.yaml:2: llm.url: 'localhost:11434' is not a URL; write http://"),
        ("llm:\n  model: x:cloud\n", "config.yaml:2: llm.model: 'x:cloud' would send log lines to another host"),
        (FORWARD.format(listen="abc", more=""), "config.yaml:3: inputs.0.listen: 'abc' is no address; write host:port"),
        (
            FORWARD.format(listen="'0.0.0.0:24224'", more=""),
            "config.yaml:3: inputs.0.listen: 0.0.0.0:24224 can be reached from other hosts; set shared_key",
        ),
        (
            FORWARD.format(listen="'127.0.0.1:0'", more="    users: {me: secret}\n"),
            "config.yaml:4: inputs.0.users: the protocol has no login without a shared_key; set one",
        ),
        (
            FORWARD.format(listen="'127.0.0.1:0'", more="    tls:\n      cert: FOLDER/none.pem\n      key: FOLDER/k\n"),
            "config.yaml:5: inputs.0.tls.cert: FOLDER/none.pem cannot be read: No such file or directory; correct",
        ),
        (
            FORWARD.format(listen="'127.0.0.1:0'", more="    tls: {cert: FOLDER/config.yaml}\n"),
            "config.yaml:4: inputs.0.tls.key: missing",
        ),
        (
            "outputs:\n  - type: forward\n    address: a:1\n    tls:\n      ca: FOLDER/ca.pem\n",
            "config.yaml:5: outputs.0.tls.ca: FOLDER/ca.pem cannot be read: No such file or directory; correct",
        ),
        (
            "outputs:\n  - type: forward\n    address: a:1\n    tls:\n      ca: FOLDER/config.yaml\n",
            "config.yaml:5: outputs.0.tls.ca: FOLDER/config.yaml holds no certificates",
        ),
        (
            "outputs:\n  - {type: forward, address: 'a:b'}\n",
            "config.yaml:2: outputs.0.address: 'a:b' is no address; write",
        ),
        (
            "outputs:\n  - {type: forward, address: 'forward://me:pw@box:1'}\n",
            "config.yaml:2: outputs.0.address: 'forward://…@box:1' is no address",
        ),
        ("llm: {url: 'ftp://me:pw@box'}\n", "config.yaml:1: llm.url: 'ftp://…@box' is not a URL; write http://"),
        ("http:\n  token: file:FOLDER/none\n", "config.yaml:2: http.token: FOLDER/none cannot be read: No such file"),
        (
            "outputs:\n  - type: jsonl\n    path: FOLDER\n",
            "config.yaml:3: outputs.0.path: FOLDER: cannot be opened: Is a directory; correct the path",
        ),
        (
            "delivery:\n  dead_letter: FOLDER/config.yaml/x\n",
            "config.yaml:2: delivery.dead_letter: FOLDER/config.yaml/x: cannot be opened: Not a directory; correct",
        ),
        (
            "state:\n  directory: FOLDER/config.yaml/x/y\n",
            "config.yaml:2: state.directory: FOLDER/config.yaml/x/y: cannot be written to: Not a directory; correct",
        ),
        ("http:\n  token: credential:none\n", "config.yaml:2: http.token: /etc/logclf/credentials/none cannot be read"),
    ],
)
def test_a_mistake_that_shows_when_an_option_is_used_is_told_with_its_line_too(
    tmp_path: Path, text: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("FOLDER", str(tmp_path)))

    found = CliRunner().invoke(main, ["config", "check", str(path)])

    assert complaint.replace("FOLDER", str(tmp_path)) in found.output, found.output
    assert (found.exit_code, found.output.count("\n")) == (78, 1)


def test_where_it_cannot_be_written_now_is_a_note_with_its_line_and_nothing_is_made(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    outputs = f"outputs:\n  - {{type: jsonl}}\n  - {{type: jsonl, path: {tmp_path}/out}}\n"
    path.write_text(
        f"{outputs}  - {{type: jsonl, path: {tmp_path}/none/out}}\nstate:\n  directory: {tmp_path}/state/deep\n"
    )

    found = CliRunner().invoke(main, ["config", "check", str(path)])

    assert found.exit_code == 0
    assert [line for line in found.output.splitlines() if line.startswith("note: ")] == [
        f"note: {path}:4: outputs.2.path: {tmp_path}/none/out: cannot be written to by this user now: "
        f"No such file or directory: {tmp_path}/none"
    ]
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            "outputs:\n  - type: jsonl\n    path: FOLDER/none/out\n",
            "config.yaml:3: outputs.0.path: FOLDER/none/out: cannot be opened: No such file or directory; correct the",
        ),
        (
            "delivery:\n  dead_letter: FOLDER/none/out\noutputs: [{type: jsonl, path: /dev/null}]\n",
            "config.yaml:2: delivery.dead_letter: FOLDER/none/out: cannot be opened: No such file or directory;",
        ),
        (
            "state:\n  directory: FOLDER/config.yaml/x\n",
            "config.yaml:2: state.directory: FOLDER/config.yaml/x cannot be written; create it or set another",
        ),
    ],
)
def test_a_path_that_cannot_be_opened_at_the_start_is_told_with_its_line(
    tmp_path: Path, text: str, complaint: str
) -> None:
    path = tmp_path / "config.yaml"
    rest = "" if "state:" in text else f"state: {{directory: {tmp_path}}}\n"
    path.write_text(text.replace("FOLDER", str(tmp_path)) + rest + "inputs: [{type: stdin}]\nllm: {enabled: false}\n")

    found = CliRunner().invoke(main, ["run", "--config", str(path), "--once"])

    assert complaint.replace("FOLDER", str(tmp_path)) in found.output, found.output
    assert (found.exit_code, found.output.count("\n")) == (78, 1)


def test_the_flags_of_the_cascade_come_to_a_command_as_one() -> None:
    found = []

    @click.command()
    @cascade_options
    def command(flags: CascadeFlags) -> None:
        found.append(flags)

    places = ("--rules", "a", "--rules", "b", "--state-dir", "s")
    CliRunner().invoke(command, [*places, "--no-builtin-rules", "--llm", "--no-model"], catch_exceptions=False)
    CliRunner().invoke(command, [], catch_exceptions=False)

    given = CascadeFlags((Path("a"), Path("b")), builtin_rules=False, llm=True, model=False, state_dir=Path("s"))
    assert found == [given, CascadeFlags()]


def test_what_the_command_line_said_is_told_as_its_own(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("llm: {enabled: false}\nrules: {paths: []}\n")

    config = overridden(load_config(path), CascadeFlags((tmp_path / "none",)))

    with pytest.raises(ConfigError, match=r"^command line: rules\.paths\.0: .*none: no such rule file or folder"):
        build_parts(config, None)
