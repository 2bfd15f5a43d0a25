"""The whole story in a real browser: files in, plan, run, a worker killed, review by keyboard, the editor, export."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home
from tests.web.conftest import Open, free_port, until

pytestmark = pytest.mark.thorough
TEXT = "# Mills\n\nThe miller Ada Byron lives in Winterthur and grinds corn. She bought the mill in 1843.\n"


class Served:
    """A crew with its API, both started by `gristmill up`, and a client that looks at it from outside."""

    def __init__(self, home: Home, url: str, client: httpx.AsyncClient) -> None:
        self.home, self.url, self.client = home, url, client

    async def json(self, path: str) -> Any:
        found = await self.client.get(f"/api{path}")
        assert found.status_code == 200, found.text
        return found.json()

    async def start(self, **wish: Any) -> int:
        found = await self.client.post("/api/runs", json=wish)
        assert found.status_code == 201, found.text
        number: int = found.json()["id"]
        return number

    async def ended(self, run: int) -> dict[str, Any]:
        async def look() -> Any:
            found = await self.json(f"/runs/{run}")
            return found if found["state"] in ("completed", "partial", "failed") else None

        found: dict[str, Any] = await until(look, 110)
        return found


@asynccontextmanager
async def served(home: Home, model: ScriptedServer) -> AsyncIterator[Served]:
    port = free_port()
    (home.folder / "gristmill.toml").write_text(
        f"api_port = {port}\n[models.mine]\nprovider = 'vllm'\nmodel = 'mine'\nbase_url = '{model.base_url}'\n"
        "[workers.mill]\ncount = 2\n"
    )
    home.start("up")
    url = f"http://127.0.0.1:{port}"
    async with httpx.AsyncClient(base_url=url, timeout=30) as client:

        async def answers() -> bool:
            try:
                return (await client.get("/api/health")).status_code == 200
            except httpx.TransportError:
                return False

        await until(answers, 60)
        yield Served(home, url, client)


def files(folder: Path) -> list[Path]:
    folder.mkdir()
    for number in range(8):
        parts = [f"# Chapter {number}\n"]
        for section in range(3):
            parts.append(f"\n## Section {section} of chapter {number}\n\n")
            parts += [
                f"The component numbered {number}-{section}-{line} holds {line + 3} units of grain and turns "
                f"{number + line} times a minute. " for line in range(8)
            ]  # fmt: skip
        (folder / f"chapter-{number}.md").write_text("".join(parts))
    return sorted(folder.iterdir())


@pytest.mark.timeout(300)
async def test_files_become_reviewed_rows_though_a_worker_is_killed_on_the_way(
    make_home: Callable[..., Home], model_server: ScriptedServer, open_page: Open, tmp_path: Path
) -> None:
    await model_server.control(latency=4.0)  # long enough to be killed in
    async with served(make_home(), model_server) as mill:
        page = await open_page(f"{mill.url}/start", accept_downloads=True)
        # Files in, and a plan before anything is spent.
        await page.set_input_files("[data-files]", files(tmp_path / "documents"))
        await page.get_by_role("combobox", name="Model").select_option("mine")
        await page.locator(".start-go button").first.click()
        await page.locator(".plan-table").wait_for()
        assert await page.locator(".figure", has_text="files").first.inner_text()
        await page.keyboard.press("Control+Enter")
        await page.wait_for_url("**/runs/*")
        run = int(page.url.rsplit("/", 1)[1])
        # It runs; a worker is killed in the middle of it.
        await page.locator(".screen-title .mark", has_text="running").wait_for()
        await kill_one_at_work(mill, run)
        await model_server.control(latency=0.3)
        found = await mill.ended(run)
        assert (found["state"], found["progress"]["failed"]) == ("completed", 0)
        await page.locator(".screen-title .mark", has_text="done").wait_for()
        # It was handed on, and both screens say so.
        await page.goto(f"{mill.url}/crew")
        await page.locator(".lane-dead").first.wait_for()
        await page.goto(f"{mill.url}/tasks/{await handed_on(mill, run)}")
        await page.locator(".attempt-note", has_text="took over").first.wait_for()
        await review_by_keyboard(page, mill, run)
        await export_what_was_accepted(page, mill, run, tmp_path)
        assert page.complaints == []


async def kill_one_at_work(mill: Served, run: int) -> None:
    async def at_work() -> Any:
        asking = (await mill.json(f"/runs/{run}/tasks?state=running&stage=ask"))["items"]
        busy = {row["worker"] for row in asking}
        workers = (await mill.json("/workers"))["items"]
        return next((one for one in workers if one["state"] == "alive" and one["name"] in busy), None)

    os.kill((await until(at_work))["pid"], signal.SIGKILL)


async def handed_on(mill: Served, run: int) -> int:
    """A task that outlived a worker."""
    after = None
    while True:
        page = await mill.json(f"/runs/{run}/tasks?limit=200" + (f"&after={after}" if after else ""))
        for row in page["items"]:
            if row["crashes"] and any(
                a["handed_on"] for a in (await mill.json(f"/tasks/{row['id']}/story"))["attempts"]
            ):
                number: int = row["id"]
                return number
        after = page["next"]
        assert after, "no task was handed on"


async def review_by_keyboard(page: Any, mill: Served, run: int) -> None:
    """Accept, edit, reject, undo: one key each."""

    async def counts(**wanted: int) -> None:
        async def same() -> bool:
            found = (await mill.json(f"/reviews/stats?run={run}"))["states"]
            return all(found.get(state, 0) == n for state, n in wanted.items())

        await until(same)

    await page.goto(f"{mill.url}/review?run={run}")
    await page.locator("mark.lit").first.wait_for()
    await page.keyboard.press("a")
    await counts(accepted=1)
    await page.keyboard.press("x")
    await counts(accepted=1, rejected=1)
    await page.keyboard.press("u")
    await counts(accepted=1, rejected=0)
    await page.locator(".strip-saving", has_text="all saved").wait_for()
    await page.keyboard.press("e")
    await page.locator(".edit textarea").last.fill("As the reviewer says.")
    await page.locator(".edit-changes ins").first.wait_for()  # what is struck and what is new, while it is written
    await page.keyboard.press("Control+Enter")
    await counts(accepted=1, edited=1)
    await page.keyboard.press("v")
    await page.locator(".grid > li").nth(1).wait_for()
    await page.keyboard.press("a")
    await counts(accepted=2, edited=1)


async def export_what_was_accepted(page: Any, mill: Served, run: int, folder: Path) -> None:
    await page.goto(f"{mill.url}/runs/{run}")
    await page.locator(".screen-title .mark").wait_for()
    await page.keyboard.press("x")
    drawer = page.get_by_role("dialog")
    await drawer.get_by_role("combobox", name="Format").select_option("jsonl")
    await drawer.get_by_label("only what a person has accepted").check()
    await drawer.get_by_text("As the reviewer says.").wait_for()  # the preview
    await drawer.get_by_role("button", name="Export").click()
    async with page.expect_download() as waiting:
        await drawer.get_by_role("link", name="Download").click(timeout=60_000)
    file = folder / "rows.jsonl"
    await (await waiting.value).save_as(file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 3
    assert "As the reviewer says." in {row["answer"] for row in rows}
    assert all(row["source"].startswith("chapter-") for row in rows)


@pytest.mark.timeout(300)
async def test_a_span_a_relation_and_a_box_are_edited_in_the_editor(
    make_home: Callable[..., Home], model_server: ScriptedServer, open_page: Open, tmp_path: Path
) -> None:
    picture = pytest.importorskip("PIL.Image")
    (tmp_path / "mills.md").write_text(TEXT)
    picture.new("RGB", (640, 420), "#dfe7ef").save(tmp_path / "mill.png")
    async with served(make_home(), model_server) as mill:
        spans = await mill.start(workflow="entities", sources=[str(tmp_path / "mills.md")], model="mine")
        ties = await mill.start(workflow="relations", sources=[str(tmp_path / "mills.md")], model="mine")
        boxes = await mill.start(workflow="boxes", sources=[str(tmp_path / "mill.png")], model="mine")
        for run in (spans, ties, boxes):
            await mill.ended(run)
        page = await open_page(mill.url)
        # A span: choose a label, mark a word.
        before = await open_editor(page, mill, spans, "entities")
        await choose_label(page, "5")
        await mark_words(page)
        await until(lambda: in_editor(page, f"regions.length > {len(before['entities'])}"))
        after = await saved(page, mill, spans)
        assert len(after["entities"]) == len(before["entities"]) + 1
        assert "PRODUCT" in {entity["label"] for entity in after["entities"]}
        assert all(entity["text"] == TEXT.strip()[entity["start"] : entity["end"]] for entity in after["entities"])
        # A relation: taken away.
        before = await open_editor(page, mill, ties, "relations")
        assert len(before["relations"]) == 1
        await page.locator(".lsf-relations__item button, .lsf-host [class*=relations] button").last.click()
        after = await saved(page, mill, ties)
        assert after["relations"] == []
        # A box: drawn.
        before = await open_editor(page, mill, boxes, "boxes")
        await choose_label(page, "3")
        canvas = await page.locator(".lsf-host canvas").first.bounding_box()
        await page.mouse.move(canvas["x"] + 400, canvas["y"] + 250)
        await page.mouse.down()
        await page.mouse.move(canvas["x"] + 500, canvas["y"] + 330, steps=8)
        await page.mouse.up()
        await until(lambda: in_editor(page, f"regions.length > {len(before['boxes'])}"))
        after = await saved(page, mill, boxes)
        assert len(after["boxes"]) == len(before["boxes"]) + 1
        drawn = next(box for box in after["boxes"] if box["label"] == "vehicle")
        assert abs(drawn["x"] - 400 / 640) < 0.03
        assert abs(drawn["width"] - 100 / 640) < 0.03


async def in_editor(page: Any, condition: str) -> Any:
    """Whether that holds in the editor of the page: of its `regions`, `labels` that are chosen, and `pictures`."""
    return await page.evaluate(
        """() => {
            const chosen = window.Htx?.annotationStore?.selected;
            if (!chosen) return false;
            const { regions } = chosen;
            const labels = [...chosen.names.values()].flatMap((tag) => tag.selectedLabels ?? []);
            const pictures = [...document.querySelectorAll(".lsf-host img")];
            return CONDITION;
        }""".replace("CONDITION", condition)
    )


async def choose_label(page: Any, key: str) -> None:
    """By its key, which counts as soon as the editor listens."""

    async def chosen() -> Any:
        if not await in_editor(page, "labels.length"):
            await page.keyboard.press(key)
        return await in_editor(page, "labels.length")

    await until(chosen)


async def mark_words(page: Any) -> None:
    """Draws the mouse over a few words at the beginning of the text."""
    line = await page.locator(".lsf-richtext__container").bounding_box()
    await page.mouse.move(line["x"] + 4, line["y"] + 50)
    await page.mouse.down()
    await page.mouse.move(line["x"] + 90, line["y"] + 50, steps=8)
    await page.mouse.up()


async def open_editor(page: Any, mill: Served, run: int, kind: str) -> dict[str, Any]:
    """Opens the editor on the run's piece of that kind; gives the body as it stands."""
    await page.goto(f"{mill.url}/review?run={run}")
    await page.locator(".candidate-head b", has_text=kind).wait_for()
    await page.keyboard.press("e")
    await page.locator(".lsf-host [class*=lsf-]").first.wait_for()
    await until(
        lambda: in_editor(page, "regions.length > 0 && pictures.every((one) => one.complete && one.naturalWidth)")
    )
    pieces = (await mill.json(f"/reviews?run={run}"))["items"]
    body: dict[str, Any] = next(piece["body"] for piece in pieces if piece["kind"] == kind)
    return body


async def saved(page: Any, mill: Served, run: int) -> dict[str, Any]:
    """Saves by key; gives the body as it stands then."""
    await page.keyboard.press("Control+Enter")

    async def edited() -> Any:
        pieces = (await mill.json(f"/reviews?run={run}"))["items"]
        return next((piece["body"] for piece in pieces if piece["state"] == "edited"), None)

    body: dict[str, Any] = await until(edited, 30)
    return body
