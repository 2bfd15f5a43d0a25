"""Functions that do to their process what real ones do by accident."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from gristmill.engine.child import ask
from gristmill.errors import Busy, InputError, TransientError

MIB = 2**20
HELD: list[Any] = []  # what earlier tasks have leaked


class Panic(BaseException):
    """What a native extension raises when it panics."""


class Flaky(ConnectionError):
    """Somebody's own error."""


def echo(value: Any) -> Any:
    return value


async def echo_later(value: Any) -> Any:
    await asyncio.sleep(0.01)
    return value


def look(wish: Any) -> dict[str, Any]:
    """What a child sees of the world."""
    links = [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if _there(fd)]
    return {
        "pid": os.getpid(), "environment": dict(os.environ), "files": links, "path": sys.path,
        "limits": [resource.getrlimit(which)[0] for which in
                   (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
    }  # fmt: skip


def _there(fd: str) -> bool:
    return os.path.lexists(f"/proc/self/fd/{fd}")


def leak(mebibytes: int) -> int:
    HELD.append(bytearray(os.urandom(MIB)) * mebibytes)
    return os.getpid()


def take(wish: dict[str, Any]) -> str:
    """Takes memory in one of the ways that programs do."""
    size = int(wish["bytes"])
    match wish["how"]:
        case "bytes":
            return str(len(b"x" * size))
        case "slowly":
            held = [bytearray(MIB) for _ in range(size // MIB)]
            return str(len(held))
        case "wrapped":
            try:
                return str(len(bytearray(size)))
            except MemoryError:
                raise ValueError("the file is broken") from None
        case "native":
            ctypes.CDLL(None).malloc.restype = ctypes.c_void_p
            if not ctypes.CDLL(None).malloc(ctypes.c_size_t(size)):
                print("terminate called after throwing an instance of 'std::bad_alloc'", file=sys.stderr, flush=True)
                os.abort()
    return "it had enough"


def burn(seconds: float) -> str:
    until = time.process_time() + seconds
    while time.process_time() < until:
        pass
    return "burnt"


def catastrophe(length: int) -> bool:
    """Holds the interpreter: no thread of this process runs meanwhile."""
    return re.match(r"(a+)+$", "a" * length + "b") is not None


def end(wish: dict[str, Any]) -> Any:
    """Ends its process in one of the ways there are."""
    print("about to end", file=sys.stderr, flush=True)
    match wish["how"]:
        case "signal":
            os.kill(os.getpid(), wish["number"])
        case "_exit":
            os._exit(wish["number"])
        case "exit":
            sys.exit(wish["number"])
        case "panic":
            raise Panic("index out of bounds")
        case "interrupt":
            raise KeyboardInterrupt
        case "segfault":
            ctypes.string_at(0)
        case "fork":
            os.fork()  # the copy comes back from its task too
            return os.getpid()
        case "close":
            os.closerange(3, 200)
            time.sleep(60)
        case "garbage":
            for name in os.listdir("/proc/self/fd"):
                if _there(name) and os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                    os.write(int(name), b"hello\n" * 100)
    time.sleep(60)
    return None


def fail(wish: dict[str, Any]) -> None:
    match wish["how"]:
        case "foreign":
            raise Flaky("the socket")
        case "busy":
            raise Busy("full", delay=3.0, reason="the queue of the test", code="X3")
        case "input":
            raise InputError("never", code="X2", hint="do not ask", safe="all of it")
        case "words":
            raise ValueError("a name like \udcff and a \0")
        case "large":
            raise ValueError("x" * 10 * MIB)
        case "strange":

            class Strange(Exception):
                def __str__(self) -> str:
                    raise RuntimeError("no words")

            raise Strange
    raise TransientError("not today", code="X1")


def family(note: str) -> None:
    """Starts a program, one that leaves the group, and a forked one whose parent has ended; then sleeps."""
    plain = subprocess.Popen(["sleep", "600"])
    away = subprocess.Popen(["sleep", "600"], start_new_session=True)
    code = "import os, time\nif os.fork() == 0:\n    os.setsid(); print(os.getpid(), flush=True); time.sleep(600)\n"
    orphan = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert orphan.stdout is not None
    number = orphan.stdout.readline().strip()
    orphan.wait()
    Path(note).write_text(f"{os.getpid()} {plain.pid} {away.pid} {number}")
    time.sleep(600)


def leave_behind(note: str) -> int:
    """Returns, and something that it has started does not."""
    left = subprocess.Popen(["sleep", "600"], start_new_session=True)
    Path(note).write_text(f"{left.pid}")
    return os.getpid()


def flood(wish: dict[str, Any]) -> str:
    for _ in range(wish["times"]):
        print("y" * wish["length"], end=wish.get("end", "\n"))
    sys.stdout.flush()
    if wish.get("die"):
        os.kill(os.getpid(), signal.SIGABRT)
    return "said"


async def tidy(note: str) -> None:
    """Says that it has started, and that it could clean up."""
    try:
        Path(note).write_text("started")
        await asyncio.sleep(600)
    finally:
        Path(note).write_text("cleaned")


def tidy_blocking(note: str) -> None:
    try:
        Path(note).write_text("started")
        time.sleep(600)
    finally:
        Path(note).write_text("cleaned")


def stubborn(note: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(note).write_text("started")
    while True:
        time.sleep(600)


async def questions(numbers: list[int]) -> list[Any]:
    return [json.loads(text) for text in await asyncio.gather(*(ask(json.dumps(number)) for number in numbers))]


async def impatient(wish: Any) -> str:
    """Gives a question up, and asks another one: the late answer is not taken for the answer to that."""
    try:
        await asyncio.wait_for(ask('"slow"'), 0.05)
    except TimeoutError:
        return str(json.loads(await ask('"quick"')))
    return "no timeout"


def poison(name: str) -> Any:
    """Values that have brought queues down."""
    if name == "deep":
        value: Any = "bottom"
        for _ in range(3000):
            value = [value]
        return value
    return {
        "nul": "a\0b", "half": "a\ud800b", "nan": float("nan"), "infinite": float("inf"), "digits": 10**5000,
        "large": "x" * 50 * MIB, "object": object(), "set": {1, 2}, "bytes": b"bytes",
    }[name]  # fmt: skip


def sleep(seconds: float) -> None:
    time.sleep(seconds)
