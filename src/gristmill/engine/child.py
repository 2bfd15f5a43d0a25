"""A child process of a worker: calls one function at a time and may die without harm to anything else.

The worker and it talk over one socket in frames: a line of JSON, which may say "size", and that many bytes of payload.
What a function takes, returns and asks travels as payload, and the worker never decodes it here.

    child  -> worker  {"ready": limits as the kernel has them}, {"begun": CPU limit}      nothing of a task has run yet
    worker -> child   {"run": target, "path": [...], "cpu": seconds, "result": bytes}     payload: the argument
    child  -> worker  {"ask": number}           payload: a question to the worker, which holds the keys
    worker -> child   {"answer": number}        payload: the answer; or "error" in the header
    child  -> worker  {"done": vitals}          payload: the result; or "error" in the header
    child  -> worker  {"over": "memory"}        the last word of a child that has reached its limit
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import itertools
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Any

from gristmill.engine.carried import error_from_json, error_to_json, words_of
from gristmill.engine.child_limits import bound_process, bound_task, vitals
from gristmill.engine.kin import living_children
from gristmill.engine.targets import find_target
from gristmill.errors import InputError

CRASHED = 70  # exit code of a function that asked its process to end, or raised what is no Exception
OVER = 71  # exit code of a child that has reached its memory limit
STOPPED = 143  # exit code of a child that was asked to stop: 128 + SIGTERM
OVER_MEMORY = b'{"over": "memory"}\n'  # made before it is needed: then there is no memory to make it


class Stopped(SystemExit):
    """Raised in the main thread by SIGTERM, so that `finally` blocks run; 5 s later the process is killed."""


class Channel:
    """The child's end of the socket, in blocking mode: what the worker sends, it sends whole."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.pending = bytearray()  # what was received and belongs to the next frame
        self._owner = os.getpid()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Ends the process when the worker is gone, or when this is a forked copy that came back from its task."""
        if os.getpid() != self._owner:
            os._exit(CRASHED)
        if payload:
            header["size"] = len(payload)
        try:
            self.end.sendall(json.dumps(header).encode() + b"\n" + payload)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next frame; ends the process when the worker is gone."""
        while (end := self.pending.find(b"\n")) < 0:
            self._more()
        header: dict[str, Any] = json.loads(self.pending[:end])
        until = end + 1 + header.get("size", 0)
        while len(self.pending) < until:
            self._more()
        payload = bytes(self.pending[end + 1 : until])
        del self.pending[:until]
        return header, payload

    def _more(self) -> None:
        piece = self.end.recv(2**18)
        if not piece:
            os._exit(0)
        self.pending += piece


_channel: Channel  # opened by `main`
_questions: dict[int, asyncio.Future[str]] = {}
_numbers = itertools.count(1)
_stopping = False


async def ask(question: str) -> str:
    """Sends a question (JSON) to the worker and returns its answer (JSON). Raises what the worker raised.

    May be called by many coroutines at once; only inside of a function that was called with `answer`.
    """
    loop = asyncio.get_running_loop()
    number = next(_numbers)
    answer: asyncio.Future[str] = loop.create_future()
    if not _questions:
        loop.add_reader(_channel.end.fileno(), _hear)
    _questions[number] = answer
    try:
        _channel.send({"ask": number}, question.encode("utf-8", "surrogatepass"))
        return await answer
    finally:
        _questions.pop(number, None)
        if not _questions:
            loop.remove_reader(_channel.end.fileno())


def _hear() -> None:
    while True:
        header, payload = _channel.receive()
        answer = _questions.get(header.get("answer", 0))
        if answer is not None and not answer.done():  # else its asker has gone away
            if "error" in header:
                answer.set_exception(error_from_json(header["error"]))
            else:
                answer.set_result(payload.decode("utf-8", "surrogatepass"))
        if not _channel.pending:
            return


def _next_order() -> tuple[dict[str, Any], bytes]:
    while True:
        header, payload = _channel.receive()
        if "run" in header:  # else it is the late answer to a question of an earlier task
            return header, payload


def _perform(order: dict[str, Any], payload: bytes) -> None:
    """One task, up to its last frame."""
    try:
        function = _find(order["run"], order["path"])
        _channel.send({"begun": bound_task(order["cpu"])})
        argument = _decode(payload)
        result = asyncio.run(_call(function, argument)) if inspect.iscoroutinefunction(function) else function(argument)
        text = _encode(result, order["result"])
    except MemoryError as error:
        _over_memory(error)
    except Exception as error:
        if from_memory(error):
            _over_memory(error)
        _tell(error)
        _channel.send({"done": _state(), "error": error_to_json(error)})
    except BaseException as error:  # what asks for the end of the process, or is no Exception, has not succeeded
        if _stopping:
            os._exit(STOPPED)
        _tell(error)
        os._exit(CRASHED)
    else:
        _channel.send({"done": _state()}, text)


def _find(target: str, path: Sequence[str]) -> Any:
    for folder in reversed(path):
        if folder not in sys.path:
            sys.path.insert(0, folder)
    return find_target(target)


async def _call(function: Any, argument: Any) -> Any:
    return await function(argument)


def _decode(payload: bytes) -> Any:
    try:
        return json.loads(payload.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"its payload cannot be read as JSON: {error}", code="T605") from None


def _encode(result: Any, limit: int) -> bytes:
    try:
        text = json.dumps(result, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as error:  # NaN, a number of 5,000 digits, nested too deep
        raise InputError(f"its result cannot be written as JSON: {error}", code="T603") from None
    if len(text) > limit:
        raise InputError(
            f"its result of {len(text):,} bytes is over the limit of {limit:,}", code="T601",
            hint="return less, or keep large content in a file or blob and return its name",
        )  # fmt: skip
    return text


def _state() -> dict[str, int]:
    return vitals() | {"left": living_children()}


def from_memory(error: BaseException | None) -> bool:
    """Whether a limit of memory lies at the bottom of an error that others have wrapped."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError) or "failed to map segment" in words_of(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _over_memory(error: BaseException) -> None:
    with contextlib.suppress(MemoryError):
        traceback.clear_frames(error.__traceback__)
        _tell(error)
    with contextlib.suppress(OSError):
        os.write(_channel.end.fileno(), OVER_MEMORY)
    os._exit(OVER)


def _tell(error: BaseException) -> None:
    with contextlib.suppress(Exception):
        print("".join(traceback.format_exception(error)), file=sys.stderr, flush=True)


def _on_terminate(number: int, frame: FrameType | None) -> None:
    global _stopping  # noqa: PLW0603 - one process
    _stopping = True
    raise Stopped(STOPPED)


def _belong_to(parent: int) -> None:
    """Dies with the worker, and becomes the parent of whatever its own programs leave behind."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """`main` of `python -c`, with four arguments: socket, pid of the worker, memory limit or 0, limit of files."""
    global _channel  # noqa: PLW0603 - one process, one channel
    end, parent, memory, files = map(int, sys.argv[1:5])
    _belong_to(parent)
    os.set_inheritable(end, False)  # what it starts must not hold the socket open, nor write to it
    signal.signal(signal.SIGTERM, _on_terminate)
    _channel = Channel(socket.socket(fileno=end))
    try:
        _channel.send({"ready": bound_process(memory, files)})
        while True:
            _perform(*_next_order())
    except Stopped:
        os._exit(STOPPED)
    except MemoryError as error:
        _over_memory(error)
