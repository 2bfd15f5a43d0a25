"""What an operator is: a named, versioned, typed function from records to records.

    @operator("shout", version=1)
    async def shout(chunk: Chunk, ctx: Context, mark: str = "!") -> list[Note]: ...

The first parameter is the input (`list[T]` for a barrier, which sees everything the step before it made; `A | B` takes
both kinds). `ctx` is the `Context`. Other parameters annotated with a record kind are filled with the nearest ancestor
of that kind; of the built-in kinds `Kind | None` may be missing, and `list[Kind]` gets all of them. All that remain are
options, set by `shout.using(mark="?")` and checked against their annotations.
"""

from __future__ import annotations

import inspect
import logging
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from gristmill.data.kinds import kind_of
from gristmill.engine.child_limits import Limits
from gristmill.engine.targets import load_script
from gristmill.errors import UsageError, WorkflowError
from gristmill.llm.prompt import Prompt, load_prompt
from gristmill.operators.signatures import Ancestor, ancestor_of, outputs, record_types

T = TypeVar("T", bound=BaseModel)
Output = TypeVar("Output")


class Generator(Protocol):
    """The model as an operator sees it."""

    async def generate(self, prompt: Any, schema: Any, *, sample: int = 0) -> Any: ...

    @property
    def name(self) -> str: ...


class BlobStore(Protocol):
    async def read(self, digest: str) -> bytes: ...

    async def write(self, data: bytes) -> str: ...


@dataclass(frozen=True, slots=True)
class Derived(Generic[T]):
    """An output whose parents are not all of the inputs: `parents` are positions in the list of inputs."""

    body: T
    parents: tuple[int, ...]


@dataclass(slots=True)
class Context:
    """What an operator may touch besides its inputs. It holds no connection and knows no queue.

    `attempt` counts from 1; `idempotency_key` is the same for every attempt of a task and fit for an outside service;
    `fence` grows with every claim, so that an outside store can refuse an older holder.
    """

    blobs: BlobStore
    model: Any = None
    index: Any = None  # `Entries` of the step's search index
    language: str = "en"
    attempt: int = 1
    fence: int = 0
    idempotency_key: str = ""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("gristmill.operator"))
    notes: dict[str, Any] = field(default_factory=dict)  # what the attempt should remember, at most 4 KiB of JSON
    prompts: Path | None = None  # folder of the project's own prompts
    services: Mapping[str, str] = field(default_factory=dict)  # addresses of other servers by name: "docling"
    timeout: float | None = None  # seconds of this attempt, where the step says other than the operator
    given: Mapping[str, Any] | None = None  # what the operator's `given` found in the worker; never stored

    def prompt(self, name: str, **offered: Any) -> Prompt:
        """The prompt of that name in the run's language, the project's own before the built-in one. It takes of
        `offered` what it uses. Raises `UsageError` for a name that does not exist, or a field that is not offered."""
        template = load_prompt(name, self.language, folder=self.prompts)
        return template.render(**{name: offered[name] for name in template.fields if name in offered})


