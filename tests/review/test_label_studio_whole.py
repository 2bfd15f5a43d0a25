"""A project of Label Studio is made as a whole, or not at all."""

from __future__ import annotations

from pathlib import Path

import asyncpg
import pytest

from gristmill.app import App
from gristmill.review.label_studio.projects import make_project
from tests.review.label_studio_runs import SPANS, texts
from tests.review.test_label_studio_projects import LINES, finished

REFUSE = """
create function refuse_piece() returns trigger language plpgsql as $$
begin raise exception 'no room'; end $$;
create trigger refuse_piece before insert on label_piece
    for each row when (new.ordinal >= 2) execute function refuse_piece();
"""


async def test_a_project_that_breaks_off_half_way_leaves_nothing_behind(app: App, tmp_path: Path) -> None:
    run = await finished(app, SPANS, texts(tmp_path, *LINES))
    await app.pool.execute(REFUSE)
    with pytest.raises(asyncpg.RaiseError, match="no room"):
        await make_project(run)
    assert await app.pool.fetchval("select count(*) from label_project") == 0
    assert await app.pool.fetchval("select count(*) from label_piece") == 0
    await app.pool.execute("drop trigger refuse_piece on label_piece")
    assert (await make_project(run)).pieces == 5
