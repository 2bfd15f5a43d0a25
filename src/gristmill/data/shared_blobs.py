"""Blobs that several machines share: an S3-compatible store holds them, the folder keeps copies.

A digest is returned only after its content has reached the store, so whatever names it can be read everywhere. Reading
looks into the folder first; a copy that is missing or damaged is brought again. The folder may be emptied at any time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO

from gristmill.data.blobs import Blobs
from gristmill.data.compression import compressed_name, decompress
from gristmill.data.s3 import Bucket, open_bucket
from gristmill.errors import EnvironmentProblem


class SharedBlobs(Blobs):
    """The same methods as `Blobs`; each may also raise what `Bucket` raises."""

    def __init__(self, folder: Path | str, bucket: Bucket, **settings: Any) -> None:
        super().__init__(folder, **settings)
        self._bucket = bucket
        self._sent: set[str] = set()  # what we know to be there

    async def read(self, digest: str) -> bytes:
        if not self.exists(digest):
            await self.bring([digest])
        try:
            return await super().read(digest)
        except EnvironmentProblem as error:
            if error.code != "F202":
                raise
            await self._bring(digest)
            return await super().read(digest)

    async def write(self, data: bytes) -> str:
        digest = await super().write(data)
        await self.send([digest])
        return digest

    async def write_file(self, path: Path | str) -> tuple[str, int]:
        digest, size = await super().write_file(path)
        await self.send([digest])
        return digest, size

    async def write_from(self, opener: Callable[[], BinaryIO], size: int) -> tuple[str, int]:
        digest, size = await super().write_from(opener, size)
        await self.send([digest])
        return digest, size

    async def bring(self, digests: Iterable[str]) -> None:
        """Copies what is missing here. What the store does not have either stays missing."""
        for digest in digests:
            if not self.exists(digest):
                await self._bring(digest)

    async def send(self, digests: Iterable[str]) -> None:
        """Copies what is here into the store, unless it is there."""
        for digest in set(digests) - self._sent:
            path = self.path(digest)
            file = path if await asyncio.to_thread(os.path.exists, path) else compressed_name(path)
            key = f"{digest[:2]}/{file.name}"
            if await asyncio.to_thread(os.path.exists, file):
                if not await self._bucket.has(key):
                    await self._bucket.put(key, await asyncio.to_thread(file.read_bytes))
                self._sent.add(digest)

    async def close(self) -> None:
        await self._bucket.close()

    async def _bring(self, digest: str) -> None:
        key = f"{digest[:2]}/{digest}"
        data = await self._bucket.get(key)
        if data is None and (packed := await self._bucket.get(f"{key}.zst")) is not None:
            data = decompress(packed)
        if data is not None:
            await super().write(data)  # under the digest of what came: what is damaged does not get our name


def open_blobs(folder: Path, url: str | None, **settings: Any) -> Blobs:
    """The store of bytes of a project: `folder`, or a folder that hosts share ("/..." or "file:///..."), or a bucket.

    Raises `ConfigurationError` U204 for a URL that is no store.
    """
    if url is None:
        return Blobs(folder, **settings)
    if (shared := url.removeprefix("file://")).startswith("/"):
        return Blobs(Path(shared), **settings)
    return SharedBlobs(folder, open_bucket(url, os.environ), **settings)
