"""Bodies of requests: how large one may be, how long it may take, and how much of all together lies in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive

from logclf_daemon.config import HttpOptions

NDJSON = "application/x-ndjson"
LINES = (NDJSON, "application/ndjson", "application/jsonl")
TABLE = "text/csv"
FORM = "multipart/form-data"
# They are put down on disk as they come. Everything else is held in memory, where parsed JSON is twenty times as large.
UPLOADS = {"/classify": (TABLE, FORM), "/api/v1/classify": LINES}
HELD_BYTES = 32 << 20  # of bodies in memory, all together
STALL_SECS = 30.0
SLOWEST = 1024  # bytes a second on average, once `STALL_SECS` are used up


def media_type(headers: Headers) -> str:
    """What the client says that its body is."""
    return headers.get("content-type", "").split(";")[0].strip().lower()


def is_upload(path: str, headers: Headers) -> bool:
    """Whether it is of the kind that may be large."""
    return media_type(headers) in UPLOADS.get(path, ())


class Disk:
    """What uploads and answers hold on disk, all together."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.free = most  # bytes

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """What one of them takes its bytes with; at the end of the block they are free again.

        Calls raise HTTPException where it is too much.
        """
        held = 0

        def take(size: int) -> None:
            nonlocal held
            if held + size > self._most:
                raise HTTPException(413, f"larger than {self._most} bytes with its labels; send less at a time")
            if size > self.free:
                raise HTTPException(503, "uploads hold too much on disk at once; try again", {"Retry-After": "10"})
            held += size
            self.free -= size

        try:
            yield take
        finally:
            self.free += held


class Bodies:
    """Passes bodies on to the app, as far as they are within the limits."""

    def __init__(
        self,
        options: HttpOptions,
        stall_secs: float = STALL_SECS,
        held_bytes: int = HELD_BYTES,
        disk: Disk | None = None,
    ) -> None:
        self._limits = {True: options.max_upload_bytes, False: options.max_body_bytes}
        self._stall_secs = stall_secs
        self._free = held_bytes
        self._disk = disk or disk_of(options)

    def refuse_declared(self, path: str, headers: Headers) -> None:
        """Look at the length a client announces, before it sends anything.

        Raises:
            HTTPException: It is too much.
        """
        declared, limit = headers.get("content-length", "0"), self._limits[is_upload(path, headers)]
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)

    @contextmanager
    def passed(self, path: str, headers: Headers, receive: Receive) -> Iterator[Receive]:
        """What the app reads the body with; it raises HTTPException where a limit is reached."""
        upload = is_upload(path, headers)
        limit = self._limits[upload]
        loop = asyncio.get_running_loop()
        taken, held, waited, whole = 0, 0, 0.0, False

        async def passed() -> Message:
            nonlocal taken, held, waited, whole
            if whole:  # from now on one waits for the client to go
                return await receive()
            began = loop.time()
            try:
                async with asyncio.timeout(min(self._stall_secs, self._stall_secs + taken / SLOWEST - waited)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "the rest of the body did not come", {"Connection": "close"}) from None
            waited += loop.time() - began
            whole = not message.get("more_body", False)
            size = len(message.get("body", b""))
            taken += size
            if taken > limit:
                raise _too_large(limit)
            if upload:
                take(size)
            else:
                if size > self._free:
                    raise HTTPException(503, "too many bodies at once; try again", {"Retry-After": "1"})
                held += size
                self._free -= size
            return message

        try:
            with self._disk.share() as take:
                yield passed
        finally:
            self._free += held


def disk_of(options: HttpOptions) -> Disk:
    """Room for the largest upload and its answer, and for as much besides."""
    return Disk(4 * options.max_upload_bytes)


def _too_large(limit: int) -> HTTPException:
    return HTTPException(
        413, f"larger than {limit} bytes; send less at a time, or raise http.max_body_bytes or http.max_upload_bytes"
    )
