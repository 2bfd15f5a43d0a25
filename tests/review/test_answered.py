"""Whether a question is answered is asked of what stands, and noted nowhere."""

from __future__ import annotations

from pathlib import Path

from gristmill.api.coverage import Coverage
from gristmill.app import App
from gristmill.data.kinds import Question
from gristmill.review.decisions import decide, undo
from gristmill.review.queues import Review
from tests.review.test_exports import answers_of, made_run


async def test_a_question_whose_answer_is_rejected_has_none_and_has_it_back_when_that_is_undone(
    app: App, tmp_path: Path
) -> None:
    run = await made_run(app, tmp_path / "in")
    [first] = await Review.of(run).claim("ann", 1)
    asked = str(first.body["question"]).rstrip("?")

    async def fates() -> tuple[bool, list[str]]:
        rows, _ = await Coverage(app.pool, run.id, run.workflow).page(None, 10)
        return asked in await answers_of(run), sorted(row.cells[0].fate for row in rows)

    assert await fates() == (True, ["accepted"] * 5)
    await decide(app.pool, first.record_id, "reject", "ann")
    assert await fates() == (False, ["accepted"] * 4 + ["rejected"])
    await undo(app.pool, "ann", record_id=first.record_id)
    assert await fates() == (True, ["accepted"] * 5)
    assert not {"answered", "state"} & set(Question.model_fields)
