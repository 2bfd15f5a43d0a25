"""Labels for questions, out of the label tree of the run."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from pydantic import BaseModel, Field
from typing_extensions import TypeAliasType

from gristmill.data.kinds import LabelTree, Question
from gristmill.operators.calling import together
from gristmill.operators.label_tree import BETWEEN
from gristmill.operators.operator import Context, Derived, operator
from gristmill.operators.wording import fold

AT_ONCE = 8  # calls under way

Batch = TypeAliasType("Batch", Annotated[int, Field(ge=1, le=100)])
Label = tuple[str, ...]


class GivenLabel(BaseModel):
    """The label of one question, as the model gives it."""

    number: int
    label: str | None


@operator(
    "assign_labels", version=1, barrier=True, pool="model", model=True, prompts=("assign_labels",), timeout=21_600
)
async def assign_labels(
    parts: list[Question | LabelTree], ctx: Context, batch: Batch = 20, fallback: str = "Other",
    prompt: str | None = None,
) -> list[Derived[Question]]:  # fmt: skip
    """Every question once more, with its label: a path of the tree, the deepest that fits.

    A step of its own that follows the questions and the tree: `assign_labels.after("ask", "label_tree")`. The model is
    asked about at most `batch` questions (default 20) at once. A question for which it names no label of the tree gets
    `fallback` (default "Other"). Where it gives nothing of use for a whole batch, or where there is no tree, questions
    are passed on without a label and the outcome is "degraded": no question is lost for want of a label.

    Raises what the model raises when it cannot be reached.
    """
    questions = [(at, part) for at, part in enumerate(parts) if isinstance(part, Question)]
    tree = next((part for part in parts if isinstance(part, LabelTree)), None)
    if tree is None:
        if questions:
            ctx.notes["degraded"] = "there is no label tree: questions are passed on without labels"
        return [Derived(question, (at,)) for at, question in questions]
    known = _known(tree)
    counts: Counter[str] = Counter()
    free = asyncio.Semaphore(AT_ONCE)

    async def label(group: Sequence[tuple[int, Question]]) -> list[Derived[Question]]:
        async with free:
            filled = ctx.prompt(
                prompt or "assign_labels", language=ctx.language, fallback=fallback,
                labels="\n".join(BETWEEN.join(path) for path in tree.paths),
                questions="\n".join(f"{number}. {entry.text}" for number, (_, entry) in enumerate(group, 1)),
            )  # fmt: skip
            given: list[GivenLabel] | None = await ctx.model.generate(filled, list[GivenLabel], otherwise=None)
        if given is None:
            counts["unlabelled"] += len(group)
            return [Derived(question, (at,)) for at, question in group]
        named = {entry.number: entry.label or "" for entry in reversed(given)}
        made = []
        for number, (at, question) in enumerate(group, 1):
            path = known.get(fold(named.get(number, "")), (fallback,))
            counts["fallback" if path == (fallback,) else "labelled"] += 1
            made.append(Derived(question.model_copy(update={"label": path}), (at,)))
        return made

    labelled = await together(label(group) for group in batches(questions, batch))
    ctx.notes["labels"] = dict(counts)
    return [one for group in labelled for one in group]


def batches(questions: Sequence[tuple[int, Question]], most: int) -> Iterator[list[tuple[int, Question]]]:
    """Groups of at most `most`. Where one ends depends on the words: a question more or less changes the groups around
    it only, and the others are asked with the same words again, which the ledger knows."""
    group: list[tuple[int, Question]] = []
    for entry in questions:
        group.append(entry)
        mark = hashlib.sha256(entry[1].text.encode()).digest()[0] % 4 == 0
        if len(group) >= most or (mark and len(group) > most // 2):
            yield group
            group = []
    if group:
        yield group


def _known(tree: LabelTree) -> Mapping[str, Label]:
    """The paths by what a model may call them: the whole path, or the last label where only one path ends with it."""
    last = Counter(fold(path[-1]) for path in tree.paths)
    known = {fold(path[-1]): path for path in tree.paths if last[fold(path[-1])] == 1}
    return known | {fold(BETWEEN.join(path)): path for path in tree.paths}
