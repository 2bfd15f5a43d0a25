"""The HTTP actions: one request under the rules of `gristmill.fetch`, which guards what may be asked."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from typing import Any

from gristmill.errors import GristmillError, InputError
from gristmill.fetch import Answer, request

REFUSED = 65  # this input can never succeed
LATER = frozenset({408, 425, 429})


async def ask(told: dict[str, Any]) -> Answer:
    given = told["parameters"]
    headers = dict(given["headers"])
    if "token" in given:
        headers["authorization"] = f"Bearer {given['token']}"
    body = b""
    method = "GET"
    if told["action"] == "core.http_request":
        method = given["method"]
        headers |= {"idempotency-key": told["key"]}
        if "body" in given:
            headers.setdefault("content-type", "application/json")
            body = json.dumps(given["body"]).encode()
    return await request(
        method, given["url"], headers=headers, body=body, private=told["settings"]["allow_private"],
        max_bytes=given["max_bytes"], timeout=90,
    )  # fmt: skip


def document(answer: Answer) -> dict[str, Any]:
    kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
    told = {"status": answer.status, "url": answer.url, "media_type": kind}
    try:
        return told | {"text": answer.body.decode("utf-8").replace("\0", "\ufffd")}
    except UnicodeDecodeError:
        return told | {"base64": base64.b64encode(answer.body).decode()}


def main() -> None:
    told = json.load(sys.stdin)
    try:
        answer = asyncio.run(ask(told))
    except GristmillError as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        sys.exit(REFUSED if isinstance(error, InputError) else 1)
    if answer.status >= 400:
        print(f"the server answered {answer.status}: {answer.body[:500].decode('utf-8', 'replace')}", file=sys.stderr)
        sys.exit(REFUSED if answer.status < 500 and answer.status not in LATER else 1)
    print(json.dumps(document(answer)))


if __name__ == "__main__":
    main()
