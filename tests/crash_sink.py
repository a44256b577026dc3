"""A downstream that may be killed: writes what it gets to a file, then acknowledges: `crash_sink.py PORT FILE`."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from typing import Any

import msgpack


def serve(port: int, path: str) -> None:
    """Accept for ever; each message is one line of JSON: its chunk id and its lines."""
    target = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen()
        while True:
            peer, _ = listener.accept()
            threading.Thread(target=_talk, args=(peer, target), daemon=True).start()


def _talk(peer: socket.socket, target: int) -> None:
    unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=1 << 28)
    while data := peer.recv(1 << 16):
        unpacker.feed(data)
        for _tag, blob, options in unpacker:
            entries: Any = msgpack.Unpacker(raw=True, strict_map_key=False, max_buffer_size=1 << 28)
            entries.feed(blob)
            lines = [entry[1][b"log"].decode() for entry in entries]
            row = json.dumps({"chunk": options[b"chunk"].decode(), "lines": lines})
            os.write(target, row.encode() + b"\n")
            peer.sendall(msgpack.packb({"ack": options[b"chunk"]}))
    peer.close()


if __name__ == "__main__":
    serve(int(sys.argv[1]), sys.argv[2])
