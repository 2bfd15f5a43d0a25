"""The operator `read_examples`: a file of rows becomes examples and conversations again.

It reads what an export writes, and what others write in the same shapes. What a row is is told by its keys:

    question, answer           columns (jsonl, csv, parquet); `turns` beside them make a conversation
    instruction, output        alpaca; `history` holds earlier exchanges
    conversations              sharegpt (from, value)
    messages                   messages (role, content), also with `thinking` or `reasoning_content`
    prompt, completion         prompt-completion

A row that does not become one is left out and told in the notes: nothing is guessed.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal

from gristmill.data.import_rows import Problem, records_in
from gristmill.data.import_shapes import Reading, body_of
from gristmill.data.kinds import Conversation, Example, Source
from gristmill.errors import InputError
from gristmill.operators.operator import Context, operator

SHOWN = 10  # rejected rows that the notes tell one by one


@operator("read_examples", version=1, pool="parse", isolate=True)
async def read_examples(
    source: Source,
    ctx: Context,
    fields: dict[str, str] | None = None,
    required: tuple[str, ...] = ("question", "answer"),
    reasoning: Literal["take", "leave"] = "take",
) -> list[Example | Conversation]:
    """The rows of a .jsonl, .ndjson, .json (one array), .csv or .parquet file.

    `fields` says where the file has other names: {"question": "prompt"}. A row needs a value in each field of
    `required`. `reasoning="take"` (default) takes a chain of thought in <think> tags off the start of an answer,
    "leave" leaves it there. `ctx.notes` counts the rows read, those rejected by reason, and tells the first of these.

    Raises `InputError`: P250 a name that says none of these types, P251 a file that cannot be read as one, P252 no row
    of it can be used.
    """
    data = await ctx.blobs.read(source.blob)
    reading = Reading(fields or {}, required, take_reasoning=reasoning == "take")
    made, rejected = await asyncio.to_thread(_read, source.name, data, reading)
    if rejected:
        reasons: dict[str, int] = {}
        for _, reason in rejected:
            reasons[reason] = reasons.get(reason, 0) + 1
        most = sorted(reasons, key=lambda reason: -reasons[reason])[:SHOWN]
        ctx.notes.update(rejected=len(rejected), reasons={reason[:200]: reasons[reason] for reason in most})
        ctx.notes["first_rejected"] = [f"{place}: {reason[:200]}" for place, reason in rejected[:SHOWN]]
    ctx.notes["read"] = len(made)
    if rejected and not made:
        place, reason = rejected[0]
        raise InputError(
            f"{source.name}: none of its {len(rejected):,} rows can be used; {place}: {reason}", code="P252",
            hint="""name its fields: read_examples.using(fields={"question": "prompt"})""",
        )  # fmt: skip
    return made


def _read(name: str, data: bytes, reading: Reading) -> tuple[list[Any], list[tuple[str, str]]]:
    made: list[Any] = []
    rejected: list[tuple[str, str]] = []
    for place, row in records_in(name, data):
        if isinstance(row, Problem):
            rejected.append((place, row.reason))
            continue
        try:
            made.append(body_of(row, reading))
        except ValueError as error:
            rejected.append((place, str(error)))
    return made, rejected
