"""What stands before a message: the header styles of real log formats, with a level that fits the label or misleads."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from logclf_training.variables import SHARED, date, month_day, time

DEBUG, INFO, WARN, ERROR, FATAL = range(5)
MISLEADING = 0.15
"""Share of lines whose printed level is any level: words must outrank it."""

_USUAL_LEVELS: dict[str, tuple[int, ...]] = {
    "System Notification": (DEBUG, INFO, INFO, INFO, INFO, WARN),
    "HTTP Status": (INFO, INFO, INFO, DEBUG, WARN),
    "User Action": (INFO, INFO, INFO, DEBUG),
    "Resource Usage": (INFO, INFO, WARN, WARN, ERROR, DEBUG),
    "Deprecation Warning": (WARN, WARN, WARN, INFO),
    "Security Alert": (WARN, WARN, INFO, ERROR, INFO),
    "Error": (ERROR, ERROR, WARN, WARN, INFO),
    "Workflow Error": (ERROR, ERROR, WARN, INFO),
    "Critical Error": (FATAL, ERROR, ERROR, FATAL, INFO),
}
_NAMES_ITSELF = re.compile(r"[A-Za-z][\w./-]*\[\d+\]: ")
_UPPER = ("DEBUG", "INFO", "WARN", "ERROR", "FATAL")
_PYTHON = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_LOWER = ("debug", "info", "warning", "error", "fatal")


@dataclass(frozen=True, slots=True)
class Origin:
    """Who prints: the program's name, and a class or tag of it."""

    program: str
    tag: str
    level: int


def usual_level(random: Random, label: str) -> int:
    """A level such as programs print for this kind of line; any level in `MISLEADING` of the cases."""
    if random.random() < MISLEADING:
        return random.randrange(5)
    return random.choice(_USUAL_LEVELS[label])


def _millis(random: Random, separator: str = ",") -> str:
    return f"{separator}{random.randrange(1000):03d}"


def _process(random: Random, origin: Origin, message: str, level: str = "") -> str:
    """`program[pid]: ` before a message, unless it names its process itself."""
    if _NAMES_ITSELF.match(message):
        return message
    pid = f"[{SHARED['pid'](random)}]" if random.random() < 0.8 else ""
    return f"{origin.program}{pid}{level}: {message}"


def _syslog(random: Random, origin: Origin, message: str) -> str:
    return f"{month_day(random)} {time(random)} {SHARED['host'](random)} {_process(random, origin, message)}"


def _iso(random: Random, origin: Origin, message: str) -> str:
    return f"{SHARED['iso'](random)} {SHARED['host'](random)} {_process(random, origin, message)}"


def _kernel(random: Random, _origin: Origin, message: str) -> str:
    uptime = f"[{random.uniform(0, 99999):12.6f}] " if random.random() < 0.7 else ""
    return f"{month_day(random)} {time(random)} {SHARED['host'](random)} kernel: {uptime}{message}"


def _log4j(random: Random, origin: Origin, message: str) -> str:
    level, thread = _UPPER[origin.level], SHARED["thread"](random)
    return random.choice(
        (
            f"{date(random)} {time(random)}{_millis(random)} {level} [{thread}] {origin.tag}: {message}",
            f"{date(random)} {time(random)}{_millis(random)} {level} {origin.tag}: {message}",
            f"{date(random)} {time(random)}{_millis(random)} [{thread}] {level:5} {origin.tag} - {message}",
            f"{date(random)[2:].replace('-', '/')} {time(random)} {level} {origin.tag}: {message}",
            f"{date(random)} {time(random)}{_millis(random)} - {level:5} "
            f"[{thread}:{origin.tag}@{random.randrange(900)}] - {message}",
        )
    )


def _python(random: Random, origin: Origin, message: str) -> str:
    level = _PYTHON[origin.level]
    return random.choice(
        (
            f"{date(random)} {time(random)}{_millis(random)} - {origin.tag} - {level} - {message}",
            f"{level}:{origin.tag}:{message}",
            f"[{date(random)} {time(random)}{_millis(random)}: {level}/MainProcess] {message}",
            f"{date(random)} {time(random)}{_millis(random, '.')} {SHARED['pid'](random)} "
            f"{level} {origin.tag} [-] {message}",
        )
    )


