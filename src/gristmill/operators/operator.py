"""What an operator is: a named, versioned, typed function from records to records.

    @operator("shout", version=1)
    async def shout(chunk: Chunk, ctx: Context, mark: str = "!") -> list[Note]: ...

The first parameter is the input (`list[T]` for a barrier, which sees everything the step before it made). `ctx` is the
`Context`. Other parameters annotated with a record kind are filled with the nearest ancestor of that kind; all that
remain are options, set by `shout.using(mark="?")` and checked against their annotations.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
import inspect
import logging
import os
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError, create_model

from gristmill.data.kinds import kind_of
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
    uses_model: bool
    prompts: tuple[str, ...]
    module: str
    path: str  # file of the function, for a script that has no importable name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    def using(self, **options: Any) -> StepSpec:
        """This operator as a step, with options. Raises `WorkflowError` for an option it does not have."""
        return StepSpec(operator=self).using(**options)

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

    def using(self, **options: Any) -> StepSpec:
        own = {key: options.pop(key) for key in ("name", "model", "pool", "attempts", "timeout") if key in options}
        merged = {**self.options, **options}
        self.operator.check_options(merged)
        return replace(self, options=merged, **own)


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
    model: bool = False,
    prompts: Sequence[str] = (),
) -> Callable[[Callable[..., Any]], Operator]:
    """Registers a function as the operator `name`. The name is stored, not the path, so the function may move.

    `timeout` is in seconds; `attempts` counts handled failures; `isolate=True` runs it in a process of its own, one
    task at a time, for code that blocks, crashes or eats memory; `model=True` says that it calls a model, so that the
    model becomes part of the work's identity; `prompts` names the prompt files it uses, for the same reason.
    """

    def register(function: Callable[..., Any]) -> Operator:
        made = _describe(function, name, version, pool, attempts, timeout, barrier, isolate, model, tuple(prompts))
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
    name = f"__gristmill_{hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:12]}__"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file")
    if (folder := os.path.dirname(os.path.abspath(path))) not in sys.path:
        sys.path.insert(0, folder)  # as when the script itself is run: it may import its neighbours
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


def registered() -> dict[str, Operator]:
    """All operators of this process by name. The built-in ones came with the package `gristmill.operators`."""
    return dict(_REGISTRY)


def _describe(
    function: Callable[..., Any], name: str, version: int, pool: str, attempts: int, timeout: float,
    barrier: bool, isolate: bool, model: bool, prompts: tuple[str, ...],
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
        barrier=barrier, isolate=isolate, uses_model=model, prompts=prompts, module=function.__module__,
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
    options: Mapping[str, Any], ctx: Context,
) -> list[Produced]:  # fmt: skip
    """Calls the operator and checks what it returned. A function that is not async runs in a thread."""
    kwargs: dict[str, Any] = dict(made.options_model.model_validate(dict(options)))
    kwargs.update(ancestors)
    if made.context_parameter is not None:
        kwargs[made.context_parameter] = ctx
    given = list(inputs) if made.barrier else inputs[0]
    if inspect.iscoroutinefunction(made.function):
        result = await made.function(given, **kwargs)
    else:
        result = await asyncio.to_thread(made.function, given, **kwargs)
    return _collect(made, result, len(inputs))


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
