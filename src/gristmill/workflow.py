"""A workflow: a named, versioned list of steps. What it is made of decides what work it shares with other runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from gristmill.data.kinds import canonical_json, kind_of
from gristmill.engine.workflow import Step
from gristmill.errors import UsageError, WorkflowError
from gristmill.operators import answer, ask, dedup, parse, split
from gristmill.operators.operator import Operator, StepSpec, find_operator


@dataclass(frozen=True)
class Workflow:
    """`Workflow("handbook", [parse, split.using(size=800), ask])`: each step works on what the step before it made.

    Raises `WorkflowError` when two neighbours do not fit, a name stands twice, or the list is empty.
    """

    name: str
    steps: tuple[StepSpec, ...]
    version: int = 1

    def __init__(self, name: str, steps: Sequence[Operator | StepSpec], version: int = 1) -> None:
        named = []
        for entry in steps:
            if not isinstance(entry, Operator | StepSpec):
                raise WorkflowError(
                    f'workflow "{name}": {entry!r} is not an operator', hint="decorate the function with @operator(...)"
                )
            spec = StepSpec(operator=entry) if isinstance(entry, Operator) else entry
            spec.operator.check_options(spec.options)
            named.append(spec if spec.name else replace(spec, name=spec.operator.name))
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "steps", tuple(named))
        object.__setattr__(self, "version", version)
        self._check()

    def _check(self) -> None:
        if not self.steps:
            raise WorkflowError(f'workflow "{self.name}" has no steps')
        seen: set[str] = set()
        for spec in self.steps:
            if spec.name in seen:
                raise WorkflowError(
                    f'workflow "{self.name}": two steps are called "{spec.name}"',
                    hint='name one: op.using(name="second")',
                )
            seen.add(spec.name)
        for before, after in zip(self.steps, self.steps[1:], strict=False):
            made = [kind_of(cls) for cls in before.operator.output_types]
            if after.operator.input_kind not in made:
                raise WorkflowError(
                    f'workflow "{self.name}": step "{after.name}" takes a {after.operator.input_kind}, '
                    f'but "{before.name}" makes {" or ".join(made)}'
                )

    def with_model(self, model: str | None) -> Workflow:
        """The same workflow, with `model` in every step that uses one and names none."""
        steps = [
            replace(spec, model=model) if spec.operator.uses_model and spec.model is None else spec
            for spec in self.steps
        ]
        return Workflow(self.name, steps, self.version)

    def definition(self) -> dict[str, Any]:
        """Plain JSON values; `from_definition` makes the workflow again."""
        return {
            "name": self.name,
            "version": self.version,
            "steps": [
                {
                    "name": spec.name,
                    "operator": spec.operator.name,
                    "operator_version": spec.operator.version,
                    "options": spec.operator.check_options(spec.options),
                    "model": spec.model,
                    "pool": spec.pool or spec.operator.pool,
                    "attempts": spec.attempts or spec.operator.attempts,
                    "timeout": spec.timeout or spec.operator.timeout,
                }
                for spec in self.steps
            ],
        }

    def fingerprint(self) -> bytes:
        """sha256 (32 bytes) of the definition."""
        return hashlib.sha256(canonical_json(self.definition()).encode()).digest()

    def engine_steps(self) -> tuple[Step, ...]:
        """The steps as the engine sees them."""
        return tuple(
            Step(
                spec.name, spec.operator.name, spec.pool or spec.operator.pool, spec.operator.barrier,
                spec.attempts or spec.operator.attempts,
            )
            for spec in self.steps
        )  # fmt: skip

    @classmethod
    def from_definition(cls, definition: dict[str, Any] | str) -> Workflow:
        """A stored workflow. Raises `UsageError` when an operator is not known here."""
        plain = json.loads(definition) if isinstance(definition, str) else definition
        steps = [
            StepSpec(find_operator(step["operator"]), step["options"], step["name"], step["model"], step["pool"],
                     step["attempts"], step["timeout"])
            for step in plain["steps"]
        ]  # fmt: skip
        return cls(plain["name"], steps, plain["version"])


def qa_workflow() -> Workflow:
    """Documents to questions and answers: parse, split, ask, answer, and mark near-duplicates over the whole run."""
    return Workflow("qa", [parse, split, ask, answer, dedup])


WORKFLOWS = {"qa": qa_workflow}


def find_workflow(name: str) -> Workflow:
    """A built-in workflow by name. Raises `UsageError` U301."""
    if name not in WORKFLOWS:
        raise UsageError(f'there is no workflow "{name}"', code="U301", hint=f"known: {', '.join(WORKFLOWS)}")
    return WORKFLOWS[name]()


def configured(name: str, assignments: Sequence[str]) -> Workflow:
    """A built-in workflow with options set by text: "split.size=800". Values are JSON, or plain text.

    Raises `UsageError` U302 for an assignment that does not say step, option and value, `WorkflowError` for an option
    that the step does not have.
    """
    flow = find_workflow(name)
    steps = {spec.name: spec for spec in flow.steps}
    for text in assignments:
        target, equals, value = text.partition("=")
        step, dot, option = target.partition(".")
        if not equals or not dot or step not in steps:
            raise UsageError(
                f"cannot read the assignment {text!r}", code="U302",
                hint=f"write STEP.OPTION=VALUE, for example split.size=800; steps: {', '.join(steps)}",
            )  # fmt: skip
        try:
            plain = json.loads(value)
        except ValueError:
            plain = value
        steps[step] = steps[step].using(**{option: plain})
    return Workflow(flow.name, list(steps.values()), flow.version)
