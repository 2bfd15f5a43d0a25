"""Workflows as files: short YAML that people copy and change, or a name in a Python file.

    name: notes
    version: 1
    steps:
      - parse                              # an operator as it is
      - split: {size: 800}                 # with options
      - operator: ask                      # or with everything that a step may say
        name: questions
        options: {count: 3}
        model: openai:gpt-4.1-mini
    parameters:                            # named sets of options; two sets share the work of the steps they agree on
      dense: {split.size: 400, questions.count: 6}

A run keeps the steps it was started with: changing the file changes the next run.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from gristmill.engine.targets import find_object
from gristmill.errors import UsageError, WorkflowError
from gristmill.operators.operator import OVERRIDES, StepSpec
from gristmill.workflow import Workflow, operator_named

FILE_LIMIT = 1024 * 1024  # bytes; a workflow is a page of text
_FILE_WORDS = ("name", "version", "description", "steps", "parameters")
_STEP_WORDS = ("operator", "options", "after", *OVERRIDES)


def shipped() -> list[str]:
    """Names of the workflows that come with the package, sorted."""
    entries = resources.files("gristmill").joinpath("workflows").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def workflow_text(name: str) -> str:
    """The file of a shipped workflow, or of one on disk. Raises `UsageError` U301 (no such one), U303 (unreadable)."""
    if name.endswith((".yaml", ".yml")):
        try:
            with Path(name).open("rb") as file:
                content = file.read(FILE_LIMIT + 1)
            if len(content) > FILE_LIMIT:
                raise UsageError(f"{name} is larger than {FILE_LIMIT:,} bytes; that is no workflow", code="U303")
            return content.decode("utf-8")
        except OSError as error:
            raise UsageError(f"the workflow file {name} cannot be read: {error.strerror}", code="U303") from None
        except UnicodeDecodeError:
            raise UsageError(f"the workflow file {name} is not UTF-8 text", code="U303") from None
    if name not in shipped():
        near = difflib.get_close_matches(name, shipped(), 1)
        hint = f'did you mean "{near[0]}"? ' if near else ""
        raise UsageError(
            f'there is no workflow "{name}"', code="U301",
            hint=f"{hint}known: {', '.join(shipped())}; or a file: mine.yaml, or mine.py:NAME",
        )  # fmt: skip
    return resources.files("gristmill").joinpath("workflows", f"{name}.yaml").read_text("utf-8")


def find_workflow(name: str) -> Workflow:
    """A workflow by what a user writes: "qa", "mine.yaml", or "mine.py:NAME" (a `Workflow`, or a function for one).

    Raises `UsageError` U301 (no such workflow) or U303 (its file cannot be used), `WorkflowError` for steps that do not
    fit.
    """
    return _from_python(name) if ".py:" in name else read_workflow(workflow_text(name), name)[0]


def configured(name: str, assignments: Sequence[str] = (), parameters: str | None = None) -> Workflow:
    """A workflow with one of its sets of parameters, then options by text: "split.size=800" (values: JSON, or text).

    Raises what `find_workflow` raises; `UsageError` U302 for an assignment that does not say step, option and value,
    U304 for a set that the workflow does not have.
    """
    sets: dict[str, dict[str, Any]] = {}
    if ".py:" in name:
        flow = _from_python(name)
    else:
        flow, sets = read_workflow(workflow_text(name), name)
    if parameters is not None:
        if parameters not in sets:
            known = ", ".join(sets) or "it has none"
            raise UsageError(f'workflow "{flow.name}" has no parameters "{parameters}"', code="U304", hint=known)
        flow = assign(flow, sets[parameters])
    return assign(flow, dict(_read_assignment(text) for text in assignments))


def assign(flow: Workflow, values: Mapping[str, Any]) -> Workflow:
    """The workflow with options set: {"split.size": 800}. Raises `UsageError` U302 for a step that it does not have."""
    steps = {spec.name: spec for spec in flow.steps}
    for target, value in values.items():
        step, _, option = target.partition(".")
        if step not in steps or not option:
            raise UsageError(
                f"cannot set {target!r}: there is no such step", code="U302",
                hint=f"write STEP.OPTION, for example split.size; steps: {', '.join(steps)}",
            )  # fmt: skip
        steps[step] = steps[step].using(**{option: value})
    return Workflow(flow.name, list(steps.values()), flow.version)


def read_workflow(text: str, source: str = "workflow") -> tuple[Workflow, dict[str, dict[str, Any]]]:
    """The workflow of a YAML text, and its sets of parameters by name.

    Raises `UsageError` U303 for what is no such text (with the line), `WorkflowError` for steps that do not fit.
    """
    plain = _mapping(_parse(text, source), source, _FILE_WORDS)
    name, version, steps = plain.get("name"), plain.get("version", 1), plain.get("steps")
    if not isinstance(name, str) or not name or not isinstance(version, int) or isinstance(version, bool):
        raise UsageError(f"{source}: name is a text and version a whole number", code="U303")
    if not isinstance(steps, list) or not steps:
        raise UsageError(f"{source}: steps is a list of at least one step", code="U303", hint="steps: [parse, split]")
    flow = Workflow(name, [_step(entry, f"{source}: step {n}") for n, entry in enumerate(steps, 1)], version)
    sets = plain.get("parameters") or {}
    if not isinstance(sets, dict) or not all(isinstance(entry, dict) for entry in sets.values()):
        raise UsageError(
            f"{source}: parameters are named sets of options", code="U303", hint="small: {split.size: 400}"
        )
    for values in sets.values():
        assign(flow, values)  # a wrong name is found now, not when somebody chooses the set
    return flow, {str(key): values for key, values in sets.items()}


def write_workflow(flow: Workflow) -> str:
    """The workflow as YAML that `read_workflow` reads back to the same steps; only what differs from the defaults."""
    steps: list[Any] = []
    for spec in flow.steps:
        options = json.loads(json.dumps(dict(spec.options)))
        more = {word: getattr(spec, word) for word in OVERRIDES if getattr(spec, word) is not None}
        if more["name"] == spec.operator.name:
            del more["name"]
        if spec.follows is not None:
            more["after"] = list(spec.follows)
        name = spec.operator.name
        if more:
            steps.append({"operator": name, **more, **({"options": options} if options else {})})
        else:
            steps.append({name: options} if options else name)
    plain = {"name": flow.name, "version": flow.version, "steps": steps}
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _read_assignment(text: str) -> tuple[str, Any]:
    target, equals, value = text.partition("=")
    if not equals or "." not in target:
        raise UsageError(
            f"cannot read the assignment {text!r}", code="U302",
            hint="write STEP.OPTION=VALUE, for example split.size=800",
        )  # fmt: skip
    try:
        return target, json.loads(value)
    except ValueError:
        return target, value


def _parse(text: str, source: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise UsageError(f"{source}{where}: {problem}", code="U303") from None


def _mapping(plain: Any, where: str, words: Sequence[str]) -> dict[str, Any]:
    if not isinstance(plain, dict):
        raise UsageError(f"{where} has no names with values", code="U303", hint=f"it may say: {', '.join(words)}")
    for word in plain:
        if word not in words:
            near = difflib.get_close_matches(str(word), words, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"it may say: {', '.join(words)}"
            raise UsageError(f'{where} says "{word}", which means nothing here', code="U303", hint=hint)
    return plain


def _step(entry: Any, where: str) -> StepSpec:
    if isinstance(entry, dict) and "operator" not in entry and len(entry) == 1:
        (name, options), more = next(iter(entry.items())), {}
    elif isinstance(entry, dict):
        more = dict(_mapping(entry, where, _STEP_WORDS))
        name, options = more.pop("operator", None), more.pop("options", {})
    else:
        name, options, more = entry, {}, {}
    if not isinstance(name, str):
        raise UsageError(f"{where} names no operator", code="U303", hint="- parse, or - split: {size: 800}")
    try:
        spec = StepSpec(operator_named(name))
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}", code="U303", hint=error.hint) from None
    if not isinstance(options or {}, dict):
        raise UsageError(f"{where}: options are names with values", code="U303", hint="options: {size: 800}")
    clash = set(options or {}) & set(OVERRIDES)
    if clash:
        word = sorted(clash)[0]
        raise WorkflowError(f'{where}: "{word}" is no option', hint=f"write it beside options: {word}: ...")
    return spec.using(**(options or {}), **more)


def _from_python(target: str) -> Workflow:
    found = find_object(target)
    made = found() if callable(found) else found
    if not isinstance(made, Workflow):
        raise UsageError(
            f"{target} is no workflow", code="U303", hint="name a Workflow, or a function without parameters"
        )
    return made
