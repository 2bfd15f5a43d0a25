"""Settings with their origins, and the packs of actions."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.shapes import Answer, OpenApp
from gristmill.config import Settings, load_settings
from gristmill.db.database import without_password
from gristmill.errors import ConfigurationError
from gristmill.packs.actions import SHIPPED, known_packs, load_folder, shipped

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
    ref: str
    label: str
    description: str
    version: str
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
    """Packs of actions that this server knows: those that come with Gristmill, and those that were loaded."""
    for ref in shipped():
        if ref not in known_packs():
            load_folder(Path(SHIPPED) / ref)
    items = [
        Pack(
            ref=one.ref, label=one.about.label, description=one.about.description, version=one.about.version,
            actions=[PackAction.model_validate(action) for action in one.actions],
        )
        for _, one in sorted(known_packs().items())
    ]  # fmt: skip
    return Packs(items=items)


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
