"""What `gristmill run` may be given: globs, archives, URLs, and what narrows them."""

from __future__ import annotations

import zipfile
from collections.abc import Callable

import pytest

from tests.scenarios.conftest import Home, make_home, model_server, scripted_server

__all__ = ["make_home", "model_server", "scripted_server"]

TEXT = "# The {0}\n\nThe {0} of the mill holds 12 units of grain and turns slowly.\n"


@pytest.fixture
def home(make_home: Callable[..., Home], database_url: str) -> Home:
    made = make_home(GRISTMILL_DATABASE_URL=database_url, GRISTMILL_WORKERS="1")
    for name in ("docs/a.md", "docs/sub/b.md", "docs/drafts/c.md", "docs/d.txt"):
        path = made.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(TEXT.format(path.stem))
    with zipfile.ZipFile(made.folder / "set.zip", "w") as archive:
        archive.writestr("in.md", TEXT.format("inside"))
        archive.writestr("../out.md", "x")
    return made


async def test_a_plan_counts_globs_archives_and_what_narrows_them_and_fetches_nothing(home: Home) -> None:
    code, plan = await home.json(
        "run", "docs/**/*.md", "set.zip", "http://127.0.0.1:9/x", "--exclude", "drafts", "--plan"
    )
    assert (code, plan["files"], plan["unreadable"]) == (0, 3, 1)
    assert "1 URLs were not fetched and are in no figure" in plan["assumed"]


async def test_a_run_keeps_what_narrows_it_and_says_why_a_url_is_not_asked(home: Home) -> None:
    arguments = [
        "docs",
        "set.zip",
        "http://127.0.0.1:9/x.md",
        "--include",
        "*.md",
        "--exclude",
        "sub",
        "--workers",
        "1",
    ]
    code, result = await home.json("run", *arguments)
    assert (code, result["state"]) == (1, "partial")
    codes = {failure["item"]: failure["code"] for failure in result["failures"]}
    assert codes == {"set.zip/../out.md": "F115", "127.0.0.1/x.md": "F120"}
    assert result["steps"][0]["completed"] == 3
    code, again = await home.json("retry", "--workers", "1")  # looks again, and wants no more than before
    assert (code, again["steps"][0]["completed"]) == (1, 3)


async def test_nothing_that_could_be_read_is_an_error_of_the_command(home: Home) -> None:
    code, _, err = await home.call("run", "nowhere.md", "--include", "*.md")
    assert (code, "no such file" in err) == (2, True)
    code, _, err = await home.call("run", "qa", "nowhere.md")
    assert (code, "gristmill run PATH --workflow qa" in err) == (2, True)
    code, _, err = await home.call("run", "https://user:secret@example.org/x")
    assert (code, "U102" in err, "secret" in err) == (2, True, False)
