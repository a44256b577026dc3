"""What names a task, so that only the very same one is taken up again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from logclf_daemon.tables.rows import TableOptions


def task_of(
    source: str, into: str, aside: str | None, options: TableOptions, answering: Mapping[str, object]
) -> dict[str, Any]:
    """The input as it is now, the options, and whatever else the output depends on."""
    state = Path(source).stat()
    return {
        "input": [str(Path(source).resolve()), state.st_size, state.st_mtime_ns],
        "into": into,
        "aside": aside,
        "options": asdict(options),
        "answering": sha256(json.dumps(answering, sort_keys=True).encode()).hexdigest(),
    }
