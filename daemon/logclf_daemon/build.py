"""From a configuration to the things that run: the one place where everything is put together."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from logclf_daemon.activation import PassedSockets
from logclf_daemon.cascade import Cascade
from logclf_daemon.config import Config, located, saved_rules, state_directory
from logclf_daemon.enrichment import Enrichment
from logclf_daemon.errors import ConfigError, ServiceUnavailable, StageError
from logclf_daemon.events import Bug, OwnLabels, StateTrouble, count_from_zero, emit, model_llm_answers
from logclf_daemon.generation import Generation
from logclf_daemon.inputs._forward.sockets import split_address
from logclf_daemon.inputs.files import FilesInput
from logclf_daemon.inputs.forward import ForwardInputOptions
from logclf_daemon.notify import notify_step
from logclf_daemon.outputs.forward import ForwardOutputOptions, targets_of
from logclf_daemon.outputs.jsonl import JsonlOutput, JsonlOutputOptions
from logclf_daemon.pipeline import OutputSlot, Pipeline
from logclf_daemon.protocols import Input, Stage
from logclf_daemon.record import Question, Verdict
from logclf_daemon.registry import INPUTS, OUTPUTS
from logclf_daemon.resources import cache_directory, folder
from logclf_daemon.stages.llm import LlmStage
from logclf_daemon.stages.model import ModelStage
from logclf_daemon.stages.rules import RuleSet, RulesOptions, load_rules
from logclf_daemon.stages.verdicts import FILE_NAME, VerdictMemory
from logclf_daemon.state import StateDb
from logclf_daemon.taxonomy import DEFAULT_LABELS
from logclf_daemon.template import canonical
from logclf_daemon.waiting import WaitingRoom


@dataclass(slots=True)
class Parts:
    """The parts a generation is made of; those whose settings did not change are used again."""

    config: Config
    rules: RuleSet
    model: ModelStage | None
    memory: VerdictMemory | None
    llm: LlmStage | None

    def close(self, kept: Parts | None = None) -> None:
        """Close what the other parts do not use."""
        for name in ("memory", "llm"):
            part = getattr(self, name)
            if part is not None and (kept is None or getattr(kept, name) is not part):
                part.close()


def build_parts(config: Config, state: Path | None, before: Parts | None = None, *, soon: bool = False) -> Parts:
    """Load rules, model, memory and LLM client. `state` None: nothing is remembered.

    `soon` is for those who `settle` them afterwards.

    Raises:
        ConfigError: Something cannot be used; nothing was changed.
    """
    taxonomy = config.taxonomy
    notify_step("compiling the rules")
    with ThreadPoolExecutor(1, "model") as beside:  # both work mostly outside of Python
        loading = beside.submit(model_of, config, before)
        with located(config):
            in_force = rules_in_force(config, state)
            rules = load_rules(in_force, taxonomy, folder("rules"), cache_directory(), soon=soon)
        if config.model.enabled:
            notify_step("loading the model")
    with located(config):
        model = loading.result()
    llm: LlmStage | None = None
    memory: VerdictMemory | None = None
    same = before is not None and before.config.llm == config.llm and before.config.labels == config.labels
    same = same and not config.llm.examples  # they are those of the rules
    if same and before is not None:
        llm, memory = before.llm, before.memory
    elif config.llm.enabled is not False:
        with located(config):
            llm = LlmStage(config.llm, taxonomy, labelled=_labelled(rules) if config.llm.examples else ())
    if memory is None and state is not None:
        memory = memory_of(config, llm, state)
    if memory is not None:
        memory.head = model.digest[:16] if model is not None else ""
    return Parts(config, rules, model, memory, llm)


def settle(parts: Parts) -> None:
    """What `soon` put off. For a thread beside; if it fails the rules go on as they are, only slower."""
    try:
        parts.rules.join()
    except ValueError as error:
        emit(Bug(where="rules", error=str(error)))


def unused_by_own_labels(parts: Parts) -> OwnLabels | None:
    """What is switched on and does not answer, since it knows other labels than the user's own; None if all does."""
    config = parts.config
    if not not_for_own_labels(config):
        return None
    no_model = config.model.enabled and parts.model is None
    if not (no_model or config.rules.builtin):
        return None
    shipped = sum(rule.shipped for rule in parts.rules.rules) if config.rules.builtin else None
    return OwnLabels(shipped_rules=shipped, shipped_model="unused" if no_model else None)


