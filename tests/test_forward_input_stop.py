"""How the forward input ends: who is still answered, what is left to its sender, what is counted (S24)."""

from __future__ import annotations

import asyncio

import pytest

from doubles import cascade
from forward_doubles import CHUNK, EVENT_TIME, Pipeline, Served, ack, forward, pack, served, until
from logclf_daemon.inputs.forward import ForwardInput, ForwardInputOptions
from logclf_daemon.metrics import value
from logclf_daemon.outputs.memory import MemoryOutput
from logclf_daemon.pipeline import Pipeline as WholePipeline
from logclf_daemon.record import Batch, Outcome


def test_s24_stopping_accepts_nobody_drops_half_a_frame_and_still_answers_what_is_under_way() -> None:
    async def scenario() -> None:
        async with served(Pipeline(outcome=None)) as server:
            sender = await server.connect()
            await sender.send(forward("t", 2, chunk="whole") + forward("t", 9, chunk="half")[:40])
            await server.pipeline.has(1)

            server.source.stop()
            assert server.task is not None
            await asyncio.wait_for(asyncio.shield(server.task), 30)
            with pytest.raises(OSError):
                await server.connect()
            server.pipeline.batches[0].settle(Outcome.DELIVERED)
            await server.source.close()

            assert await sender.rest() == ack("whole")
            assert len(server.pipeline.batches) == 1

    asyncio.run(scenario())


def test_s24_chunks_still_queued_when_it_stops_are_left_to_their_sender_and_the_others_are_emitted() -> None:
    async def scenario() -> None:
        pipeline = Pipeline()
        pipeline.gate.clear()
        async with served(pipeline) as server:
            sender = await server.connect()
            await sender.send(forward("a", chunk="first") + forward("b", chunk="second") + forward("c"))
            await until(lambda: bool(server.source._server.tasks))

            server.source.stop()
            pipeline.gate.set()
            assert server.task is not None
            await asyncio.wait_for(asyncio.shield(server.task), 30)
            await server.source.close()

            assert await sender.rest() == ack("first")
            assert [batch.source for batch in pipeline.batches] == ["a", "c"]

    asyncio.run(scenario())


class Stuck(MemoryOutput):
    """Never says that anything is safe."""

    async def write(self, batch: Batch) -> None:
        await asyncio.Event().wait()


def test_s24_events_nobody_sends_again_are_counted_even_if_the_pipeline_takes_no_more() -> None:
    """Single events without a chunk id that wait for room when the time to drain is over."""

    async def scenario() -> None:
        source = ForwardInput(ForwardInputOptions(listen="127.0.0.1:0"), "late")
        delivery = WholePipeline([source], cascade(), [Stuck()], max_in_flight=1, drain_secs=0.0)
        await delivery.open()
        server = Served(source, Pipeline())
        running = asyncio.create_task(delivery.run())
        sender = await server.connect()
        await sender.send(b"".join(pack([f"tag.{number}", EVENT_TIME, {"log": "x"}]) for number in range(40)))
        await until(lambda: delivery.room.taken > 0)

        delivery.stop()
        await running

        assert value("logclf_records_read_total", input="late") == 40
        assert value("logclf_records_returned_total", input="late") == 40
        await sender.close()

    asyncio.run(scenario())


def test_s24_a_pipeline_that_takes_nothing_any_more_does_not_hold_up_the_end() -> None:
    async def scenario() -> None:
        pipeline = Pipeline()
        pipeline.gate.clear()
        source = ForwardInput(ForwardInputOptions(listen="127.0.0.1:0"), "stuck")
        await source.open()
        server = Served(source, pipeline)
        running = asyncio.create_task(source.run(pipeline))
        sender = await server.connect()
        await sender.send(forward("t", chunk=CHUNK))
        await until(lambda: bool(source._server.tasks))

        source.stop()
        running.cancel()
        await asyncio.wait([running])
        await source.close()

        assert await sender.rest() == b""
        await sender.close()

    asyncio.run(scenario())
