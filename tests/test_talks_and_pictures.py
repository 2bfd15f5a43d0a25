"""Answers, conversations and pictures end to end: the shipped workflows, the performer, the scripted server."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as pillow

from gristmill.app import App
from gristmill.config import Settings
from gristmill.data import records
from gristmill.data.kinds import Chunk, Conversation, Duplicate, Example, Question, Source
from gristmill.llm.prompt import load_prompt
from gristmill.operators import answer, answer_image, ask_image, dedup_images, read_images, synthesize_reasoning
from gristmill.operators.operator import Context, operator
from gristmill.workflow import Workflow
from gristmill.workflow_files import find_workflow
from tests.by_hand import hand_of
from tests.llm.conftest import ScriptedServer, model_server, scripted_server
from tests.operators.test_images import drawn, saved
from tests.talking_process import talk

__all__ = ["model_server", "scripted_server"]
ROOT = Path(__file__).parents[1]
TEXT = "# Mills\n\nA mill has two stones of granite. The lower one lies still. The upper one turns 9 times a minute.\n"


@operator("talks_questions")
async def questions(chunk: Chunk) -> list[Question]:
    return [Question(text=f"Question {n}?", ordinal=n) for n in range(2)]


@operator("talks_chunk")
async def whole(source: Source, ctx: Context) -> Chunk:
    return Chunk(text=(await ctx.blobs.read(source.blob)).decode())


@pytest.fixture
async def app(database_url: str, tmp_path: Path, model_server: ScriptedServer) -> AsyncIterator[App]:
    exact = {"temperature": 0, "top_p": 0, "user": ""}
    mine = {"mine": {"provider": "vllm", "model": "m", "base_url": model_server.base_url, "parameters": exact}}
    settings = Settings.model_validate({"database_url": database_url, "home": tmp_path / "home", "models": mine})
    async with App(database_url, settings=settings.model_copy(update={"workers": 0})) as opened:
        yield opened


async def bodies(app: App, run: Any, step: int, kind: Any) -> list[Any]:
    rows = await app.pool.fetch(records.SQL["of_run"], run.id, step)
    return [kind.model_validate_json(row["body"]) for row in rows]


async def test_a_conversation_that_breaks_off_goes_on_where_it_stopped(
    app: App, model_server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    await model_server.control(faults=[{"kind": "error", "status": 500, "every": 3}])
    async with hand_of(app) as hand:
        run = await app.start(find_workflow("chat"), [tmp_path / "mills.md"], model="mine")
        progress, _ = await hand.drain(run)
    assert progress.state == "completed"
    talks = await bodies(app, run, 3, Conversation)
    assert len(talks) == 2
    for one in talks:
        assert [turn.role for turn in one.turns] == ["user", "assistant"] * 3
    stats = await model_server.stats()
    assert stats["faults"]["error"] >= 3
    assert (stats["unique"], stats["repeated"]) == (1 + 2 * 5, 0)


async def test_a_conversation_whose_process_is_killed_repeats_no_turn(
    database_url: str, app: App, model_server: ScriptedServer
) -> None:
    await model_server.control(latency=0.3)
    command = (sys.executable, "-m", "tests.talking_process", database_url, model_server.base_url)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT)
    async with asyncio.timeout(60):
        while (await model_server.stats())["served"] < 3:
            await asyncio.sleep(0.02)
    process.kill()
    await process.wait()
    await model_server.control(latency=0.0)
    made = await talk(database_url, model_server.base_url)
    assert [turn.role for turn in made.turns] == ["user", "assistant"] * 3
    stats = await model_server.stats()
    assert stats["unique"] == 5
    assert stats["repeated"] <= 1  # the call that was under way


async def test_pictures_are_asked_about_with_the_options_that_words_are_asked_with(
    app: App, model_server: ScriptedServer, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    exif = pillow.Exif()
    exif[0x0112] = 6
    (folder / "photo.jpg").write_bytes(saved(drawn((3000, 1000)), "JPEG", exif=exif))
    (folder / "drawing.gif").write_bytes(saved(drawn(), "GIF"))
    (folder / "broken.png").write_bytes(saved(drawn((400, 400)), "PNG")[:300])
    async with hand_of(app) as hand:
        run = await app.start(find_workflow("image-qa"), [folder], model="mine")
        progress, _ = await hand.drain(run)
    assert progress.state == "partial"
    assert [(piece.item, piece.code) for piece in await run.failures()] == [("broken.png", "P203")]
    body = (await model_server.last())["body"]
    assert (body["temperature"], body["top_p"], body["user"]) == (0, 0, "")
    picture, words = body["messages"][-1]["content"]
    assert re.match(r"data:image/(png|jpeg);base64,", picture["image_url"]["url"])
    assert words["type"] == "text"
    examples = await bodies(app, run, 2, Example)
    assert len(examples) == 6
    assert len({example.image for example in examples}) == 2
    before = (await model_server.stats())["requests"]
    async with hand_of(app) as hand:
        again = await app.start(find_workflow("image-qa"), [folder], model="mine", fresh=True)
        await hand.drain(again)
    assert (await model_server.stats())["requests"] == before


async def test_what_comes_of_a_picture_that_looks_like_another_is_left_out(app: App, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(saved(drawn((300, 200)), "PNG"))
    (folder / "b.jpg").write_bytes(saved(drawn((300, 200)).resize((150, 100)), "JPEG"))
    flow = Workflow("seen", [read_images, ask_image, answer_image, dedup_images.after("read_images")])
    async with hand_of(app) as hand:
        run = await app.start(flow, [folder], model="mine")
        progress, _ = await hand.drain(run)
    assert progress.state == "completed", await run.failures()
    [mark] = await bodies(app, run, 3, Duplicate)
    assert mark.method == "perceptual"
    rows = [row async for row in run.results()]
    assert {row.source for row in rows} == {"a.png"}
    assert len(await bodies(app, run, 2, Example)) == 2 * len(rows)


async def test_reasoning_that_cannot_be_made_costs_no_answer_and_its_calls_are_told_apart(
    app: App, model_server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    steps = [whole, questions, answer, synthesize_reasoning]
    async with hand_of(app) as hand:
        await hand.drain(await app.start(Workflow("plain", steps[:3]), [tmp_path / "mills.md"], model="mine"))
        await model_server.control(faults=[{"kind": "refusal"}])
        run = await app.start(Workflow("thought", steps), [tmp_path / "mills.md"], model="mine")
        progress, seen = await hand.drain(run)
        assert progress.state == "completed"
        assert [outcome.name for _, outcome in seen][-2:] == ["degraded", "degraded"]
        examples = await bodies(app, run, 3, Example)
        assert [(e.reasoning, e.grounded) for e in examples] == [(None, True), (None, True)]
        await model_server.control(reset=True)
        (tmp_path / "more.md").write_text(TEXT.replace("two", "three"))
        run = await app.start(Workflow("thought", steps), [tmp_path / "more.md"], model="mine")
        await hand.drain(run)
    assert [example.reasoning_origin for example in await bodies(app, run, 3, Example)] == ["synthesized"] * 2
    rows = await app.pool.fetch("select prompt, array_agg(distinct first_task) as tasks from call group by prompt")
    tasks = {row["prompt"]: set(row["tasks"]) for row in rows}
    assert not tasks["answer"] & tasks["synthesize_reasoning"]


async def test_what_a_provider_says_that_its_model_thought_is_kept_with_the_example(
    app: App, model_server: ScriptedServer, tmp_path: Path
) -> None:
    (tmp_path / "mills.md").write_text(TEXT)
    await model_server.control(reasoning="Stones, so two.")
    async with hand_of(app) as hand:
        run = await app.start(Workflow("native", [whole, questions, answer]), [tmp_path / "mills.md"], model="mine")
        await hand.drain(run)
    for example in await bodies(app, run, 2, Example):
        assert (example.reasoning, example.reasoning_origin) == ("Stones, so two.", "native")


BUILT_IN = sorted(
    entry.name.removesuffix(".md")
    for entry in resources.files("gristmill.llm").joinpath("prompts", "en").iterdir()
)  # fmt: skip


@pytest.mark.parametrize("name", [name for name in BUILT_IN if name.startswith(("answer", "conversation"))])
def test_a_prompt_takes_the_same_fields_in_every_language(name: str) -> None:
    english = load_prompt(name, "en")
    for language in ("zh-CN", "tr"):
        other = load_prompt(name, language)
        assert other.text != english.text
        assert (set(other.fields), [role for role, _ in other.parts]) == (
            set(english.fields), [role for role, _ in english.parts],
        )  # fmt: skip
