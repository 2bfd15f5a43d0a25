"""Files on the server, used again or taken away where a run is started; and where a known answer came from."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.api.conftest import Api, api
from tests.api.finished import finished
from tests.llm.conftest import ScriptedServer, model_server, scripted_server
from tests.web.conftest import Open, until

__all__ = ["api", "model_server", "scripted_server"]


async def test_files_are_uploaded_used_by_a_run_and_removed_but_not_under_one_that_goes_on(
    api: Api, open_page: Open
) -> None:
    page = await open_page(f"{api.url}/start")
    await page.get_by_text("Nothing was uploaded yet").wait_for()
    # Uploaded over the API: it is there without a click when the screen is opened again.
    (await api.post("/api/uploads", files=[("files", ("wheel.md", b"# A wheel\n\nIt turns."))])).raise_for_status()
    await page.goto(f"{api.url}/start")
    row = page.locator("tr", has_text="not used yet")
    await row.get_by_text("wheel.md").wait_for()
    names = row.get_by_role("button", name="1 file, 20 B", exact=True)
    await names.focus()
    await page.keyboard.press("Enter")  # no mouse is needed
    await row.locator(".upload-names").get_by_text("wheel.md").wait_for()
    # Uploaded here, and chosen at once.
    mill = {"name": "mill.md", "mimeType": "text/markdown", "buffer": b"# A mill\n\nIt grinds corn."}
    await page.set_input_files("[data-files]", [mill])
    await page.get_by_role("button", name="Upload now").click()
    chosen = page.get_by_role("button", name="Use 1 file, 25 B")
    await until(lambda: chosen.get_attribute("aria-pressed"))
    assert await chosen.get_attribute("aria-pressed") == "true"
    assert await page.locator(".drop-list").count() == 0
    await page.keyboard.press("Control+Enter")
    await page.wait_for_url("**/runs/*")
    used, unused = sorted(await api.json("/api/uploads"), key=lambda one: not one["in_use"])
    assert (used["bytes"], unused["runs"]) == (25, [])
    # A run goes on with one of them: only the other one can go.
    await page.goto(f"{api.url}/start")
    await page.locator("tr", has_text="in use").get_by_role("link", name=used["runs"][0]).wait_for()
    dialog = page.get_by_role("alertdialog")
    await page.get_by_role("button", name="Remove… 1 file, 25 B").click()
    await dialog.get_by_role("button", name="Remove").click()
    await dialog.get_by_text("has not ended and may read it again").wait_for()
    await dialog.get_by_role("button", name="Cancel").click()
    await page.get_by_role("button", name="Remove… 1 file, 20 B").click()
    await dialog.get_by_role("button", name="Remove").click()
    await until(lambda: _is(page.get_by_text("not used yet"), 0))
    assert [one["upload"] for one in await api.json("/api/uploads")] == [used["upload"]]
    assert [one for one in page.complaints if "409" not in one] == []


async def test_a_chosen_upload_stays_chosen_until_it_is_gone_and_files_that_come_while_others_are_sent_stay(
    api: Api, open_page: Open
) -> None:
    page = await open_page(f"{api.url}/start")
    await page.set_input_files("[data-files]", [_file("mill.md", b"# A mill\n\nIt grinds corn.")])
    plan = page.get_by_role("button", name="Plan p", exact=True)
    chosen = page.locator("tr [aria-pressed=true]")
    await plan.click()
    await chosen.wait_for()
    # Planned, then removed: what was sent is not named again, the files are sent anew.
    dialog = page.get_by_role("alertdialog")
    await page.get_by_role("button", name="Remove… 1 file, 25 B").click()
    await dialog.get_by_role("button", name="Cancel").click()
    await until(lambda: _is(dialog, 0))
    assert await chosen.count() == 1
    (before,) = await api.json("/api/uploads")
    await page.get_by_role("button", name="Remove… 1 file, 25 B").click()
    await dialog.get_by_role("button", name="Remove").click()
    await page.get_by_text("Nothing was uploaded yet").wait_for()
    await plan.click()
    await chosen.wait_for()
    (after,) = await api.json("/api/uploads")
    assert after["upload"] != before["upload"]
    await chosen.click()
    await until(lambda: _is(chosen, 0))
    assert await page.locator(".trouble").count() == 0
    # A file that comes while others are being sent stays to be sent.
    held: asyncio.Queue[Any] = asyncio.Queue()
    await page.route(
        "**/api/uploads", lambda route: held.put(route) if route.request.method == "POST" else route.continue_()
    )
    await page.get_by_role("button", name="Upload now").click()
    sending = await asyncio.wait_for(held.get(), 20)
    await page.set_input_files("[data-files]", [_file("wheel.md", b"# A wheel")])
    await page.locator(".drop-list").get_by_text("wheel.md").wait_for()
    await sending.continue_()
    await until(lambda: _is(page.get_by_role("button", name="Remove… 1 file, 25 B"), 2))
    await page.locator("tr [aria-pressed=false]").nth(1).wait_for()
    assert await page.locator(".drop-list li").count() == 2
    # One that failed is not spoken of any more when the next thing went well.
    await page.get_by_role("button", name="Upload now").click()
    await (await asyncio.wait_for(held.get(), 20)).abort()
    await page.locator(".trouble").wait_for()
    await page.unroute("**/api/uploads")
    await plan.click()
    await chosen.wait_for()
    await until(lambda: _is(page.locator(".trouble"), 0))
    assert [one for one in page.complaints if "ERR_FAILED" not in one] == []


async def test_an_answer_that_was_known_shows_its_request_and_who_paid_and_the_pictures_speak_chinese(
    api: Api, open_page: Open, model_server: ScriptedServer
) -> None:
    mine = {"provider": "vllm", "model": "mine", "base_url": model_server.base_url}
    (await api.put("/api/models/mine", json=mine)).raise_for_status()
    first = await finished(api, model="mine")
    again = await finished(api, model="mine", fresh=True)
    tasks = await api.json(f"/api/runs/{again.name}/tasks?stage=answer&state=completed")
    page = await open_page(f"{api.url}/tasks/{tasks['items'][0]['id']}")
    await page.get_by_text(f"{first.name} paid for this answer").wait_for()
    await page.locator(".call-head").click()
    await page.locator(".asked").get_by_text("passage").first.wait_for()
    await page.locator(".call-known a").click()
    await page.wait_for_url("**/tasks/*")
    await page.get_by_role("link", name=first.name).wait_for()
    assert page.complaints == []
    chinese = await open_page(f"{api.url}/", language="zh-CN")
    await chinese.locator(".plot canvas").wait_for()
    drawn = await chinese.evaluate(
        """() => new Promise(told => {
            const said = [], write = CanvasRenderingContext2D.prototype.fillText;
            CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
                said.push(text);
                if (/结束/.test(text)) told(said);
                return write.call(this, text, ...rest);
            };
            window.dispatchEvent(new Event("resize"));
            document.querySelector(".plot-place").style.width = "600px";
        })"""
    )
    assert f"{first.name} 开始" in drawn
    assert not any("began" in text or "ended" in text for text in drawn)
    assert chinese.complaints == []


def _file(name: str, content: bytes) -> Any:
    return {"name": name, "mimeType": "text/markdown", "buffer": content}


async def _is(found: Any, number: int) -> bool:
    count: int = await found.count()
    return count == number
