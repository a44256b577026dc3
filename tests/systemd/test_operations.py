"""docs/operations.md does what it says: its commands, in their order, on a machine with systemd."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from systemd.machine import Machine
from systemd.service import COMMAND, Service

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(180)]

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
SUDO = '#!/bin/sh\nexec "$@"\n'  # the tests are root; what sudo forbids is not tried


def test_the_commands_of_the_operations_page_work_in_their_order(machine: Machine) -> None:
    machine.run(f"systemctl stop 'logclf-daemon*' 2>/dev/null; {COMMAND} uninstall-service --purge")
    machine.write("/usr/local/bin/sudo", SUDO, 0o755)
    machine.run(f"ln -sf {COMMAND} /usr/local/bin/logclf-daemon")
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)

    said = machine.run("set -e\n" + "\n".join(blocks))

    assert len(blocks) >= 8
    assert "would write /etc/systemd/system/logclf-daemon.service" in said
    assert "ok: logclf-daemon.service is installed and ready" in said
    assert "ok    service: active" in said
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
