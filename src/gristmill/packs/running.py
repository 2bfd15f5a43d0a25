"""One attempt of an action: from a record to what the program has made of it."""

from __future__ import annotations

import math
import resource
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gristmill.data.blobs import DIGEST
from gristmill.data.kinds import KINDS, ActionResult, kind_of
from gristmill.data.records import body_text
from gristmill.errors import InputError, TaskError, TransientError
from gristmill.operators.operator import Context
from gristmill.packs.capture import Redaction
from gristmill.packs.delivery import Told, deliver, variables
from gristmill.packs.environments import interpreter
from gristmill.packs.output import Unparsable, as_text, ending, fitting, parse
from gristmill.packs.pack import MIB, Action, Bounds, Pack
from gristmill.packs.parameters import NotFitting, resolved, with_secrets
from gristmill.packs.program import Ended, run_program
from gristmill.packs.workplace import base_of, working_folder

REFUSED = 65  # exit code (EX_DATAERR): this input can never succeed, so it is not tried again
SAID = 600  # characters of the last words in the message of a failure


@dataclass(frozen=True)
class Given:
    """What only the worker knows: the pack's settings, and the secrets by their references."""

    settings: Mapping[str, Any]
    secrets: Mapping[str, str]


async def run_action(
    pack: Pack, action: Action, body: BaseModel, options: Mapping[str, Any], ctx: Context, given: Given
) -> list[BaseModel]:  # fmt: skip
    """Runs the program once and returns the records that it made: one `ActionResult`, or those of the kind it `makes`.

    Raises `InputError` K206, K207, K208, K210, K215 for what another try cannot help, `TransientError` K201 to K205,
    K209, K212, K213 for what it may; the raw output is kept in blobs then, and the message names them.
    """
    plain = body.model_dump(mode="json")
    try:
        parameters = resolved(action.parameters, options, plain)
    except NotFitting as error:
        raise InputError(f"{action.ref}: {error}", code="K208") from None
    hide = Redaction(list(given.secrets.values()))
    base = base_of(ctx.blobs)
    python = await interpreter(action, pack, base) if action.runner == "python" else Path("/")
    timeout = (
        action.timeout if ctx.timeout is None else max(0.8 * ctx.timeout, ctx.timeout - 5)
    )  # before the engine does
    with working_folder(base) as folder:
        told = Told(
            with_secrets(action.parameters, parameters, given.secrets.__getitem__),
            with_secrets(pack.about.settings, given.settings, given.secrets.__getitem__),
            kind_of(body), plain, await _files(action, plain, folder, ctx), ctx.attempt, ctx.idempotency_key,
        )  # fmt: skip
        ended = await run_program(
            _command(pack, action, python), environment=variables(pack, action, folder, told), folder=folder,
            given=deliver(action, folder, told), bounds=_bounds(action), timeout=timeout, edge=hide.edge,
        )  # fmt: skip
    ctx.notes |= {"seconds": round(ended.seconds, 3), "stdout": ended.stdout.seen, "stderr": ended.stderr.seen}
    try:
        _check_end(action, ended, timeout)
        return await _made(pack, action, ended, hide, ctx)
    except TaskError as error:
        raise await _with_output(error, ended, hide, ctx) from None


def memory_of_child(limits: Bounds) -> int:
    """Bytes that our own process may have beside the program: reading a large output takes some, too."""
    return max(limits.memory, 512) * MIB


def _bounds(action: Action) -> Bounds:
    """The action's limits, or what the step of a workflow says instead: then our own process was given that."""
    changed: dict[str, int] = {}
    memory = resource.getrlimit(resource.RLIMIT_AS)[0]
    if memory not in (resource.RLIM_INFINITY, memory_of_child(action.limits)):
        changed["memory"] = memory // MIB
    cpu = resource.getrlimit(resource.RLIMIT_CPU)[0]
    if cpu != resource.RLIM_INFINITY:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        changed["cpu"] = max(1, cpu - math.floor(usage.ru_utime + usage.ru_stime))
    return action.limits.model_copy(update=changed)


def _command(pack: Pack, action: Action, python: Path) -> list[str]:
    entry = str(pack.folder / action.entry)
    return {"shell": ["/bin/sh", entry], "python": [str(python), "-B", "-s", entry], "native": [entry]}[action.runner]


