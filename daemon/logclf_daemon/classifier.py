"""The Python API: the cascade of the daemon for lists of lines and for data frames."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from logclf_daemon.cascade import Cascade
from logclf_daemon.errors import BadInput, ConfigError
from logclf_daemon.generation import Answer
from logclf_daemon.tables.labelling import answers_of
from logclf_daemon.tables.rows import EXPLAINED, TableOptions, extra_of

if TYPE_CHECKING:
    from logclf_daemon.build import Parts
    from logclf_daemon.config import Config

Line = str | bytes | None
CLOSED = "the classifier is closed"


class _Frame(Protocol):
    columns: Any

    def __getitem__(self, name: str, /) -> Any: ...


Frame = TypeVar("Frame", bound=_Frame)
First = TypeVar("First")
Second = TypeVar("Second")
Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class LineVerdict:
    """What the cascade says of a line.

    `label` is one of the labels or `Unclassified`; `confidence` is between 0 and 1, 1 for a rule, None where an LLM's
    server tells no probabilities; `stage` is `rules`, `model`, `llm` or `none`; `rule` is the rule's id; `reason` says
    why there is no label; `template` is the same for lines that differ only in numbers and identifiers.
    """

    label: str
    confidence: float | None
    stage: str
    rule: str | None
    reason: str | None
    template: str


class Classifier:
    """Classifies lines as the daemon and `logclf-daemon csv` do: same rules, model, LLM and labels.

    Safe to use from several threads: the work is done one call after the other in a thread of its own. May be used
    where an event loop runs; `classify` blocks it for as long as it takes, `classify_async` does not.
    """

    def __init__(self, cascade: Cascade, parts: Parts | None = None) -> None:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="classifier", daemon=True)
        thread.start()
        self._cascade = cascade
        self._loop = loop
        self._process = os.getpid()
        self._end = weakref.finalize(self, _end, self._process, loop, thread, cascade, parts)

    @classmethod
    def load(
        cls,
        config: str | os.PathLike[str] | Config | None = None,
        *,
        rules: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] = (),
        builtin_rules: bool | None = None,
        model: bool | None = None,
        llm: bool | None = None,
    ) -> Classifier:
        """Load rules and model: about a second.

        `config` is a configuration file; without one the defaults are used. `rules` are rule files or folders.
        `llm` False never asks Ollama, None asks it if it answers.

        Raises:
            ConfigError: Something cannot be used; the text says where, what and what to do.
        """
        from logclf_daemon.build import build_parts, cascade_of  # heavy: not before it is needed
        from logclf_daemon.config import CascadeFlags, Config, load_config, overridden

        if not isinstance(config, Config):
            config = load_config(Path(config)) if config is not None else Config()
        rules_paths = tuple(Path(path) for path in ([rules] if isinstance(rules, (str, os.PathLike)) else rules))
        flags = CascadeFlags(rules_paths, builtin_rules, llm=llm, model=model)
        config = overridden(config, flags, said_by="Classifier.load")
        parts = build_parts(config, _state(config))
        return cls(cascade_of(parts, patient=True), parts)

    def classify(self, lines: Iterable[Line], source: str = "") -> list[LineVerdict]:
        """The verdict of each line, in order. `source` is the tag or file they come from; None is no line.

        Raises:
            TypeError: `lines` is one line, not several.
            ValueError: The classifier was closed.
        """
        return self._begun(self._classify, _messages(lines), source).result()

    async def classify_async(self, lines: Iterable[Line], source: str = "") -> list[LineVerdict]:
        """Like `classify`, without blocking the caller's event loop."""
        return await asyncio.wrap_future(self._begun(self._classify, _messages(lines), source))

    def classify_frame(
        self,
        frame: Frame,
        *,
        source_column: str | None = "source",
        message_column: str = "log_message",
        label_column: str = "target_label",
        explain: bool = False,
    ) -> Frame:
        """A copy of a pandas or polars frame with the label of each row (`explain`: and confidence, stage, rule).

        Raises:
            BadInput: A column is missing, or there already.
        """
        options = TableOptions(label_column=label_column, explain=explain)
        for column in (message_column, *([source_column] if source_column is not None else [])):
            if column not in frame.columns:
                raise BadInput(f"no column {column!r} (there are: {', '.join(map(repr, frame.columns))})")
            if list(frame.columns).count(column) > 1:
                raise BadInput(f"there are several columns {column!r}; rename all but one")
        if explain and label_column in EXPLAINED:
            raise BadInput(f"explain adds a column {label_column!r} of its own; choose another label_column")
        messages = _messages(frame[message_column].to_list())
        if source_column is None:
            sources = [b""] * len(messages)
        else:
            sources = [_bytes(source) or b"" for source in frame[source_column].to_list()]
        answers = self._begun(self._answers, sources, messages).result()
        cells = {answer: extra_of(answer, options) for answer in set(answers)}
        names = list(next(iter(cells.values()), dict.fromkeys([label_column])))
        if taken := [name for name in names if name in frame.columns]:
            raise BadInput(f"there is a column {taken[0]!r} already; choose another label_column or rename it")
        return cast(
            "Frame", _with_columns(frame, {name: [cells[answer][name] for answer in answers] for name in names})
        )

    def close(self) -> None:
        """Let go of model, threads and files. Calls after it fail."""
        self._end()

    def __enter__(self) -> Classifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _begun(
        self, work: Callable[[First, Second], Coroutine[Any, Any, Found]], first: First, second: Second
    ) -> Future[Found]:
        if not self._end.alive:
            raise ValueError(CLOSED)
        if os.getpid() != self._process:
            raise RuntimeError("this classifier was loaded before a fork; load one in each process")
        return asyncio.run_coroutine_threadsafe(_unless_closed(work(first, second)), self._loop)

    async def _classify(self, messages: Sequence[bytes | None], source: str) -> list[LineVerdict]:
        answers = await self._answers([source.encode("utf-8", "replace")] * len(messages), messages)
        verdicts = {answer: _verdict(answer) for answer in set(answers)}
        return [verdicts[answer] for answer in answers]

    async def _answers(self, sources: Sequence[bytes], messages: Sequence[bytes | None]) -> list[Answer]:
        answers = await answers_of(self._cascade, sources, messages)
        return [answer for answer in answers if answer is not None]  # none is left out


