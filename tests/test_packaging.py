"""What is shipped: every package, rule, model and unit file, and no import that points up."""

from __future__ import annotations

import configparser
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from logclf_daemon.resources import folder

ROOT = Path(__file__).parents[1]
in_checkout = pytest.mark.skipif(not (ROOT / "setup.cfg").exists(), reason="the checkout is not here")


@in_checkout
def test_every_package_is_declared() -> None:
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    packages = set(declared["options"]["packages"].split())

    found = {
        ".".join(path.parent.relative_to(root).parts)
        for root in (ROOT / "daemon", ROOT / "training")
        for path in root.rglob("__init__.py")
    }

    assert found <= packages


@in_checkout
def test_every_dependency_has_a_pin_for_ci() -> None:
    declared = configparser.ConfigParser()
    declared.read(ROOT / "setup.cfg")
    wanted = declared["options"]["install_requires"] + "\n".join(declared["options.extras_require"].values())
    names = {re.split("[;<>=]", line)[0].strip().lower() for line in wanted.split("\n")}
    pinned = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines()}

    assert names <= pinned | {""}


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("rules", ["sshd.yaml"]),
        ("models", ["default/config.json", "default/encoder.onnx", "default/tokenizer.json", "default/head.npz"]),
        ("systemd", ["logclf-daemon.service", "logclf-daemon-forward.socket", "config.yaml", "drop-ins/torch.conf"]),
    ],
)
def test_the_data_rides_with_the_code(name: str, files: list[str]) -> None:
    assert all((folder(name) / file).is_file() for file in files)


@in_checkout
@pytest.mark.skipif(importlib.util.find_spec("importlinter") is None, reason="import-linter is in the extra `dev`")
def test_imports_point_down() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    paths = f"{ROOT / 'daemon'}:{ROOT / 'training'}"

    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": paths}, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout


def test_the_default_install_needs_no_torch() -> None:
    code = (
        "import sys; import logclf_daemon.build, logclf_daemon.service, logclf_daemon.cli.run; "
        "from logclf_daemon.stages.model import ModelStage, ModelOptions; ModelStage(ModelOptions()); "
        "assert not {'torch', 'sentence_transformers', 'sklearn', 'pandas'} & set(sys.modules)"
    )
    path = ":".join(entry for entry in sys.path if entry)

    done = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
