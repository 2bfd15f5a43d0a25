"""Lists of records and of rows of the dataset: both a page at a time, by the index of a run's records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gristmill.api.listing import Place
from gristmill.api.record_shapes import RecordRow
from gristmill.api.run_views import PAGES
from gristmill.api.shapes import cursor
from gristmill.api.stories import title_of
from gristmill.app import App
from gristmill.data.dataset import Steps, rows_of_run
from gristmill.data.filter import Kind, holds, parse_filter
from gristmill.data.rows import FILTER_COLUMNS, Row, filter_value
from gristmill.errors import UsageError
from gristmill.review.decisions import states
from gristmill.run import Run

BODY = 32 * 1024  # bytes; a longer body is left out of a list
AT_ONCE = 400  # records that are read at once where a filter may drop most of them
MOST = 10_000  # records looked at for one page
COLUMNS: dict[str, Kind] = {
    "id": "number", "kind": "text", "stage": "text", "item": "text", "task": "number", "hash": "text", "title": "text",
    "state": "text", "body": "text",
}  # fmt: skip


async def record_page(
    app: App, run: Run, kind: str | None, stage: str | None, where: str | None, after: Place | None, limit: int
) -> tuple[list[RecordRow], str | None]:
    """Records that the steps of a run have made, step by step, in the order in which they were made."""
    flow = run.workflow
    chosen = [
        at for at, spec in enumerate(flow.steps)
        if (stage is None or spec.name == stage) and (kind is None or kind in _kinds(spec))
    ]  # fmt: skip
    if stage is not None and stage not in [spec.name for spec in flow.steps]:
        known = ", ".join(spec.name for spec in flow.steps)
        raise UsageError(f'{run.name} has no stage "{stage}"', code="U302", hint=f"stages: {known}")
    node = parse_filter(where, COLUMNS) if where else None

    async def read(step: int, record: int, size: int) -> tuple[list[tuple[int, RecordRow]], int | None]:
        rows = await app.pool.fetch(PAGES["records"], run.id, step, record or None, size, BODY)
        made = await _listed(app, rows, flow.steps[step].name)
        return [(one.id, one) for one in made], rows[-1]["id"] if len(rows) == size else None

    def keep(row: RecordRow) -> bool:
        return (kind is None or row.kind == kind) and (node is None or holds(node, _values(row).get) is True)

    unfiltered = node is None and kind is None
    return await _pages(chosen, read, keep, after, limit, limit + 1 if unfiltered else max(limit + 1, AT_ONCE))


def _kinds(spec: Any) -> list[str]:
    from gristmill.workflow import kinds_of

    return kinds_of(spec)


def _values(row: RecordRow) -> Mapping[str, Any]:
    return row.model_dump(exclude={"body"}) | {"body": json.dumps(row.body, ensure_ascii=False) if row.body else None}


async def _listed(app: App, rows: Sequence[Any], stage: str) -> list[RecordRow]:
    reviewed = await states(app.pool, [row["id"] for row in rows])
    made = []
    for row in rows:
        body = json.loads(row["body"]) if row["body"] is not None else None
        said = reviewed.get(row["id"])
        made.append(
            RecordRow(
                id=row["id"], kind=row["kind"], stage=stage, item=row["item"], task=row["task_id"], hash=row["hash"],
                made_at=row["made_at"], title=title_of(row["kind"], body or {}), body=body,
                state=said.state if said else "proposed", revision=said.revision_id if said else None,
            )
        )  # fmt: skip
    return made


async def row_page(
    app: App, run: Run, where: str | None, left_out: bool, after: Place | None, limit: int
) -> tuple[list[Row], str | None]:
    """Rows of the dataset as an export has them, in the order in which their records were made. Raises `UsageError`
    U310 for a workflow that makes no rows, U420 for a filter that cannot be read."""
    steps = Steps.of([spec.operator.output_types for spec in run.workflow.steps])
    if not steps.making:
        raise UsageError(f'workflow "{run.workflow.name}" makes no examples', code="U310")
    node = parse_filter(where, FILTER_COLUMNS) if where else None

    async def read(step: int, record: int, size: int) -> tuple[list[tuple[int, Row]], int | None]:
        members = await app.pool.fetch(PAGES["members"], run.id, step, record, size)
        ids = [row["record_id"] for row in members]
        rows = rows_of_run(app.pool, run.id, run.name, steps, left_out=left_out, only=ids)
        placed = await _placed(app, [row async for row in rows], set(ids))
        return placed, ids[-1] if len(ids) == size else None

    def keep(row: Row) -> bool:
        return node is None or holds(node, lambda name: filter_value(row, name)) is True

    return await _pages(list(steps.making), read, keep, after, limit, max(limit + 1, AT_ONCE if node else limit + 1))


async def _placed(app: App, rows: Sequence[Row], members: set[int]) -> list[tuple[int, Row]]:
    """Rows with the record of the run that each stands for: what a person wrote stands for what he was shown."""
    strange = [int(row.record_id) for row in rows if int(row.record_id) not in members]
    known = await app.pool.fetch(PAGES["first_parents"], strange) if strange else []
    shown = {row["record_id"]: row["parent_id"] for row in known}
    return sorted(
        ((shown.get(int(row.record_id), int(row.record_id)), row) for row in rows), key=lambda entry: entry[0]
    )


async def _pages(
    steps: Sequence[int], read: Callable[..., Any], keep: Callable[[Any], bool], after: Place | None, limit: int,
    size: int,
) -> tuple[list[Any], str | None]:  # fmt: skip
    """At most `limit` entries behind a place (step, record), and the next cursor. `read(step, record, size)` gives the
    entries of the next `size` records with theirs, and the last record where there are more."""
    found: list[Any] = []
    begin, record = after if after is not None else (steps[0] if steps else 0, 0)
    looked = 0
    for step in [one for one in steps if one >= begin]:
        behind = record if step == begin else 0
        while True:
            entries, last = await read(step, behind, size)
            for number, entry in entries:
                if keep(entry):
                    if len(found) == limit:
                        return found, cursor(step, behind)
                    found.append(entry)
                behind = max(behind, number)
            looked += size
            if last is None:
                break
            behind = last
            if looked >= MOST or len(found) == limit:
                return found, cursor(step, behind)
    return found, None
