"""Which annotation project a command means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gristmill.cli import options
from gristmill.errors import UsageError

if TYPE_CHECKING:
    from gristmill.app import App
    from gristmill.review.label_studio.projects import Project


async def project_named(app: App, name: str | None) -> Project:
    """The project of that name; without one the last run's."""
    from gristmill.review.label_studio.projects import find_project

    return await find_project(app.pool, app.settings.project, name or (await app.last()).name)


async def fresh_project(app: App, name: str | None) -> Project:
    """The project, with all that its run has made until now; without a name the last run's is made."""
    from gristmill.review.label_studio.projects import find_project, make_project

    wanted = name or (await app.last()).name
    try:
        known = await find_project(app.pool, app.settings.project, wanted)
    except UsageError:
        return (await make_project(await app.find(wanted), by=options.me())).project
    run = await app.find(str(known.run_id))
    made = await make_project(run, name=known.name, kind=known.kind, scale=known.scale, by=options.me())
    return made.project