@dataclass(frozen=True)
class Operator:
    """A registered function with its contract. Call it like the function it wraps."""

    name: str
    version: int
    function: Callable[..., Any]
    input_types: tuple[type[BaseModel], ...]  # one, or those of `A | B`
    ancestors: Mapping[str, Ancestor]  # by parameter name
    context_parameter: str | None
    options_model: type[BaseModel]
    output_types: tuple[type[BaseModel], ...]
    pool: str
    attempts: int
    timeout: float
    barrier: bool
    isolate: bool
    limits: Limits  # of the child process, when it runs in one
    uses_model: bool
    prompts: tuple[str, ...]
    module: str
    path: str  # file of the function, for a script that has no importable name
    lock: str | None = None  # its tasks run only while they hold one of the slots of this lock
    lock_slots: int = 1
    given: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None  # from options to `Context.given`
    acts: bool = False  # it does something outside of the records: a plan does not run it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @property
    def input_kinds(self) -> tuple[str, ...]:
        return tuple(kind_of(cls) for cls in self.input_types)

    def using(self, **options: Any) -> StepSpec:
        """This operator as a step, with options. Raises `WorkflowError` for an option it does not have."""
        return StepSpec(operator=self).using(**options)

    def after(self, *steps: str) -> StepSpec:
        """This operator as a step that follows others than the one before it in the list."""
        return StepSpec(operator=self).after(*steps)

    def check_options(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The options with defaults filled in, as plain JSON values."""
        try:
            return self.options_model.model_validate(dict(options)).model_dump(mode="json")
        except ValidationError as error:
            problem = error.errors()[0]
            name = ".".join(str(part) for part in problem["loc"])
            known = ", ".join(self.options_model.model_fields) or "none"
            raise WorkflowError(
                f'operator "{self.name}": option {name}: {problem["msg"]}', hint=f"its options are: {known}"
            ) from None


@dataclass(frozen=True)
class StepSpec:
    """An operator with options, a place in a workflow, and what the workflow overrides."""

    operator: Operator
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    model: str | None = None
    pool: str | None = None
    attempts: int | None = None
    timeout: float | None = None
    memory: int | None = None
    cpu: float | None = None
    follows: tuple[str, ...] | None = None  # names of the steps before it; None: the one before it in the list
    per: str | None = None  # "item": a barrier for each input instead of the whole run

    def after(self, *steps: str) -> StepSpec:
        """Works on what these steps make; "inputs" stands for the inputs of the run."""
        return replace(self, follows=steps)

    def using(self, **options: Any) -> StepSpec:
        own = {key: options.pop(key) for key in OVERRIDES if key in options}
        if "after" in options:
            given = options.pop("after")
            own["follows"] = (given,) if isinstance(given, str) else tuple(given)
        merged = {**self.options, **options}
        self.operator.check_options(merged)
        made = replace(self, options=merged, **own)
        if not self.operator.isolate and (made.memory is not None or made.cpu is not None):
            raise WorkflowError(
                f'operator "{self.operator.name}" runs inside of the worker: memory and cpu cannot be limited there',
                hint="@operator(..., isolate=True)",
            )
        _ = made.limits  # raises for one that makes no sense
        return made

    @property
    def limits(self) -> Limits:
        """What its child process may use: the step's own limits, and the operator's where it names none."""
        own = self.operator.limits
        memory = own.memory if self.memory is None else self.memory
        return replace(own, memory=memory, cpu=own.cpu if self.cpu is None else self.cpu)


OVERRIDES = (
    "name",
    "model",
    "pool",
    "attempts",
    "timeout",
    "memory",
    "cpu",
    "per",
)  # words of `using` that are no options


_REGISTRY: dict[str, Operator] = {}


def operator(
    name: str,
    *,
    version: int = 1,
    pool: str = "*",
    attempts: int = 5,
    timeout: float = 600.0,
    barrier: bool = False,
    isolate: bool = False,
    memory: int | None = None,
    cpu: float | None = None,
    model: bool = False,
    prompts: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Operator]:
    """Registers a function as the operator `name`. The name is stored, not the path, so the function may move.

    A plain `def` runs in a thread of its own, so that it may block; `isolate=True` runs it in a process of its own, one
    task at a time, for code that holds the interpreter, crashes or eats memory. There `memory` (bytes of address space,
    at least 128 MiB) and `cpu` (seconds of CPU time a task) bound it; None is no bound.

    `timeout` is in seconds; `attempts` counts handled failures; `model=True` says that it calls a model, so that the
    model becomes part of the work's identity; `prompts` names the prompt files it uses, for the same reason.

    Raises `UsageError` for a function that is no operator, for limits without `isolate`, and for `model` on a `def`.
    """
    limits = Limits(memory=memory, cpu=cpu)
    if not isolate and limits != Limits():
        raise UsageError(
            f'operator "{name}": memory and cpu bound a process of its own', code="U213", hint="add isolate=True"
        )

    def register(function: Callable[..., Any]) -> Operator:
        if model and not inspect.iscoroutinefunction(function):
            raise UsageError(
                f'operator "{name}" calls a model, which only an "async def" can wait for', code="U214",
                hint="write async def; put what blocks into asyncio.to_thread, or into an operator of its own",
            )  # fmt: skip
        made = _describe(
            function, name, version, pool, attempts, timeout, barrier, isolate, limits, model, tuple(prompts)
        )
        known = _REGISTRY.get(name)
        if known is not None and (known.path, known.function.__qualname__) != (made.path, function.__qualname__):
            raise UsageError(f'two operators are called "{name}": in {known.module} and in {made.module}')
        _REGISTRY[name] = made
        return made

    return register


def register(made: Operator) -> None:
    """Makes an operator known that was not made by the decorator: an action of a pack. It replaces its namesake, which
    has to come from the same module. Raises `UsageError`."""
    known = _REGISTRY.get(made.name)
    if known is not None and known.module != made.module:
        raise UsageError(f'two operators are called "{made.name}": in {known.module} and in {made.module}')
    _REGISTRY[made.name] = made


def forget(name: str) -> None:
    """Makes an operator unknown again: an action whose pack was removed."""
    _REGISTRY.pop(name, None)


def find_operator(name: str) -> Operator:
    """The operator of that name. Raises `UsageError`."""
    try:
        return _REGISTRY[name]
    except KeyError:
        raise UsageError(f'there is no operator "{name}"', hint=f"known: {', '.join(sorted(_REGISTRY))}") from None


def load_file(path: str) -> None:
    """Imports a script that defines operators, once, as a module of its own. Raises `UsageError`."""
    if any(known.path == os.path.abspath(path) for known in _REGISTRY.values()):
        return  # another script, or a package, has imported it
    load_script(path)


def registered() -> dict[str, Operator]:
    """All operators of this process by name. The built-in ones came with the package `gristmill.operators`."""
    return dict(_REGISTRY)


def _describe(
    function: Callable[..., Any], name: str, version: int, pool: str, attempts: int, timeout: float,
    barrier: bool, isolate: bool, limits: Limits, model: bool, prompts: tuple[str, ...],
) -> Operator:  # fmt: skip
    hints = typing.get_type_hints(function, include_extras=True)  # ranges of options live in Annotated
    signature = inspect.signature(function)
    input_types: tuple[type[BaseModel], ...] = ()
    context_parameter = None
    ancestors: dict[str, Ancestor] = {}
    options: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        annotation: Any = hints.get(parameter.name)
        if annotation is Context:
            context_parameter = parameter.name
        elif not input_types:
            input_types = record_types(annotation, barrier, name)
        elif (ancestor := ancestor_of(annotation)) is not None:
            ancestors[parameter.name] = ancestor
        else:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            options[parameter.name] = (annotation if annotation is not None else Any, default)
    if not input_types:
        raise UsageError(f'operator "{name}" takes no input record')
    return Operator(
        name=name, version=version, function=function, input_types=input_types, ancestors=ancestors,
        context_parameter=context_parameter,
        options_model=create_model(f"{name}_options", __config__=ConfigDict(extra="forbid"), **options),
        output_types=outputs(hints.get("return"), name), pool=pool, attempts=attempts, timeout=timeout,
        barrier=barrier, isolate=isolate, limits=limits, uses_model=model, prompts=prompts, module=function.__module__,
        path=os.path.abspath(function.__code__.co_filename),
    )  # fmt: skip
