"""Names to components. A new input, stage or output is one file and one line here.

Components are imported when they are used: `logclf-daemon --help` must not load a model runtime.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True, slots=True)
class Kind:
    """Where a component and its options are, and which services its constructor takes by keyword.

    It cannot do without those it `needs`; those it `wants` are given where there are any.
    """

    module: str
    component: str
    options: str
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()

    def options_model(self) -> type[BaseModel]:
        """The pydantic model of its options."""
        model: type[BaseModel] = getattr(import_module(self.module), self.options)
        return model

    def create(self, options: BaseModel, name: str, services: Mapping[str, object]) -> Any:
        """The component. Its constructor checks the options.

        Raises:
            ConfigError: It can never work like this.
        """
        component = getattr(import_module(self.module), self.component)
        wanted = {want: services[want] for want in self.wants if want in services}
        return component(options, name, **{need: services[need] for need in self.needs}, **wanted)


INPUTS: dict[str, Kind] = {
    "files": Kind("logclf_daemon.inputs.files", "FilesInput", "FilesInputOptions", ("state", "once"), ("own_files",)),
    "forward": Kind("logclf_daemon.inputs.forward", "ForwardInput", "ForwardInputOptions", wants=("sockets",)),
    "journald": Kind("logclf_daemon.inputs.journald", "JournaldInput", "JournaldInputOptions", needs=("state", "once")),
    "stdin": Kind("logclf_daemon.inputs.stdin", "StdinInput", "StdinInputOptions"),
    "memory": Kind("logclf_daemon.inputs.memory", "MemoryInput", "MemoryInputOptions"),
}
OUTPUTS: dict[str, Kind] = {
    "forward": Kind("logclf_daemon.outputs.forward", "ForwardOutput", "ForwardOutputOptions"),
    "jsonl": Kind("logclf_daemon.outputs.jsonl", "JsonlOutput", "JsonlOutputOptions"),
    "memory": Kind("logclf_daemon.outputs.memory", "MemoryOutput", "MemoryOutputOptions"),
}
STAGES: dict[str, str] = {
    "rules": "logclf_daemon.stages.rules:RuleSet",
    "verdicts": "logclf_daemon.stages.verdicts:VerdictMemory",
    "model": "logclf_daemon.stages.model:ModelStage",
    "llm": "logclf_daemon.stages.llm:LlmStage",
}
"""The stages in the order in which they are asked. `build.py` puts them together: each needs other things."""

CORPUS = "logclf_training.known", "labelled_lines"
"""Lines with labels to try a new rule on. They come with the training package, which nothing here needs to work."""


def corpus_lines() -> list[tuple[str, str]] | None:
    """The lines of the corpus with their labels; None where the training package is not installed.

    Raises:
        BadInput: The installation is incomplete.
    """
    module, name = CORPUS
    try:
        lines: list[tuple[str, str]] = getattr(import_module(module), name)()
    except ModuleNotFoundError as error:
        if error.name not in (module, module.partition(".")[0]):
            raise
        return None
    return lines
