"""What a tailer is told, apart from the system it runs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from logclf_daemon.inputs._tail.framing import Frames


@dataclass(frozen=True, slots=True, kw_only=True)
class TailSettings:
    """Checked and complete; `FilesInputOptions` is where people set them."""

    name: str = "files"
    paths: Sequence[str]
    exclude: Sequence[str] = ()
    own: Sequence[str] = ()  # files that this daemon writes
    start_at: str = "checkpoint"
    frames: Frames = field(default_factory=Frames)
    message_key: str = "log"
    path_key: str = "file"
    gzip: bool = False
    reconcile_secs: float = 1.0
    discover_secs: float = 5.0
    idle_flush_secs: float = 5.0
    rotate_wait_secs: float = 5.0
    max_open_files: int = 512
    batch_lines: int = 1024
    max_unacked: int = 64  # batches of one file under way: the slow answers of a few must not hold up the file
    once: bool = False
