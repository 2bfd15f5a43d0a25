"""Live updates in a real browser: from the commit in the database until it stands in the page's document.

    python benchmarks/live_page.py [CHANGES]

A run is paused and goes on again; the screen of the run is open in Chromium, and an observer in the page notes when
the word of its state changes. Both clocks are this machine's. Needs the built page (make page) and what tests/web
needs.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from gristmill.app import App

WATCH = """() => {
  window.seen = [];
  const told = () => document.querySelector('.screen-title .mark')?.textContent ?? '';
  let before = told();
  new MutationObserver(() => {
    const now = told();
    if (now !== before) { before = now; window.seen.push([now, performance.timeOrigin + performance.now()]); }
  }).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


async def measure(app: App, page: Any, url: str, run: Any, changes: int) -> None:
    opened = time.perf_counter()
    await page.goto(f"{url}runs/{run.id}")
    await page.locator(".screen-title .mark").wait_for()
    print(f"the screen of the run was there after {time.perf_counter() - opened:.2f} s")
    await page.locator(".live-live").wait_for()
    await page.evaluate(WATCH)
    committed = []
    for number in range(changes):
        await (run.pause() if number % 2 == 0 else run.resume())
        committed.append(time.time() * 1000)
        await page.wait_for_function("n => window.seen.length > n", arg=number, timeout=10_000)
        await asyncio.sleep(0.25 + 0.05 * ((number * 7) % 11) / 11)  # four frames a second a run are the most
    seen = await page.evaluate("window.seen")
    times = sorted(at - then for then, (_, at) in zip(committed, seen, strict=False))
    print(f"{len(seen)} of {changes} changes were seen")
    median, p95 = times[len(times) // 2], times[int(len(times) * 0.95)]
    print(f"from commit to the page: p50 {median:.0f} ms, p95 {p95:.0f} ms, most {times[-1]:.0f} ms")


async def main() -> None:
    changes = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    chromium = next(
        found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "docs").mkdir()
        for number in range(20):
            (folder / "docs" / f"{number}.md").write_text(f"# Mill {number}\n\nIt has {number} stones.\n")
        server = await asyncio.to_thread(
            subprocess.Popen, [sys.executable, "-m", "gristmill", "api", "--port", "0", "--json"],
            cwd=folder, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert server.stdout is not None
            url = json.loads(await asyncio.to_thread(server.stdout.readline))["url"]
            async with App(home=folder / ".gristmill", workers=0) as app, async_playwright() as driver:
                run = await app.start("qa", [folder / "docs"], model="extractive")
                browser = await driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
                await measure(app, await browser.new_page(), url, run, changes)
                await browser.close()
        finally:
            server.terminate()
            await asyncio.to_thread(server.wait)


if __name__ == "__main__":
    asyncio.run(main())
