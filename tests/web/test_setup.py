"""What is set up from the page: models, limits, who changed what; and decisions about many rows at once."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.api.conftest import Api, api
from tests.api.finished import finished
from tests.api.test_bulk import working
from tests.web.conftest import Open, until

__all__ = ["api"]


async def test_a_model_and_a_limit_are_added_changed_and_removed_and_the_page_says_who_did_it(
    api: Api, open_page: Open
) -> None:
    page = await open_page(f"{api.url}/crew?tab=models")
    dialog = page.get_by_role("alertdialog")
    await page.get_by_role("button", name="Add a model").click()
    await dialog.get_by_label("name", exact=True).fill("house")
    await dialog.get_by_role("combobox", name="Provider").select_option("ollama")
    await dialog.get_by_label("Model at the provider").fill("tiny:1b")
    await dialog.get_by_label("Parameters").fill("{not json")
    await dialog.get_by_role("button", name="Save").click()
    await dialog.get_by_text("This is not JSON").wait_for()
    await dialog.get_by_label("Parameters").fill('{"temperature": 0.5}')
    await dialog.get_by_role("button", name="Save").click()
    await page.get_by_role("button", name="Change… house").click()
    await dialog.get_by_label("Limit that it shares").fill("shared")
    await dialog.get_by_role("button", name="Save").click()
    await page.get_by_role("cell", name="shared").wait_for()
    kept = next(one for one in (await api.json("/api/models"))["items"] if one["name"] == "house")
    assert (kept["model"], kept["limit"], kept["parameters"]) == ("tiny:1b", "shared", {"temperature": 0.5})
    await page.get_by_role("button", name="Remove… house").click()
    await dialog.get_by_role("button", name="Remove").click()
    await until(lambda: _is(page.get_by_text("ollama:tiny:1b"), 0))

    await page.goto(f"{api.url}/crew")
    await page.get_by_role("button", name="Add a limit").click()
    await dialog.get_by_label("Name: a model").fill("shared")
    await dialog.get_by_label("requests a minute").fill("90")
    await dialog.get_by_role("button", name="Add").click()
    await page.locator(".quota-name", has_text="shared").wait_for()
    assert [one["requests_per_minute"] for one in (await api.json("/api/limits"))["items"]] == [90]
    await page.get_by_role("button", name="Remove shared").click()
    await dialog.get_by_role("button", name="Remove").click()
    await until(lambda: _is(page.locator(".quota-name"), 0))

    await page.goto(f"{api.url}/crew?tab=audit")
    for call in ("PUT /api/models/house", "DELETE /api/models/house", "PUT /api/limits/shared"):
        await page.get_by_text(call).first.wait_for()
    assert page.complaints == []


async def test_rows_are_shared_out_and_all_that_match_are_decided_at_once(api: Api, open_page: Open) -> None:
    run = await finished(api)
    page = await open_page(f"{api.url}/review?run={run.id}")
    dialog = page.get_by_role("alertdialog")
    await page.get_by_role("button", name="Share out").click()
    await dialog.get_by_placeholder("ada, bob").fill("ada, bob")
    await dialog.get_by_label("At most").fill("2")
    await dialog.get_by_role("button", name="Share out").click()
    await dialog.get_by_text("2 rows given out").wait_for()
    assert {one["assignee"]: one["open"] for one in await api.json(f"/api/reviews/assignments?run={run.name}")} == {
        "ada": 1,
        "bob": 1,
    }
    await dialog.get_by_role("button", name="Close").click()

    await page.get_by_role("button", name="All that match").click()
    await dialog.get_by_label("Reject").check()
    await dialog.get_by_placeholder("score").fill("assignee = 'ada'")
    await dialog.get_by_role("button", name="Apply").click()
    await dialog.get_by_text("1 undecided row of").wait_for()
    await dialog.get_by_label("Note").fill("not hers")
    async with working(api):
        await dialog.get_by_role("button", name="Reject it").click()
        await page.locator(".bulk-state").get_by_text("1 of 1 part done").wait_for()
    assert [one["note"] for one in (await api.json(f"/api/reviews?run={run.name}&state=rejected"))["items"]] == [
        "not hers"
    ]
    assert page.complaints == []


async def test_inputs_that_match_are_paused_and_go_on(api: Api, open_page: Open) -> None:
    folder = api.app.settings.home.parent / "docs"
    folder.mkdir()
    for name in ("plum.md", "pear.md"):
        (folder / name).write_text(f"# {name}\n\nA text about {name}.\n")
    run = await api.app.start("qa", [folder], model="extractive")
    await run.pause()  # only what the page orders is done
    page = await open_page(f"{api.url}/runs/{run.id}")
    await page.get_by_role("button", name="Inputs").click()
    await until(lambda: _is(page.locator(".rows-row"), 2))
    await page.get_by_placeholder("name like").fill("name like '%plum%'")
    await page.get_by_role("button", name="Apply").click()
    await until(lambda: _is(page.locator(".rows-row"), 1))
    dialog = page.get_by_role("alertdialog")
    await page.get_by_role("button", name="Pause all that match").click()
    await dialog.get_by_text("1 input of").wait_for()
    await dialog.get_by_role("button", name="Pause it").click()
    async with working(api):
        await page.locator(".bulk-state").get_by_text("1 of 1 part done").wait_for()
    paused = [one["name"] for one in (await api.json(f"/api/runs/{run.id}/items"))["items"] if one["paused"]]
    assert [name.rpartition("/")[2] for name in paused] == ["plum.md"]
    await page.locator(".rows-row .mark", has_text="paused").wait_for()
    await page.locator(".rows-row").first.click()  # its pieces
    await page.locator("input.mono").first.wait_for()
    assert await page.locator("input.mono").first.input_value() == f"item = '{paused[0]}'"
    assert page.complaints == []


async def test_what_the_desk_before_gives_back_late_is_not_taken_from_the_next_one(api: Api, open_page: Open) -> None:
    run = await finished(api)
    page = await open_page(f"{api.url}/review?run={run.id}")
    await page.locator(".focus-actions").wait_for()
    given_back = asyncio.Event()

    async def late(route: Any) -> None:
        await asyncio.sleep(0.5)
        await route.fulfill(response=await route.fetch())
        given_back.set()

    await page.route("**/api/reviews/release", late)
    await page.keyboard.press("v")
    await page.locator(".grid > li").first.wait_for()
    await asyncio.wait_for(given_back.wait(), 20)
    await page.keyboard.press("a")
    await until(lambda: _accepted(api, run.id))
    assert await page.locator(".trouble").count() == 0
    assert page.complaints == []


async def _accepted(api: Api, run: int) -> bool:
    states = (await api.json(f"/api/reviews/stats?run={run}"))["states"]
    return bool(states.get("accepted"))


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found.count() == wanted)
