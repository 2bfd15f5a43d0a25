"""Functions by name, so that another process can find them: "module:qualname", or "/path/script.py:qualname"."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

from gristmill.errors import UsageError


def target_of(function: Callable[..., Any]) -> str:
    """The name under which a child process finds the function. Raises `UsageError` U211 for one without such a name."""
    module, name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if not module or not name or "<" in name:
        raise UsageError(
            f"{function!r} cannot run in a child process: it has no name there", code="U211",
            hint="define it at the top level of a module",
        )  # fmt: skip
    if module.startswith("__"):  # a script: run by its user, or loaded by path
        return f"{os.path.abspath(function.__code__.co_filename)}:{name}"
    return f"{module}:{name}"


def find_target(target: str) -> Callable[..., Any]:
    """The function of that name; imports its module. Raises `UsageError` U211 when there is none."""
    found = find_object(target)
    if not callable(found):
        raise UsageError(f"{target} is not a function", code="U211")
    checked: Callable[..., Any] = found
    return checked


def find_object(target: str) -> Any:
    """What has that name; imports its module. Raises `UsageError` U211 when there is none."""
    place, _, name = target.rpartition(":")
    if not place:
        raise UsageError(f"{target!r} names nothing", code="U211", hint='write "module:name"')
    found: Any = load_script(place) if place.endswith(".py") else importlib.import_module(place)
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"there is no {name} in {place}", code="U211")
        found = getattr(found, part)
    return found


def load_script(path: str) -> ModuleType:
    """A script as a module of its own, loaded once. Raises `UsageError` U212 for what is no Python file."""
    path = os.path.abspath(path)
    name = f"__gristmill_{hashlib.sha256(path.encode()).hexdigest()[:12]}__"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path} is not a Python file", code="U212")
    if (folder := os.path.dirname(path)) not in sys.path:
        sys.path.insert(0, folder)  # as when the script itself is run: it may import its neighbours
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]  # half a module is worse than none: the next try begins anew
        raise
    return module
