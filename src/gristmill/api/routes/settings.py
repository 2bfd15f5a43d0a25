"""Settings with their origins, and the packs of actions."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any, Literal

from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, OpenApp
from gristmill.config import Settings, load_settings
from gristmill.db.database import without_password
from gristmill.errors import ConfigurationError
from gristmill.packs import actions, store
from gristmill.packs.pack import Pack as KnownPack

router = new_router("settings and packs")
SECRET = re.compile("password|secret|token|api_key", re.IGNORECASE)


class Setting(Answer):
    """`origin`: a file and its line, a variable of the environment, an argument, or default. Secrets are hidden."""

    name: str
    value: Any
    origin: str
    description: str


class SettingList(Answer):
    items: list[Setting]


class PackAction(Answer):
    """An action is the operator of the same name."""

    ref: str
    label: str
    description: str
    runner: str
    parameters: dict[str, Any]


class Pack(Answer):
    """`origin`: whether it comes with Gristmill or was installed. An installed one that this server cannot use
    (`usable` false: its files are not `here`, or were changed) shows no actions; its tasks wait for a worker that has
    it."""

    ref: str
    label: str
    description: str
    version: str
    origin: Literal["shipped", "installed"]
    usable: bool
    here: bool
    installed_by: str | None = None
    installed_at: datetime | None = None
    actions: list[PackAction]


class Packs(Answer):
    items: list[Pack]


@router.get("/settings")
@role("operator")
async def settings(app: OpenApp) -> SettingList:
    """Every setting of this server with its origin: file and line, environment, argument or default."""
    try:
        origins = load_settings().origins
    except ConfigurationError:  # a file that was broken since we began
        origins = {}
    values = app.settings.model_dump(mode="json")
    return SettingList(items=[
        Setting(
            name=name, value=_shown(name, values[name]), description=field.description or "",
            origin=_origin(app.settings, name, origins),
        )
        for name, field in Settings.model_fields.items()
    ])  # fmt: skip


@router.get("/packs")
async def packs(app: OpenApp) -> Packs:
    """The packs that come with Gristmill and those that are installed, as the database lists them now."""
    chosen = app.settings
    await store.take_packs(app.pool, chosen.home, chosen.packs, fetch=chosen.packs_from_database)
    actions.load_shipped()
    installed = await store.listed(app.pool, chosen.home)
    known = actions.known_packs()
    items = [_pack(known[ref], origin="shipped", usable=True, here=True) for ref in actions.shipped()]
    for one in installed:
        told = {"here": one.here, "installed_by": one.installed_by, "installed_at": one.installed_at}
        found = known.get(one.ref)
        if found is not None and found.digest == one.digest:
            items.append(_pack(found, origin="installed", usable=True, **told))
        else:
            items.append(
                Pack(
                    ref=one.ref, label=one.label, description="", version=one.version, origin="installed", usable=False,
                    actions=[], **told,
                )
            )  # fmt: skip
    return Packs(items=items)


def _pack(pack: KnownPack, **told: Any) -> Pack:
    return Pack(
        ref=pack.ref, label=pack.about.label, description=pack.about.description, version=pack.about.version,
        actions=[PackAction.model_validate(action) for action in pack.actions], **told,
    )  # fmt: skip


def _shown(name: str, value: Any) -> Any:
    """A value without what is secret in it; a place where a secret is kept is none."""
    if isinstance(value, dict):
        return {key: _shown(key, inner) for key, inner in value.items()}
    if not isinstance(value, str):
        return value
    if "://" in value:
        return re.sub(r"//[^/@]*@", "//***@", without_password(value))
    hidden = SECRET.search(name) and not value.startswith(("env:", "file:", "secret:"))
    return "***" if hidden and not name.endswith("_file") else value


def _origin(settings: Settings, name: str, origins: dict[str, str]) -> str:
    """As it was read; what differs from that was given to the App itself."""
    field = Settings.model_fields[name]
    default = field.get_default(call_default_factory=True)
    origin = origins.get(name, "default")
    return "argument" if origin == "default" and getattr(settings, name) != default else origin
