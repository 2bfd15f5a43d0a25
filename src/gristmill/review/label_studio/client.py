"""One Label Studio server, spoken to as its documentation says: personal access token, projects, tasks, files."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit

from gristmill.errors import EnvironmentProblem, UsageError

if TYPE_CHECKING:
    from pyreqwest.client import Client

PAGE = 100  # tasks that are read at once
TRIES = 4  # of what may be asked again
TITLE = (3, 50)  # characters that a project's title has
_LATER = (429, 502, 503, 504)
_SAFE = "nothing was changed here; the same command goes on"
Task = dict[str, Any]


class Server:
    """`async with Server(url, token) as server:`. `token` is a personal access token, or a legacy one.

    Raises `UsageError` L130 for what is no http or https address or no token, and in every call `EnvironmentProblem`:
    L131 no connection, or too slow; L132 the token is refused; L133 any other refusal; L134 this is no Label Studio.
    """

    def __init__(self, url: str, token: str, *, timeout: float = 60.0) -> None:
        self.url = address(url)
        token = token.strip()
        if not (token and token.isascii() and token.isprintable()):
            raise UsageError("the token of Label Studio is empty, or no token", code="L130", hint=_WHERE)
        self._token = token
        self._timeout = timeout
        self._access = ""  # short-lived; a personal access token gives one
        self._client: Client | None = None

    async def __aenter__(self) -> Self:
        from pyreqwest.client import ClientBuilder

        builder = ClientBuilder().timeout(timedelta(seconds=self._timeout)).connect_timeout(timedelta(seconds=10))
        self._client = builder.follow_redirects(False).build()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()

    async def version(self) -> str:
        """Its version, like "1.23.0"."""
        found = await self._ask("GET", "/api/version")
        release = found.get("release") if isinstance(found, dict) else None
        if not isinstance(release, str):
            raise EnvironmentProblem(f"{self.url} is no Label Studio server", code="L134", safe=_SAFE)
        return release

    async def project_with(self, mark: str) -> int | None:
        """The project whose description holds the mark."""
        page = 1
        while True:
            found = await self._ask("GET", f"/api/projects/?page={page}&page_size={PAGE}")
            for project in found["results"]:
                if mark in (project.get("description") or ""):
                    return int(project["id"])
            if not found.get("next"):
                return None
            page += 1

    async def config_of(self, project: int) -> str | None:
        """The labeling configuration of a project; None where there is no such project."""
        found = await self._ask("GET", f"/api/projects/{project}/", missing=True)
        return None if found is None else str(found["label_config"])

    async def make_project(self, title: str, config: str, description: str) -> int:
        """A new project."""
        short = title[: TITLE[1]].ljust(TITLE[0], ".")
        body = {"title": short, "label_config": config, "description": description}
        return int((await self._ask("POST", "/api/projects/", body))["id"])

    async def change_config(self, project: int, config: str) -> None:
        """Another labeling configuration; labels that are in use have to stay in it."""
        await self._ask("PATCH", f"/api/projects/{project}/", {"label_config": config})

    async def tasks(self, project: int) -> AsyncIterator[Task]:
        """All tasks with their annotations."""
        seen, page = 0, 1
        while True:
            path = f"/api/tasks?project={project}&page={page}&page_size={PAGE}&fields=all"
            found = await self._ask("GET", path, missing=True)  # a page after the last one is "missing"
            tasks = found["tasks"] if found else []
            for task in tasks:
                yield task
            seen, page = seen + len(tasks), page + 1
            if not tasks or seen >= found["total"]:
                return

    async def add_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> list[int]:
        """Imports tasks, and returns their numbers in order."""
        made = await self._ask("POST", f"/api/projects/{project}/import?return_task_ids=true", list(tasks))
        ids = made.get("task_ids") or []
        if len(ids) != len(tasks):
            raise EnvironmentProblem(
                f"{self.url} took {len(ids)} of {len(tasks)} tasks", code="L133", hint="push again", safe=_SAFE
            )
        return [int(number) for number in ids]

    async def add_annotation(self, task: int, result: Sequence[Any]) -> None:
        """One more annotation of a task."""
        await self._ask("POST", f"/api/tasks/{task}/annotations/", {"result": list(result), "ground_truth": False})

    async def change_annotation(self, annotation: int, result: Sequence[Any]) -> None:
        """Another result in an annotation."""
        await self._ask("PATCH", f"/api/annotations/{annotation}/", {"result": list(result)})

    async def pictures(self, project: int) -> dict[str, str]:
        """The files that a project has: name, as it was uploaded -> path on the server."""
        found = await self._ask("GET", f"/api/projects/{project}/file-uploads?all=true")
        return {_uploaded(entry["file"]): f"/data/{entry['file']}" for entry in found}

    async def add_picture(self, project: int, name: str, media_type: str, data: bytes) -> str:
        """Uploads a file, and returns its path on the server."""
        edge = secrets.token_hex(16)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        body = f"{head}Content-Type: {media_type}\r\n\r\n".encode() + data + f"\r\n--{edge}--\r\n".encode()
        path = f"/api/projects/{project}/import?commit_to_project=false"
        made = await self._ask("POST", path, raw=body, content_type=f"multipart/form-data; boundary={edge}")
        number = made["file_upload_ids"][0]
        return f"/data/{(await self._ask('GET', f'/api/import/file-upload/{number}'))['file']}"

    async def people(self) -> dict[int, str]:
        """Who works there: number -> e-mail."""
        return {int(one["id"]): str(one["email"] or one["id"]) for one in await self._ask("GET", "/api/users/")}

    async def _ask(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None,
        content_type: str = "application/json", missing: bool = False,
    ) -> Any:  # fmt: skip
        """The answer as JSON; None for a 404 where `missing` is allowed."""
        data = raw if raw is not None else json.dumps(body).encode() if body is not None else None
        status, text = 0, ""
        for left in reversed(range(TRIES if method in ("GET", "PATCH") else 1)):
            status, text = await self._answer(method, path, data, content_type, last=not left)
            if status and status not in _LATER:
                break
            if left:
                await asyncio.sleep(0.5 * (TRIES - left))
        if status == 404 and missing:
            return None
        if status in (401, 403):
            raise EnvironmentProblem(
                f"{self.url} refuses the token for {method} {path.partition('?')[0]}", code="L132", hint=_WHERE,
                safe=_SAFE,
            )  # fmt: skip
        if not 200 <= status < 300:
            raise EnvironmentProblem(
                f"{self.url} answered {status} to {method} {path.partition('?')[0]}: {_reason(text)}", code="L133",
                safe=_SAFE,
            )  # fmt: skip
        try:
            return json.loads(text) if text else {}
        except ValueError:
            raise EnvironmentProblem(f"{self.url} is no Label Studio server", code="L134", safe=_SAFE) from None

    async def _answer(
        self, method: str, path: str, data: bytes | None, content_type: str, *, last: bool
    ) -> tuple[int, str]:
        """Status and text. A personal access token is exchanged for a short-lived one, and again when that is over."""
        if "." not in self._token:
            return await self._send(method, path, data, content_type, f"Token {self._token}", last=last)
        for fresh in (not self._access, True):
            if fresh:
                self._access = await self._exchange()
            status, text = await self._send(method, path, data, content_type, f"Bearer {self._access}", last=last)
            if status != 401 or fresh:
                return status, text
        raise AssertionError

    async def _exchange(self) -> str:
        body = json.dumps({"refresh": self._token}).encode()
        status, text = await self._send("POST", "/api/token/refresh/", body, "application/json", None, last=True)
        try:
            access = json.loads(text)["access"]
        except (ValueError, KeyError, TypeError):
            if status == 404 or status < 400:
                raise EnvironmentProblem(f"{self.url} is no Label Studio server", code="L134", safe=_SAFE) from None
            raise EnvironmentProblem(
                f"{self.url} refuses the token ({status})", code="L132", hint=_WHERE, safe=_SAFE
            ) from None
        return str(access)

    async def _send(
        self, method: str, path: str, data: bytes | None, content_type: str, authorization: str | None, *, last: bool
    ) -> tuple[int, str]:
        """Status and text; 0 for a connection that broke, unless it was the `last` try."""
        from pyreqwest import exceptions as http

        if self._client is None:
            raise UsageError("this Server is not open", hint="use it as: async with Server(url, token) as server:")
        headers = {"user-agent": "gristmill", "accept": "application/json"}
        if authorization:
            headers["authorization"] = authorization
        request = self._client.request(method, f"{self.url}{path}").headers(headers)
        if data is not None:
            request = request.header("content-type", content_type).body_bytes(data)
        try:
            response = await request.build().send()
            return response.status, await response.text()
        except http.PyreqwestError as error:
            if last:
                raise EnvironmentProblem(
                    f"no answer from {self.url}: {type(error).__name__}", code="L131",
                    hint="check the address, and that Label Studio runs", safe=_SAFE,
                ) from None  # fmt: skip
            return 0, ""


_WHERE = "in Label Studio: Account & Settings, Personal Access Token; then set LABEL_STUDIO_API_KEY or --token env:NAME"


def address(url: str) -> str:
    """The address of a server without a slash at its end. Raises `UsageError` L130."""
    try:
        parts = urlsplit(url.strip())
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and not (parts.username or parts.password)
        good = good and not parts.query and not parts.fragment and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise UsageError(
            "the address of Label Studio is like http://localhost:8080, without a user, a password or a query",
            code="L130", safe="nothing was sent",
        )  # fmt: skip
    return url.strip().rstrip("/")


def _reason(text: str) -> str:
    """What the server says is wrong, in short."""
    try:
        said = json.loads(text)
    except ValueError:
        return "(no explanation)"
    detail = said.get("validation_errors") or said.get("detail") if isinstance(said, dict) else said
    return json.dumps(detail, ensure_ascii=False)[:500]


def _uploaded(path: str) -> str:
    """The name under which a file was uploaded: the server puts 8 digits and a dash before it."""
    return path.rpartition("/")[2].partition("-")[2]
