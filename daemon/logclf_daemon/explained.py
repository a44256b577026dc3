"""Why a line gets its label, and the record that `run` would write of it: for the command and for HTTP."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from logclf_daemon.cascade import Cascade
from logclf_daemon.codec import event_time, raw_str
from logclf_daemon.config import Config
from logclf_daemon.inputs.files import FilesInputOptions
from logclf_daemon.outputs._jsonl.text import JsonText
from logclf_daemon.record import Record


async def explained(cascade: Cascade, config: Config, source: str, line: bytes) -> dict[str, Any]:
    """What each stage says, and under `record` what leaves as JSON: the verdict and the standard fields attached."""
    found = await cascade.explain(source, line)
    record = _record(config, source, line)
    cascade.attach([record], [found.answer])
    return found.fields() | {"record": json.loads(JsonText().lines([record]))}


def _record(config: Config, source: str, line: bytes) -> Record:
    """As the configured files input makes it; where there is none, the message alone under its first name."""
    time_read = event_time(time.time_ns())
    for options in config.inputs:
        if isinstance(options, FilesInputOptions):
            path = {options.path_key: raw_str(os.fsencode(source))} if source else {}
            return Record(time_read, {options.message_key: raw_str(line), **path})
    return Record(time_read, {config.record.message_keys[0]: raw_str(line)})
