"""The tasks `label_studio.push` and `label_studio.pull`: annotations of a run go to a server, and come back.

Address and token of the server are the worker's own settings, `LABEL_STUDIO_URL` and `LABEL_STUDIO_API_KEY`: who asks
for an exchange cannot say where the token is sent. Both may run twice (a worker died right before its commit): what is
there is found again. What speaks to the server is loaded when it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from gristmill.data.blobs import Blobs
from gristmill.errors import InputError, UsageError
from gristmill.logs import hide

if TYPE_CHECKING:
    from gristmill.review.label_studio.projects import RunLike

PUSH, PULL = "label_studio.push", "label_studio.pull"
URL, KEY = "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"


class Context(Protocol):
    """What the handlers need of the App."""

    pool: Any
    blobs: Blobs
    settings: Any

    async def find(self, name: str) -> RunLike: ...


def label_studio() -> tuple[str, str]:
    """Address and token of the server. Raises `UsageError` L130 where they are not set."""
    url, token = os.environ.get(URL, ""), os.environ.get(KEY, "")
    if not url or not token:
        raise UsageError(
            f"no Label Studio server is set: {URL if not url else KEY} is missing", code="L130",
            hint=f"set {URL} and {KEY} where the API and the workers run, then start them again",
            safe="nothing was sent",
        )  # fmt: skip
    hide(token)
    return url, token


async def push_project(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Sends the annotations of a run ({"run", "kind", "by"}) to the server; returns what was sent.

    Raises `InputError` T324 for what can never be sent, `EnvironmentProblem` for a server that is away.
    """
    from gristmill.review.label_studio.client import Server
    from gristmill.review.label_studio.projects import make_project
    from gristmill.review.label_studio.push import push

    by = str(payload.get("by", ""))
    try:
        run = await context.find(str(payload.get("run", "")))
        url, token = label_studio()
        project = (await make_project(run, name=_name(run, payload), kind=payload.get("kind"), by=by)).project
    except UsageError as error:
        raise InputError(error.message, code="T324", hint=error.hint) from error
    async with Server(url, token) as server:
        done = await push(context.pool, project, server, context.blobs, by=by)
    return {"project": project.name, **done.as_document()}


async def pull_project(payload: dict[str, Any], context: Context) -> dict[str, Any]:
    """Takes what people said on the server as decisions of theirs; returns what was taken. Raises as `push_project`."""
    from gristmill.review.label_studio.client import Server
    from gristmill.review.label_studio.labeling import parse_configuration
    from gristmill.review.label_studio.projects import find_project
    from gristmill.review.label_studio.pull import allowed_by, pull
    from gristmill.review.label_studio.push import placed

    by = str(payload.get("by", ""))
    try:
        run = await context.find(str(payload.get("run", "")))
        url, token = label_studio()
        project = await find_project(context.pool, context.settings.project, _name(run, payload))
        check = allowed_by(run.workflow, project.kind)
    except UsageError as error:
        raise InputError(error.message, code="T324", hint=error.hint) from error
    async with Server(url, token) as server:
        number = await placed(context.pool, project, server)
        labeling = parse_configuration(await server.config_of(number) or project.config)
        done = await pull(
            context.pool, project, server.tasks(number), server.url, await server.people(), by=by, labeling=labeling,
            check=check,
        )  # fmt: skip
    return {"project": project.name, "url": server.url, "server_project": number, **done.as_document()}


def _name(run: RunLike, payload: Mapping[str, Any]) -> str:
    return str(payload.get("project") or run.name)


HANDLERS: Mapping[str, Callable[[dict[str, Any], Any], Awaitable[dict[str, Any]]]] = MappingProxyType(
    {PUSH: push_project, PULL: pull_project}
)