def not_for_own_labels(config: Config) -> bool:
    """Whether labels of the user's own left out some that the shipped rules and model answer with."""
    return any(label not in config.taxonomy for label in DEFAULT_LABELS)


def tell_unused(parts: Parts) -> None:
    """One event, or every line is Unclassified and nothing says why."""
    if (event := unused_by_own_labels(parts)) is not None:
        emit(event)


def rules_in_force(config: Config, state: Path | None) -> RulesOptions:
    """The rules of the configuration, and those saved in the state folder."""
    if state is None or not saved_rules(state).is_dir() or saved_rules(state) in config.rules.paths:
        return config.rules
    return config.rules.model_copy(update={"paths": (*config.rules.paths, saved_rules(state))})


def model_of(config: Config, before: Parts | None = None) -> ModelStage | None:
    """The model in use if its folder still holds the same files, else a new one; None where there shall be none."""
    if not config.model.enabled:
        return None
    model = before.model if before is not None and before.config.model == config.model else None
    if model is None or not model.unchanged():
        model = ModelStage(config.model)
    unknown = [label for label in model.labels if label not in config.taxonomy]
    if not unknown:
        return model
    if config.model.path != "builtin":
        raise ConfigError(
            f"{config.model.path} answers {unknown[0]!r}, which is not a label; add it to labels, or use another model",
            ("model", "path"),
        )
    return None  # the user's own labels: the shipped model does not know them


def _labelled(rules: RuleSet) -> list[tuple[str, str]]:
    """The examples of the rules as the LLM sees lines."""
    return [(canonical(text.encode()), rule.options.label) for rule in rules.rules for text in rule.options.examples]


def memory_of(config: Config, llm: LlmStage | None, state: Path) -> VerdictMemory | None:
    """What was answered before; None, and one event, where it cannot be opened: the daemon runs without it."""
    try:
        return open_memory(config, llm, state)
    except ServiceUnavailable as error:
        emit(StateTrouble(what="cache_unavailable", path=str(state / FILE_NAME), detail=str(error)))
        return None


def open_memory(config: Config, llm: LlmStage | None, state: Path) -> VerdictMemory:
    """The verdict memory in a state folder. Without an LLM only people's words count.

    Raises:
        ServiceUnavailable: It cannot be opened now.
    """
    return VerdictMemory(
        state / FILE_NAME,
        llm.key if llm else "",
        model=llm.identity if llm else str,
        people_only=llm is None,
        taxonomy=config.taxonomy,
        max_age_secs=config.llm.remember_days * 86400,
        max_verdicts=config.llm.max_remembered,
    )


def reviews(parts: Parts) -> int | None:
    """The number of changes people made to remembered verdicts; None while the file cannot be read."""
    try:
        return parts.memory.changes() if parts.memory is not None else None
    except ServiceUnavailable:
        return None


def generation_of(parts: Parts, number: int) -> Generation:
    """One immutable set, ready to be swapped in."""
    stages: Sequence[Stage] = [stage for stage in (parts.memory, parts.model) if stage is not None]
    return Generation(number, parts.rules, stages, parts.config.taxonomy)


def waiting_room(parts: Parts, *, patient: bool = False, budget: int | None = None) -> WaitingRoom | None:
    """The queue before the LLM; a `patient` one (csv) waits for every answer, `budget` bounds the questions in all."""
    if parts.llm is None:
        return None
    options = parts.config.llm
    return WaitingRoom(
        parts.llm,
        wait_secs=None if patient else options.wait_secs,
        max_waiting=10**9 if patient else options.max_waiting,
        max_questions=10**9 if patient else options.max_questions,
        concurrency=options.concurrency,
        budget=budget,
        renews=not patient,
        remember=partial(_llm_answered, parts),
    )


def _llm_answered(parts: Parts, question: Question, verdict: Verdict) -> None:
    """Remember what the LLM said, and count whether the model would have guessed the same: a sign of drift."""
    if parts.memory is not None:
        parts.memory.remember(question, verdict)
    if parts.model is None:
        return
    with suppress(StageError):
        guesses = parts.model.probabilities(question.text)
        model_llm_answers.labels("yes" if max(guesses, key=guesses.__getitem__) == verdict.label else "no").inc()


def cascade_of(parts: Parts, *, patient: bool = False, budget: int | None = None) -> Cascade:
    """The cascade that `run`, `csv`, `explain` and HTTP share."""
    record = parts.config.record
    return Cascade(
        generation_of(parts, 1),
        waiting=waiting_room(parts, patient=patient, budget=budget),
        message_keys=record.message_keys,
        field_name=record.field,
        flatten=record.flatten,
        enrichment=Enrichment(record.enrich, record.meanings) if record.enrich else None,
        local_wait_secs=float("inf") if patient else parts.config.model.wait_secs,
    )


