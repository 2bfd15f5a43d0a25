"""Reads a pack from its folder and says everything that is wrong with it, without running anything.

The codes are stable: docs/reference/packs.md.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from gristmill.data.kinds import KINDS
from gristmill.engine.lock_keys import check_key
from gristmill.errors import UsageError
from gristmill.operators.operator import OVERRIDES
from gristmill.packs.files import Problem, read_files
from gristmill.packs.pack import PACK_FILE, WHEELS, About, Action, Pack
from gristmill.packs.parameters import NotFitting, checked, schema_problem, secrets_of
from gristmill.packs.yaml_text import NotYaml, read_yaml

Declared = TypeVar("Declared", bound=BaseModel)
RESERVED = (*OVERRIDES, "after")  # words of a step in a workflow; no parameter can be called like them
_LOADER = re.compile(r"(LD|DYLD|GRISTMILL)_.*|PYTHON(PATH|HOME|STARTUP|INSPECT)|BASH_ENV|ENV|IFS")
_PINNED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._-]+\])?\s*==\s*[A-Za-z0-9.!+*_-]+")
_REQUIREMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(\[[A-Za-z0-9,._ -]+\])?\s*([<>=!~]=?=?[^;@/\\]*)?(;.*)?")


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or (`warning`) that may be. `line` counts from 1; 0: the whole file."""

    code: str
    level: Literal["error", "warning"]
    file: str
    line: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.code} {self.message}"

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def check_pack(folder: Path | str) -> tuple[Pack | None, list[Finding]]:
    """The pack, None if it cannot be used, and what was found, errors and warnings, by file and line."""
    checking = _Checking(Path(folder))
    pack = checking.pack()
    findings = sorted(checking.findings, key=lambda one: (one.file, one.line, one.code))
    return (None if any(one.level == "error" for one in findings) else pack), findings


def load_pack(folder: Path | str) -> Pack:
    """The pack in that folder. Raises `UsageError` K100 with everything that is wrong with it."""
    pack, findings = check_pack(folder)
    wrong = [one for one in findings if one.level == "error"]
    if pack is None:
        listed = "; ".join(map(str, wrong[:5])) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise UsageError(
            f"the pack in {folder} cannot be used: {listed}", code="K100",
            hint=f"all of it: gristmill packs check {folder}",
        )  # fmt: skip
    return pack


