"""The installed service and its surroundings, as the tests of this folder use them."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from forward_sink import ForwardSink, Step
from systemd.machine import Machine

COMMAND = "/opt/logclf-daemon/bin/logclf-daemon"
SINK_PORT = 24225
CONFIG = """\
inputs:
  - {type: files, paths: ["/var/log/app/*.log"]}
  - {type: forward, listen: "127.0.0.1:24224"}
outputs:
  - {type: forward, address: "127.0.0.1:24225"}
rules: {paths: [/etc/logclf/rules.d], builtin: false}
model: {enabled: false}
llm: {enabled: false}
delivery: {drain_secs: 15}
"""
WITH_MODEL = CONFIG.replace("model: {enabled: false}\n", "")
WHOLE = WITH_MODEL.replace(", builtin: false", "")
# What `ctl status` does, without the second that its start costs.
ASK_STATUS = """
import socket
peer = socket.socket(socket.AF_UNIX)
peer.settimeout(2)
peer.connect("/run/logclf/control.sock")
peer.sendall(b"{\\"command\\": \\"status\\"}\\n")
print(peer.makefile().readline())
"""
RULE = """\
version: 1
rules:
  - {id: own-boom, label: LABEL, pattern: 'boom', examples: [boom], priority: 999}
"""


class Service:
    """Configuration, life and traffic of the service in the machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self._since = ""

    def configure(self, text: str = CONFIG) -> None:
        self.machine.write("/etc/logclf/config.yaml", text)

    def drop_in(self, *lines: str) -> None:
        """Settings of [Service] on top of the unit."""
        text = "\n".join(["[Service]", *lines, ""])
        self.machine.write("/etc/systemd/system/logclf-daemon.service.d/test.conf", text)
        self.machine.run("systemctl daemon-reload")

    def start(self) -> None:
        self.machine.run("systemctl start logclf-daemon-control.socket logclf-daemon-forward.socket logclf-daemon")

    def stop(self) -> None:
        self.machine.run("systemctl stop logclf-daemon-control.socket logclf-daemon-forward.socket logclf-daemon")

    def restart(self) -> None:
        self.machine.run("systemctl restart logclf-daemon")

    def reset(self) -> None:
        """As it was installed, with the state of no earlier test and not running; compiled rules stay."""
        self.machine.run(
            "systemctl kill -s KILL logclf-daemon 2>/dev/null;"
            "systemctl stop logclf-daemon-control.socket logclf-daemon-forward.socket logclf-daemon;"
            "rm -rf /etc/systemd/system/logclf-daemon*.d /var/lib/private/logclf-daemon /var/log/app;"
            "rm -rf /etc/logclf/rules.d/* /etc/logclf/credentials/*; mkdir -p /var/log/app;"
            "ln -sfn logclf-daemon-1 /opt/logclf-daemon;"
            "systemctl daemon-reload; systemctl reset-failed 'logclf-daemon*'",
            check=False,
        )
        self.configure()
        self._since = self.machine.run("journalctl -n 0 --show-cursor").split("cursor:")[1].strip()

    def journal(self) -> str:
        """What it and systemd said in this test."""
        since = f"--after-cursor='{self._since}'"
        return self.machine.run(f"journalctl -u 'logclf-daemon*' {since} -o cat --no-pager")

    @property
    def pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def restarts(self) -> int:
        return int(self.show("NRestarts"))

    def show(self, name: str) -> str:
        return self.machine.property("logclf-daemon", name)

    def status(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.machine.run(f"/usr/bin/env python3 -c '{ASK_STATUS}'"))
        return told

    def answers(self) -> bool:
        """Whether its loop turns."""
        return self.machine.result(f"/usr/bin/env python3 -c '{ASK_STATUS}'").returncode == 0

    def replaced(self, pid: int) -> bool:
        """Whether another process is the service now, and ready."""
        return self.show("ActiveState") == "active" and self.pid not in {0, pid}

    def log(self, *lines: str) -> None:
        """Append lines to a file it watches."""
        self.machine.run("cat >>/var/log/app/app.log <<'END'\n" + "\n".join(lines) + "\nEND\nchmod 644 /var/log/app/*")

    def sink(self, script: Sequence[Step] = ()) -> ForwardSink:
        """What the output sends to."""
        return self.machine.in_network(lambda: ForwardSink(script, port=SINK_PORT))

    def connect(self) -> socket.socket:
        """A connection to the forward input; raises ConnectionRefusedError like any."""
        return self.machine.in_network(lambda: socket.create_connection(("127.0.0.1", 24224), timeout=30))


def chunk(name: str, *lines: str) -> bytes:
    packed: bytes = msgpack.packb(["app", [[1, {"log": line}] for line in lines], {"chunk": name}])
    return packed


class Sender:
    """Sends one chunk after the other, each on a new connection and until it is acknowledged, until it is stopped."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.acknowledged: list[str] = []
        self.refused = 0
        self._connect = connect
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def __enter__(self) -> Sender:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _send(self) -> None:
        number = 0
        while not self._over.is_set():
            if self._delivered(f"line {number}"):
                self.acknowledged.append(f"line {number}")
                number += 1
            time.sleep(0.02)  # a rate, not a wait

    def _delivered(self, line: str) -> bool:
        try:
            with self._connect() as peer:
                peer.sendall(chunk(line, line))
                return bool(peer.recv(100))
        except ConnectionRefusedError:
            self.refused += 1
        except OSError:
            pass  # a connection that was open when the daemon went
        return False
