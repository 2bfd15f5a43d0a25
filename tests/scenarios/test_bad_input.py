"""Bad files, bad keys, bad servers: a clear reason on each item, the rest goes on, and `retry` finishes it."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.db.embedded_programs import python_for_everybody
from tests.llm.conftest import ScriptedServer
from tests.scenarios.conftest import Home, essence

FILES = Path(__file__).parents[1] / "files"
GOOD = "# Good\n\n" + "The good part is a stone that weighs 12 units and turns slowly. " * 4
INSIDE = "# Inside\n\n" + "The hopper above the funnel collects barley before noon and empties it at dusk. " * 4
REPAIRED = "# Repaired\n\n" + "Every morning the baker carries three sacks of flour across the bridge. " * 4


@pytest.fixture
def home(make_home: Callable[..., Home]) -> Iterator[Home]:
    """A project of an ordinary user: root may read everything, so nothing would be unreadable."""
    python = python_for_everybody() if os.getuid() == 0 else sys.executable
    if python is None:
        pytest.skip("needs a Python that an ordinary user may run")
    folder = Path(tempfile.mkdtemp(prefix="gristmill-"))
    home = make_home()
    home.folder, home.home, home.python = folder, folder / ".gristmill", python
    home.environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "HOME": str(folder)}
    if os.getuid() == 0:
        home.user = "games"
        folder.chmod(0o755)
        shutil.chown(folder, "games")
    yield home
    home.end()
    shutil.rmtree(folder, ignore_errors=True)


def mixed(folder: Path) -> Path:
    """A folder with one good file and every kind of bad one."""
    documents = folder / "documents"
    documents.mkdir()
    (documents / "good.md").write_text(GOOD)
    (documents / "empty.md").touch()
    (documents / "empty.png").touch()
    (documents / "program.exe").write_bytes(b"MZ\x90\x00" + b"\0" * 200)
    shutil.copy(FILES / "truncated.pdf", documents / "corrupt.pdf")
    shutil.copy(FILES / "locked.pdf", documents / "protected.pdf")
    (documents / "gone.md").symlink_to(documents / "nowhere.md")
    (documents / "locked").mkdir()
    (documents / "locked" / "inside.md").write_text(INSIDE)
    (documents / "locked").chmod(0)
    return documents


async def test_each_bad_file_gets_its_reason_the_rest_goes_on_and_retry_finishes_it(
    home: Home,
) -> None:
    documents = mixed(home.folder)
    if home.user:
        shutil.chown(documents / "locked", home.user)
    code, result = await home.json("run", str(documents))
    assert code == 1
    assert result["state"] == "partial"
    assert {row[3] for row in essence(Path(result["dataset"]))} == {'"good.md"'}
    reasons = {failure["item"]: (failure["code"], failure["message"]) for failure in result["failures"]}
    assert {name: code for name, (code, _) in reasons.items()} == {
        "empty.md": "P201", "empty.png": "P201", "program.exe": "P204", "corrupt.pdf": "P203",
        "protected.pdf": "P202", "gone.md": "F103", "locked": "F102",
    }  # fmt: skip
    assert "0 bytes" in reasons["empty.md"][1]
    assert "password" in reasons["protected.pdf"][1]
    assert "permission" in reasons["locked"][1].casefold()

    code, out, _ = await home.call("why")
    assert code == 0
    for name in reasons:
        assert name in out

    code, again = await home.json("run", str(documents))
    assert (code, again["nothing_to_do"]) == (1, True)

    for name in ("empty.md", "corrupt.pdf", "protected.pdf", "program.exe", "empty.png", "gone.md"):
        (documents / name).unlink()
    (documents / "empty.md").write_text(REPAIRED)
    (documents / "locked").chmod(0o755)
    code, repaired = await home.json("retry")
    assert (code, repaired["state"], repaired["failures"]) == (0, "completed", [])
    assert {row[3] for row in essence(Path(repaired["dataset"]))} == {'"good.md"', '"empty.md"', '"locked/inside.md"'}


@pytest.mark.thorough
async def test_a_wrong_key_is_named_and_retry_with_the_right_one_finishes(
    make_home: Callable[..., Home], model_server: ScriptedServer
) -> None:
    await model_server.control(key="right")
    home = make_home()
    (home.folder / "good.md").write_text(GOOD)
    code, result = await home.json("run", "good.md", "--model", "openai:scripted", OPENAI_API_KEY="canary-wrong")
    assert (code, result["state"]) == (1, "failed")
    (failure,) = result["failures"]
    assert failure["code"] == "M207"
    assert "401" in failure["message"]
    assert "canary-wrong" not in str(result) + home.logs()
    code, result = await home.json("retry", OPENAI_API_KEY="right")
    assert (code, result["state"]) == (0, "completed")


@pytest.mark.thorough
async def test_an_unreachable_model_is_named_and_retry_finishes_when_it_is_back(
    make_home: Callable[..., Home], model_server: ScriptedServer
) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and nobody listens
        home = make_home()
        (home.folder / "gristmill.toml").write_text("backoff = 0.05\n")
        (home.folder / "good.md").write_text(GOOD)
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}/v1"
        code, result = await home.json("run", "good.md", "--model", "openai:scripted", OPENAI_BASE_URL=url)
    assert (code, result["state"]) == (1, "failed")
    (failure,) = result["failures"]
    assert failure["code"] == "M301"
    assert url in failure["message"]


@pytest.mark.thorough
async def test_ten_percent_errors_and_five_percent_cut_answers_lose_nothing(
    make_home: Callable[..., Home], documents: Path, model_server: ScriptedServer
) -> None:
    home = make_home()
    (home.folder / "gristmill.toml").write_text("backoff = 0.05\n")
    _, clean = await home.json("run", str(documents), "--model", "openai:scripted", "--out", "clean.jsonl")
    calls = (await model_server.stats())["requests"]
    other = make_home("other")
    (other.folder / "gristmill.toml").write_text("backoff = 0.05\n")
    await model_server.control(reset=True)
    await model_server.control(
        faults=[
            {"kind": "error", "status": 500, "fraction": 0.10, "once": True},
            {"kind": "cut", "fraction": 0.05},
            {"kind": "rate", "first": 3, "retry_after": "1"},
        ]
    )
    code, result = await other.json("run", str(documents), "--model", "openai:scripted")
    assert (code, result["failures"]) == (0, [])
    stats = await model_server.stats()
    print(f"{stats['requests'] / calls:.2f} calls an item")
    assert len(essence(Path(result["dataset"]))) == clean["rows"]
