"""Gristmill: documents go in, training data comes out, and nothing that was paid for is lost on the way."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gristmill import leaving as leaving
from gristmill.version import __version__

if TYPE_CHECKING:
    from gristmill.app import App as App
    from gristmill.data.kinds import Chunk as Chunk
    from gristmill.data.kinds import Document as Document
    from gristmill.data.kinds import Example as Example
    from gristmill.data.kinds import Question as Question
    from gristmill.data.kinds import Source as Source
    from gristmill.errors import GristmillError as GristmillError
    from gristmill.errors import InputError as InputError
    from gristmill.errors import TransientError as TransientError
    from gristmill.operators.operator import Context as Context
    from gristmill.operators.operator import Derived as Derived
    from gristmill.operators.operator import operator as operator
    from gristmill.run import Run as Run
    from gristmill.workflow import Workflow as Workflow

# Where each public name lives; loaded on first use, so that `gristmill --help` imports next to nothing.
_PUBLIC = {
    "App": "gristmill.app",
    "Chunk": "gristmill.data.kinds",
    "Context": "gristmill.operators.operator",
    "Derived": "gristmill.operators.operator",
    "Document": "gristmill.data.kinds",
    "Example": "gristmill.data.kinds",
    "GristmillError": "gristmill.errors",
    "InputError": "gristmill.errors",
    "Question": "gristmill.data.kinds",
    "Run": "gristmill.run",
    "Source": "gristmill.data.kinds",
    "TransientError": "gristmill.errors",
    "Workflow": "gristmill.workflow",
    "operator": "gristmill.operators.operator",
}
__all__ = ["__version__", *sorted(_PUBLIC)]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'gristmill' has no attribute {name!r}")