def _klog(random: Random, origin: Origin, message: str) -> str:
    letter = "IIWEF"[origin.level]
    where = origin.tag if origin.tag.endswith(".go") else f"{origin.tag}.go"
    moment = f"{random.randint(1, 12):02d}{random.randint(1, 28):02d} {time(random)}.{random.randrange(10**6):06d}"
    return f"{letter}{moment} {SHARED['pid'](random):>7} {where}:{random.randint(20, 2000)}] {message}"


def _json(random: Random, origin: Origin, message: str) -> str:
    level = random.choice((_UPPER, _LOWER))[origin.level]
    fields: dict[str, object] = {
        random.choice(("ts", "time", "timestamp", "@timestamp")): SHARED["iso"](random),
        random.choice(("level", "severity", "lvl")): level,
        random.choice(("logger", "component", "service", "caller")): origin.tag,
        random.choice(("msg", "message", "log")): message,
    }
    return json.dumps(fields, ensure_ascii=False)


def _logfmt(random: Random, origin: Origin, message: str) -> str:
    quoted = json.dumps(message, ensure_ascii=False)
    component = f" {random.choice(('logger', 'component', 'caller'))}={origin.tag}" if random.random() < 0.5 else ""
    moment = f"{random.choice(('time', 'ts', 't'))}={SHARED['iso'](random)}"
    return f"{moment} level={_LOWER[origin.level]}{component} msg={quoted}"


def _android(random: Random, origin: Origin, message: str) -> str:
    moment = f"{random.randint(1, 12):02d}-{random.randint(1, 28):02d} {time(random)}{_millis(random, '.')}"
    threads = f"{random.randint(100, 32000):5d} {random.randint(100, 32000):5d}"
    return f"{moment} {threads} {'DIWEF'[origin.level]} {origin.tag}: {message}"


def _bracket(random: Random, origin: Origin, message: str) -> str:
    level = random.choice((_UPPER, _LOWER, _PYTHON))[origin.level]
    return random.choice(
        (
            f"[{date(random)} {time(random)}] [{level}] {message}",
            f"[{date(random)} {time(random)}] [{level}] [{origin.tag}] {message}",
            f"[{date(random)}T{time(random)}{_millis(random)}][{level:5}][{origin.tag}] {message}",
            f"[{level}] {date(random)} {time(random)} {origin.tag} {message}",
        )
    )


def _cef(random: Random, origin: Origin, message: str) -> str:
    severity = (1, 3, 5, 7, 9)[origin.level]
    header = f"CEF:0|{origin.tag}|{origin.program}|{SHARED['version'](random)}|{random.randint(100, 9999)}|{message}"
    return f"{header}|{severity}|src={SHARED['ip'](random)} dst={SHARED['ip'](random)} dvchost={SHARED['host'](random)}"


def _macos(random: Random, origin: Origin, message: str) -> str:
    level = ("Debug", "Notice", "Warning", "Error", "Critical")[origin.level]
    shown = f" <{level}>" if random.random() < 0.5 else ""
    return f"{month_day(random)} {time(random)} {SHARED['host'](random)} {_process(random, origin, message, shown)}"


def _windows(random: Random, origin: Origin, message: str) -> str:
    level = ("Info", "Info", "Warning", "Error", "Error")[origin.level]
    return f"{date(random)} {time(random)}, {level:22}{origin.tag:7}{message}"


def _pipe(random: Random, origin: Origin, message: str) -> str:
    moment = f"{date(random).replace('-', '')}-{time(random)}:{random.randrange(1000)}"
    return f"{moment}|{origin.tag}|{SHARED['big'](random)}|{message}"


def _bare(_random: Random, _origin: Origin, message: str) -> str:
    return message


STYLES: dict[str, Callable[[Random, Origin, str], str]] = {
    "syslog": _syslog,
    "iso": _iso,
    "kernel": _kernel,
    "log4j": _log4j,
    "python": _python,
    "klog": _klog,
    "json": _json,
    "logfmt": _logfmt,
    "android": _android,
    "bracket": _bracket,
    "cef": _cef,
    "macos": _macos,
    "windows": _windows,
    "pipe": _pipe,
    "bare": _bare,
}
