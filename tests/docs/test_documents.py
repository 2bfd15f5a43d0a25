"""What the documents say is true: code blocks run, lists are complete, links lead somewhere."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

import gristmill
from gristmill.cli import COMMANDS
from gristmill.cli import gristmill as program
from gristmill.config import ENVIRONMENT, Settings
from gristmill.engine.events import CATALOGUE, EventKind

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
COMMAND = re.compile(r"^(?:\$ )?(?:[A-Z_]+=\S+ )*gristmill (.*)$|(?<!`)`gristmill ([^`]+)`", re.MULTILINE)
BLOCKS = [
    pytest.param(block, id=f"{page.relative_to(ROOT)}-{number}")
    for page in PAGES
    for number, block in enumerate(BLOCK.findall(page.read_text()), start=1)
]


@pytest.fixture
async def workplace(tmp_path: Path, database_url: str) -> tuple[Path, dict[str, str]]:
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("GRISTMILL_", "OPENAI_"))}
    environment |= {"GRISTMILL_DATABASE_URL": database_url, "GRISTMILL_WORKERS": "1", "PYTHONPATH": str(ROOT)}
    return tmp_path, environment


@pytest.mark.parametrize("block", BLOCKS)
async def test_the_code_block_runs(block: str, workplace: tuple[Path, dict[str, str]]) -> None:
    folder, environment = workplace
    script = folder / "block.py"
    script.write_text(block)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, script.name], cwd=folder, env=environment, capture_output=True, text=True, timeout=100,
            check=False,
        )  # fmt: skip

    done = await asyncio.to_thread(run)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_inside_the_repository_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


def test_every_setting_is_documented_with_its_default() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z_]+)` \| (.*?) \|", text, re.MULTILINE))
    expected = {
        name: f"`{field.default}`" if field.default is not None else "" for name, field in Settings.model_fields.items()
    }
    assert rows == expected
    for variable in ENVIRONMENT:
        assert variable in text


def test_every_event_that_is_told_is_in_the_catalogue_and_every_one_in_it_is_told() -> None:
    name = r"[a-z_]+\.[a-z_]+"
    told = set()
    for source in (ROOT / "src/gristmill/db/sql").glob("*.sql"):
        if "into event_inbox" in (text := source.read_text()):
            told |= set(re.findall(rf"'({name})'", text))
            if "'worker.' || $4" in text:  # what a person wants of a worker
                told |= {"worker.pause", "worker.resume", "worker.drain"}
    for source in (ROOT / "src/gristmill").rglob("*.py"):
        told |= set(re.findall(rf"""\btell\([^"]*?"({name})\"""", text := source.read_text()))
        if 'tell(connection, f"schedule.{event}"' in text:
            told |= {f"schedule.{event}" for event in re.findall(r'_tell\(connection, "([a-z]+)"', text)}
    assert told == set(CATALOGUE)


def test_every_event_is_documented_as_the_catalogue_says() -> None:
    text = (ROOT / "docs/reference/events.md").read_text()
    rows = re.findall(r"^\| `([a-z.]+)` \| (.*) \| (.*) \| (\d) \| (.*) \|$", text, re.MULTILINE)
    written = {
        name: EventKind(
            meaning, tuple(re.findall(r"`(\w+)`(?!\?)", body)), tuple(re.findall(r"`(\w+)`", ids)), int(detail),
            tuple(re.findall(r"`(\w+)`\?", body)),
        )
        for name, body, ids, detail, meaning in rows
    }  # fmt: skip
    assert written == dict(CATALOGUE)


def test_every_command_and_option_is_documented() -> None:
    text = (ROOT / "docs/reference/commands.md").read_text()
    for name, (module, _) in COMMANDS.items():
        place, _, attribute = module.partition(":")
        command: click.Command = getattr(importlib.import_module(f"gristmill.cli.{place}"), attribute or "command")
        section = re.search(rf"^## {name}$(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
        assert section, name
        commands = command.commands.values() if isinstance(command, click.Group) else [command]
        for one in commands:
            for parameter in one.params:
                if isinstance(parameter, click.Option) and parameter.name not in ("home", "as_json"):
                    assert f"`{parameter.opts[0]}" in section[1], (name, parameter.opts[0])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    for found in COMMAND.finditer(re.sub(r"\\\n\s*", " ", page.read_text())):
        words = re.split(r" [|>&] | && ", (found[1] or found[2]).replace("\n", " "))[0]
        command: click.Command = program
        context = click.Context(program, info_name="gristmill")
        rest = shlex.split(words, comments=True)
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            name, *rest = rest
            under = command.get_command(context, name)
            assert under is not None or command is not program, found[0]
            if under is None:
                break
            command, context = under, click.Context(under, parent=context, info_name=name)
        if command.name == "psql":  # what follows is another program's
            continue
        offered = {word for one in command.params for word in (*one.opts, *one.secondary_opts)} | {"--help"}
        named = {word.strip("[]").partition("=")[0] for word in rest if word.strip("[").startswith("-")}
        assert {word for word in named if not word[1:].isdigit()} <= offered | {"-"}, found[0]


def test_every_public_name_exists_and_is_listed() -> None:
    for name in gristmill.__all__:
        assert getattr(gristmill, name) is not None
    assert "nonsense" not in gristmill.__all__
    with pytest.raises(AttributeError):
        _ = gristmill.nonsense  # type: ignore[attr-defined]


def test_importing_gristmill_imports_next_to_nothing() -> None:
    code = "import sys, gristmill; print([m for m in ('pydantic', 'asyncpg', 'asyncio', 'click') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_no_file_names_a_place_of_one_machine_or_a_registry() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    hosts = re.compile(
        "|".join(("pypi" + r"\.org", "pythonhos" + "ted", "npmjs" + r"\.(org|com)", "deb" + r"\.debian"))
    )
    places = re.compile("/ro" + "ot/|/wo" + "rk/")
    for name in listed.stdout.splitlines():
        file = ROOT / name
        if file.suffix in (".md", ".py", ".toml", ".lock", ".sql", ".txt", ".html", "") and file.is_file():
            text = file.read_text("utf-8", "replace")
            assert not hosts.search(text), name
            assert not places.search(text), name
