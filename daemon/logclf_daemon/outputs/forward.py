"""The forward output: to Fluent Bit, fluentd or another logclf-daemon, safe when they acknowledge it."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from logclf_daemon import events
from logclf_daemon.errors import ConfigError, OutputUnavailable, RecordRejected
from logclf_daemon.handshake import ClientLogin, default_hostname
from logclf_daemon.loose import LooseThreads
from logclf_daemon.outputs._forward.packing import Packer, Packet, fresh_id
from logclf_daemon.outputs._forward.sender import ForwardSender
from logclf_daemon.outputs._forward.targets import Router, Target, parse_target
from logclf_daemon.pem import client_context, load_certificate
from logclf_daemon.record import Batch

CLOSE_SECS = 2.0  # for the threads to notice; one that looks up a name at a dead resolver does not

Seconds = Annotated[float, Field(gt=0)]


class ForwardOutputTls(BaseModel):
    """TLS of the connecting side."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ca: Path | None = Field(default=None, description="File with the CA of the server (PEM); none: the system's.")
    cert: Path | None = Field(default=None, description="File with the client certificate (PEM), if one is demanded.")
    key: Path | None = Field(default=None, description="File with the private key of `cert`.")
    server_name: str | None = Field(default=None, description="Name in the server's certificate, if not its host.")
    verify: bool = Field(default=True, description="Whether to check the server's certificate. Leave it on.")


class WeightedAddress(BaseModel):
    """One of several servers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    address: str = Field(description="As `address` of the output.")
    weight: int = Field(default=1, ge=1, le=1000, description="Its share of the batches.")
    standby: bool = Field(default=False, description="Gets batches only while none of the others answers.")


class ForwardOutputOptions(BaseModel):
    """Options of the forward output."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["forward"] = "forward"
    address: str | tuple[str | WeightedAddress, ...] = Field(
        description="`host:port`, `forward://host:port`, `forward+tls://host:port` or `forward+unix:///path`; "
        "or a list of them, for failover and sharing.",
    )
    tag_prefix: str = Field(default="", description="Put before each tag, such as `classified.`.")
    ack: bool = Field(
        default=True, description="Wait for acknowledgements. Without, what the kernel took counts as delivered."
    )
    ack_timeout_secs: Seconds = Field(default=30.0, description="Time for a chunk to be sent, and again to be acked.")
    connect_timeout_secs: Seconds = Field(default=5.0, description="Time to connect, with TLS and handshake.")
    compress: Literal["none", "gzip"] = Field(default="none", description="Compress chunks.")
    shared_key: SecretStr | None = Field(default=None, description="Key that the servers must know.")
    username: str | None = Field(default=None, description="User name, where the servers ask for one.")
    password: SecretStr | None = Field(default=None, description="Password of `username`.")
    self_hostname: str | None = Field(
        default=None,
        description="Name in the handshake; must differ from the servers'. Default: `logclf-daemon.` + host.",
    )
    tls: ForwardOutputTls | None = Field(default=None, description="TLS options; given, all connections use TLS.")
    connections: int = Field(default=2, ge=1, le=64, description="Chunks sent at the same time.")
    required: bool = Field(default=True, description="false: a failure of this output never holds back the others.")
    max_chunk_bytes: int = Field(
        default=4 << 20,
        ge=4096,
        description="Larger batches go in parts, larger records are truncated. Fluent Bit refuses more than 6 MB.",
    )

    @field_validator("address")
    @classmethod
    def _addresses_are_addresses(
        cls, address: str | tuple[str | WeightedAddress, ...]
    ) -> str | tuple[str | WeightedAddress, ...]:
        if not targets_of(address):
            raise ValueError("at least one address is needed")
        return address


def targets_of(address: str | Sequence[str | WeightedAddress]) -> list[Target]:
    """The servers behind the option `address`.

    Raises:
        ValueError: One of them is no address.
    """
    given = [address] if isinstance(address, str) else address
    return [
        parse_target(each) if isinstance(each, str) else parse_target(each.address, each.weight, each.standby)
        for each in given
    ]


class _Lane:
    """What one thread of the pool works with: a connection to each server it needed so far."""

    def __init__(self) -> None:
        self.senders: dict[Target, ForwardSender] = {}
        self.stopped = False

    def stop(self) -> None:
        """From the event loop: end what is under way, for good."""
        self.stopped = True
        for sender in list(self.senders.values()):
            sender.abort()

    def close(self) -> None:
        for sender in self.senders.values():
            sender.close()


