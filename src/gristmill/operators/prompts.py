"""Which prompts a step uses, and whether those of the project's own fit before anything is paid."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from pathlib import Path

from gristmill.errors import UsageError
from gristmill.llm.prompt import PromptTemplate, load_prompt
from gristmill.operators.operator import StepSpec

_PLACE = re.compile(r"(?<!\{)\{([A-Za-z_][A-Za-z0-9_]*)\}(?!\})")


def prompts_of(spec: StepSpec, language: str, folder: Path | None = None) -> list[PromptTemplate]:
    """The prompts of a step: those of its operator, or the one that its option `prompt` names instead.

    `folder` holds the project's own, which win. Raises `UsageError` for one that does not exist or cannot be read.
    """
    names = spec.operator.prompts
    if names and spec.options.get("prompt"):
        names = (str(spec.options["prompt"]),)
    return [load_prompt(name, language, folder=folder) for name in names]


def check_prompts(steps: Iterable[StepSpec], language: str, folder: Path | None = None) -> None:
    """Raises `UsageError` U306 for a prompt that asks for what its operator does not give, and for a folder that is
    not there; what `prompts_of` raises."""
    if folder is not None and not folder.is_dir():
        raise UsageError(
            f"there is no folder {folder} with prompts", code="U306",
            hint="the setting `prompts` names it; it holds LANGUAGE/NAME.md", safe="nothing was started",
        )  # fmt: skip
    for spec in steps:
        offered = _offered(spec, language)
        for template in prompts_of(spec, language, folder):
            if offered:
                _check(spec, template, offered)


def own_prompts(steps: Iterable[StepSpec], language: str, folder: Path | None) -> list[list[str]]:
    """Name and fingerprint (hex) of the prompts that are not the built-in ones; [] without any."""
    found: list[list[str]] = []
    for spec in steps:
        builtin = {load_prompt(name, language).text for name in spec.operator.prompts} if folder is not None else set()
        found += [
            [spec.name, one.fingerprint().hex()]
            for one in (prompts_of(spec, language, folder) if folder is not None else [])
            if one.text not in builtin
        ]
    return found


def texts_of(steps: Iterable[StepSpec], language: str, folder: Path | None) -> dict[str, dict[str, str]]:
    """The texts of the prompts of each step that uses some, by the names of step and prompt."""
    found = {spec.name: {one.name: one.text for one in prompts_of(spec, language, folder)} for spec in steps}
    return {step: texts for step, texts in found.items() if texts}


def _offered(spec: StepSpec, language: str) -> set[str]:
    """The fields that the operator puts in; empty where no prompt of ours says so (an operator of the user's own)."""
    offered: set[str] = set()
    for name in spec.operator.prompts:
        try:
            builtin = load_prompt(name, language)
        except UsageError:
            return set()
        offered |= {*builtin.fields, *builtin.also}
    return offered


def _check(spec: StepSpec, template: PromptTemplate, offered: set[str]) -> None:
    where = f'the prompt "{template.name}" of step "{spec.name}"'
    for field in template.fields:
        if field not in offered:
            raise _wrong(
                f"{where} declares the field {field}, which {spec.operator.name} does not have", field, offered
            )
    for _, text in template.parts:
        for place in _PLACE.findall(text):
            near = difflib.get_close_matches(place, offered, 1, 0.8)
            if place not in template.fields and near:
                raise _wrong(f"{where} says {{{place}}} and does not declare it as a field", place, offered)


def _wrong(message: str, field: str, offered: set[str]) -> UsageError:
    near = difflib.get_close_matches(field, offered, 1)
    meant = f"did you mean {near[0]}? " if near and near[0] != field else ""
    return UsageError(
        message, code="U306", hint=f"{meant}its fields are: {', '.join(sorted(offered))}", safe="nothing was started"
    )
