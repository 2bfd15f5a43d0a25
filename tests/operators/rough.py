"""Operators that do to their process what real ones do by accident."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from typing import Any

from pydantic import BaseModel

from gristmill.errors import Busy, InputError, TransientError
from gristmill.operators.operator import Context, Derived, operator


class Wish(BaseModel):
    do: str
    more: str = ""


class Said(BaseModel):
    text: str


class Anything(BaseModel):
    value: Any = None
    number: float = 0.0


def anything(name: str) -> Anything:
    value = poisonous(name)
    return Anything(number=value) if isinstance(value, float) else Anything(value=value)


class Flaky(TransientError):
    """Somebody's own error."""


@operator("rough", isolate=True, timeout=60)
async def rough(wish: Wish, ctx: Context) -> list[Said]:
    """Does what the wish says; answers with what it saw."""
    match wish.do:
        case "signal":
            print("about to die", file=sys.stderr, flush=True)
            os.kill(os.getpid(), int(wish.more))
        case "_exit":
            os._exit(int(wish.more))
        case "exit":
            sys.exit(0)
        case "huge":
            return [Said(text="x" * 900_000) for _ in range(80)]
        case "print":
            print("not a message")
            os.write(1, b'{"result": []}\n')
            subprocess.run(["echo", "neither is this"], check=True)
        case "chatter":
            sys.stderr.write(wish.more)
            sys.stderr.flush()
            return [Said(text=f"{len(wish.more)} said")]
        case "read":
            return [
                Said(
                    text=repr(sys.stdin.read())
                    + subprocess.run(["cat"], capture_output=True, check=True).stdout.decode()
                )
            ]
        case "sleep":
            grandchild = subprocess.Popen(["sleep", "600"])
            with open(wish.more, "w") as file:
                file.write(f"{os.getpid()} {grandchild.pid}")
            await asyncio.sleep(600)
        case "ask":
            answers = await asyncio.gather(*(ctx.model.generate(f"echo {n}", Said) for n in range(8)))
            return [Said(text=answer.text) for answer in answers]
        case "look":
            sockets = [link for fd in os.listdir("/proc/self/fd") if "socket:" in (link := _link(fd))]
            return [Said(text=f"{os.getpid()}"), Said(text=",".join(os.environ)), Said(text=",".join(sockets))]
        case "flaky":
            raise Flaky("not today", code="X1")
        case "busy":
            raise Busy("full", delay=3.0, reason="the queue of the test")
        case "reject":
            raise InputError("never", code="X2", hint="do not ask")
        case "raise":
            raise ValueError(wish.more)
    return [Said(text=wish.more)]


@operator("rough_plain", isolate=True, memory=256 * 2**20, cpu=30)
def plain(wish: Wish, ctx: Context) -> Said:
    """A function that blocks, and that takes as much memory as it is told to."""
    time.sleep(0.1)
    return Said(text=f"{os.getpid()} {len(bytearray(int(wish.more or 0)))}")


@operator("rough_thread")
def in_a_thread(wish: Wish) -> Said:
    match wish.do:
        case "sleep":
            time.sleep(float(wish.more))
        case "exit":
            sys.exit(3)
    return Said(text=threading.current_thread().name)


@operator("rough_panic")
async def panic(wish: Wish) -> Said:
    class Panic(BaseException):
        """What a native extension raises when it panics."""

    raise Panic("index out of bounds")


@operator("rough_poison")
async def poison(wish: Wish) -> Anything:
    return anything(wish.do)


@operator("rough_poison_isolated", isolate=True)
def poison_isolated(wish: Wish) -> Anything:
    return anything(wish.do)


@operator("rough_poison_thread")
def poison_thread(wish: Wish) -> Anything:
    return anything(wish.do)


def poisonous(name: str) -> Any:
    """Values that have brought queues down."""
    if name == "deep":
        value: Any = "bottom"
        for _ in range(3000):
            value = [value]
        return value
    return {
        "nul": "a\0b", "half": "a\ud800b", "nan": float("nan"), "infinite": float("inf"), "digits": 10**5000,
        "large": "x" * 50 * 2**20, "object": object(), "fine": "fine",
    }[name]  # fmt: skip


def _link(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@operator("rough_gather", barrier=True)
async def gather(all_of_them: list[Said], ctx: Context) -> list[Any | Derived[Said]]:
    return [Derived(Said(text="+".join(said.text for said in all_of_them)), (0,))] if all_of_them else []
