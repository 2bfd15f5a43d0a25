"""The engine; on its own a library of durable tasks for your own functions: `from gristmill.engine import Engine`.

Everything public is loaded on first use; `docs/guides/engine-as-a-library.md` is the page for users.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gristmill.engine.batch import Batch as Batch
    from gristmill.engine.batch import BatchProgress as BatchProgress
    from gristmill.engine.child_limits import Limits as Limits
    from gristmill.engine.library import Engine as Engine
    from gristmill.engine.lock_keys import lock_key as lock_key
    from gristmill.engine.orders import Options as Options
    from gristmill.engine.orders import TaskHandle as TaskHandle
    from gristmill.engine.performing import TaskContext as TaskContext
    from gristmill.engine.retry import Policy as Policy
    from gristmill.engine.retry import Rule as Rule
    from gristmill.engine.worker import WorkerSettings as WorkerSettings

_PUBLIC = {
    "Batch": "batch",
    "BatchProgress": "batch",
    "Engine": "library",
    "Limits": "child_limits",
    "Options": "orders",
    "Policy": "retry",
    "Rule": "retry",
    "TaskContext": "performing",
    "TaskHandle": "orders",
    "WorkerSettings": "worker",
    "lock_key": "lock_keys",
}
__all__ = sorted(_PUBLIC)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f"gristmill.engine.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'gristmill.engine' has no attribute {name!r}")
