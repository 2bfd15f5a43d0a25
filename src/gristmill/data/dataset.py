"""The dataset of a run: rows made from records, streamed from the database."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
from pydantic import BaseModel

from gristmill.data.kinds import (
    Chunk,
    Conversation,
    Document,
    Duplicate,
    Evaluation,
    Example,
    Judgement,
    Rejection,
    Source,
)
from gristmill.data.kinds import TestItem as Item
from gristmill.data.records import SQL
from gristmill.data.rows import Row
from gristmill.db.database import LONG

PAGE = 500  # rows
KEPT = 2_000  # ancestors that are kept of the pages before
MAKING = (Example, Conversation, Item)
MARKING = (Duplicate, Rejection)
SCORING = (Evaluation, Judgement)


@dataclass(frozen=True, slots=True)
class Steps:
    """Which steps of a workflow make rows, mark them, and score them, by their places."""

    making: tuple[int, ...]
    marking: tuple[int, ...]
    scoring: tuple[int, ...]

    @classmethod
    def of(cls, output_types: Sequence[Sequence[type[BaseModel]]]) -> Steps:
        """From what each step makes. Nothing comes of a document that a step keeps back: its mark has nothing to hide,
        and must not hide rows that another document shares with it."""

        def places(wanted: Sequence[type[BaseModel]]) -> tuple[int, ...]:
            return tuple(at for at, types in enumerate(output_types) if set(types) & set(wanted))

        marking = tuple(at for at in places(MARKING) if Document not in output_types[at])
        return cls(places(MAKING), marking, places(SCORING))


async def rows_of_run(
    pool: asyncpg.Pool[Any], run_id: int, run: str, steps: Steps, *, left_out: bool = False,
    only: Sequence[int] | None = None,
) -> AsyncGenerator[Row, None]:  # fmt: skip
    """Rows in the order of the inputs and of their text; with `left_out` those too that marks leave out. Holds one page
    of rows and what they came from. `only`: those of these records, at the cost of these records alone."""
    async with pool.acquire() as connection, connection.transaction(readonly=True):
        await connection.execute("set local statement_timeout = 0")
        # Between two pages the rows are written: a slow disk must not cost the connection
        await connection.execute("set local idle_in_transaction_session_timeout = 0")
        given: list[Any] = [run_id, steps.making, steps.marking, steps.scoring, left_out]
        query = SQL["dataset"]
        if only is not None:
            given.append(list(only))
            query = query.replace("/* only */", f"and rr.record_id = any (${len(given)}::bigint[])")
        cursor = await connection.cursor(query, *given, timeout=LONG)
        known = _Known(connection, run_id, steps.marking)
        while page := await cursor.fetch(PAGE, timeout=LONG):
            await known.look_up(page)
            for row in page:
                made = _row(row, run, known)
                if left_out or made.left_out is None:
                    yield made


class _Known:
    """What rows came from, by id. Neighbours share their chunk and their document, so little is asked for twice."""

    def __init__(
        self, connection: asyncpg.pool.PoolConnectionProxy[Any], run_id: int, marking: tuple[int, ...]
    ) -> None:
        self._connection = connection
        self._run_id = run_id
        self._marking = marking
        self.marks: OrderedDict[int, str | None] = OrderedDict()
        self.chunks: OrderedDict[int, Chunk] = OrderedDict()
        self.sources: OrderedDict[int, Source] = OrderedDict()
        self.documents: OrderedDict[int, tuple[str | None, str]] = OrderedDict()  # title, hash of the text

    async def look_up(self, page: Sequence[Mapping[str, Any]]) -> None:
        await self._fill(self.chunks, "load", _ids(page, "chunk_id"), lambda row: _parsed(Chunk, row))
        await self._fill(self.sources, "load", _ids(page, "source_id"), lambda row: _parsed(Source, row))
        await self._fill(
            self.documents, "document_facts", _ids(page, "document_id"), lambda row: (row["title"], row["text_blob"])
        )
        if self._marking:
            await self._look_up_marks(list(dict.fromkeys(number for row in page for number in row["above"] or ())))

    async def _look_up_marks(self, ids: Sequence[int]) -> None:
        missing = [number for number in ids if number not in self.marks]
        self.marks.update(dict.fromkeys(missing))
        for row in await self._connection.fetch(SQL["marks_of"], self._run_id, self._marking, missing):
            self.marks[row["id"]] = row["reason"]
        _forget(self.marks, ids)

    def mark_above(self, row: Mapping[str, Any]) -> str | None:
        """Why something that the row came from is marked."""
        return next((self.marks[number] for number in row["above"] or () if self.marks.get(number)), None)

    async def _fill(
        self, known: OrderedDict[int, Any], statement: str, ids: Sequence[int], make: Callable[[Any], Any]
    ) -> None:
        missing = [number for number in ids if number not in known]
        for row in await self._connection.fetch(SQL[statement], missing) if missing else ():
            known[row["id"]] = make(row)
        _forget(known, ids)


def _forget(known: OrderedDict[int, Any], ids: Sequence[int]) -> None:
    """Keeps what was just asked for, and of the rest what was asked for last."""
    for number in ids:
        known.move_to_end(number)
    while len(known) > max(KEPT, len(ids)):
        known.popitem(last=False)


def _ids(page: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    return list(dict.fromkeys(row[name] for row in page if row[name] is not None))


def _parsed(kind: type[BaseModel], row: Mapping[str, Any]) -> BaseModel:
    return kind.model_validate_json(row["body"])


def _row(row: Any, run: str, known: _Known) -> Row:
    chunk, source = known.chunks.get(row["chunk_id"]), known.sources.get(row["source_id"])
    title, text_blob = known.documents.get(row["document_id"]) or (None, "")
    where = {
        "record_id": str(row["record_id"]), "run": run, "work": row["work_key"], "kind": row["kind"],
        "source": row["item"] or (source.name if source else ""), "title": title,
        "document": text_blob or (source.blob if source else ""),
        "question_id": str(row["question_id"]) if row["question_id"] else None,
        "score": row["score"], "left_out": row["left_out"] or known.mark_above(row) or _rejected(row),
        "review": row["review"], "reviewer": row["reviewer"],
    }  # fmt: skip
    if chunk is not None:
        where |= {
            "chunk": chunk.text, "page_start": chunk.page_start, "page_end": chunk.page_end, "start": chunk.start,
            "end": chunk.end, "heading_path": chunk.heading_path,
        }  # fmt: skip
    return Row(**_CONTENT[row["kind"]](row["body"]), **where)


def _rejected(row: Any) -> str | None:
    return f"rejected by {row['reviewer']}" if row["review"] == "rejected" else None


def _example(body: str) -> dict[str, Any]:
    one = Example.model_validate_json(body)
    return {
        "question": one.question, "answer": one.answer, "quote": one.quote, "evidence_start": one.evidence_start,
        "evidence_end": one.evidence_end, "model": one.model, "reasoning": one.reasoning,
        "reasoning_origin": one.reasoning_origin, "system": one.system, "image": one.image, "label": one.label or (),
        "answer_type": one.answer_type, "grounded": one.grounded,
    }  # fmt: skip


def _conversation(body: str) -> dict[str, Any]:
    one = Conversation.model_validate_json(body)
    asked = next((turn.content for turn in one.turns if turn.role == "user"), "")
    said = next((turn.content for turn in reversed(one.turns) if turn.role == "assistant"), "")
    return {
        "question": asked, "answer": said, "turns": one.turns, "rounds": one.rounds, "scenario": one.scenario,
        "model": one.model, "label": one.label or (),
    }  # fmt: skip


def _item(body: str) -> dict[str, Any]:
    one = Item.model_validate_json(body)
    return {
        "question": one.question, "answer": ", ".join(one.correct), "options": one.options, "answer_type": one.type,
        "reasoning": one.explanation, "label": one.label or (),
    }  # fmt: skip


_CONTENT: dict[str, Callable[[str], dict[str, Any]]] = {
    "example": _example, "conversation": _conversation, "test_item": _item,
}  # fmt: skip
