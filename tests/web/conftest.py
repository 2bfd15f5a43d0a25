"""The page in a real browser over a real server; skipped, with the reason, where there is no built page or browser."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from gristmill.api.page import folder
from tests.scenarios.conftest import make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]
WEB = Path(__file__).parents[2] / "web"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)


@pytest.fixture
def built() -> Path:
    """The folder of the built page."""
    if not (folder() / "index.html").is_file():
        pytest.skip("the page was not built: make page")
    return folder()


@pytest.fixture
async def browser(built: Path) -> AsyncIterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.async_api", reason="pip install --group page-test")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium: apt-get install chromium")
    async with playwright.async_playwright() as driver:
        opened = await driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        await opened.close()


Open = Callable[..., Awaitable[Any]]


@pytest.fixture
async def open_page(browser: Any) -> Open:
    """`await open_page(url, width=1280, theme="light")` gives a page; what its console complains of fails the test."""

    async def open_(url: str, width: int = 1280, theme: str = "light", language: str = "en-US", **more: Any) -> Any:
        context = await browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=theme, locale=language, **more
        )
        page = await context.new_page()
        page.complaints = []
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("console", lambda said: page.complaints.append(said.text) if said.type == "error" else None)
        await page.goto(url)
        return page

    return open_


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


async def until(condition: Callable[[], Awaitable[Any]], limit: float = 60.0) -> Any:
    """What the condition gives as soon as it gives something."""
    end = asyncio.get_running_loop().time() + limit
    while True:
        found = await condition()
        if found:
            return found
        assert asyncio.get_running_loop().time() < end, "it did not come"
        await asyncio.sleep(0.1)
