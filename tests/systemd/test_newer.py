"""A newer systemd than this machine's, and a system without what a full one has: Debian 13, its smallest variant.

`LOGCLF_TEST_NEWER` names a tar of it: `mmdebstrap --variant=minbase --include=$PACKAGES trixie FILE`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REQUIRED
from logclf_daemon.resources import folder
from systemd.machine import PREFIX, Machine, package_folders
from systemd.service import COMMAND, CONFIG, RULE, Service

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]

PACKAGES = "systemd,systemd-sysv,dbus,libssl3t64,libffi8,libsqlite3-0,libbz2-1.0,liblzma5,zlib1g,libexpat1"
DROP_INS = "/etc/systemd/system/logclf-daemon.service.d"


class NewerMachine(Machine):
    """Unpacked from a tar; only this machine's Python is put into it."""

    def __init__(self, folder: Path, image: Path) -> None:
        super().__init__(folder)
        self._image = image

    def _mount(self) -> None:
        disk = self.root.parent
        disk.mkdir(parents=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2g,mode=755", "tmpfs", str(disk)], check=True)
        self.root.mkdir()
        subprocess.run(["tar", "-xf", str(self._image), "-C", str(self.root)], check=True)
        name = f"python3.{sys.version_info.minor}"
        shutil.copy2(f"/usr/bin/{name}", self.root / "usr/bin" / name)
        shutil.copytree(f"/usr/lib/{name}", self.root / "usr/lib" / name, symlinks=True, ignore_dangling_symlinks=True)
        for at, _ in enumerate(package_folders()):  # what is bound there needs a place
            (self.root / f"{PREFIX}-packages/{at}".lstrip("/")).mkdir(parents=True)
        (self.root / "etc/machine-id").write_text("")


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    image = os.environ.get("LOGCLF_TEST_NEWER")
    python = Path(f"/usr/bin/python3.{sys.version_info.minor}")
    if image is None or os.geteuid() != 0 or shutil.which("systemd-nspawn") is None or not python.exists():
        if "newer" in REQUIRED:
            pytest.fail("LOGCLF_TEST_NEWER, root's rights, systemd-nspawn or the distribution's Python is missing")
        pytest.skip("LOGCLF_TEST_NEWER names no image (mmdebstrap makes one)")
    with NewerMachine(Path(tmp_path_factory.mktemp("newer")), Path(image)) as machine:
        machine.install("logclf-daemon-1")
        (machine.root / "opt" / "logclf-daemon").symlink_to("logclf-daemon-1")
        machine.run(f"{COMMAND} install-service --no-start")
        service = Service(machine)
        service.reset()
        yield service


def test_the_units_have_no_mistake_and_are_as_hardened(newer: Service) -> None:
    said = newer.machine.result("systemd-analyze verify --man=no /etc/systemd/system/logclf-daemon.service")
    score = newer.machine.run("systemd-analyze security --no-pager logclf-daemon | tail -n 1")

    assert (said.stdout, said.stderr) == ("", "")
    assert float(score.rsplit(":", 2)[1].split()[0]) <= 1.2, score


def test_a_reload_by_signal_is_waited_for_taken_or_refused(newer: Service) -> None:
    machine, rule = newer.machine, "/etc/logclf/rules.d/own.yaml"
    if int(machine.run("systemctl --version").split()[1]) < 253:
        pytest.skip("Type=notify-reload is of systemd 253")
    machine.write(f"{DROP_INS}/notify-reload.conf", (folder("systemd") / "drop-ins" / "notify-reload.conf").read_text())
    machine.run("systemctl daemon-reload")
    machine.write(rule, RULE.replace("LABEL", "Error"))
    newer.start()
    pid = newer.pid
    assert newer.show("Type") == "notify-reload"

    machine.run("systemctl reload logclf-daemon")
    assert newer.show("StatusText") == "1 rules, generation 2"

    machine.write("/etc/logclf/config.yaml", CONFIG + "modle: {}\n")
    machine.run("systemctl reload logclf-daemon")  # it cannot fail this way; the status and the journal tell
    assert newer.show("StatusText") == "reload refused, generation 2 stays"
    assert "did you mean 'model'?" in newer.journal()

    newer.configure()
    machine.write(rule, RULE.replace("LABEL", "User Action"))  # a reload that systemd did not ask for
    machine.wait_for(lambda: newer.show("StatusText") == "1 rules, generation 3")
    machine.run("systemctl reload logclf-daemon")
    assert newer.show("StatusText") == "1 rules, generation 4"
    assert (newer.pid, newer.show("SubState")) == (pid, "running")
