"""What an operator is: a named, versioned, typed function from records to records.

    @operator("shout", version=1)
    async def shout(chunk: Chunk, ctx: Context, mark: str = "!") -> list[Note]: ...

The first parameter is the input (`list[T]` for a barrier, which sees everything the step before it made). `ctx` is the
`Context`. Other parameters annotated with a record kind are filled with the nearest ancestor of that kind; all that
remain are options, set by `shout.using(mark="?")` and checked against their annotations.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from gristmill.data.kinds import kind_of
from gristmill.engine.child_limits import Limits
from gristmill.engine.targets import load_script
from gristmill.engine.threads import bearable, in_thread
from gristmill.errors import UsageError, WorkflowError

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
    language: str = "en"
    attempt: int = 1
    fence: int = 0
    idempotency_key: str = ""
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("gristmill.operator"))
    notes: dict[str, Any] = field(default_factory=dict)  # what the attempt should remember, at most 4 KiB of JSON


@dataclass(frozen=True)
class Operator:
    """A registered function with its contract. Call it like the function it wraps."""

    name: str
    version: int
    function: Callable[..., Any]
    input_kind: str
    input_type: type[BaseModel]
    ancestors: Mapping[str, str]  # parameter name -> kind
    ancestor_types: Mapping[str, type[BaseModel]]
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

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

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
    input_type: type[BaseModel] | None = None
    context_parameter = None
    ancestor_types: dict[str, type[BaseModel]] = {}
    options: dict[str, Any] = {}
    for parameter in signature.parameters.values():
        annotation: Any = hints.get(parameter.name)
        if annotation is Context:
            context_parameter = parameter.name
        elif input_type is None:
            input_type = _record_type(annotation, barrier, name)
        elif _is_body(annotation):
            ancestor_types[parameter.name] = annotation
        else:
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            options[parameter.name] = (annotation if annotation is not None else Any, default)
    if input_type is None:
        raise UsageError(f'operator "{name}" takes no input record')
    return Operator(
        name=name, version=version, function=function, input_kind=kind_of(input_type), input_type=input_type,
        ancestors={key: kind_of(cls) for key, cls in ancestor_types.items()}, ancestor_types=ancestor_types,
        context_parameter=context_parameter,
        options_model=create_model(f"{name}_options", __config__=ConfigDict(extra="forbid"), **options),
        output_types=_outputs(hints.get("return"), name), pool=pool, attempts=attempts, timeout=timeout,
        barrier=barrier, isolate=isolate, limits=limits, uses_model=model, prompts=prompts, module=function.__module__,
        path=os.path.abspath(function.__code__.co_filename),
    )  # fmt: skip


def _is_body(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _record_type(annotation: Any, barrier: bool, name: str) -> type[BaseModel]:
    wanted: Any = annotation
    if barrier:
        inner = typing.get_args(annotation)
        wanted = inner[0] if typing.get_origin(annotation) in (list, Sequence) and inner else None
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return wanted
    needed = "list[SomeModel]" if barrier else "a pydantic model"
    raise UsageError(f'operator "{name}": annotate its first parameter with {needed}')


def _outputs(annotation: Any, name: str) -> tuple[type[BaseModel], ...]:
    found: list[type[BaseModel]] = []

    def walk(part: Any) -> None:
        if _is_body(part):
            found.append(part)
        for inner in typing.get_args(part):
            walk(inner)

    walk(annotation)
    if not found:
        raise UsageError(f'operator "{name}": annotate what it returns, for example -> list[Question]')
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Produced:
    """One output as the engine saves it: `parents` are positions in the list of inputs."""

    body: BaseModel
    parents: tuple[int, ...]


async def run_operator(
    made: Operator, inputs: Sequence[BaseModel], ancestors: Mapping[str, BaseModel],
    options: Mapping[str, Any], ctx: Context, *, threads: bool = True,
) -> list[Produced]:  # fmt: skip
    """Calls the operator and checks what it returned. A plain `def` runs in a thread; without `threads` right here."""
    kwargs: dict[str, Any] = dict(made.options_model.model_validate(dict(options)))
    kwargs.update(ancestors)
    if made.context_parameter is not None:
        kwargs[made.context_parameter] = ctx
    given = list(inputs) if made.barrier else inputs[0]
    if inspect.iscoroutinefunction(made.function):
        result = await _awaited(made.function(given, **kwargs), threads)
    elif threads:
        result = await in_thread(made.function, given, **kwargs)
    else:
        result = made.function(given, **kwargs)
    return _collect(made, result, len(inputs))


async def _awaited(coroutine: Any, in_worker: bool) -> Any:
    """A native extension that panics raises what is no `Exception`; inside of a worker it is the task's own failure."""
    try:
        return await coroutine
    except (Exception, asyncio.CancelledError, SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:
        if not in_worker:
            raise
        raise bearable(error) from error


def _collect(made: Operator, result: Any, inputs: int) -> list[Produced]:
    if result is None:
        return []
    everything = tuple(range(inputs))
    produced: list[Produced] = []
    for entry in result if isinstance(result, list | tuple) else [result]:
        body, parents = (entry.body, entry.parents) if isinstance(entry, Derived) else (entry, everything)
        if not isinstance(body, made.output_types):
            wanted = " or ".join(cls.__name__ for cls in made.output_types)
            raise UsageError(f'operator "{made.name}" returned {type(body).__name__}, it declares {wanted}')
        if any(not 0 <= position < inputs for position in parents):
            raise UsageError(f'operator "{made.name}" named a parent outside of its {inputs} inputs')
        produced.append(Produced(body, tuple(parents)))
    return produced


def parse_body(types: Sequence[type[BaseModel]], kind: str, text: str) -> BaseModel:
    """A stored body back as its type; raises `UsageError` when no type in `types` has that kind."""
    for cls in types:
        if kind_of(cls) == kind:
            adapter: TypeAdapter[BaseModel] = TypeAdapter(cls)
            return adapter.validate_json(text)
    raise UsageError(f'no type for a record of kind "{kind}"')
