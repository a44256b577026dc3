"""What systemd passes to the daemon and hears from it: sockets, readiness, the watchdog."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgpack
import pytest

from daemon_process import Daemon
from doubles import until
from logclf_daemon.activation import PassedSockets
from logclf_daemon.cascade import Cascade
from logclf_daemon.generation import Generation
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions
from logclf_daemon.inputs.memory import MemoryInput
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import Pipeline
from logclf_daemon.record import Batch, Question, Verdict
from logclf_daemon.service import feed_watchdog
from logclf_daemon.stages.rules import RulesOptions, load_rules
from logclf_daemon.taxonomy import Taxonomy

PASS_ON = """
import os, socket, sys
os.dup2(int(sys.argv[1]), 3)
os.environ |= {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "forward", "LISTEN_PID": str(os.getpid())}
os.execv(sys.executable, [sys.executable, "-m", "logclf_daemon", *sys.argv[2:]])
"""


class Manager:
    """The end of systemd: it hears what a service tells."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self.heard: list[str] = []

    def until(self, fact: str) -> str:
        """Hear on until that is told; the whole datagram."""
        self._socket.settimeout(40)
        while True:
            told = self._socket.recv(4096).decode()
            self.heard.append(told)
            if fact in told.splitlines():
                return told

    def silent(self, secs: float) -> bool:
        """Whether nothing comes for so long."""
        self._socket.settimeout(secs)
        try:
            self.heard.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return True
        return False

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    listening = Manager(tmp_path / "notify")
    yield listening
    listening.close()


def listener() -> socket.socket:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    return sock


def test_a_passed_socket_is_taken_once_by_its_address_or_by_its_name() -> None:
    forward, control = listener(), listener()
    passed = PassedSockets([("forward", forward), ("control", control)])
    port = forward.getsockname()[1]

    assert passed.take("127.0.0.1:1") is None
    assert passed.take("0.0.0.0:" + str(port)) is None
    assert passed.take(f"localhost:{port}") is forward
    assert passed.take(f"127.0.0.1:{port}") is None
    assert passed.take_named("control") is control
    assert passed.close() == []
    forward.close()
    control.close()


def test_a_unix_socket_is_taken_by_its_path(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "s"))

        assert PassedSockets([("", sock)]).take(f"unix://{tmp_path}/other") is None
        assert PassedSockets([("", sock)]).take(f"unix://{tmp_path}/s") is sock


def test_sockets_nobody_took_are_closed_and_named() -> None:
    sock = listener()
    address = f"127.0.0.1:{sock.getsockname()[1]}"

    assert PassedSockets([("forward", sock)]).close() == [f"forward {address}"]
    assert sock.fileno() == -1


def test_sockets_for_another_process_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "2")

    assert PassedSockets.from_environment().close() == []
    assert "LISTEN_FDS" not in os.environ


def test_a_forward_input_on_a_passed_socket_leaves_it_to_the_next_process() -> None:
    with listener() as held:
        port = held.getsockname()[1]

        async def answered() -> list[Batch]:
            sockets = PassedSockets([("forward", held.dup())])
            options = ForwardInputOptions(listen=f"127.0.0.1:{port}")
            source, came = ForwardInput(options, "forward.0", sockets=sockets), list[Batch]()

            async def emit(batch: Batch) -> None:
                came.append(batch)

            await source.open()
            running = asyncio.create_task(source.run(emit))
            with socket.create_connection(("127.0.0.1", port)) as peer:
                peer.sendall(msgpack.packb(["tag", 1, {"log": "hello"}]))
                await until(lambda: bool(came))
            source.stop()
            await running
            await source.close()
            return came

        assert len(asyncio.run(answered())) == 1
        with socket.create_connection(("127.0.0.1", port)):  # nobody accepts, and nobody is refused
            pass
        assert len(asyncio.run(answered())) == 1


def test_the_daemon_tells_its_steps_and_is_ready_when_the_passed_socket_answers(
    manager: Manager, tmp_path: Path
) -> None:
    with listener() as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        places = ["--to", str(tmp_path / "out"), "--state-dir", str(tmp_path)]
        arguments = ["run", "--forward", address, "--no-llm", *places]
        os.set_inheritable(held.fileno(), True)
        daemon = subprocess.Popen(
            [sys.executable, "-c", PASS_ON, str(held.fileno()), *arguments],
            pass_fds=[held.fileno()],
            stderr=subprocess.PIPE,
            env=dict(os.environ),
        )
        try:
            ready = manager.until("READY=1")
            with socket.create_connection(held.getsockname()) as peer:
                peer.sendall(msgpack.packb(["tag", [[1, {"log": "hello"}]], {"chunk": "c1"}]))
                assert msgpack.unpackb(peer.recv(100)) == {"ack": "c1"}
        finally:
            daemon.terminate()
            daemon.communicate(timeout=40)

    assert daemon.returncode == 0
    assert "generation 1" in ready
    told = [line for message in manager.heard for line in message.splitlines()]
    assert told.index("STATUS=compiling the rules") < told.index("STATUS=loading the model") < told.index("READY=1")
    assert told.count("EXTEND_TIMEOUT_USEC=120000000") == 2


