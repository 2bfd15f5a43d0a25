"""For the tests of your own operators and functions. `docs/guides/testing.md` is the page for users.

from gristmill import Chunk
from gristmill.testing import ScriptedModel, perform

async def test_quiz():
    model = ScriptedModel([[{"question": "What is a lease?", "answer": "A right to finish a task."}]])
    (qa,) = await perform(quiz, Chunk(text="A lease is a right to finish a task."), model=model)
    assert qa.question == "What is a lease?"
    assert "A lease is" in model.requests[0].messages[-1].content

`perform` needs no database; `drain`, `travel` and `assert_enqueued` work on the database of an `Engine` or `App`; the
fixtures `gristmill_database`, `gristmill_engine` and `hostile_workers` come with the pytest plugin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.testing.clock import travel as travel
    from gristmill.testing.draining import Drained as Drained
    from gristmill.testing.draining import DrainFailed as DrainFailed
    from gristmill.testing.draining import drain as drain
    from gristmill.testing.expecting import assert_enqueued as assert_enqueued
    from gristmill.testing.expecting import refute_enqueued as refute_enqueued
    from gristmill.testing.hostile import Faults as Faults
    from gristmill.testing.hostile import HostileReport as HostileReport
    from gristmill.testing.hostile import HostileWorkers as HostileWorkers
    from gristmill.testing.operators import MemoryBlobs as MemoryBlobs
    from gristmill.testing.operators import ScriptedModel as ScriptedModel
    from gristmill.testing.operators import perform as perform

# Loaded on first use: the plugin is part of every run of pytest, also of those that have no use for it.
_PUBLIC = {
    "DrainFailed": "draining",
    "Drained": "draining",
    "Faults": "hostile",
    "HostileReport": "hostile",
    "HostileWorkers": "hostile",
    "MemoryBlobs": "operators",
    "ScriptedModel": "operators",
    "assert_enqueued": "expecting",
    "drain": "draining",
    "perform": "operators",
    "refute_enqueued": "expecting",
    "travel": "clock",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"gristmill.testing.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'gristmill.testing' has no attribute {name!r}")
