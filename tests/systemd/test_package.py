"""The Debian package: installed, it runs; upgraded, it goes on; removed and purged, nothing is left.

`LOGCLF_TEST_DEB` names the file, made by `packaging/build-deb`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REQUIRED
from systemd.machine import Machine
from systemd.service import COMMAND

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(300)]

LINE = "Dec  1 10:00:00 web1 sshd[1]: Failed password for root from 10.0.0.9 port 22 ssh2"


@pytest.fixture
def package(machine: Machine) -> Iterator[str]:
    """The path of the package inside of the machine."""
    given = os.environ.get("LOGCLF_TEST_DEB")
    if given is None:
        if "deb" in REQUIRED:
            pytest.fail("LOGCLF_TEST_DEB is not set")
        pytest.skip("LOGCLF_TEST_DEB names no package (packaging/build-deb makes one)")
    machine.run(f"systemctl stop 'logclf-daemon*' 2>/dev/null; {COMMAND} uninstall-service --purge")
    machine.run("rm -f /usr/local/bin/logclf-daemon")  # of the operations page
    shutil.copy(given, machine.root / "opt")
    yield f"/opt/{Path(given).name}"
    machine.run("dpkg --purge logclf-daemon", check=False)


def test_the_package_installs_a_service_that_runs_and_leaves_nothing_behind(machine: Machine, package: str) -> None:
    machine.run(f"dpkg -i {package}")
    assert machine.property("logclf-daemon", "ActiveState") == "active"
    assert machine.run("command -v logclf-daemon").strip() == "/usr/bin/logclf-daemon"
    said = machine.result("systemd-analyze verify --man=no /usr/lib/systemd/system/logclf-daemon*.s*")
    assert (said.stdout, said.stderr) == ("", "")

    machine.run(f"echo '{LINE}' >>/var/log/auth.log; chmod 644 /var/log/auth.log")
    machine.wait_for(lambda: "Security Alert" in machine.run("cat /var/log/logclf-daemon/*", check=False))

    pid = machine.property("logclf-daemon", "MainPID")
    machine.run(f"dpkg -i {package}")  # as an upgrade
    assert machine.property("logclf-daemon", "ActiveState") == "active"
    assert machine.property("logclf-daemon", "MainPID") != pid
    refused = machine.result("logclf-daemon uninstall-service")
    assert (refused.returncode, "apt remove" in refused.stderr) == (1, True)

    machine.run("dpkg --purge logclf-daemon")
    assert machine.run("find /etc /usr/bin /usr/lib /var /run/logclf* -name '*logclf-daemon*'", check=False) == ""
    assert machine.property("logclf-daemon", "LoadState") == "not-found"
