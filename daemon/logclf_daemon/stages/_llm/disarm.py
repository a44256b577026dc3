"""What attackers write into log lines, taken out of what an LLM reads.

Measured on a real server with eight attack lines: told to ignore instructions, a model still obeys six; with quoted
text, tags and label names masked it obeys none. Quoted text is where strangers' words stand: user agents, names,
queries. The values of a structured record's own fields (its message, its level) stay, since they are the line.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

MAX_CHARS = 800

_OWN_FIELDS = (
    "msg|message|level|lvl|severity|event|error|err|reason|status|state|type|code|logger|component|module|unit|service"
    "|program|process|op|operation|action|result|exception|class|kind|category|job|task"
)
# Quoted text, also where its end is missing, with the name of the field it is the value of.
_QUOTED = re.compile(
    r"""(?P<key>["']?[\w.@-]{1,64}["']?\s{0,3}[=:]\s{0,3})?
    (?:"(?P<double>(?:\\.|[^"\\])*)(?:"|\\?$)
      |(?<!\w)'(?=\S)(?P<single>(?:\\.|'(?=\w)|[^'\\])*)(?:'|\\?$)
      |`(?P<back>[^`]*)(?:`|$)
      |[\u201c\u201e\u00ab\u2018](?P<curly>[^\u201d\u00bb\u2019]*)(?:[\u201d\u00bb\u2019]|$))""",
    re.VERBOSE | re.DOTALL,
)
_WITHIN = re.compile(r"""\\?["'`].*?(?:["'`]|$)""", re.DOTALL)
_OWN = re.compile(rf"(?:.*[.@_-])?(?:{_OWN_FIELDS})", re.IGNORECASE)
_REQUEST = re.compile(r"(GET|POST|PUT|HEAD|DELETE|PATCH|OPTIONS|CONNECT)\s\S{0,2000}\s(HTTP)/[0-9.]{1,3}")
_KEY = re.compile(r"[\w.@-]{1,64}")
_TAG = re.compile(r"<[^<>\s][^<>]{0,200}>|\[/?[A-Z_]{3,20}\]|\{[{%][^{}]{0,200}[%}]\}")

_MARKUP = re.compile(r"[<>\[\]{}|`\"'#*\\\u2018-\u201f\u00ab\u00bb]+|[-=_~]{3,}")
_CONTROL = re.compile(
    r"\b(?:(?:(?:im|message)_(?:start|end)|(?:start|end)_(?:of_turn|header_id)|(?:begin|end)_of_(?:text|sentence)"
    r"|endoftext|eo[ts]_id|eot|INST|SYS)\b"
    r"|(?:system|assistant|user|human|tool|developer|instructions?|response)\s{0,2}:)",
    re.IGNORECASE,
)
# A level says much of a line, and is also the name of a label.
_SHORT = {"error": "err", "warning": "warn", "critical": "crit", "information": "info", "emergency": "emerg"}


def unquoted(line: bytes) -> bytes:
    """The line without quoted text and tags; requests keep method and protocol, records their own fields."""
    text = line.decode("utf-8", "replace")
    return _TAG.sub(" ", _QUOTED.sub(_kept_of, text)).encode()


def _kept_of(found: re.Match[str]) -> str:
    key = found["key"] or ""
    text = found[found.lastgroup or "key"]
    if request := _REQUEST.match(text):
        return f"{key} {request[1]} {request[2]} "
    if found.string[found.end() : found.end() + 4].lstrip().startswith((":", "=")) and _KEY.fullmatch(text):
        return f"{key} {text}"  # the name of a field
    if _OWN.fullmatch(key.strip("\"' \t=:")):
        return f"{key} {_WITHIN.sub(' ', text)} "
    return f"{key} "


class Disarm:
    """Text without control characters, chat markup and label names, at most `MAX_CHARS` of it."""

    def __init__(self, labels: Sequence[str]) -> None:
        # Also Security_Alert and security-alert.
        names = (r"[\W_]{0,3}".join(map(re.escape, re.split(r"[\W_]+", label))) for label in labels)
        self._labels = re.compile("|".join(sorted(names, key=len, reverse=True)), re.IGNORECASE)

    def __call__(self, text: str) -> str:
        text = unicodedata.normalize("NFKC", text[: 4 * MAX_CHARS])
        # Marks, joiners and direction marks hide words from a pattern and not from a model.
        text = "".join(letter for letter in text if unicodedata.category(letter) not in ("Cf", "Mn", "Me"))
        text = "".join(letter if letter.isprintable() else " " for letter in text).replace("\ufffd", " ")
        text = _CONTROL.sub(" ", _MARKUP.sub(" ", _TAG.sub(" ", text)))
        text = " ".join(text.split())
        text = self._labels.sub(self._other_word, text)[:MAX_CHARS].strip()
        return text if any(map(str.isalpha, text)) else ""

    @staticmethod
    def _other_word(found: re.Match[str]) -> str:
        return _SHORT.get(found[0].lower(), "…")
