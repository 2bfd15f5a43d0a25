"""Actions as operators: `find_action("core.http_get")` is one like any other in workflows.

Packs are known to this process once they were loaded: those that come with the package when one of their actions is
asked for, others by `load_folder`, or from the database by `store.take_packs`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator

from gristmill.data.kinds import KINDS, ActionResult, canonical_json
from gristmill.engine.child_limits import Limits
from gristmill.errors import ConfigurationError, EnvironmentProblem, ModelSetupError, WorkflowError
from gristmill.llm.model_settings import read_key
from gristmill.operators.operator import Context, Operator, find_operator, forget, register, registered
from gristmill.packs.capture import LEAST_SECRET
from gristmill.packs.check import load_pack
from gristmill.packs.environments import PATIENCE
from gristmill.packs.pack import Action, Pack
from gristmill.packs.parameters import NotFitting, checked, secrets_of
from gristmill.packs.running import Given, memory_of_child, run_action

SHIPPED = Path(__file__).parent / "shipped"
_MARGIN = 30.0  # seconds until the engine ends an attempt that the runner should have ended itself
_KNOWN: dict[str, Pack] = {}
_SETTINGS: dict[str, dict[str, Any]] = {}


def shipped() -> list[str]:
    """Refs of the packs that come with the package, sorted."""
    return sorted(entry.name for entry in SHIPPED.iterdir() if (entry / "pack.yaml").is_file())


def known_packs() -> dict[str, Pack]:
    """The packs that this process has loaded, by ref."""
    return dict(_KNOWN)


def find_action(name: str) -> Operator:
    """The operator of that name; loads the pack of an action that comes with the package. Raises `UsageError`."""
    pack = name.partition(".")[0]
    if name not in registered() and pack in shipped() and pack not in _KNOWN:
        load_folder(SHIPPED / pack, _SETTINGS.get(pack))
    return find_operator(name)


def load_shipped() -> None:
    """Makes all actions known that come with the package."""
    for pack in shipped():
        if pack not in _KNOWN:
            load_folder(SHIPPED / pack, _SETTINGS.get(pack))


def use_settings(settings: Mapping[str, Mapping[str, Any]]) -> None:
    """The tables `[packs.REF]` of this process, also for packs that it has loaded. Raises `ConfigurationError` K307."""
    before, now = dict(_SETTINGS), {ref: dict(one) for ref, one in settings.items()}
    _SETTINGS.clear()
    _SETTINGS.update(now)
    for ref, pack in list(_KNOWN.items()):
        if before.get(ref) != now.get(ref):
            take(pack, now.get(ref, {}))


def load_operators(path: str) -> None:
    """For a child process: makes the actions of the pack in that folder known, once."""
    if not any(str(pack.folder) == path for pack in _KNOWN.values()):
        load_folder(path)


def load_folder(folder: Path | str, settings: Mapping[str, Any] | None = None) -> Pack:
    """Checks the pack in a folder and makes its actions known, in place of those of a pack with the same ref.

    `settings` are those of `[packs.REF]`. Raises `UsageError` K100 for a pack that cannot be used, `ConfigurationError`
    K307 for settings that do not fit it.
    """
    return take(load_pack(folder), settings or {})


def take(pack: Pack, settings: Mapping[str, Any]) -> Pack:
    """Makes the actions of a pack known. Raises `ConfigurationError` K307."""
    try:
        values = checked(pack.about.settings, settings) if settings else _defaults(pack)
    except NotFitting as error:
        raise ConfigurationError(
            f"[packs.{pack.ref}] {error}", code="K307", hint=f"what it may say: gristmill packs show {pack.ref}"
        ) from None
    made = [operator_of(pack, action, values) for action in pack.actions]
    forget_pack(pack.ref)  # another version may have had other actions
    for one in made:
        register(one)
    _KNOWN[pack.ref] = pack
    return pack


def forget_pack(ref: str) -> None:
    """Makes the actions of a pack unknown to this process; what runs of them goes on."""
    pack = _KNOWN.pop(ref, None)
    for action in pack.actions if pack else ():
        forget(action.ref)


def operator_of(pack: Pack, action: Action, settings: Mapping[str, Any]) -> Operator:
    """An action as an operator. Its version is made of everything that can change what it does: the pack's files and
    settings, so that what an older one has made is made again."""

    async def perform(given: BaseModel, *, __context__: Context, **options: Any) -> list[BaseModel]:
        told = __context__.given
        if told is None:  # called without a worker
            told = secrets_and_settings(action, pack, settings, options)
        known = Given(told["settings"], told["secrets"])
        return await run_action(pack, action, given, options, __context__, known)

    content = canonical_json([pack.digest, dict(settings)]).encode()
    lock, slots = next(iter(action.locks.items()), (None, 1))
    return Operator(
        name=action.ref, version=int.from_bytes(hashlib.sha256(content).digest()[:6]), function=perform,
        input_types=tuple(KINDS[kind] for kind in action.takes or KINDS), ancestors={},
        context_parameter="__context__", options_model=_options_model(action),
        output_types=(KINDS[action.makes] if action.makes else ActionResult,), pool=action.pool,
        attempts=action.attempts, timeout=action.timeout + _MARGIN + (PATIENCE if action.requirements else 0),
        barrier=False, isolate=True, limits=Limits(memory=memory_of_child(action.limits)), uses_model=False,
        prompts=(), module=__name__, path=str(pack.folder), lock=lock, lock_slots=slots,
        acts=True, given=lambda options: secrets_and_settings(action, pack, settings, options),
    )  # fmt: skip


def secrets_and_settings(
    action: Action, pack: Pack, settings: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """What the program is given besides its parameters. Raises `EnvironmentProblem` K211 for a secret that is not set,
    cannot be read, or is too short to be hidden in what the program prints."""
    values = checked(action.parameters, options)
    references = [values[name] for name in secrets_of(action.parameters) if name in values]
    references += [settings[name] for name in secrets_of(pack.about.settings) if name in settings]
    return {"settings": dict(settings), "secrets": {reference: _read(action, reference) for reference in references}}


def _read(action: Action, reference: str) -> str:
    try:
        secret = read_key(reference)
    except ModelSetupError as error:
        raise EnvironmentProblem(f"{action.ref}: {error.message}", code="K211", safe="nothing was started") from None
    if secret is None or len(secret) < LEAST_SECRET:
        what = "is not set" if secret is None else f"is shorter than {LEAST_SECRET} characters: it could not be hidden"
        raise EnvironmentProblem(
            f"{action.ref} needs the secret {reference}, which {what}", code="K211", safe="nothing was started",
            hint="set it where the workers run",
        )  # fmt: skip
    return secret


def _defaults(pack: Pack) -> dict[str, Any]:
    """Settings that nobody has written: the defaults, even where others are required; an action may not need them."""
    return checked({**pack.about.settings, "required": []}, {})


def _options_model(action: Action) -> type[BaseModel]:
    """A model of the options that follows the JSON schema of the parameters."""

    class Options(BaseModel):
        model_config = ConfigDict(extra="allow")

        @classmethod
        def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
            """The schema of the parameters, as the action declares it."""
            return dict(action.parameters)

        @model_validator(mode="before")
        @classmethod
        def _fits(cls, given: Any) -> Any:
            try:
                return checked(action.parameters, given)
            except NotFitting as error:
                known = ", ".join(action.parameters.get("properties", {})) or "none"
                raise WorkflowError(f'action "{action.ref}": {error}', hint=f"its parameters are: {known}") from None

    return Options
