"""What people change from the screens: the same to all that match, another model, locks, schedules, what needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gristmill.engine.locks import acquire
from tests.api.conftest import Api, api
from tests.api.finished import finished
from tests.api.test_bulk import BROKEN, broken, start_broken, working
from tests.packs.conftest import write_pack
from tests.web.conftest import Open, until

__all__ = ["api", "broken"]


async def test_all_that_match_are_retried_after_the_exact_count_was_seen(
    api: Api, open_page: Open, broken: None
) -> None:
    run = await start_broken(api)
    page = await open_page(f"{api.url}/runs/{run.id}")
    await page.get_by_placeholder("code = ").fill("message like '%pear%' or message like '%plum%'")
    retry = page.get_by_role("button", name="Retry all that match")
    assert await retry.is_disabled()  # what is not applied is not in sight yet
    await page.get_by_role("button", name="Apply").click()
    await until(lambda: _is(page.locator(".rows-row"), 2))
    await retry.click()
    dialog = page.get_by_role("alertdialog")
    await dialog.get_by_text("2 failed pieces").wait_for()
    assert "calls" in await dialog.inner_text()
    assert await _actions(api) == []
    BROKEN["on"] = False
    async with working(api):
        await dialog.get_by_role("button", name="Retry 2").click()
        state = page.locator(".bulk-state")
        await state.get_by_text("1 of 1 part done").wait_for()
        assert [(one["action"], one["count"]) for one in await _actions(api)] == [("retry", 2)]
        await state.get_by_role("link").click()
        await page.wait_for_url(f"{api.url}/runs/{(await _actions(api))[0]['id']}")
        await page.locator(
            ".screen-title .mark", has_text="done"
        ).wait_for()  # its end comes after that of its last part
    # A piece that was tried twice says what came back otherwise, and the search finds it by its error.
    await page.keyboard.press("Control+k")
    await page.keyboard.type("cannot make")
    await page.get_by_role("option", name=f"Pieces of {run.name}").click()
    again = (await api.json(f"/api/runs/{run.id}/tasks?filter=attempt%20%3E%201"))["items"][0]["id"]
    await page.goto(f"{api.url}/tasks/{again}")
    await page.locator(".diff .diff-gone").first.wait_for()
    assert page.complaints == []


async def test_a_run_goes_on_with_another_model_as_a_run_of_its_own(api: Api, open_page: Open) -> None:
    run = await finished(api)
    (await api.put("/api/models/tiny", json={"provider": "ollama", "model": "tiny:1b"})).raise_for_status()
    page = await open_page(f"{api.url}/runs/{run.id}")
    await page.get_by_role("button", name="Another model").click()
    dialog = page.get_by_role("alertdialog")
    assert await dialog.get_by_role("button", name="Start").is_disabled()
    await dialog.get_by_label("Model").select_option("tiny")
    await dialog.get_by_role("button", name="Start").click()
    await page.wait_for_url(lambda url: url != f"{api.url}/runs/{run.id}")
    models = {one["model"] for one in (await api.json(f"/api/runs/{page.url.rsplit('/', 1)[1]}"))["stages"]}
    assert "tiny" in models
    assert page.complaints == []


async def test_what_waits_for_review_needs_a_person_and_leads_there(api: Api, open_page: Open) -> None:
    run = await finished(api)
    page = await open_page(f"{api.url}/")
    await page.locator(".needs").get_by_text("nobody has reviewed").wait_for()
    await api.post("/api/reviews/claim", json={"run": run.name, "limit": 1, "reviewer": "ada"})
    await page.reload()
    waits = (await api.json("/api/reviews/waiting"))[0]["pieces"]
    await page.locator(".needs").get_by_text(f"{waits} pieces wait for review in {run.name}").wait_for()
    await page.locator(".needs").get_by_role("link", name="Review").click()
    await page.wait_for_url(f"{api.url}/review?run={run.id}")
    assert page.complaints == []


async def test_a_lock_is_taken_away_and_a_schedule_is_added_paused_and_removed(api: Api, open_page: Open) -> None:
    await acquire(api.app.pool, "path:/data/a b", holder_kind="cli", holder="ada@mill")
    page = await open_page(f"{api.url}/crew?tab=locks")
    await page.get_by_role("button", name="Take away").click()
    dialog = page.get_by_role("alertdialog")
    assert "cli ada@mill loses it and is told" in await dialog.inner_text()
    await dialog.get_by_label("Why").fill("left behind")
    await dialog.get_by_role("button", name="Take away").click()
    await page.get_by_text("Nobody holds a lock.").wait_for()
    assert (await api.json("/api/locks"))["items"] == []

    folder = write_pack(api.app.settings.home.parent / "docs", {"a.md": "# A\n"})
    await page.goto(f"{api.url}/crew?tab=schedules")
    await page.get_by_role("button", name="Add a schedule").click()
    await dialog.get_by_label("name").fill("nightly")
    await dialog.get_by_label("Time zone").fill("Europe/Zurich")
    await dialog.get_by_label("Places").fill(str(Path(folder)))
    await dialog.get_by_role("button", name="Add").click()
    await page.get_by_text("0 3 * * * Europe/Zurich").wait_for()
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_role("button", name="Resume").wait_for()
    assert [one["paused"] for one in await _schedules(api)] == [True]
    await page.get_by_role("button", name="Remove").click()
    await dialog.get_by_role("button", name="Remove").click()
    await page.get_by_text("Nothing is scheduled").wait_for()
    assert await _schedules(api) == []
    assert page.complaints == []


async def _is(found: Any, wanted: int) -> bool:
    return bool(await found.count() == wanted)


async def _actions(api: Api) -> list[dict[str, Any]]:
    return list((await api.json("/api/actions"))["items"])


async def _schedules(api: Api) -> list[dict[str, Any]]:
    return list((await api.json("/api/schedules"))["items"])
