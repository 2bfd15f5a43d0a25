"""A workflow: a named, versioned graph of steps. What it is made of decides what work it shares with other runs."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from gristmill.data.kinds import canonical_json, kind_of
from gristmill.engine.workflow import INPUTS, Step, lines_of
from gristmill.errors import WorkflowError
from gristmill.operators.operator import Operator, StepSpec, find_operator


@dataclass(frozen=True)
class Workflow:
    """`Workflow("handbook", [parse, split.using(size=800), ask])`: each step works on what the step before it made.

    `summarise.after("split")` follows another step instead, `.after("a", "b")` takes what both make, and "inputs"
    stands for the inputs of the run. `steps` are sorted so that each comes after those it follows; `edges` are the
    places of those. Raises `WorkflowError` when two steps do not fit, a name stands twice or is unknown, or steps
    follow each other in a circle.
    """

    name: str
    steps: tuple[StepSpec, ...]
    version: int = 1
    edges: tuple[tuple[int, ...], ...] = field(default=(), compare=False)
    reuse: bool = True

    def __init__(
        self, name: str, steps: Sequence[Operator | StepSpec], version: int = 1, *, reuse: bool = True
    ) -> None:  # fmt: skip
        named = []
        for entry in steps:
            if not isinstance(entry, Operator | StepSpec):
                raise WorkflowError(
                    f'workflow "{name}": {entry!r} is not an operator', hint="decorate the function with @operator(...)"
                )
            spec = StepSpec(operator=entry) if isinstance(entry, Operator) else entry
            spec.operator.check_options(spec.options)
            named.append(spec if spec.name else replace(spec, name=spec.operator.name))
        if not named:
            raise WorkflowError(f'workflow "{name}" has no steps')
        in_order, edges = arrange(name, named)
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "steps", in_order)
        object.__setattr__(self, "version", version)
        object.__setattr__(self, "edges", edges)
        object.__setattr__(self, "reuse", reuse)
        self._check()

    def _check(self) -> None:
        _, upstream = lines_of(self.engine_steps())
        for place, spec in enumerate(self.steps):
            self._check_barrier(spec, [self.steps[number] for number in upstream[place]], self.edges[place])
            for number in self.edges[place]:
                made = ["source"] if number == INPUTS else kinds_of(self.steps[number])
                if number == INPUTS and place == 0:
                    continue  # whoever starts the run decides what its inputs are
                if not set(spec.operator.input_kinds) & set(made):
                    wanted = " or ".join(spec.operator.input_kinds)
                    before = "the inputs are" if number == INPUTS else f'"{self.steps[number].name}" makes'
                    raise WorkflowError(
                        f'workflow "{self.name}": step "{spec.name}" takes a {wanted}, but {before} {" or ".join(made)}'
                    )

    def _check_barrier(self, spec: StepSpec, before: list[StepSpec], edges: tuple[int, ...]) -> None:
        where = f'workflow "{self.name}": step "{spec.name}"'
        if spec.per not in (None, "item"):
            raise WorkflowError(f"{where}: per={spec.per!r} is not known", hint='per="item", or nothing: the whole run')
        if spec.per and not spec.operator.barrier:
            raise WorkflowError(
                f"{where} takes one record at a time, so it cannot gather those of an item",
                hint="@operator(..., barrier=True) and a list as its first parameter",
            )
        if spec.operator.barrier and INPUTS in edges:
            raise WorkflowError(f"{where} gathers what other steps make; it cannot stand before all of them")
        whole = next((other.name for other in before if gathers_run(other)), None)
        if spec.per and whole is not None:
            raise WorkflowError(f'{where} gathers per item, but what "{whole}" makes belongs to the whole run')

    def followers(self, place: int) -> list[tuple[int, StepSpec]]:
        """The steps that take each record of this one, with their places; barriers left out."""
        return [
            (number, self.steps[number])
            for number, edges in enumerate(self.edges)
            if place in edges and not self.steps[number].operator.barrier
        ]

    @cached_property
    def item_barriers(self) -> list[frozenset[int]]:
        """For each barrier per item the places of all steps before it."""
        _, upstream = lines_of(self.engine_steps())
        return [frozenset(upstream[place]) for place, spec in enumerate(self.steps) if spec.per]

    def with_model(self, model: str | None) -> Workflow:
        """The same workflow, with `model` in every step that uses one and names none."""
        steps = [
            replace(spec, model=model) if spec.operator.uses_model and spec.model is None else spec
            for spec in self.steps
        ]
        return Workflow(self.name, steps, self.version, reuse=self.reuse)

    def apart(self) -> Workflow:
        """The same workflow for runs that use no work and no answers of other runs."""
        return Workflow(self.name, self.steps, self.version, reuse=False)

    def definition(self) -> dict[str, Any]:
        """Plain JSON values; `from_definition` makes the workflow again."""
        return {
            "name": self.name,
            "version": self.version,
            **({} if self.reuse else {"reuse": False}),
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
                    # Only where they say something: what is older keeps its fingerprint.
                    **({"after": list(spec.follows)} if spec.follows is not None else {}),
                    **({"per": spec.per} if spec.per else {}),
                    **({"memory": spec.memory} if spec.memory is not None else {}),
                    **({"cpu": spec.cpu} if spec.cpu is not None else {}),
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
                spec.attempts or spec.operator.attempts, after=edges, per_item=spec.per == "item",
                lock=spec.operator.lock, lock_slots=spec.operator.lock_slots,
            )
            for spec, edges in zip(self.steps, self.edges, strict=True)
        )  # fmt: skip

    @classmethod
    def from_definition(cls, definition: dict[str, Any] | str) -> Workflow:
        """A stored workflow. Raises `UsageError` when an operator is not known here."""
        plain = json.loads(definition) if isinstance(definition, str) else definition
        steps = [
            StepSpec(operator_named(step["operator"]), step["options"], step["name"], step["model"], step["pool"],
                     step["attempts"], step["timeout"], step.get("memory"), step.get("cpu"),
                     tuple(step["after"]) if "after" in step else None, step.get("per"))
            for step in plain["steps"]
        ]  # fmt: skip
        return cls(plain["name"], steps, plain["version"], reuse=plain.get("reuse", True))


def operator_named(name: str) -> Operator:
    """An operator, or an action of a pack ("core.http_get"). Raises `UsageError`."""
    if "." not in name:
        return find_operator(name)
    from gristmill.packs.actions import find_action  # most workflows have none

    return find_action(name)


def kinds_of(spec: StepSpec) -> list[str]:
    """Kinds of the records that a step makes."""
    return [kind_of(cls) for cls in spec.operator.output_types]


def gathers_run(spec: StepSpec) -> bool:
    """Whether a step waits for everything before it in the whole run."""
    return spec.operator.barrier and not spec.per


def arrange(name: str, steps: Sequence[StepSpec]) -> tuple[tuple[StepSpec, ...], tuple[tuple[int, ...], ...]]:
    """The steps in an order in which each comes after those it follows (as given where that is possible), and for each
    the places of those; `INPUTS` stands for the inputs. Raises `WorkflowError`."""
    places: dict[str, int] = {}
    for place, spec in enumerate(steps):
        if spec.name in places:
            raise WorkflowError(
                f'workflow "{name}": two steps are called "{spec.name}"', hint='name one: op.using(name="second")'
            )
        places[spec.name] = place
    before = [_before(name, spec, place, places) for place, spec in enumerate(steps)]
    order: list[int] = []
    while len(order) < len(steps):
        ready = [n for n in range(len(steps)) if n not in order and all(b == INPUTS or b in order for b in before[n])]
        if not ready:
            raise _circle(name, steps, before, order)
        order.append(ready[0])
    place_of = {old: new for new, old in enumerate(order)} | {INPUTS: INPUTS}
    edges = [tuple(sorted(place_of[b] for b in before[old])) for old in order]
    in_order = []
    for new, old in enumerate(order):
        plain = edges[new] == (new - 1,)
        names = tuple("inputs" if b == INPUTS else steps[order[b]].name for b in edges[new])
        in_order.append(replace(steps[old], follows=None if plain else names))
    return tuple(in_order), tuple(edges)


def _before(name: str, spec: StepSpec, place: int, places: dict[str, int]) -> list[int]:
    if spec.follows is None:
        return [place - 1]
    if not spec.follows:
        raise WorkflowError(
            f'workflow "{name}": nothing would ever reach step "{spec.name}"',
            hint='name the steps it follows: op.after("split"), or op.after("inputs")',
        )
    known = {"inputs": INPUTS, **places}
    for step in spec.follows:
        if step not in known:
            near = difflib.get_close_matches(step, known, 1)
            raise WorkflowError(
                f'workflow "{name}": step "{spec.name}" follows "{step}", and there is no such step',
                hint=f'did you mean "{near[0]}"?' if near else f"steps: {', '.join(known)}",
            )
        if step == spec.name:
            raise WorkflowError(f'workflow "{name}": step "{step}" follows itself')
    return [known[step] for step in dict.fromkeys(spec.follows)]


def _circle(
    name: str, steps: Sequence[StepSpec], before: Sequence[Sequence[int]], done: Sequence[int]
) -> WorkflowError:  # fmt: skip
    """The error for steps that wait for each other; goes back from one of them until a step comes again."""
    path = [next(n for n in range(len(steps)) if n not in done)]
    while path.count(path[-1]) < 2:
        path.append(next(b for b in before[path[-1]] if b != INPUTS and b not in done))
    circle = reversed(path[path.index(path[-1]) :])
    return WorkflowError(
        f'workflow "{name}": steps follow each other in a circle: {" -> ".join(steps[n].name for n in circle)}',
        hint='take one arrow out: the first of them has to follow "inputs" or a step outside of the circle',
    )
