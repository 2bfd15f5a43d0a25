"""The shipped workflows that annotate, end to end: performer, database, scripted server, real kills."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import zipfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as pillow

from gristmill.app import App
from gristmill.cli.annotators import figure_lines
from gristmill.cli.progress import told_step
from gristmill.config import Settings
from gristmill.data import records
from gristmill.data.annotations import ANNOTATIONS, Agreement, Annotation, Boxes, Entities, Rating, problems_of
from gristmill.data.kinds import Chunk, content_hash
from gristmill.errors import UsageError
from gristmill.review.annotation_tables import write_annotations
from gristmill.review.annotators import agreement_reports, annotator_figures
from gristmill.review.decisions import decide
from gristmill.review.queues import Review
from gristmill.workflow_files import configured, find_workflow
from tests.by_hand import hand_of
from tests.llm.conftest import ScriptedServer, model_server, scripted_server
from tests.operators.test_images import drawn, saved
from tests.scenarios.conftest import Home, make_home

__all__ = ["make_home", "model_server", "scripted_server"]
TEXT = "# Mills\n\nThe miller Ada Byron lives in Winterthur and grinds corn. She bought the mill in 1843.\n"


@pytest.fixture
async def app(database_url: str, tmp_path: Path, model_server: ScriptedServer) -> AsyncIterator[App]:
    names = ("mine", "other")
    models = {name: {"provider": "vllm", "model": name, "base_url": model_server.base_url} for name in names}
    settings = Settings.model_validate({"database_url": database_url, "home": tmp_path / "home", "models": models})
    async with App(database_url, settings=settings.model_copy(update={"workers": 0})) as opened:
        yield opened


async def made_by(app: App, run: Any) -> list[tuple[int, str, Any]]:
    """Id, kind and body of every annotation of a run."""
    rows = await app.pool.fetch(
        "select distinct r.id, r.kind, r.body from record r join run_record m on m.record_id = r.id "
        "where m.run_id = $1 and r.kind = any ($2) order by r.id",
        run.id, [*ANNOTATIONS, "agreement"],
    )  # fmt: skip
    known = ANNOTATIONS | {"agreement": Agreement}
    return [(row["id"], row["kind"], known[row["kind"]].model_validate_json(row["body"])) for row in rows]


@pytest.mark.parametrize("name", ["classify", "entities", "relations"])
async def test_a_text_is_annotated_and_every_annotation_finds_its_text_by_lineage(
    app: App, tmp_path: Path, name: str
) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    async with hand_of(app) as hand:
        run = await app.start(find_workflow(name), [tmp_path / "mills.md"], model="mine")
        progress, seen = await hand.drain(run)
    assert (progress.state, {getattr(outcome, "name", "") for _, outcome in seen}) == ("completed", {"ok"})
    made = await made_by(app, run)
    assert {kind for _, kind, _ in made} >= {{"classify": "classes"}.get(name, name)}
    for record, _, body in made:
        family = await records.load_family(app.pool, [record])
        (chunk,) = [Chunk.model_validate_json(one.body) for one in family if one.hash.hex() == body.subject]
        assert problems_of(body, chunk.text) == []
        assert (body.annotator, body.model, body.outcome) == ("mine", "mine", "ok")
        assert content_hash(chunk).hex() == body.subject


async def test_pictures_get_their_boxes_and_a_turned_one_those_of_the_upright_picture(app: App, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(saved(drawn((200, 100)), "PNG"))
    exif = pillow.Exif()
    exif[0x0112] = 6
    (folder / "b.jpg").write_bytes(saved(drawn((100, 300)), "JPEG", exif=exif))
    async with hand_of(app) as hand:
        run = await app.start(find_workflow("boxes"), [folder], model="mine")
        assert (await hand.drain(run))[0].state == "completed"
    made = [body for _, _, body in await made_by(app, run)]
    assert sorted((one.width, one.height) for one in made if isinstance(one, Boxes)) == [(200, 100), (300, 100)]
    assert all(one.boxes for one in made)


async def test_three_annotators_with_models_of_their_own_are_joined_and_measured(
    app: App, model_server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    flow = configured("rate-panel", ["second.model=other", "third.model=other"])
    async with hand_of(app) as hand:
        run = await app.start(flow, [tmp_path / "mills.md"], model="mine")
        assert (await hand.drain(run))[0].state == "completed"
    made = await made_by(app, run)
    ratings = {body.annotator: body for _, _, body in made if isinstance(body, Rating)}
    assert sorted(ratings) == ["first", "panel", "second", "third"]
    assert [ratings[name].model for name in ("first", "second", "third")] == ["mine", "other", "other"]
    assert (ratings["panel"].values, ratings["panel"].by, ratings["panel"].score) == (("CLEAR-1",), "panel", 1.0)
    (report,) = [body for _, _, body in made if isinstance(body, Agreement)]
    assert (report.subjects, report.annotators) == (1, ("first", "second", "third"))
    assert (await model_server.stats())["served"] == 3  # another sample of one model is another question
    (joined,) = [record for record, _, body in made if getattr(body, "by", "") == "panel"]
    parents = await app.pool.fetch("select parent_id from lineage where record_id = $1", joined)
    assert {row["parent_id"] for row in parents} == {
        record for record, _, body in made if isinstance(body, Rating) and body.by == "model"
    }


async def test_annotators_are_compared_with_what_people_let_stand(app: App, tmp_path: Path) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    (tmp_path / "more.md").write_text(TEXT.replace("Ada Byron", "Charles Babbage"))
    async with hand_of(app) as hand:
        run = await app.start(find_workflow("entities"), [tmp_path / "mills.md", tmp_path / "more.md"], model="mine")
        await hand.drain(run)
        panel = await app.start(find_workflow("rate-panel"), [tmp_path / "mills.md"], model="mine")
        await hand.drain(panel)
    (first, _, said), (second, _, _) = await made_by(app, run)
    steps = run.workflow.steps
    (before,) = await annotator_figures(app.pool, run.id, steps)
    assert (before.annotations, before.reviewed, before.outcomes) == (2, 0, {"ok": 2})
    kept, *rest = said.entities
    assert rest
    await decide(app.pool, first, "edit", "anna", changes={"entities": [kept.model_dump(mode="json")]})
    await decide(app.pool, second, "accept", "anna")
    (figures,) = await annotator_figures(app.pool, run.id, steps)
    assert (figures.step, figures.about, figures.annotator, figures.by) == ("extract", "entities", "mine", "model")
    assert (figures.reviewed, figures.exact, figures.total.missed, figures.total.recall) == (2, 1, 0, 1)
    assert figures.total.extra == len(rest)
    assert figures.as_document()["total"]["f1"] == pytest.approx(figures.total.f1, abs=1e-4)
    (joined,) = [record for record, _, body in await made_by(app, panel) if getattr(body, "by", "") == "panel"]
    await decide(app.pool, joined, "edit", "ben", changes={"values": ["CLEAR-2"]})
    members = await annotator_figures(app.pool, panel.id, panel.workflow.steps)
    assert [(one.annotator, one.reviewed, one.total.f1) for one in members] == [
        ("first", 1, 0.0), ("second", 1, 0.0), ("third", 1, 0.0), ("panel", 1, 0.0),
    ]  # fmt: skip
    assert [report.about for report in await agreement_reports(app.pool, panel.id)] == ["rating:clarity"]
    await check_tables(app, panel, tmp_path)
    shown = "\n".join(figure_lines(figures))
    assert "2 are about what people reviewed; 1 say just what they let stand" in shown
    assert "extract: mine (entities): 2 annotations: 2 ok" in shown


async def test_people_are_asked_about_the_joined_annotation_and_not_about_each_vote(app: App, tmp_path: Path) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    for name, kind in (("rate-panel", "rating"), ("relations", "relations")):
        async with hand_of(app) as hand:
            run = await app.start(find_workflow(name), [tmp_path / "mills.md"], model="mine")
            await hand.drain(run)
        pieces = await Review.of(run).claim("anna", 10)
        assert [piece.kind for piece in pieces] == [kind]
        assert pieces[0].body.get("by") == ("panel" if kind == "rating" else "model")


async def check_tables(app: App, run: Any, folder: Path) -> None:
    steps = run.workflow.steps
    for name in ("a.jsonl", "a.json", "a.csv"):
        assert await write_annotations(app.pool, run.id, steps, folder / name) == 4
    rows = [json.loads(line) for line in (folder / "a.jsonl").read_text().splitlines()]
    assert rows == json.loads((folder / "a.json").read_text())
    assert [(row["annotator"], row["said"], row["review"], row["reviewed"]) for row in rows] == [
        ("first", "CLEAR-1", "proposed", None), ("second", "CLEAR-1", "proposed", None),
        ("third", "CLEAR-1", "proposed", None), ("panel", "CLEAR-1", "edited", "CLEAR-2"),
    ]  # fmt: skip
    assert {(row["item"], row["text"]) for row in rows} == {("mills.md", TEXT.strip())}
    with (folder / "a.csv").open(newline="") as file:
        assert [row["reviewer"] for row in csv.DictReader(file)] == ["", "", "", "ben"]
    for name in ("a.doc", "missing/a.csv"):
        with pytest.raises(UsageError):
            await write_annotations(app.pool, run.id, steps, folder / name)
    pytest.importorskip("xlsxwriter")
    assert await write_annotations(app.pool, run.id, steps, folder / "a.xlsx") == 4
    with zipfile.ZipFile(folder / "a.xlsx") as book:
        sheets = re.findall(r'<sheet name="([^"]+)"', book.read("xl/workbook.xml").decode())
        second = book.read("xl/worksheets/sheet2.xml").decode()
    assert sheets == ["summary", "1 rating_clarity"]
    assert re.findall(r"<t[^>]*>([^<]+)</t>", second)[:8] == [
        "item", "text", "first", "second", "third", "panel", "reviewed", "reviewer",
    ]  # fmt: skip
    assert not list(folder.glob(".*.part"))


async def test_a_model_that_refuses_everything_loses_no_item_and_hides_nothing(
    app: App, model_server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    await model_server.control(faults=[{"kind": "refusal"}])
    async with hand_of(app) as hand:
        run = await app.start(find_workflow("relations"), [tmp_path / "mills.md"], model="mine")
        progress, seen = await hand.drain(run)
    assert progress.state == "completed"
    assert [outcome.name for _, outcome in seen][-2:] == ["degraded", "degraded"]
    assert [told_step(step) for step in progress.steps][2:] == ["1 extract (1 degraded)", "1 relate (1 degraded)"]
    made = [body for _, _, body in await made_by(app, run)]
    assert [(one.outcome, one.undecided) for one in made] == [("degraded", True)] * 2
    assert (made[0].reason or "").startswith("refused: ")
    async with hand_of(app) as hand:
        flow = configured("entities", ["extract.on_failure=fail", "extract.attempts=1"])
        run = await app.start(flow, [tmp_path / "mills.md"], model="mine")
        assert (await hand.drain(run))[0].state == "failed"
        await model_server.control(reset=True)
        assert await run.retry() == 1
        assert (await hand.drain(run))[0].state == "completed"
    (body,) = [body for _, _, body in await made_by(app, run)]
    assert isinstance(body, Entities)
    assert body.outcome == "ok"


@pytest.mark.thorough
@pytest.mark.timeout(900)
async def test_a_thousand_items_annotated_killed_and_gone_on_lose_none_and_keep_their_ids(
    make_home: Callable[..., Home], model_server: ScriptedServer, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(1000):
        (folder / f"{number:04}.txt").write_text(
            f"The miller number{number:04} of Winterthur grinds corn for all. " * 3
        )
    command = ("run", str(folder), "--workflow", "entities", "--model", "openai:scripted")
    home = make_home()
    await model_server.control(latency=0.05)
    killed = 0
    for part in (0.2, 0.6):
        process = home.start(*command)
        async with asyncio.timeout(240):
            while (await model_server.stats())["served"] < 1000 * part:
                await asyncio.sleep(0.05)
        killed += len(home.kill_everything(process))
    assert killed >= 6
    code, last = await home.json(*command)
    assert code == 0, home.logs()
    first = await stored(home)
    assert len(first) == 1000
    assert {body.outcome for body in first.values()} == {"ok"}
    assert len({body.subject for body in first.values()}) == 1000
    stats = await model_server.stats()
    assert (stats["unique"], stats["repeated"] <= 2 * 64) == (1000, True)
    code, counted = await home.json("annotators")
    assert (code, counted["annotators"][0]["outcomes"]) == (0, {"ok": 1000})
    code, _ = await home.json(*command)
    assert (code, (await model_server.stats())["requests"]) == (0, stats["requests"])
    assert await stored(home) == first  # the same records under the same ids
    print(json.dumps({"killed": killed, "repeated": stats["repeated"], "run": last["run"]}))


async def stored(home: Home) -> dict[int, Annotation]:
    """The annotations in the home's own database, by record id."""
    settings = Settings.model_validate({"home": home.home, "workers": 0})
    async with App(settings=settings) as app:
        rows = await app.pool.fetch("select id, body from record where kind = 'entities' order by id")
    return {row["id"]: Entities.model_validate_json(row["body"]) for row in rows}