async def _files(action: Action, body: Mapping[str, Any], folder: Path, ctx: Context) -> dict[str, str]:
    """The bytes behind the blobs of the input, as files of the working folder."""
    found: dict[str, str] = {}
    if action.files:
        for name, value in body.items():
            if name.endswith("blob") and isinstance(value, str) and DIGEST.fullmatch(value):
                place = folder / f"input.{name}"
                place.write_bytes(await ctx.blobs.read(value))
                found[name] = str(place)
    return found


async def _made(pack: Pack, action: Action, ended: Ended, hide: Redaction, ctx: Context) -> list[BaseModel]:
    if action.output != "text":
        value = _structured(action, ended, hide)
        if action.makes is not None:
            return _bodies(action, value)
        stdout, stdout_cut, stdout_blob = "", False, None
    else:
        value = None
        stdout, stdout_cut, stdout_blob = await _text(ended.stdout.read(hide), ended.stdout.truncated, ctx)
    error = ended.stderr.read(hide)
    said = ending(as_text(error))
    stderr_cut = ended.stderr.truncated or len(as_text(error)) > len(said)
    result = ActionResult(
        action=action.ref, version=pack.about.version, exit_code=0, stdout=stdout, result=value, stderr=said,
        truncated=(*(["stdout"] if stdout_cut else []), *(["stderr"] if stderr_cut else [])),
        stdout_blob=stdout_blob, stderr_blob=await ctx.blobs.write(error) if stderr_cut else None,
    )  # fmt: skip
    body_text(result)  # what cannot be stored fails here, where its raw output is kept
    return [result]


async def _text(data: bytes, cut: bool, ctx: Context) -> tuple[str, bool, str | None]:
    """Text for the record, whether something is missing in it, and the blob that holds what was kept of it."""
    text, shortened = fitting(as_text(data))
    if not (cut or shortened):
        return text, False, None
    return text, True, await ctx.blobs.write(data)


def _check_end(action: Action, ended: Ended, timeout: float) -> None:
    limits = _bounds(action)
    if ended.why == "timeout":
        raise TransientError(f"{action.ref} took longer than {timeout:g} s", code="K203")
    if ended.why == "processes":
        raise InputError(f"{action.ref} had more than {limits.processes} processes at the same time", code="K206")
    if ended.why == "memory":
        raise InputError(f"{action.ref} used more than {limits.memory} MiB of memory", code="K207")
    if ended.signal:
        raise TransientError(f"{action.ref} was ended by {ended.signal}", code="K202")
    if ended.exit_code == REFUSED:
        raise InputError(f"{action.ref} refused its input (exit code {REFUSED})", code="K210")
    if ended.exit_code != 0:
        raise TransientError(f"{action.ref} ended with exit code {ended.exit_code}", code="K201")


def _structured(action: Action, ended: Ended, hide: Redaction) -> Any:
    if ended.stdout.truncated:
        raise TransientError(
            f"{action.ref} printed {ended.stdout.seen:,} bytes of {action.output}, over {action.limits.output} MiB",
            code="K205", hint="raise limits.output, or print less",
        )  # fmt: skip
    try:
        return hide.in_value(parse(action.output, ended.stdout.read(hide)))
    except Unparsable as error:
        raise TransientError(f"{action.ref} printed what is no {action.output}: {error}", code="K204") from None


def _bodies(action: Action, value: Any) -> list[BaseModel]:
    assert action.makes is not None  # noqa: S101
    made: list[BaseModel] = []
    for number, one in enumerate(value if isinstance(value, list) else [value]):
        try:
            body = KINDS[action.makes].model_validate(one)
            body_text(body)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            place = ".".join(map(str, problem["loc"]))
            raise TransientError(
                f"{action.ref}: object {number + 1} is no {action.makes}: {place}: {problem['msg']}", code="K209"
            ) from None
        made.append(body)
    return made


async def _with_output(error: TaskError, ended: Ended, hide: Redaction, ctx: Context) -> TaskError:
    """The error with the last words of the program, and with the blobs that hold all of them."""
    out, err = ended.stdout.read(hide), ended.stderr.read(hide)
    said = as_text(err or out).strip()[-SAID:].replace('"', "'")
    kept = [f'{name} "{await ctx.blobs.write(data)}"' for name, data in (("stdout", out), ("stderr", err)) if data]
    error.message += (f'; it said: "{said}"' if said else "") + (f"; kept: {', '.join(kept)}" if kept else "")
    error.args = (error.message,)
    if kept:
        error.hint = error.hint or "read it: gristmill packs output DIGEST"
    return error
