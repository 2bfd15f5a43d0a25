"""A run with very many tasks in a real browser: its list scrolls to the end, and only what is in sight is drawn."""

from __future__ import annotations

import time

import pytest

from tests.api.conftest import Api, api
from tests.api.large import large_run
from tests.web.conftest import Open, until

__all__ = ["api"]
pytestmark = pytest.mark.thorough


@pytest.mark.timeout(300)
async def test_eighty_thousand_rows_scroll_and_only_those_in_sight_are_drawn(
    api: Api, database_url: str, open_page: Open
) -> None:
    run = await large_run(api, database_url, 120_000)
    began = time.monotonic()
    page = await open_page(f"{api.url}/runs/{run.id}")
    body = page.locator(".rows-body")
    await body.wait_for()
    print(f"opened in {time.monotonic() - began:.2f} s")
    await page.get_by_label("State").select_option("")

    async def scrolled() -> bool:
        rows = await body.evaluate("body => { body.scrollTop = body.scrollHeight; return body.scrollHeight / 30 }")
        assert await page.locator(".rows-row").count() < 80
        return bool(rows > 80_000)

    await until(scrolled, 240)
    await body.focus()
    await page.keyboard.press("k")
    assert page.complaints == []