class _Checking:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.findings: list[Finding] = []
        self.files: dict[str, tuple[bool, bytes]] = {}
        self._lines: dict[tuple[str | int, ...], int] = {}  # of the file that is looked at

    def pack(self) -> Pack | None:
        if not os.path.lexists(self.folder / PACK_FILE):  # else a wrong path would be read whole
            self._wrong(Problem("K101", PACK_FILE, f"{self.folder} has no {PACK_FILE}", "gristmill packs new FOLDER"))
            return None
        self.files, problems = read_files(self.folder)
        for problem in problems:
            self._wrong(problem)
        if PACK_FILE not in self.files:
            return None
        about = self._read(PACK_FILE, About)
        if about is None:
            return None
        self._check_schema(about.settings, PACK_FILE, ("settings",))
        if not about.label:
            self._warn("K152", PACK_FILE, "it has no label", "one line that says what the pack is for")
        places = [path for path in sorted(self.files) if re.fullmatch(r"actions/[^/]+\.ya?ml", path)]
        if not places:
            self._error("K120", PACK_FILE, "the pack has no actions", "each is a file actions/NAME.yaml")
        actions: dict[str, Action] = {}
        for path in places:
            action = self._read(path, Action)
            if action is not None:
                self._check_action(about, action, path)
                if action.ref in actions:
                    self._error("K105", path, f"a second action is called {action.ref}", key=("ref",))
                actions[action.ref] = action
        return Pack(self.folder.resolve(), about, tuple(actions.values()), self.files)

    def _read(self, path: str, wanted: type[Declared]) -> Declared | None:
        try:
            plain, self._lines = read_yaml(self.files[path][1].decode("utf-8"))
        except UnicodeDecodeError:
            self._error("K102", path, "it is not UTF-8 text")
            return None
        except NotYaml as error:
            self.findings.append(Finding("K102", "error", path, error.line, error.problem))
            return None
        if not isinstance(plain, dict):
            self._error("K103", path, f"it has no names with values; it may say: {', '.join(wanted.model_fields)}")
            return None
        try:
            return wanted.model_validate(plain)
        except ValidationError as error:
            for problem in error.errors(include_input=False, include_url=False, include_context=False):
                self._misfit(path, wanted, problem["loc"], problem["msg"], problem["type"])
            return None

    def _misfit(self, path: str, wanted: type[BaseModel], place: tuple[int | str, ...], what: str, kind: str) -> None:
        name = ".".join(map(str, place))
        code = {"ref": "K104", "version": "K104"}.get(name, "K103")
        hint = f"it may say: {', '.join(wanted.model_fields)}" if kind == "extra_forbidden" else ""
        said = "means nothing here" if kind == "extra_forbidden" else what.removeprefix("Value error, ")
        self._error(code, path, f"{name}: {said}", hint, key=place)

    def _check_action(self, about: About, action: Action, path: str) -> None:
        if not action.ref.startswith(f"{about.ref}."):
            self._error("K104", path, f"ref: {action.ref} does not begin with {about.ref}.", key=("ref",))
        self._check_entry(action, path)
        self._check_schema(action.parameters, path, ("parameters",))
        self._check_names(action, path)
        for where, kinds in (("takes", action.takes), ("makes", (action.makes,) if action.makes else ())):
            for kind in kinds:
                if kind not in KINDS:
                    hint = f"one of: {', '.join(sorted(KINDS))}"
                    self._error("K115", path, f"{where}: there is no kind {kind!r}", hint, key=(where,))
        if action.makes and action.output == "text":
            self._error("K115", path, f"text cannot be a {action.makes}", "output: json or jsonl", key=("makes",))
        self._check_environment(action, path)
        self._check_requirements(action, path)
        if not action.description:
            self._warn("K152", path, "it has no description", "what it does, and what it prints")

    def _check_entry(self, action: Action, path: str) -> None:
        entry = PurePosixPath(action.entry)
        if entry.is_absolute() or ".." in entry.parts or "\\" in action.entry:
            hint = "the path of a file of the pack, from its folder: actions/fetch.py"
            self._error("K106", path, f"entry: {action.entry} leads out of the pack", hint, key=("entry",))
        elif str(entry) not in self.files:
            self._error("K106", path, f"entry: the pack has no file {action.entry}", key=("entry",))
        elif action.runner == "native" and not self.files[str(entry)][0]:
            self._error("K108", path, f"entry: {entry} is not executable", f"chmod +x {entry}", key=("entry",))

    def _check_schema(self, schema: Mapping[str, Any], path: str, key: tuple[str, ...]) -> None:
        if problem := schema_problem(schema):
            self._error("K109", path, f"{key[0]}: {problem}", key=key)
            return
        for name in secrets_of(schema):
            one = schema["properties"][name]
            if one.get("type") != "string" or "default" in one or "enum" in one:
                hint = "type: string, and neither default nor enum: it holds where the secret is"
                self._error(
                    "K116", path, f"{key[0]}: the secret {name} is no plain text", hint, (*key, "properties", name)
                )
        with_defaults = {**schema, "required": []}
        try:
            checked(with_defaults, {})
        except NotFitting as error:
            self._error("K110", path, f"{key[0]}: its own defaults do not fit: {error}", key=key)

    def _check_names(self, action: Action, path: str) -> None:
        seen: dict[str, str] = {}
        for name in action.parameters.get("properties", {}):
            key = ("parameters", "properties", name)
            if name in RESERVED:
                self._error("K118", path, f"a parameter cannot be called {name}: a step says that itself", key=key)
            if action.delivery == "env" and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                self._error("K118", path, f"{name!r} cannot be part of the name of a variable", key=key)
            if action.delivery == "env" and seen.setdefault(name.upper(), name) != name:
                self._error("K118", path, f"{name} and {seen[name.upper()]} would be one variable", key=key)
        if len(action.locks) > 1:
            self._error("K111", path, "locks: one lock at most", "a name for what both of them guard", ("locks",))
        for key_, slots in action.locks.items():
            try:
                check_key(key_)
            except UsageError as error:
                self._error("K111", path, f"locks: {error.message}", error.hint, ("locks", key_))
            if not 1 <= slots <= 1000:
                self._error("K111", path, "locks: 1 to 1000 at once", key=("locks", key_))
        if not action.pool.isprintable():
            self._error("K111", path, "pool: a name that can be printed", key=("pool",))

    def _check_environment(self, action: Action, path: str) -> None:
        for where, names in (("environment", action.environment), ("inherit", action.inherit)):
            for name in names:
                if _LOADER.fullmatch(name):
                    hint = "such a variable changes what a program is, or is set by Gristmill"
                    self._error("K113", path, f"{where}: {name} cannot be set", hint, key=(where,))
        if any("\0" in text for text in action.environment.values()):
            self._error("K113", path, "environment: a value holds a NUL character", key=("environment",))

    def _check_requirements(self, action: Action, path: str) -> None:
        if action.requirements and action.runner != "python":
            self._error("K114", path, "requirements belong to the runner python", key=("requirements",))
        for number, text in enumerate(action.requirements):
            key = ("requirements", number)
            if not _REQUIREMENT.fullmatch(text):
                hint = f"NAME==VERSION; files of your own go into the folder {WHEELS}"
                self._error("K114", path, f"requirements: {text[:80]!r} is no name with a version", hint, key=key)
            elif not _PINNED.match(text):
                self._warn("K151", path, f"requirements: {text} is not pinned", "NAME==VERSION", key=key)

    def _wrong(self, problem: Problem) -> None:
        self.findings.append(Finding(problem.code, "error", problem.file, 0, problem.message, problem.hint))

    def _error(
        self, code: str, path: str, message: str, hint: str = "", key: tuple[int | str, ...] = ()
    ) -> None:  # fmt: skip
        self.findings.append(Finding(code, "error", path, self._line(key), message, hint))

    def _warn(self, code: str, path: str, message: str, hint: str = "", key: tuple[int | str, ...] = ()) -> None:
        self.findings.append(Finding(code, "warning", path, self._line(key), message, hint))

    def _line(self, key: tuple[int | str, ...]) -> int:
        """Of the value itself, or of the nearest one around it."""
        while key and key not in self._lines:
            key = key[:-1]
        return self._lines.get(key, 0) if key else 0
