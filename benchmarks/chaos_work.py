"""What the tasks of the soak do. Imports nothing of the product: children load it too."""

from __future__ import annotations

import ctypes
import time
from typing import Any

LARGE = 50 * 2**20  # bytes


def suffer(wish: dict[str, Any]) -> str:
    """Does to its process what the wish says; returns a body."""
    match wish["do"]:
        case "segfault":
            ctypes.string_at(0)
        case "loop":
            while True:
                pass
        case "memory":
            held = [bytearray(2**20) for _ in range(100_000)]
            return str(len(held))
        case "large":
            return "x" * LARGE
        case "nul":
            return "a name like \0"
        case _:
            time.sleep(wish.get("seconds", 0.0))
    return "done"


def hold_everything(seconds: float) -> None:
    """Holds event loop and GIL: no other thread of this process runs meanwhile."""
    ctypes.PyDLL(None).poll(None, 0, int(seconds * 1000))
