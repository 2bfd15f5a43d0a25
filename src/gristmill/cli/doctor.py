"""gristmill doctor: is everything fit for work, and if not, what to do."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from gristmill.cli import options
from gristmill.cli.options import print_json
from gristmill.errors import GristmillError


@dataclass(frozen=True, slots=True)
class Finding:
    """`level` is ok, warn or fail."""

    level: str
    name: str
    text: str
    fix: str = ""


@click.command(name="doctor")
@click.option("--model", "-m", multiple=True, help="Also ask this model one short question (costs a few tokens).")
@click.option("--config", "show_config", is_flag=True, help="Print every setting with its origin.")
@options.home
@options.as_json
def command(model: tuple[str, ...], show_config: bool, home: Path | None, as_json: bool) -> None:
    """Checks Python, settings, disk, database, packs and models. Exit code 3 when something fails."""
    if show_config:
        _config(home, as_json)
    else:
        options.call(_doctor(home, model, as_json))


def _config(home: Path | None, as_json: bool) -> None:
    from gristmill.config import load_settings
    from gristmill.db.database import without_password
    from gristmill.logs import redact

    loaded = load_settings(home=home)
    values = loaded.values.model_dump(mode="json")
    if values["database_url"]:
        values["database_url"] = without_password(values["database_url"])
    if as_json:
        inner = {name: origin for name, origin in loaded.origins.items() if "." in name}
        documents = {k: {"value": v, "origin": loaded.origins[k]} for k, v in values.items()}
        print_json("settings", settings=documents, origins=inner, files=[str(file) for file in loaded.files])
        return
    for name, value in values.items():
        for shown, one, origin in _lines(name, value, loaded.origins):
            click.echo(f"{shown:<32} {redact(str(one)):<40} {origin}".rstrip())
    if not loaded.files:
        click.echo("no gristmill.toml was found from here upward", err=True)


def _lines(name: str, value: Any, origins: Mapping[str, str]) -> Iterator[tuple[str, Any, str]]:
    """A setting, or what stands in its table, each with its origin; [workers.NAME] as it is written."""
    written = f"workers{name.removeprefix('crew')}" if name.split(".")[0] == "crew" else name
    given = [key for key in value if f"{name}.{key}" in origins] if isinstance(value, dict) else []
    if not given:
        yield written, value, origins.get(name, "default")
    for key in given:
        yield from _lines(f"{name}.{key}", value[key], origins)


async def _doctor(home: Path | None, models: tuple[str, ...], as_json: bool) -> int:
    findings = [Finding("ok", "python", sys.version.split()[0])]
    try:
        findings += await _look(home, models)
    except GristmillError as error:
        findings.append(Finding("fail", "environment", error.message, error.hint))
    if as_json:
        print_json(
            "doctor", findings=[{"level": f.level, "name": f.name, "text": f.text, "fix": f.fix} for f in findings]
        )
    else:
        for finding in findings:
            click.echo(f"{finding.level:<4}  {finding.name:<10} {finding.text}")
            if finding.fix:
                click.echo(f"                 do: {finding.fix}")
    return 3 if any(finding.level == "fail" for finding in findings) else 0


async def _look(home: Path | None, models: tuple[str, ...]) -> list[Finding]:
    from gristmill.cli.doctor_packs import look_at_packs
    from gristmill.config import load_settings
    from gristmill.crew.places import places
    from gristmill.db.database import pooled
    from gristmill.db.migrate import newest, schema_version

    settings = load_settings(home=home).values
    found = []
    settings.home.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(settings.home.parent).free
    level = "ok" if free > 2 * 2**30 else "warn" if free > settings.disk_reserve else "fail"
    fix = "" if level == "ok" else "free some space, or set GRISTMILL_HOME to a larger disk"
    found.append(Finding(level, "disk", f"{free / 2**30:.1f} GiB free for {settings.home}", fix))
    async with options.open_app(home, workers=0) as app:
        started = time.perf_counter()
        version = await app.pool.fetchval("show server_version")
        latency = (time.perf_counter() - started) * 1000
        kind = "your server" if settings.database_url else "embedded"
        found.append(Finding("ok", "database", f"PostgreSQL {version}, {kind}, {latency:.1f} ms"))
        if pooled(app.url):
            text = "behind a connection pooler: a worker's death is noticed when its lease ends, not within a second"
            found.append(Finding("ok", "pooler", text))
        found.append(Finding("ok", "schema", f"version {await schema_version(app.pool)} of {newest()}"))
        for name, wanted in (("fsync", "on"), ("full_page_writes", "on"), ("autovacuum", "on")):
            value = await app.pool.fetchval("select current_setting($1)", name)
            if value != wanted:
                found.append(
                    Finding("warn", "database", f"{name} is {value}", f"turn {name} on: a crash may lose work")
                )
        late = await app.pool.fetchval(
            "select count(*) from worker where state in ('alive', 'draining') and lease_until < clock_timestamp()"
        )
        if late:
            found.append(Finding("warn", "workers", f"{late} are late; the next worker takes their tasks over"))
        found += [
            Finding("warn", "crew", f"{one.name} is blacklisted: {one.cause}", f"gristmill worker reset {one.name}")
            for one in await places(app.pool) if one.blacklisted
        ]  # fmt: skip
        found += await look_at_packs(app, Path.cwd())
        key = "set" if os.environ.get("OPENAI_API_KEY") else "not set (the model extractive needs none)"
        found.append(Finding("ok", "key", f"OPENAI_API_KEY is {key}"))
        found += [await _ask(app, spec) for spec in models]
    return found


async def _ask(app: object, spec: str) -> Finding:
    from gristmill.cli.models import try_model

    try:
        model = await app.models.open(spec, ledger=False)  # type: ignore[attr-defined]
        try:
            told = await try_model(model)
        finally:
            await model.close()
    except GristmillError as error:
        return Finding("fail", "model", f"{spec}: {error.message}", error.hint)
    return Finding("ok", "model", f"{spec} answered in {told['milliseconds']} ms")
