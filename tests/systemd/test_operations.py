"""docs/operations.md does what it says: its commands, in their order, on a machine with systemd."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import REQUIRED
from logclf_daemon.resources import folder
from systemd.machine import Machine, interpreter
from systemd.service import COMMAND, Service

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

FOLDER = "/root/wheels"
PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SUDO = '#!/bin/sh\nexec "$@"\n'  # the tests are root; what sudo forbids is not tried


@pytest.fixture
def with_wheels(machine: Machine) -> Iterator[Machine]:
    """The machine as the page begins with it: nothing installed, two wheels in the folder, an image beside."""
    python = interpreter()
    if subprocess.run([str(python), "-c", "import ensurepip"], capture_output=True, check=False).returncode:
        (pytest.fail if "systemd" in REQUIRED else pytest.skip)(
            f"{python} cannot make environments: apt install python3-venv"
        )
    machine.run(f"systemctl stop 'logclf-daemon*' 2>/dev/null; {COMMAND} uninstall-service --purge")
    machine.write("/usr/local/bin/sudo", SUDO, 0o755)
    machine.run(f"ln -sf {python} /usr/local/bin/python3")
    for version in ("0.1.0", "0.2.0"):
        machine.wheel(FOLDER, version)
    machine.run("mkdir -p /mnt/image/opt /mnt/image/etc; cp -a /opt/logclf-daemon-1 /mnt/image/opt/logclf-daemon")
    yield machine
    machine.run(f"rm -r {FOLDER} /mnt/image /opt/logclf-daemon-0.*; ln -sfn logclf-daemon-1 /opt/logclf-daemon")


@pytest.mark.timeout(400)  # two environments are made on the way
def test_the_commands_of_the_operations_page_work_in_their_order(with_wheels: Machine) -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)

    said = "".join(with_wheels.run(f"set -e; export PIP_NO_INDEX=1; cd {FOLDER}\n{block}") for block in blocks)

    assert len(blocks) >= 12
    assert "```text" not in page
    assert "Successfully installed logclf-daemon-0.1.0" in said
    assert "would write /etc/systemd/system/logclf-daemon.service" in said
    assert "ok: logclf-daemon.service is installed and ready" in said
    assert "ok    service: active" in said
    assert "ok    port 127.0.0.1:24280: in use by the daemon that runs" in said
    assert "write /mnt/image/etc/systemd/system/logclf-daemon.service" in said
    assert re.findall(r"^logclf-daemon (0\.\d\.0)\b", said, re.MULTILINE) == ["0.1.0", "0.2.0"]
    assert "ok: logclf-daemon.service is not installed" in said


def test_the_doctor_of_the_service_knows_what_its_user_may_read(machine: Machine) -> None:
    machine.run(f"{COMMAND} install-service --no-start")
    service = Service(machine)
    service.reset()
    service.start()
    service.log("line")
    machine.run("chmod 600 /var/log/app/app.log")

    closed = machine.result(f"{COMMAND} doctor")
    machine.run("chmod 640 /var/log/app/app.log; chgrp adm /var/log/app/app.log")
    opened = machine.result(f"{COMMAND} doctor")
    service.reset()

    assert closed.returncode == 1
    assert "cannot be read, such as /var/log/app/app.log" in closed.stdout
    assert "let group adm read it" in closed.stdout
    assert opened.returncode == 0, opened.stdout
    assert "ok    port 127.0.0.1:24224: in use by the daemon that runs" in opened.stdout


@pytest.fixture
def shipped(machine: Machine) -> Iterator[Service]:
    """The service with the configuration that ships, running."""
    machine.run(f"{COMMAND} install-service --no-start")
    service = Service(machine)
    service.reset()
    service.configure((folder("systemd") / "config.yaml").read_text())
    service.start()
    yield service
    service.reset()


def test_whoever_is_not_root_learns_what_root_must_look_at(shipped: Service) -> None:
    machine = shipped.machine

    looked = machine.result(f"runuser -u nobody -- {COMMAND} doctor")
    listed = machine.result(f"runuser -u nobody -- {COMMAND} verdicts list")

    assert "a bug of ours" not in looked.stdout + looked.stderr
    assert looked.returncode == 0, looked.stdout
    assert "warn  /var/lib/logclf-daemon: closed to this user; nothing is known of it" in looked.stdout
    assert "-> sudo logclf-daemon doctor" in looked.stdout
    assert "ok    output /var/log/logclf-daemon/labelled.jsonl" in looked.stdout
    assert (listed.returncode, "permission denied; use sudo" in listed.stderr) == (1, True)


def test_an_output_the_sandbox_forbids_is_told_before_and_the_drop_in_allows_it(shipped: Service) -> None:
    machine, unit = shipped.machine, "/etc/systemd/system/logclf-daemon.service.d/other.conf"
    text = (folder("systemd") / "config.yaml").read_text().replace("/var/log/logclf-daemon/", "/srv/logclf/")
    machine.run("mkdir -p /srv/logclf")
    shipped.configure(text)

    doctor, check = machine.result(f"{COMMAND} doctor"), machine.result(f"{COMMAND} config check")
    started = machine.result("systemctl restart logclf-daemon")
    assert "FAIL  output /srv/logclf/labelled.jsonl: /srv/logclf is read-only for the service" in doctor.stdout
    assert (check.returncode, "name it in ReadWritePaths=" in check.stderr) == (78, True)
    assert started.returncode != 0
    assert "Read-only file system; the unit must name /srv/logclf in ReadWritePaths=" in shipped.journal()

    machine.write(unit, (folder("systemd") / "drop-ins" / "other-output-folder.conf").read_text())
    machine.run("systemctl daemon-reload; systemctl reset-failed 'logclf-daemon*'")
    closed = machine.result(f"{COMMAND} doctor")
    machine.run("install -d -g adm -m 2770 /srv/logclf")
    opened, approved = machine.result(f"{COMMAND} doctor"), machine.result(f"{COMMAND} config check")
    shipped.start()
    machine.write("/var/log/app.log", "hello\n")
    machine.wait_for(lambda: "hello" in machine.result("cat /srv/logclf/labelled.jsonl").stdout)
    machine.run("rm -r /srv/logclf /var/log/app.log")

    assert "sudo chgrp adm /srv/logclf" in closed.stdout
    assert (opened.returncode, approved.returncode) == (0, 0), opened.stdout
