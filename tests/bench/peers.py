"""The two ends of a daemon under load, cheap enough to share one core.

`peers.py sink PORT` and `peers.py feed PORT CHUNKS RECORDS LANES`.
"""

from __future__ import annotations

import json
import socket
import statistics
import sys
import threading
import time
from pathlib import Path
from uuid import uuid4

import msgpack

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "daemon"), str(ROOT / "training")]

TEXT_AT = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xC4: 1, 0xC5: 2, 0xC6: 4}


def sink(port: int) -> None:
    """Acknowledge every PackedForward message without looking into it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_acknowledge, args=(peer,), daemon=True).start()


def _acknowledge(peer: socket.socket) -> None:
    buffer = bytearray()
    while data := peer.recv(1 << 20):
        buffer += data
        while (end := _options_at(buffer)) is not None:
            unpacker = msgpack.Unpacker(raw=True)
            unpacker.feed(memoryview(buffer)[end:].tobytes()[:4096])
            try:
                options = unpacker.unpack()
            except msgpack.OutOfData:
                break
            del buffer[: end + unpacker.tell()]
            if b"chunk" in options:
                peer.sendall(msgpack.packb({"ack": options[b"chunk"]}))
    peer.close()


def _options_at(buffer: bytearray) -> int | None:
    """Where the options of the first message begin, once its payload is there."""
    if len(buffer) < 16:
        return None
    at = _after_text(buffer, _after_text(buffer, 1))
    return at if at < len(buffer) else None


def _after_text(buffer: bytearray, at: int) -> int:
    first = buffer[at]
    if 0xA0 <= first <= 0xBF:
        return at + 1 + (first & 0x1F)
    width = TEXT_AT[first]
    return at + 1 + width + int.from_bytes(buffer[at + 1 : at + 1 + width], "big")


def feed(port: int, chunks: int, records: int, lanes: int) -> None:
    """Send chunks of so many records over `lanes` connections, each waiting for its acknowledgement; print JSON."""
    from traffic import entries

    bodies = entries(max(20 * records, 20_000), records)
    header = b"\x93" + msgpack.packb("app.web") + b"\xdd" + records.to_bytes(4, "big")
    waits: list[float] = []
    started = time.perf_counter()
    threads = [
        threading.Thread(target=_feed_lane, args=(port, chunks // lanes, lane, header, bodies, records, waits))
        for lane in range(lanes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    secs = time.perf_counter() - started
    waits.sort()
    print(
        json.dumps(
            {
                "secs": secs,
                "records": chunks // lanes * lanes * records,
                "median_ms": statistics.median(waits) * 1000,
                "p99_ms": waits[int(len(waits) * 0.99)] * 1000,
            }
        )
    )


def _feed_lane(
    port: int, chunks: int, lane: int, header: bytes, bodies: tuple[bytes, ...], records: int, waits: list[float]
) -> None:
    run = uuid4().hex
    with socket.create_connection(("127.0.0.1", port)) as peer:
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in range(chunks):
            # As long as those of Fluent Bit, and never the same twice: a repeated chunk is not delivered again.
            options = msgpack.packb({"chunk": f"{run}-{lane}-{number}", "size": records, "fluent_signal": 0})
            started = time.perf_counter()
            peer.sendall(header + bodies[number % len(bodies)] + options)
            peer.recv(1000)
            waits.append(time.perf_counter() - started)
            if records == 1:
                time.sleep(0.002)  # latency is asked for, not load


if __name__ == "__main__":
    if sys.argv[1] == "sink":
        sink(int(sys.argv[2]))
    else:
        feed(*map(int, sys.argv[2:]))