def close(cascade: Cascade, parts: Parts) -> None:
    """End what `build_parts` and `cascade_of` made; what was used of the memory is written down."""
    if cascade.waiting is not None:
        cascade.waiting.close()
    cascade.close()
    cascade.traffic.settle()
    if parts.memory is not None and (seen := cascade.take_seen()):
        parts.memory.saw(seen)
    parts.close()


def build_pipeline(
    config: Config,
    cascade: Cascade,
    state: StateDb | None,
    *,
    once: bool = False,
    sockets: PassedSockets | None = None,
) -> Pipeline:
    """Inputs and outputs around a cascade.

    Raises:
        ConfigError: An input or output can never work as configured.
    """
    services = {"state": state, "once": once, "sockets": sockets, "own_files": _own_files(config)}
    inputs: list[Input] = []
    for at, options in enumerate(config.inputs):
        kind = options.type  # type: ignore[attr-defined]  # every member of the union has it
        with located(config, "inputs", at):
            inputs.append(INPUTS[kind].create(options, f"{kind}.{at}", services))
    if state is not None:
        _keep_positions(inputs, state)
    refuse_circles(config)
    outputs: list[OutputSlot] = []
    for at, options in enumerate(config.outputs):
        kind = options.type  # type: ignore[attr-defined]
        with located(config, "outputs", at):
            output = OUTPUTS[kind].create(options, f"{kind}.{at}", services)
        outputs.append(OutputSlot(output, required=getattr(options, "required", True)))
    kinds = {source.name: source.name.partition(".")[0] for source in inputs}
    count_from_zero(kinds, [slot.output.name for slot in outputs])
    return Pipeline(
        inputs,
        cascade,
        outputs,
        max_in_flight=config.delivery.max_in_flight,
        drain_secs=config.delivery.drain_secs,
        dead_letter=dead_letter_of(config),
        parts=state,
    )


def refuse_circles(config: Config) -> None:
    """What goes out must not come in again.

    Raises:
        ConfigError: A forward output leads to a forward input of this very daemon, and nothing would ever leave it.
    """
    ours = {split_address(options.listen) for options in config.inputs if isinstance(options, ForwardInputOptions)}
    for at, options in enumerate(config.outputs):
        if not isinstance(options, ForwardOutputOptions):
            continue
        for target in targets_of(options.address):
            host, port = (target.path, 0) if target.path is not None else (target.host, target.port)
            if (host, port) in ours or ("127.0.0.1" if host == "localhost" else host, port) in ours:
                with located(config, "outputs", at):
                    raise ConfigError(f"{target} is where this daemon itself listens; send elsewhere", ("address",))


def _own_files(config: Config) -> list[str]:
    """The files the daemon will write, standard output among them if it leads to one."""
    paths = [options.path for options in config.outputs if isinstance(options, JsonlOutputOptions)]
    if config.delivery.dead_letter is not None:
        paths.append(str(config.delivery.dead_letter))
    return ["/proc/self/fd/1" if path == "-" else path for path in paths]


def _keep_positions(inputs: Sequence[Input], state: StateDb) -> None:
    """What an input has read is known also where its place in the configuration, and so its name, is another."""
    state.move_files({source.name: source.matches for source in inputs if isinstance(source, FilesInput)})
    journals = [source.name for source in inputs if source.name.startswith("journald.")]
    if len(journals) == 1:
        state.move_journal(journals[0])


def dead_letter_of(config: Config) -> JsonlOutput | None:
    """Where records go that an output refused for good, if that is wanted.

    Raises:
        ConfigError: It can never be a file.
    """
    if config.delivery.dead_letter is None:
        return None
    options = JsonlOutputOptions(type="jsonl", path=str(config.delivery.dead_letter))
    with located(config, "delivery"):
        return JsonlOutput(options, "dead_letter", key="dead_letter")


def open_state(config: Config) -> tuple[Path, StateDb | None]:
    """The state folder, and `state.db` where an input keeps positions."""
    with located(config):
        directory = state_directory(config.state)
    keeps = any("state" in INPUTS[options.type].needs for options in config.inputs)  # type: ignore[attr-defined]
    return directory, StateDb.open(directory, on_lost_state=config.state.on_lost_state) if keeps else None
