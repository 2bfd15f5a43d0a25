"""A thousand texts, annotated by processes that are killed, as a project: none lost, ids the same every time."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from gristmill.app import App
from gristmill.review.label_studio.check import check_task
from gristmill.review.label_studio.client import Server
from gristmill.review.label_studio.projects import make_project
from gristmill.review.label_studio.push import push
from tests.review.label_studio_runs import SPANS, texts
from tests.review.label_studio_server import TOKEN, label_studio

ITEMS = 1000


@pytest.mark.thorough
async def test_a_thousand_are_annotated_killed_gone_on_and_converted(database_url: str, tmp_path: Path) -> None:
    lines = [f"{number}: Ada wrote to Bob from Rome" for number in range(ITEMS)]
    async with App(database_url, home=tmp_path / "home", workers=2) as app:
        run = await app.start(SPANS, [texts(tmp_path, *lines)])
        killed = 0
        while killed < 3 and not (progress := await run.progress()).ended:
            if progress.steps[1].completed >= (killed + 1) * ITEMS // 4 and app.crew is not None and app.crew.pids:
                early = {
                    piece.ordinal: piece.result async for piece in (await make_project(run)).project.pieces(app.pool)
                }
                os.kill(app.crew.pids[0], signal.SIGKILL)
                killed += 1
            await asyncio.sleep(0.05)
        assert (await run.wait()).state == "completed"
        assert killed
        made = await make_project(run)
        late = {piece.ordinal: piece async for piece in made.project.pieces(app.pool)}
        assert (made.pieces, made.annotated, made.unsaid) == (ITEMS, ITEMS, [])
        assert [late[at].subject.text for at in range(ITEMS)] == lines
        assert all(late[at].result == result for at, result in early.items() if result is not None)
        regions = [item["id"] for piece in late.values() for item in piece.result or ()]
        assert len(set(regions)) == len(regions) == 3 * ITEMS
        labeling = made.project.labeling
        for piece in late.values():
            assert check_task(piece.document(labeling), labeling, piece.subject) == []
        with label_studio() as studio:
            async with Server(studio.url, TOKEN) as server:
                done = await push(app.pool, made.project, server, app.blobs, by="me")
            assert done.added == len(studio.tasks) == ITEMS
