"""The label tree of a collection: what it is about, from main subjects down."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationInfo
from typing_extensions import TypeAliasType

from gristmill.data.kinds import Document, LabelTree
from gristmill.operators.operator import Context, operator
from gristmill.operators.wording import fold

CONTENTS_LIMIT = 100_000  # characters of headings that the model sees
OPENING = 200  # characters of a document without headings that stand for them
LABEL_LIMIT = 80  # characters of one label
BETWEEN = " > "  # between the labels of a path that is written in one line
_NUMBERING = re.compile(r"^\s*(?:\d+(?:\.\d+)+[.)]?|\d+[.)]|[-*•])\s+(?=\S)")  # "1.2 Name", not "5 Whys"


def _with_paths(action: str, info: ValidationInfo) -> str:
    if action != "build" and not read_paths(info.data.get("paths", [])):
        raise ValueError(f'action "{action}" needs paths, for example ["Pumps > Starting", "Valves"]')
    return action


# Under names of their own, so that the bounds survive typing.get_type_hints, which drops a bare Annotated.
Action = TypeAliasType("Action", Annotated[Literal["build", "revise", "keep", "import"], AfterValidator(_with_paths)])
Depth = TypeAliasType("Depth", Annotated[int, Field(ge=1, le=4)])
Many = TypeAliasType("Many", Annotated[int, Field(ge=1, le=100)])


class GivenPath(BaseModel):
    """One label with those above it, the main subject first."""

    path: list[str]


@operator("label_tree", version=1, barrier=True, pool="model", model=True, prompts=("label_tree", "label_tree_revise"))
async def label_tree(
    documents: list[Document], ctx: Context,
    paths: list[str | list[str]] = [],  # noqa: B006 - never changed
    action: Action = "build",
    levels: Depth = 2, max_primary: Many = 10, max_secondary: Many = 5, prompt: str | None = None,
) -> LabelTree | None:  # fmt: skip
    """One tree of labels for all documents, at most `levels` deep (default 2).

    `action`: "build" (default) makes it from the headings of the documents (their first 100,000 characters); "revise"
    shows the model the tree in `paths` too and asks for one that fits the documents; "import" and "keep" take `paths`
    as they are, without a model. `paths` are labels from the main subject down: ["Pumps", "Starting"], or in one text,
    "Pumps > Starting". What the model gives is cut to `max_primary` main labels (default 10) with `max_secondary` below
    each label (default 5); repetitions and numbering are dropped. None when nothing is left.

    Raises `WorkflowError` when the options are set: an action that needs `paths` and has none; and whatever the model
    raises.
    """
    own = read_paths(paths)
    if action in ("keep", "import"):
        return LabelTree(paths=tidy(own), origin="kept" if action == "keep" else "import")
    contents = await contents_of(documents, ctx)
    if not contents:
        ctx.notes["empty"] = "there is no document"
        return None
    filled = ctx.prompt(
        prompt or ("label_tree_revise" if action == "revise" else "label_tree"), contents=contents, levels=str(levels),
        max_primary=str(max_primary), max_secondary=str(max_secondary), language=ctx.language,
        tree="\n".join(BETWEEN.join(path) for path in own) or "-",
    )  # fmt: skip
    given: list[GivenPath] = await ctx.model.generate(filled, list[GivenPath])
    made = tidy([tuple(entry.path) for entry in given], levels, max_primary, max_secondary)
    ctx.notes.update(returned=len(given), labels=len(made))
    if not made:
        ctx.notes["empty"] = "the model gave no label that can be used"
        return None
    return LabelTree(paths=made)


async def contents_of(documents: Sequence[Document], ctx: Context) -> str:
    """The headings of all documents, indented; for one without any its title, or its first words."""
    pieces: list[str] = []
    length = 0
    for document in documents:
        lines = [f"{'  ' * (heading.level - 1)}- {heading.title}" for heading in document.headings]
        if not lines:
            start = (await ctx.blobs.read(document.text_blob))[: 4 * OPENING].decode("utf-8", "ignore")[:OPENING]
            lines = [f"- {document.title or ' '.join(start.split())}"]
        pieces.append("\n".join(lines))
        length += len(pieces[-1]) + 1
        if length > CONTENTS_LIMIT:
            break
    return "\n".join(pieces)[:CONTENTS_LIMIT]


def read_paths(paths: Iterable[str | Sequence[str]]) -> list[tuple[str, ...]]:
    """Paths as a user writes them, as tuples of labels."""
    split = (path.split(BETWEEN.strip()) if isinstance(path, str) else path for path in paths)
    return [tuple(label.strip() for label in path) for path in split if any(label.strip() for label in path)]


def tidy(
    paths: Iterable[Sequence[str]], levels: int = 100, primary: int = 10**6, secondary: int = 10**6
) -> tuple[tuple[str, ...], ...]:
    """Every path once, parents before their children, within the limits; labels without numbering, blank ones ended."""
    known: dict[tuple[str, ...], tuple[str, ...]] = {}  # folded -> as it was written first
    children: dict[tuple[str, ...], int] = {}
    for path in paths:
        key: tuple[str, ...] = ()
        for label in path[:levels]:
            plain = _NUMBERING.sub("", label).strip()
            folded = fold(plain)
            if not folded or len(plain) > LABEL_LIMIT:
                break
            above, key = key, (*key, folded)
            if key in known:
                continue
            if children.get(above, 0) >= (secondary if above else primary):
                break
            children[above] = children.get(above, 0) + 1
            known[key] = (*known.get(above, ()), plain)
    order = {key: place for place, key in enumerate(known)}
    return tuple(known[key] for key in sorted(known, key=lambda key: [order[key[: n + 1]] for n in range(len(key))]))
