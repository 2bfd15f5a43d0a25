"""The page: what it is built from, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gristmill.api.application import asgi
from gristmill.app import App
from tests.api.conftest import Api, api
from tests.api.finished import finished
from tests.web.conftest import WEB, Open, until

__all__ = ["api"]
SOURCES = sorted((WEB / "src").rglob("*.ts*"))
SCREENS = (
    "/",
    "/runs",
    "/runs/1",
    "/tasks/1",
    "/records/1",
    "/crew",
    "/crew?tab=settings",
    "/crew?tab=models",
    "/crew?tab=audit",
    "/review",
    "/data",
    "/data?view=table",
    "/data?view=shape",
    "/start",
)


def document() -> dict[str, Any]:
    found: dict[str, Any] = asgi(App()).openapi()
    return found


def test_every_address_that_the_page_asks_for_exists() -> None:
    known = {re.sub(r"\{[^}]*\}", "{}", path.removeprefix("/api")) for path in document()["paths"]}
    asked = set()
    for file in SOURCES:
        text = file.read_text()
        calls = re.findall(r"""(?:get|one|getText)(?:<[^(]*>)?\(\s*(?:"\w+",\s*)?["`](/[^"`?]*)["`?]""", text)
        calls += re.findall(r"""change(?:<[^(]*>)?\(\s*"\w+",\s*["`](/[^"`?]*)["`?]""", text)
        calls += re.findall(r"""upload(?:<[^(]*>)?\(\s*"(/[^"]*)\"""", text)
        asked |= {re.sub(r"\$\{[^}]*\}", "{}", call) for call in calls}
    fixed = {re.sub(r"/\{\}$", "/{}", path) for path in asked}
    assert len(fixed) > 30
    matches = {path: re.compile(re.escape(path).replace(r"\{\}", "[^/]+") + "$") for path in fixed}
    assert [path for path, pattern in matches.items() if not any(pattern.match(one) for one in known)] == []


def test_the_shapes_that_the_page_was_built_against_still_hold() -> None:
    now = document()["components"]["schemas"]
    then = json.loads((WEB / "openapi.json").read_text())["components"]["schemas"]
    used = set(re.findall(r'Shapes\["(\w+)"\]', (WEB / "src/api/types.ts").read_text()))
    gone = [
        f"{name}.{field}" for name in sorted(used) for field in then[name].get("properties", {})
        if field not in now.get(name, {}).get("properties", {})
    ]  # fmt: skip
    assert gone == [], "run make page-types, and follow in web/src"


def test_every_word_of_the_page_is_there_in_english_and_in_chinese() -> None:
    entries = [
        (file.name, *entry)
        for file in sorted((WEB / "src/words").glob("*.ts"))
        for entry in re.findall(
            r'"([\w.]+)":\s*\[\s*"((?:[^"\\]|\\.)*)",\s*"((?:[^"\\]|\\.)*)",?\s*\]', file.read_text()
        )
    ]
    keys = [key for _, key, _, _ in entries]
    assert len(keys) == len(set(keys)) > 300
    holes = [
        key for _, key, english, chinese in entries
        if not english or not chinese or set(re.findall(r"\{\w+\}", chinese)) - set(re.findall(r"\{\w+\}", english))
    ]  # fmt: skip
    assert holes == []


def test_the_page_stands_on_at_most_ten_libraries_and_its_lock_file_names_no_registry() -> None:
    assert len(json.loads((WEB / "package.json").read_text())["dependencies"]) <= 10
    locked = json.loads((WEB / "package-lock.json").read_text())["packages"]
    assert [name for name, package in locked.items() if "resolved" in package] == []
    assert [name for name, package in locked.items() if name and not package.get("integrity")] == []


def test_no_module_of_the_page_is_long_and_none_knows_any() -> None:
    own = [file for file in SOURCES if file.name != "schema.d.ts"]
    assert [file.name for file in own if len(file.read_text().splitlines()) > 350] == []
    assert [file.name for file in own if re.search(r"[:<]\s*any\b|as any\b|@ts-", file.read_text())] == []


def test_the_wheel_holds_the_page(built: Path, tmp_path: Path) -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="pip install --group page-test")
    file = next(iter(wheel.WheelBuilder(str(WEB.parent)).build(directory=str(tmp_path), versions=["standard"])))
    with zipfile.ZipFile(file) as opened:
        names = opened.namelist()
        index = opened.read("gristmill/web/static/index.html").decode()
    assets = re.findall(r'(?:src|href)="/(assets/[^"]+)"', index)
    assert assets
    assert {f"gristmill/web/static/{asset}" for asset in assets} <= set(names)
    assert "gristmill/web/static/editor/editor.js" in names
    assert not [name for name in names if "node_modules" in name]


@pytest.mark.thorough
async def test_every_screen_opens_at_three_widths_in_both_themes_without_a_complaint(api: Api, open_page: Open) -> None:
    await finished(api)
    for width, theme, language in ((1440, "light", "en-US"), (900, "dark", "zh-CN"), (390, "light", "en-US")):
        page = await open_page(f"{api.url}/", width=width, theme=theme, language=language)
        for path in SCREENS:
            await page.goto(f"{api.url}{path}")
            await page.locator("main h1, main .empty-title").first.wait_for()
            wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, f"{path} is {wide} px too wide at {width}"
            assert await page.locator(".trouble").count() == 0, await page.locator(".trouble").first.inner_text()
        assert page.complaints == []
        await page.context.close()


async def loaded(page: Any) -> None:
    """Nothing is on its way any more."""
    await until(lambda: page.evaluate("document.querySelectorAll('[aria-busy=true]').length === 0"))


@pytest.mark.thorough
async def test_no_screen_has_a_barrier_that_axe_finds(api: Api, open_page: Open) -> None:
    await finished(api)
    axe = WEB / "node_modules/axe-core/axe.min.js"
    if not axe.is_file():
        pytest.skip("axe-core is not installed: make page")
    for theme in ("light", "dark"):
        page = await open_page(f"{api.url}/", theme=theme)
        for path in SCREENS:
            await page.goto(f"{api.url}{path}")
            await page.locator("main h1, main .empty-title").first.wait_for()
            await loaded(page)
            await page.evaluate(axe.read_text())
            found = await page.evaluate("axe.run(document, {resultTypes: ['violations']})")
            said = [
                (rule["id"], node["html"][:160], node.get("failureSummary", "")[:200])
                for rule in found["violations"] for node in rule["nodes"]
            ]  # fmt: skip
            assert said == [], f"{path} in {theme}"
        await page.context.close()


async def test_the_keys_are_listed_and_lead_to_the_screens(api: Api, open_page: Open) -> None:
    page = await open_page(f"{api.url}/")
    await page.locator("main .empty-title").wait_for()
    for keys, path in (
        ("g r", "/runs"),
        ("g c", "/crew"),
        ("g v", "/review"),
        ("g d", "/data"),
        ("g s", "/start"),
        ("g n", "/"),
    ):
        for key in keys.split():
            await page.keyboard.press(key)
        await page.wait_for_url(f"{api.url}{path}")
    await page.keyboard.press("?")
    assert "Show the keys" in await page.get_by_role("dialog").inner_text()
    await page.keyboard.press("Escape")
    await page.get_by_role("dialog").wait_for(state="hidden")
    await page.keyboard.press("Control+k")
    await page.keyboard.type("data")
    await page.keyboard.press("Enter")
    await page.wait_for_url(f"{api.url}/data")
    assert page.complaints == []
