"""The four requests to an S3-compatible store that blobs need, signed with AWS Signature Version 4.

Keys come from the environment: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION (us-east-1), and
AWS_ENDPOINT_URL for a store that is not Amazon's (MinIO, Ceph, R2). They are never stored and never shown.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from gristmill.errors import ConfigurationError, EnvironmentProblem, TransientError

TRIES = 4
TIMEOUT = timedelta(seconds=120)
_EMPTY = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True, slots=True)
class Keys:
    """Who asks. Not shown in any text."""

    access: str = field(repr=False)
    secret: str = field(repr=False)
    token: str = field(default="", repr=False)
    region: str = "us-east-1"


class Bucket:
    """Objects below one prefix. `endpoint` "" is Amazon's own. A method may raise `TransientError` F206 when the store
    cannot be reached or answers 5xx after four tries, `EnvironmentProblem` F207 when it refuses."""

    def __init__(self, name: str, prefix: str, keys: Keys, endpoint: str = "") -> None:
        self.name, self.prefix, self._keys = name, prefix.strip("/"), keys
        path_style = bool(endpoint) or "." in name
        base = endpoint.rstrip("/") or f"https://{'' if path_style else name + '.'}s3.{keys.region}.amazonaws.com"
        self._base = f"{base}/{name}" if path_style else base
        self._client: Any = None

    async def get(self, key: str) -> bytes | None:
        """The object; None when there is none."""
        status, body = await self._ask("GET", key)
        return None if status == 404 else body

    async def has(self, key: str) -> bool:
        return (await self._ask("HEAD", key))[0] != 404

    async def put(self, key: str, data: bytes) -> None:
        """Writes the whole object or nothing: the store checks the signed sha256 of what arrives."""
        await self._ask("PUT", key, data)

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _ask(self, method: str, key: str, data: bytes = b"") -> tuple[int, bytes]:
        from pyreqwest import exceptions as http

        url = f"{self._base}/{quote('/'.join(filter(None, (self.prefix, key))), safe='/-_.~')}"
        problem = ""
        for attempt in range(TRIES):
            if attempt:
                await asyncio.sleep(random.uniform(0.1, 0.3) * 2**attempt)
            try:
                status, body = await self._send(method, url, data)
            except (http.PyreqwestError, TimeoutError, OSError) as error:
                problem = f"no answer: {type(error).__name__}"
                continue
            if status in (200, 204):
                return status, body
            what = _code(body)
            if status == 404 and method != "PUT" and what != "NoSuchBucket":
                return status, body
            problem = f"{status} {what}".strip()
            if status < 500 and status not in (408, 429):
                raise EnvironmentProblem(
                    f"the S3 store of {self.name} refuses {method}: {problem}", code="F207",
                    hint="check the bucket, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, AWS_ENDPOINT_URL",
                    safe="everything finished so far is kept",
                )  # fmt: skip
        raise TransientError(f"the S3 store of {self.name} cannot be used: {problem}", code="F206")

    async def _send(self, method: str, url: str, data: bytes) -> tuple[int, bytes]:
        from pyreqwest.client import ClientBuilder

        if self._client is None:
            self._client = ClientBuilder().follow_redirects(False).timeout(TIMEOUT).build()
        digest = hashlib.sha256(data).hexdigest() if data else _EMPTY
        headers = signed(method, url, digest, self._keys, datetime.now(UTC))
        request = self._client.request(method, url).headers(headers)
        if method == "PUT":
            request = request.body_bytes(data)
        response = await request.build().send()
        return response.status, (await response.bytes()).to_bytes() if method != "HEAD" else b""


def signed(
    method: str, url: str, digest: str, keys: Keys, at: datetime, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """The headers of a signed request. `digest` is the sha256 of its body in hex, `more` are headers to sign too."""
    parts = urlsplit(url)
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    headers = {"x-amz-content-sha256": digest, "x-amz-date": stamp, **(more or {})}
    if keys.token:
        headers["x-amz-security-token"] = keys.token
    all_of = dict(sorted({**headers, "host": parts.netloc}.items()))
    names = ";".join(all_of)
    lines = [method, parts.path or "/", parts.query, *(f"{name}:{value}" for name, value in all_of.items())]
    canonical = "\n".join([*lines, "", names, digest])
    scope = f"{stamp[:8]}/{keys.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = f"AWS4{keys.secret}".encode()
    for part in scope.split("/"):
        secret = hmac.new(secret, part.encode(), hashlib.sha256).digest()
    signature = hmac.new(secret, text.encode(), hashlib.sha256).hexdigest()
    credential = f"Credential={keys.access}/{scope}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 {credential},SignedHeaders={names},Signature={signature}"
    return headers


def open_bucket(url: str, environment: Mapping[str, str]) -> Bucket:
    """The bucket of "s3://bucket/prefix". Raises `ConfigurationError` U204 for another URL, or without keys."""
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc:
        hint = 'write "s3://bucket/prefix" or "/a/folder"'
        raise ConfigurationError(f"blobs = {url!r} is no store", code="U204", hint=hint)
    access, secret = environment.get("AWS_ACCESS_KEY_ID", ""), environment.get("AWS_SECRET_ACCESS_KEY", "")
    if not access or not secret:
        raise ConfigurationError(
            f"{url} needs keys", code="U204", safe="nothing was sent",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where the command and the workers run",
        )  # fmt: skip
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or "us-east-1"
    keys = Keys(access, secret, environment.get("AWS_SESSION_TOKEN", ""), region)
    return Bucket(parts.netloc, parts.path, keys, environment.get("AWS_ENDPOINT_URL", ""))


def _code(body: bytes) -> str:
    """The store's own word for the error: <Code>NoSuchBucket</Code>."""
    _, _, rest = body.partition(b"<Code>")
    return rest.partition(b"</Code>")[0][:80].decode("ascii", "replace")
