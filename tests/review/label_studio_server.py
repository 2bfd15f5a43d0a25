"""A server on loopback that speaks as much of Label Studio 1.23 as we use, with its habits: titles of 3 to 50
characters, access tokens that end, a 404 after the last page, `ground_truth` true unless told."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

TOKEN = "header.personal.signature"


@dataclass
class LabelStudio:
    url: str = ""
    projects: dict[int, dict[str, Any]] = field(default_factory=dict)
    tasks: dict[int, dict[str, Any]] = field(default_factory=dict)
    files: dict[int, tuple[int, str, bytes]] = field(default_factory=dict)
    annotations: int = 0
    clock: int = 0
    access: int = 0  # the access token that counts
    asked: list[str] = field(default_factory=list)
    before: Callable[[str, str], int] = lambda method, path: 0  # a status to answer instead
    after: Callable[[str, str], int] = lambda method, path: 0  # the same, once it was done
    people: dict[int, str] = field(default_factory=lambda: {1: "owner@example.com", 2: "ann@example.com"})

    def expire(self) -> None:
        """Access tokens that were given out are over."""
        self.access += 1

    def task_of(self, record: int) -> dict[str, Any]:
        return next(task for task in self.tasks.values() if task["data"]["record_id"] == record)

    def annotate(self, task: dict[str, Any], result: list[Any], *, who: int = 2, number: int | None = None,
                 skipped: bool = False) -> int:  # fmt: skip
        """A person hands something in; the editor writes it down its own way."""
        self.clock += 1
        result = json.loads(re.sub(r"(?<=\d)\.0(?=[,}])", "", json.dumps(result)))
        result = [{**item, "origin": "manual"} if item.get("type") != "relation" else item for item in result]
        found = next((one for one in task["annotations"] if one["id"] == number), None)
        if found is None:
            self.annotations += 1
            found = {"id": self.annotations, "completed_by": who, "ground_truth": False}
            task["annotations"].append(found)
        found |= {"result": result, "was_cancelled": skipped, "lead_time": 3.5, "updated_by": who}
        found["updated_at"] = f"2026-01-01T00:00:{self.clock:06d}Z"
        return int(found["id"])

    def _store(self, task: dict[str, Any], given: dict[str, Any]) -> None:
        self.annotations += 1
        self.clock += 1
        task["annotations"].append({
            "ground_truth": True, **given, "id": self.annotations, "completed_by": 1, "was_cancelled": False,
            "lead_time": None, "updated_by": None, "updated_at": f"2026-01-01T00:00:{self.clock:06d}Z",
        })  # fmt: skip

    def answer(self, method: str, path: str, body: bytes, authorization: str) -> tuple[int, Any]:
        parts = urlsplit(path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path == "/api/version":
            return 200, {"release": "1.23.0"}
        if parts.path == "/api/token/refresh/":
            good = json.loads(body)["refresh"] == TOKEN
            return (200, {"access": f"access-{self.access}"}) if good else (401, {"detail": "Token is invalid"})
        if authorization != f"Bearer access-{self.access}":
            return 401, {"detail": "Authentication credentials were not provided."}
        for pattern, act in self._routes():
            if (found := re.fullmatch(pattern, f"{method} {parts.path}")) is not None:
                answered: tuple[int, Any] = act(*map(int, found.groups()), body, asked)
                return answered
        return 404, {"detail": "Not found."}

    def _routes(self) -> list[tuple[str, Callable[..., tuple[int, Any]]]]:
        return [
            (r"GET /api/projects/", lambda body, asked: (200, {"results": list(self.projects.values()), "next": None})),
            (r"POST /api/projects/", self._make),
            (r"GET /api/projects/(\d+)/", lambda number, body, asked: self._one(number)),
            (r"PATCH /api/projects/(\d+)/", self._change),
            (r"POST /api/projects/(\d+)/import", self._import),
            (r"GET /api/projects/(\d+)/file-uploads", self._files),
            (r"GET /api/import/file-upload/(\d+)", lambda n, body, asked: (200, {"file": self.files[n][1]})),
            (r"GET /api/tasks", self._tasks),
            (r"POST /api/tasks/(\d+)/annotations/", self._add),
            (r"PATCH /api/annotations/(\d+)/", self._edit),
            (
                r"GET /api/users/",
                lambda body, asked: (200, [{"id": number, "email": mail} for number, mail in self.people.items()]),
            ),
        ]

    def _make(self, body: bytes, asked: Any) -> tuple[int, Any]:
        given = json.loads(body)
        if not 3 <= len(given["title"]) <= 50:
            return 400, {"validation_errors": {"title": ["between 3 and 50 characters"]}}
        number = len(self.projects) + 1
        self.projects[number] = {**given, "id": number}
        return 201, self.projects[number]

    def _one(self, number: int) -> tuple[int, Any]:
        return (200, self.projects[number]) if number in self.projects else (404, {})

    def _change(self, number: int, body: bytes, asked: Any) -> tuple[int, Any]:
        self.projects[number] |= json.loads(body)
        return 200, self.projects[number]

    def _import(self, project: int, body: bytes, asked: dict[str, str]) -> tuple[int, Any]:
        if asked.get("commit_to_project") == "false":
            head, _, rest = body.partition(b"\r\n\r\n")
            name = re.search(rb'filename="([^"]+)"', head)
            assert name is not None
            number = len(self.files) + 1
            path = f"upload/{project}/{number:08x}-{name[1].decode()}"
            self.files[number] = (project, path, rest.rpartition(b"\r\n--")[0])
            return 201, {"file_upload_ids": [number]}
        numbers = []
        for given in json.loads(body):
            number = len(self.tasks) + 1
            task = {"id": number, "project": project, "data": given["data"], "annotations": []}
            task["predictions"] = given.get("predictions", [])
            for one in given.get("annotations", []):
                self._store(task, one)
            self.tasks[number] = task
            numbers.append(number)
        return 201, {"task_count": len(numbers), "task_ids": numbers}

    def _files(self, project: int, body: bytes, asked: Any) -> tuple[int, Any]:
        return 200, [{"id": n, "file": path} for n, (owner, path, _) in self.files.items() if owner == project]

    def _tasks(self, body: bytes, asked: dict[str, str]) -> tuple[int, Any]:
        mine = [task for task in self.tasks.values() if task["project"] == int(asked["project"])]
        size = min(int(asked["page_size"]), 3)  # so that there are several pages
        first = (int(asked["page"]) - 1) * size
        if first and first >= len(mine):
            return 404, {"detail": "Invalid page."}
        return 200, {"tasks": mine[first : first + size], "total": len(mine)}

    def _add(self, task: int, body: bytes, asked: Any) -> tuple[int, Any]:
        self._store(self.tasks[task], json.loads(body))
        return 201, {}

    def _edit(self, number: int, body: bytes, asked: Any) -> tuple[int, Any]:
        found = next(one for task in self.tasks.values() for one in task["annotations"] if one["id"] == number)
        self.clock += 1
        found |= {**json.loads(body), "updated_by": 1, "updated_at": f"2026-01-01T00:00:{self.clock:06d}Z"}
        return 200, found


@contextmanager
def label_studio() -> Iterator[LabelStudio]:
    """A server that is there until the block ends."""
    studio = LabelStudio()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            with lock:
                studio.asked.append(f"{self.command} {self.path}")
                status = studio.before(self.command, self.path)
                document: Any = {"detail": "made up"}
                if not status:
                    token = self.headers.get("authorization") or ""
                    status, document = studio.answer(self.command, self.path, body, token)
                    status = studio.after(self.command, self.path) or status
            text = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_POST = do_PATCH = do_GET

        def log_message(self, format: str, *arguments: object) -> None:
            """Nothing to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    studio.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield studio
    finally:
        server.shutdown()
        server.server_close()
