"""A journal in a file and a `journalctl` that reads it: a real program on PATH, as far as the input needs one."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

Value = str | bytes

_PROGRAM = """#!{python} -IS
import json, os, sys, time

home, arguments = {home!r}, sys.argv[1:]
with open(home + "/calls", "a") as calls:
    calls.write(json.dumps(arguments) + "\\n")
options = dict(argument.lstrip("-").partition("=")[::2] for argument in arguments)
try:
    with open(home + "/orders") as file:
        orders = json.load(file)
except FileNotFoundError:
    orders = []
order = orders.pop(0) if orders else {{}}
with open(home + "/orders.new", "w") as file:
    json.dump(orders, file)
os.rename(home + "/orders.new", home + "/orders")
if "complaint" in order:
    print(order["complaint"], file=sys.stderr)
    sys.exit(order.get("code", 1))

print(order.get("hint", ""), end="", file=sys.stderr)
if options.get("cursor") and not options["cursor"].startswith("s="):
    print("Failed to seek to cursor: Invalid argument", file=sys.stderr)
    sys.exit(1)

def entries():
    names = sorted(name for name in os.listdir(home) if name.endswith(".entry"))
    return [(name, open(home + "/" + name, "rb").read()) for name in names]

def cursor_of(entry):
    return entry.partition(b"__CURSOR=")[2].partition(b"\\n")[0].decode()

def written_at(entry):
    return int(entry.partition(b"__REALTIME_TIMESTAMP=")[2].partition(b"\\n")[0])

def shown_from(found):
    wanted = options.get("cursor")
    if not wanted:
        since = int(options.get("since", "@0")[1:]) * 1000000
        return sum(written_at(entry) < since for _, entry in found)
    for at, (_, entry) in enumerate(found):
        if cursor_of(entry) >= wanted:
            return at
    return len(found)

left = order.get("entries", 10**9)
found = entries()
done = set(name for name, _ in found[: shown_from(found) if "lines" not in options else len(found) - 1])
while True:
    for name, entry in entries():
        if name in done:
            continue
        if left <= 0:
            sys.stdout.buffer.write(entry[: len(entry) // 2])
            sys.stdout.buffer.flush()
            os.kill(os.getpid(), 9)
        left -= 1
        done.add(name)
        sys.stdout.buffer.write(entry)
    sys.stdout.buffer.flush()
    if "follow" not in options:
        break
    time.sleep(0.01)
    if os.getppid() == 1:
        break
"""


class JournalDouble:
    """Entries are files in a folder; `program` is a folder for PATH that holds the double.

    `orders` tells each coming run what befalls it: {"entries": n} dies in the middle of entry n, {"complaint": text}
    fails at once, {"hint": text} says so and goes on.
    """

    def __init__(self, folder: Path) -> None:
        self.home = folder / "journal"
        self.program = folder / "bin"
        self._count = 0
        self.name = "1"  # of the journal in its cursors; one made anew has another
        self.passed_secs = 0  # between the first entry and the coming ones
        self.home.mkdir()
        self.program.mkdir()
        script = self.program / "journalctl"
        script.write_text(_PROGRAM.format(python=sys.executable, home=str(self.home)))
        script.chmod(0o755)

    def write(self, message: Value, **fields: Value | Sequence[Value]) -> str:
        """One more entry; its cursor."""
        self._count += 1
        cursor = f"s={self.name};i={self._count:06d}"
        meta: dict[str, Value | Sequence[Value]] = {
            "__CURSOR": cursor,
            "__REALTIME_TIMESTAMP": str(1_700_000_000_000_000 + self._count + 1_000_000 * self.passed_secs),
        }
        written = exported({**meta, **fields, "MESSAGE": message})
        part = self.home / f"{self._count:06d}.part"
        part.write_bytes(written)
        part.rename(part.with_suffix(".entry"))
        return cursor

    def vacuum(self, count: int) -> None:
        """Forget the oldest entries."""
        for path in sorted(self.home.glob("*.entry"))[:count]:
            path.unlink()

    def made_anew(self, name: str, passed_secs: int) -> None:
        """All entries are gone; the next ones are of another journal, at another time."""
        self.vacuum(self.entries)
        self.name, self.passed_secs = name, passed_secs

    def order(self, *orders: Mapping[str, object]) -> None:
        """What befalls the coming runs."""
        (self.home / "orders").write_text(json.dumps(orders))

    @property
    def entries(self) -> int:
        """How many there are now."""
        return len(list(self.home.glob("*.entry")))

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each run so far."""
        path = self.home / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def exported(fields: Mapping[str, Value | Sequence[Value]]) -> bytes:
    """An entry in export format; what is not plain text, or given as bytes, in its binary form."""
    written = b""
    for name, given in fields.items():
        for value in [given] if isinstance(given, str | bytes) else given:
            if isinstance(value, str) and value.isprintable():
                written += f"{name}={value}\n".encode()
            else:
                data = value.encode() if isinstance(value, str) else value
                written += name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return written + b"\n"
