"""From the frames of a connection to the batches of the pipeline."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from logclf_daemon import events
from logclf_daemon.inputs._forward.chunks import (
    Options,
    decode_part,
    downstream_id,
    element,
    event_entry,
    is_long_work,
    open_payload,
    read_options,
)
from logclf_daemon.inputs._forward.dedup import Delivery, Told
from logclf_daemon.inputs._forward.framing import PART_RECORDS, Frame, Malformed, Mode, Part
from logclf_daemon.inputs._forward.server import Server
from logclf_daemon.record import Batch, Outcome

Owe = Callable[[bytes | None], Told]
"""Opens a place in the order of the answers (None: nobody waits for one); the result is told the outcome, once."""


class Receiver:
    """Takes frames one by one; returns when the pipeline has room for the next."""

    def __init__(self, server: Server, owe: Owe) -> None:
        self._server = server
        self._owe = owe

    async def take(self, frames: deque[Frame]) -> None:
        """Emit the first of the frames, and with it those that can go in the same batch.

        Raises:
            Malformed: Close the connection; nothing of this frame is acknowledged.
        """
        frame = frames.popleft()
        options = read_options(frame.options)
        if options.chunk is None:
            delivery, chunk = Delivery(self._owe(None)), None
        elif self._server.stopping:
            return  # its sender keeps it and sends it again
        else:
            chunk = downstream_id(frame.tag, options.chunk)
            told = self._owe(options.ack)
            if self._server.window.repeated(chunk, told):
                events.emit(events.ChunkRepeated(input=self._server.name))
                return
            delivery = Delivery(self._server.window.begin(chunk, told))
        try:
            if options.signal:
                await self._pass(frame, options, delivery, chunk)
            else:
                await self._deliver(frame, frames, options, delivery)
        except Malformed as error:
            if chunk is None:  # nobody will send it again
                self._server.dropped(1, error.what, error.detail)
            delivery.abandon()
            raise
        except BaseException:
            delivery.abandon()
            raise

    async def _deliver(self, frame: Frame, frames: deque[Frame], options: Options, delivery: Delivery) -> None:
        """Emit a frame as one batch, or as several if it is very large; it settles with the last of them."""
        if frame.mode is Mode.FORWARD:
            await self._emit_parts(frame, options, frame.body, list(frame.parts), delivery)
        elif frame.mode is Mode.PACKED:
            async with self._server.opening:
                entries, parts = await self._opened(frame, options)
                await self._emit_parts(frame, options, entries, parts, delivery)
        else:
            entries, parts = _events(frame, frames, options)
            await self._emit_parts(frame, options, entries, parts, delivery)

    async def _emit_parts(
        self, frame: Frame, options: Options, entries: bytes, parts: list[Part], delivery: Delivery
    ) -> None:
        delivery.expect(len(parts))
        for number, part in enumerate(parts):
            if number:
                await asyncio.sleep(0)  # others have their turn between the parts of a very large frame
            async with self._server.decoding:
                await self._emit_part(frame, options, entries, part, delivery, number)

    async def _opened(self, frame: Frame, options: Options) -> tuple[bytes, list[Part]]:
        limit = self._server.limits.max_inflated_bytes
        if is_long_work(frame.body, options.compressed):
            return await asyncio.to_thread(open_payload, frame.body, options.compressed, limit)
        return open_payload(frame.body, options.compressed, limit)

    async def _emit_part(
        self, frame: Frame, options: Options, entries: bytes, part: Part, delivery: Delivery, number: int
    ) -> None:
        try:
            decoded = decode_part(entries, part, floats=frame.mode is not Mode.MESSAGE)
        except ValueError as error:
            raise Malformed("corrupt_chunk", str(error)) from error
        if decoded.invalid > len(decoded.records) and part.count == PART_RECORDS:
            # Looking at each of millions of non-records is what somebody wants of us.
            raise Malformed("corrupt_chunk", f"{decoded.invalid} of {part.count} entries are no records")
        if decoded.invalid:
            # No retry can make them valid: they are counted and the chunk is acknowledged.
            self._server.dropped(decoded.invalid, "invalid", "no time or no map")
        if not decoded.records:
            delivery.settle(Outcome.DELIVERED)
            return
        await self._server.hand_on(
            Batch(
                source=frame.tag.decode("utf-8", "surrogateescape"),
                records=decoded.records,
                settle=delivery.settle,
                chunk=None if options.chunk is None else downstream_id(frame.tag, options.chunk, number),
                passthrough=decoded.passthrough,
                input=self._server.name,
                size=part.end - part.start,
            )
        )

    async def _pass(self, frame: Frame, options: Options, delivery: Delivery, chunk: str | None) -> None:
        """Metrics, traces and whatever else is no log: goes on as it came, or is refused by configuration."""
        if self._server.refuse_signals:
            raise Malformed("signal_refused", f"fluent_signal {options.signal}, and `signals` is 'refuse'")
        delivery.expect(1)
        await self._server.hand_on(
            Batch(
                source=frame.tag.decode("utf-8", "surrogateescape"),
                records=[],
                settle=delivery.settle,
                chunk=chunk,
                opaque=element(frame),
                options=dict(options.fields),
                input=self._server.name,
                size=len(frame.body),
            )
        )


def _events(frame: Frame, frames: deque[Frame], options: Options) -> tuple[bytes, list[Part]]:
    """A single event as entries, with those right behind it if nobody waits for the acknowledgement of any."""
    entries = [event_entry(frame, options.metadata)]
    while options.chunk is None and frames and len(entries) < PART_RECORDS:
        following = frames[0]
        if following.mode is not Mode.MESSAGE or following.tag != frame.tag:
            break
        its = options
        if following.options != frame.options:
            try:
                its = read_options(following.options)
            except Malformed:
                break  # its own turn comes, and with it the refusal
            if its.chunk is not None or its.signal:
                break
        entries.append(event_entry(following, its.metadata))
        frames.popleft()
    joined = b"".join(entries)
    return joined, [Part(0, len(joined), len(entries))]