def test_a_hangup_is_a_reload_as_notify_reload_wants_it_taken_or_refused(manager: Manager, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    text = "inputs: [{type: forward, listen: '127.0.0.1:0'}]\noutputs: [{type: jsonl}]\n"
    text += "rules: {builtin: false}\nmodel: {enabled: false}\nllm: {enabled: false}\n"
    text += f"state: {{directory: '{tmp_path}'}}\n"
    config.write_text(text)

    with Daemon("--config", str(config)) as daemon:
        manager.until("READY=1")
        before = time.monotonic_ns() // 1000
        manager.heard.clear()

        daemon.signal(signal.SIGHUP)
        taken = manager.until("READY=1")
        config.write_text(text + "modle: {}\n")
        daemon.signal(signal.SIGHUP)
        refused = manager.until("READY=1")
        assert daemon.stop() == 0

    # In one datagram, and never after the READY=1 that ends it: by the time in it systemd knows which reload is meant.
    begun = [dict(fact.split("=") for fact in told.splitlines()) for told in manager.heard if "RELOADING=1" in told]
    assert len(begun) == 2
    assert before <= int(begun[0]["MONOTONIC_USEC"]) <= int(begun[1]["MONOTONIC_USEC"])
    order = [told.splitlines()[0] for told in manager.heard if told.startswith(("RELOADING=1", "READY=1"))]
    assert order == ["RELOADING=1", "READY=1"] * 2
    assert "generation 2" in taken
    assert "reload refused, generation 2 stays" in refused


class StuckStage:
    """Answers nothing until it is let go."""

    name = "stuck"

    def __init__(self) -> None:
        self.free = threading.Event()

    def classify(self, questions: Sequence[Question]) -> Sequence[Verdict | None]:
        self.free.wait(30)
        return [None] * len(questions)


def pipeline_around(stage: StuckStage, lines: list[str], output: MemoryOutput | None = None) -> Pipeline:
    rules = load_rules(RulesOptions(builtin=False), Taxonomy(), None)
    source = MemoryInput(lines)
    return Pipeline([source], Cascade(Generation(1, rules, [stage], Taxonomy())), [output or MemoryOutput()])


def test_a_stuck_stage_ends_the_feeding_of_the_watchdog_and_its_end_takes_it_up_again(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    stage = StuckStage()
    tested = pipeline_around(stage, ["a line for the stage"])

    async def scenario() -> None:
        running = asyncio.create_task(tested.run())
        feeding = asyncio.create_task(feed_watchdog(tested))
        await until(lambda: tested.stalled(0.2) is not None)
        while not await asyncio.to_thread(manager.silent, 0.3):
            pass
        assert tested.stalled(0.2) == "the worker thread of the stages"
        stage.free.set()
        await asyncio.to_thread(manager.until, "WATCHDOG=1")
        await running
        feeding.cancel()

    asyncio.run(scenario())
    tested.cascade.close()


class ClosedOutput(MemoryOutput):
    """Takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.free = asyncio.Event()
        self.asked = False

    async def write(self, batch: Batch) -> None:
        self.asked = True
        await self.free.wait()
        await super().write(batch)


def test_an_output_that_takes_nothing_is_no_stall() -> None:
    stage = StuckStage()
    stage.free.set()

    async def scenario() -> None:
        output = ClosedOutput()
        tested = pipeline_around(stage, ["one", "two"], output)
        running = asyncio.create_task(tested.run())
        await until(lambda: output.asked)

        assert tested.stalled(0.0) is None

        output.free.set()
        await running
        tested.cascade.close()

    asyncio.run(scenario())


def test_a_batch_that_waits_for_a_busy_worker_is_no_stall() -> None:
    stage = StuckStage()

    async def scenario() -> None:
        tested = pipeline_around(stage, ["one"])
        running = asyncio.create_task(tested.run())
        await until(lambda: tested.cascade.asked_since is not None)

        assert tested.stalled(30.0) is None

        stage.free.set()
        await running
        tested.cascade.close()

    asyncio.run(scenario())
