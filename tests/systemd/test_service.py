"""The service under a real systemd: start, stall, death, sandbox, restart, reload, drain, upgrade."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from forward_sink import ForwardSink
from logclf_daemon.resources import folder
from systemd.machine import Machine
from systemd.service import COMMAND, CONFIG, RULE, WHOLE, WITH_MODEL, Sender, Service, chunk

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(120)]

LINE = "frobnicator number seven stalled while it was turning"  # for no rule: the model is asked


@pytest.fixture(scope="session")
def installed(machine: Machine) -> Service:
    machine.run(f"{COMMAND} install-service --no-start")
    return Service(machine)


@pytest.fixture
def service(installed: Service) -> Iterator[Service]:
    """Installed, not started, with nothing of the test before."""
    if installed.show("LoadState") != "loaded":  # another test took it away
        installed.machine.run(f"{COMMAND} install-service --no-start")
    installed.reset()
    yield installed
    installed.reset()


@pytest.fixture
def sink(service: Service) -> Iterator[ForwardSink]:
    with service.sink() as listening:
        yield listening


def test_a_start_is_over_when_rules_and_model_are_loaded_and_the_inputs_listen(service: Service) -> None:
    service.machine.run("rm -rf /var/cache/private/logclf-daemon")  # compiling all rules takes seconds
    service.configure(WHOLE)

    service.machine.run("systemctl start --no-block logclf-daemon")
    service.machine.wait_for(lambda: service.show("StatusText") == "compiling the rules")
    assert service.show("ActiveState") == "activating"

    service.start()
    said = service.journal().splitlines()
    ready = max(at for at, line in enumerate(said) if line.startswith("ready "))
    started = max(at for at, line in enumerate(said) if line.startswith("Started logclf-daemon"))
    assert ready < started
    assert "rules, generation 1" in service.show("StatusText")
    assert "forward.1" in service.machine.run(f"{COMMAND} ctl status")
    assert "forward" in service.machine.run(
        "journalctl -u logclf-daemon LOGCLF_EVENT=ready -o cat --output-fields=LOGCLF_INPUTS"
    )


def test_it_is_ready_within_two_seconds(service: Service) -> None:
    service.configure(WHOLE)
    service.start()

    service.restart()

    exec_at, ready_at = (service.show(f"{name}TimestampMonotonic") for name in ("ExecMainStart", "ActiveEnter"))
    secs = (int(ready_at) - int(exec_at)) / 1e6
    print(f"ready {secs:.2f} s after exec, rules and model included")
    assert secs < 20  # 2 on a machine that has nothing else to do


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("model: {path: /etc/logclf/no-model}", "/etc/logclf/no-model"),
        ("modle: {}", "did you mean 'model'?"),
        ("http: {listen: 'credential:nobody'}", "/etc/logclf/credentials/nobody"),
    ],
)
def test_a_configuration_that_cannot_work_is_not_tried_again(service: Service, wrong: str, words: str) -> None:
    service.configure(WITH_MODEL + wrong + "\n")
    before = service.restarts

    done = service.machine.result("systemctl start logclf-daemon")

    assert done.returncode != 0
    assert service.show("ExecMainStatus") == "78"
    assert service.show("ActiveState") == "failed"
    assert service.restarts == before
    assert words in service.journal()


def test_a_stopped_process_is_found_by_the_watchdog(service: Service, sink: ForwardSink) -> None:
    service.drop_in("WatchdogSec=3s")
    service.start()
    pid = service.pid
    service.machine.wait_for(lambda: service.status()["uptime_secs"] > 4)
    assert service.pid == pid

    service.machine.run(f"kill -STOP {pid}")

    service.machine.wait_for(lambda: service.replaced(pid))
    service.log("after")
    assert sink.records(1)[0][1][b"log"] == b"after"
    assert "Watchdog timeout" in service.journal()


@pytest.mark.parametrize("point", ["asked", "classified"])
def test_a_part_that_stands_still_is_found_by_the_watchdog_and_shown(service: Service, point: str) -> None:
    """The first: a worker thread, while the loop turns. The second: the loop."""
    service.configure(WITH_MODEL)
    service.drop_in("WatchdogSec=3s", f"Environment=LOGCLF_FAILPOINT={point}:1:hang")
    service.start()
    pid = service.pid

    with service.connect() as peer:
        peer.sendall(chunk("c1", LINE))
        service.machine.wait_for(lambda: service.replaced(pid))

    said = service.journal()
    assert "failpoint.py" in said  # where the thread stood
    if point == "asked":
        assert 'part="the worker thread of the stages"' in said


def test_a_killed_daemon_is_back_and_goes_on_where_it_was(service: Service, sink: ForwardSink) -> None:
    service.start()
    service.log("one")
    sink.records(1)
    pid, before = service.pid, service.restarts

    service.machine.run(f"kill -KILL {pid}")
    service.log("two")
    service.machine.wait_for(lambda: service.replaced(pid))
    service.log("three")

    sink.wait_for(lambda sink: len(sink.once()) >= 3)
    assert [record[b"log"] for _, record in sink.once()] == [b"one", b"two", b"three"]
    assert service.restarts == before + 1


def test_one_that_takes_too_much_memory_is_ended_and_started_again(service: Service) -> None:
    service.drop_in("MemoryHigh=infinity", "MemoryMax=90M")
    service.start()
    pid, before = service.pid, service.restarts

    with service.connect() as peer:
        for number in range(40):
            try:
                peer.sendall(chunk(f"c{number}", *(f"{LINE} {number} {at}" for at in range(20_000))))
            except OSError:
                break  # it is gone
        service.machine.wait_for(lambda: service.replaced(pid))

    assert service.restarts == before + 1
    assert "status=9/KILL" in service.journal()


def test_the_sandbox_holds(service: Service) -> None:
    service.machine.write("/opt/probe.py", (Path(__file__).parent / "probe.py").read_text())
    service.machine.write("/root/secret", "secret\n")
    service.machine.write("/etc/logclf/credentials/probe", "secret\n", 0o600)
    service.machine.write("/var/log/app/app.log", "line\n", 0o640)
    service.machine.run("chgrp adm /var/log/app/app.log")
    service.drop_in("ExecStartPre=/opt/logclf-daemon/bin/python /opt/probe.py")

    service.start()

    found = json.loads(service.machine.read("/var/lib/private/logclf-daemon/probe.json"))
    assert found == [
        "keep an upload in its cache",
        "read a log",
        "read its key",
        "resolve a name",
        "write its state",
    ]


def test_no_sender_is_refused_while_it_restarts_and_nothing_is_lost(service: Service, sink: ForwardSink) -> None:
    service.start()

    with Sender(service.connect) as sender:
        service.machine.wait_for(lambda: len(sender.acknowledged) > 3)
        service.restart()
        before = len(sender.acknowledged)
        service.machine.wait_for(lambda: len(sender.acknowledged) > before + 3)

    assert sender.refused == 0
    delivered = [record[b"log"].decode() for _, record in sink.once()]
    assert set(sender.acknowledged) <= set(delivered)
    assert "/var/lib/logclf-daemon" in service.status()["state"]["directory"]


def test_a_reload_tells_whether_it_was_taken(service: Service, sink: ForwardSink) -> None:
    service.machine.write("/etc/logclf/rules.d/own.yaml", RULE.replace("LABEL", "Critical Error"))
    service.start()
    pid, before = service.pid, service.status()["generation"]

    service.machine.write("/etc/logclf/config.yaml", CONFIG.replace("{enabled: false}\nllm", "{}\nllm"))
    service.machine.run("systemctl reload logclf-daemon")
    assert service.status()["generation"] > before

    service.configure(CONFIG + "modle: {}\n")
    refused = service.machine.result("systemctl reload logclf-daemon")
    assert refused.returncode != 0
    assert "did you mean 'model'?" in service.journal()

    service.configure()
    service.machine.write("/etc/logclf/rules.d/own.yaml", RULE.replace("LABEL", "No Such Label"))
    assert service.machine.result("systemctl reload logclf-daemon").returncode != 0

    service.log("boom")
    assert sink.records(1)[0][1][b"logclf"][b"label"] == b"Critical Error"
    assert (service.pid, service.show("ActiveState")) == (pid, "active")


def test_a_rule_is_saved_on_the_page_within_the_sandbox(service: Service, sink: ForwardSink) -> None:
    service.configure(CONFIG + "http: {listen: '127.0.0.1:24280'}\n")
    service.start()
    rule = {"id": "own-x", "label": "Error", "pattern": "fine words", "example": "fine words"}

    saved = service.machine.in_network(
        lambda: httpx.post("http://127.0.0.1:24280/api/v1/rules", json=rule, timeout=60, trust_env=False)
    )

    assert (saved.status_code, saved.json()["file"]) == (201, "/var/lib/logclf-daemon/rules.d/review.yaml")
    service.restart()
    service.log("fine words")
    assert sink.records(1)[0][1][b"logclf"][b"rule"] == b"own-x"


def test_a_start_on_a_full_disk_waits_for_room(service: Service, sink: ForwardSink) -> None:
    service.start()
    service.log("before")
    assert sink.records(1)[0][1][b"log"] == b"before"
    service.stop()
    machine, state = service.machine, "/var/lib/private/logclf-daemon"
    machine.run(f"mv {state} {state}.kept; mkdir {state}; mount -t tmpfs -o size=600k tmpfs {state}")
    try:
        machine.run(f"cp -a {state}.kept/. {state}; chown --reference={state}.kept {state}; chmod 700 {state}")
        machine.run(f"dd if=/dev/zero of={state}/fill bs=4k", check=False)

        machine.run("systemctl start --no-block logclf-daemon")
        machine.wait_for(lambda: "waits for room" in service.journal())
        service.log("after")
        assert (service.show("ActiveState"), service.restarts) == ("activating", 0)

        machine.run(f"rm {state}/fill")
        assert [record[b"log"] for _, record in sink.records(2)] == [b"before", b"after"]
    finally:
        service.stop()
        machine.run(f"umount {state}; rmdir {state}; rm -r {state}.kept", check=False)


def test_a_stop_delivers_what_is_under_way(service: Service) -> None:
    service.start()
    with service.connect() as peer:
        peer.sendall(chunk("c1", "one", "two"))
        service.machine.wait_for(lambda: service.status()["inputs"]["forward.1"]["in_flight"] == 2)

        service.machine.run("systemctl stop --no-block logclf-daemon")
        service.machine.wait_for(lambda: "stopping:" in service.journal())
        with service.sink() as sink:
            assert [record[b"log"] for _, record in sink.records(2)] == [b"one", b"two"]
            assert b"c1" in peer.recv(100)
            service.machine.wait_for(lambda: service.show("MainPID") == "0")

    assert service.show("Result") == "success"


def test_a_stop_has_an_end_and_what_was_not_delivered_comes_after_the_start(service: Service) -> None:
    service.configure(CONFIG.replace("drain_secs: 15", "drain_secs: 1"))
    service.start()
    service.log("kept")
    service.machine.wait_for(lambda: service.status()["inputs"]["files.0"]["in_flight"] == 1)

    service.stop()  # the output is away: after drain_secs it gives the line back

    assert service.show("Result") == "success"
    service.drop_in("TimeoutStopSec=2s", "Environment=LOGCLF_FAILPOINT=classified:1:hang")
    service.start()
    service.machine.wait_for(lambda: not service.answers())
    service.stop()  # it hangs: systemd ends it
    assert service.show("Result") == "timeout"
    service.drop_in()
    with service.sink() as sink:
        service.start()
        assert sink.records(1)[0][1][b"log"] == b"kept"


def test_an_upgrade_loses_nothing(service: Service, sink: ForwardSink) -> None:
    if not (service.machine.root / "opt/logclf-daemon-2").exists():
        service.machine.install("logclf-daemon-2", version="9.9.9")
    service.start()

    with Sender(service.connect) as sender:
        service.machine.wait_for(lambda: len(sender.acknowledged) > 3)
        service.log("before")
        service.machine.run("ln -sfn logclf-daemon-2 /opt/logclf-daemon")
        service.restart()
        service.log("after")
        before = len(sender.acknowledged)
        service.machine.wait_for(lambda: len(sender.acknowledged) > before + 3)

    assert service.status()["version"] == "9.9.9"
    assert sender.refused == 0
    sink.wait_for(lambda sink: {b"before", b"after"} <= {record[b"log"] for _, record in sink.once()})
    delivered = [record[b"log"].decode() for _, record in sink.once()]
    assert set(sender.acknowledged) <= set(delivered)


def test_it_is_hardened_and_its_units_have_no_mistake(service: Service) -> None:
    machine = service.machine

    said = machine.result("systemd-analyze verify --man=no /etc/systemd/system/logclf-daemon*.s*")
    score = machine.run("systemd-analyze security --no-pager logclf-daemon | tail -n 1")

    assert (said.stdout, said.stderr) == ("", "")
    assert float(score.rsplit(":", 2)[1].split()[0]) <= 1.2, score


@pytest.mark.parametrize("name", sorted(path.name for path in (folder("systemd") / "drop-ins").iterdir()))
def test_a_drop_in_has_no_mistake(service: Service, name: str) -> None:
    text = (folder("systemd") / "drop-ins" / name).read_text()
    if name == "notify-reload.conf" and int(service.machine.run("systemctl --version").split()[1]) < 253:
        pytest.skip("Type=notify-reload is of systemd 253")
    service.machine.write(f"/etc/systemd/system/logclf-daemon.service.d/{name}", text)

    said = service.machine.result("systemd-analyze verify --man=no /etc/systemd/system/logclf-daemon.service")

    assert (said.stdout, said.stderr) == ("", "")


def test_the_drop_in_for_other_owners_reads_any_log(service: Service, sink: ForwardSink) -> None:
    text = (folder("systemd") / "drop-ins" / "other-log-owners.conf").read_text()
    service.machine.write("/etc/systemd/system/logclf-daemon.service.d/other-log-owners.conf", text)
    service.machine.write("/var/log/app/app.log", "of root alone\n", 0o600)
    service.machine.run("systemctl daemon-reload")

    service.start()

    assert sink.records(1)[0][1][b"log"] == b"of root alone"


def test_install_and_uninstall_may_be_done_again_and_again(service: Service) -> None:
    machine = service.machine
    own = machine.read("/etc/logclf/config.yaml")

    first = machine.run(f"{COMMAND} install-service")
    pid = service.pid
    again = machine.run(f"{COMMAND} install-service")

    assert "ok: logclf-daemon.service is installed and ready" in first
    assert "write" not in again
    assert service.pid == pid
    assert machine.run("systemctl is-enabled logclf-daemon").strip() == "enabled"
    assert machine.read("/etc/logclf/config.yaml") == own
    assert "unchanged: /etc/systemd/system/logclf-daemon.service" in machine.run(f"{COMMAND} install-service --dry-run")

    for _ in range(2):
        machine.run(f"{COMMAND} uninstall-service")
    assert service.show("LoadState") == "not-found"
    assert machine.run("systemctl list-units --failed --no-legend 'logclf*'") == ""
    assert machine.read("/etc/logclf/config.yaml") == own


def test_an_image_gets_the_service_of_its_own_command_again_and_again(service: Service) -> None:
    """As whoever builds an image does: from outside, the image does not run."""
    machine, image = service.machine, "/srv/image"
    machine.run(f"mkdir -p {image}/opt {image}/etc/logrotate.d; cp -a /opt/logclf-daemon-1 {image}/opt/logclf-daemon")
    install = f"{COMMAND} install-service --root {image}"

    planned = machine.run(f"{install} --dry-run")
    untouched = machine.run(f"find {image}/etc ! -type d")
    first, again = machine.run(install), machine.run(install)

    assert f"would write {image}/etc/systemd/system/logclf-daemon.service" in planned
    assert untouched == ""
    assert f"write {image}/etc/logrotate.d/logclf-daemon" in first
    assert "write" not in again
    assert f"unchanged: {image}/etc/logclf/config.yaml" in machine.run(f"{install} --dry-run")
    assert "ExecStart=/opt/logclf-daemon/bin/logclf-daemon run" in machine.read(
        f"{image}/etc/systemd/system/logclf-daemon.service"
    )
    enabled = "logclf-daemon.service logclf-daemon-control.socket logclf-daemon-forward.socket"
    assert machine.run(f"systemctl --root={image} is-enabled {enabled}").split() == ["enabled"] * 3
    assert machine.run(f"stat -c %a {image}/etc/logclf/credentials").strip() == "700"
    assert "adm:" in machine.read(f"{image}/etc/group")
    assert service.show("ActiveState") != "active"  # the machine that builds it is none of its business

    machine.run(f"{COMMAND} uninstall-service --root {image}")
    assert machine.run(f"find {image}/etc -name '*logclf-daemon*'") == ""
    assert "LogclfError" not in machine.run(f"{COMMAND} uninstall-service --root {image} --purge")
    assert machine.result(f"test -e {image}/etc/logclf").returncode == 1
    machine.run(f"rm -r {image}")


def test_an_installation_that_cannot_work_says_what_to_do(service: Service) -> None:
    machine = service.machine
    machine.run("cp -a /opt/logclf-daemon-1 /home/of-somebody")

    hidden = machine.result("/opt/logclf-daemon/bin/python /home/of-somebody/bin/logclf-daemon install-service")
    machine.run("chmod 700 /opt/logclf-daemon-1")
    closed = machine.result(f"{COMMAND} install-service")
    machine.run("chmod 755 /opt/logclf-daemon-1; rm -r /home/of-somebody")

    assert (hidden.returncode, "/home is hidden from the service" in hidden.stderr) == (1, True)
    assert (closed.returncode, "sudo chmod o+rX /opt/logclf-daemon" in closed.stderr) == (1, True)