class ForwardOutput:
    """Writes batches with blocking senders in threads of its own, `connections` at a time."""

    def __init__(
        self, options: ForwardOutputOptions, name: str = "forward", *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.name = name
        self._options = options
        self._packer = Packer(options.tag_prefix, options.ack, options.compress == "gzip", options.max_chunk_bytes)
        self._targets = targets_of(options.address)
        self._login = _login(options)
        tls = options.tls or ForwardOutputTls()
        needs_tls = options.tls is not None or any(target.tls for target in self._targets)
        self._tls = _client_context(tls) if needs_tls else None
        self._router = Router(self._targets, clock)
        self._router_lock = threading.Lock()
        self._lanes: set[_Lane] = set()
        self._free: asyncio.LifoQueue[_Lane] = asyncio.LifoQueue()
        for _ in range(options.connections):
            self._free.put_nowait(self._new_lane())
        self._executor = LooseThreads(options.connections, f"output-{name}")
        self._working: set[asyncio.Future[None]] = set()

    async def open(self) -> None:
        """Nothing to do: a server that is away is no error, and connections open with the first batch."""

    async def write(self, batch: Batch) -> None:
        if batch.opaque is None and not batch.records:
            return
        if batch.chunk is None:
            batch.chunk = fresh_id()  # kept on the batch: sent again, it is the same chunk
        lane = await self._free.get()
        working = asyncio.get_running_loop().run_in_executor(self._executor, self._deliver, lane, batch, batch.chunk)
        self._working.add(working)
        working.add_done_callback(lambda done: self._release(lane, done))
        try:
            await asyncio.shield(working)
        except asyncio.CancelledError:
            lane.stop()  # or its thread would go on until the timeout
            raise

    def _new_lane(self) -> _Lane:
        lane = _Lane()
        self._lanes.add(lane)
        return lane

    def _release(self, lane: _Lane, done: asyncio.Future[None]) -> None:
        """Make a lane free; in place of a stopped one comes a new one."""
        self._working.discard(done)
        if not done.cancelled():
            done.exception()  # where the write was cancelled nobody else asks for it
        if lane.stopped:
            self._lanes.discard(lane)
            lane.close()
            lane = self._new_lane()
        self._free.put_nowait(lane)

    async def close(self) -> None:
        for lane in self._lanes:
            lane.stop()
        self._executor.shutdown(wait=False)
        if self._working:
            await asyncio.wait(self._working, timeout=CLOSE_SECS)
        if not self._working:
            await asyncio.to_thread(self._executor.shutdown)
        while not self._free.empty():
            self._free.get_nowait().close()

    # --- in a thread of the pool ------------------------------------------------------------------------------------

    def _deliver(self, lane: _Lane, batch: Batch, chunk: str) -> None:
        """One attempt at each server until one has everything; what one has already is not sent again."""
        packets, truncated = self._packed(batch, chunk)
        parts = len(packets)
        del packets[: batch.safe_parts.get(self.name, 0)]
        with self._router_lock:
            order = self._router.order()
        failures: list[str] = []
        for target in order:
            if lane.stopped:
                failures.append("stopped")
                break
            try:
                self._sender(lane, target).send_batch(packets)
            except OutputUnavailable as error:
                failures.append(str(error))
                batch.safe_parts[self.name] = parts - len(packets)
                with self._router_lock:
                    news = self._router.failed(target) and not lane.stopped
                if news and len(self._targets) > 1:  # of one alone the pipeline tells
                    events.emit(events.ServerAway(output=self.name, server=str(target), error=str(error)))
            else:
                with self._router_lock:
                    news = self._router.answered(target)
                if news and len(self._targets) > 1:
                    events.emit(events.ServerBack(output=self.name, server=str(target)))
                if truncated:
                    events.emit(events.RecordsTruncated(output=self.name, count=truncated))
                return
        raise OutputUnavailable("; ".join(failures))

    def _packed(self, batch: Batch, chunk: str) -> tuple[list[Packet], int]:
        try:
            return self._packer.packets(batch, chunk)
        except (TypeError, ValueError, OverflowError) as error:
            # Not the data of others: those are bytes already. It would fail again for ever.
            raise RecordRejected(f"cannot be packed: {error}", "unencodable") from error

    def _sender(self, lane: _Lane, target: Target) -> ForwardSender:
        sender = lane.senders.get(target)
        if sender is None:
            secured = target.path is None and (target.tls or self._options.tls is not None)
            sender = lane.senders[target] = ForwardSender(
                target,
                login=self._login,
                tls=self._tls if secured else None,
                server_name=self._options.tls.server_name if self._options.tls else None,
                connect_timeout_secs=self._options.connect_timeout_secs,
                ack_timeout_secs=self._options.ack_timeout_secs,
            )
            if lane.stopped:  # just now, before the sender was there to be told
                sender.abort()
        return sender


def _login(options: ForwardOutputOptions) -> ClientLogin | None:
    if options.shared_key is None:
        if options.username or options.password:
            raise ConfigError("the protocol has no login without a shared_key; set one", ("username",))
        return None
    return ClientLogin(
        options.self_hostname.encode() if options.self_hostname else default_hostname(),
        options.shared_key.get_secret_value().encode(),
        (options.username or "").encode(),
        options.password.get_secret_value().encode() if options.password else b"",
    )


def _client_context(tls: ForwardOutputTls) -> ssl.SSLContext:
    context = client_context(tls.ca)
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert is not None:
        load_certificate(context, tls.cert, tls.key)
    return context