async def _unless_closed(work: Coroutine[Any, Any, Found]) -> Found:
    try:
        return await work
    except asyncio.CancelledError:
        raise ValueError(CLOSED) from None


def _messages(lines: Iterable[object]) -> list[bytes | None]:
    """Each line as the cascade is asked for it. Read here, in the caller's thread: a generator may ask us, too."""
    if isinstance(lines, (str, bytes)):
        raise TypeError("classify takes a list of lines; put the line in brackets")
    return [_bytes(line) or None for line in lines]


def _bytes(line: object) -> bytes | None:
    if isinstance(line, bytes):
        return line
    if line is None or _is_missing(line):
        return None
    text = str(line)
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a pair, which no bytes stand for
        return text.encode("utf-8", "replace")


def _is_missing(cell: object) -> bool:
    """Whether it is what data frames have where nothing is: NaN is not even itself, and pandas.NA does not say."""
    try:
        return bool(cell != cell)
    except TypeError:
        return True
    except ValueError:  # an array
        return False


def _verdict(answer: Answer) -> LineVerdict:
    verdict = answer.verdict
    return LineVerdict(verdict.label, verdict.rounded, verdict.stage, verdict.rule, verdict.reason, answer.template)


def _with_columns(frame: Any, columns: dict[str, list[object]]) -> Any:
    if type(frame).__module__.partition(".")[0] == "polars":
        import polars

        return frame.with_columns([polars.Series(name, values) for name, values in columns.items()])
    return frame.assign(**columns)


async def _stop(loop: asyncio.AbstractEventLoop) -> None:
    """End the calls under way, so that nobody waits for ever, then the loop."""
    under_way = asyncio.all_tasks() - {asyncio.current_task()}
    for task in under_way:
        task.cancel()
    await asyncio.gather(*under_way, return_exceptions=True)
    loop.call_soon(loop.stop)


def _state(config: Config) -> Path | None:
    from logclf_daemon.config import state_directory

    try:
        return state_directory(config.state)
    except ConfigError:
        return None


def _end(
    process: int, loop: asyncio.AbstractEventLoop, thread: threading.Thread, cascade: Cascade, parts: Parts | None
) -> None:
    if os.getpid() != process:
        return  # after a fork all of it belongs to the parent
    asyncio.run_coroutine_threadsafe(_stop(loop), loop)
    thread.join(10)
    if not thread.is_alive():
        loop.close()
    if parts is not None:
        from logclf_daemon.build import close

        close(cascade, parts)
    else:
        cascade.close()
