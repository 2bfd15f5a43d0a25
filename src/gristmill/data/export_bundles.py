"""Folders that a training tool reads as they are: what lies beside the data, and the pictures."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import re
import secrets
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from gristmill.data.export_files import explain, sync_folder
from gristmill.data.export_formats import Format, Options, row_format
from gristmill.data.export_manifest import IN_FOLDER, SCHEMA, Written
from gristmill.data.media import EXTENSIONS, media_type_of_bytes
from gristmill.errors import UsageError

ReadImage = Callable[[str], Awaitable[bytes]]
IMAGES = "images"
_SUFFIXES = {kind: suffix for suffix, kind in EXTENSIONS.items() if kind.startswith("image/") and suffix != ".jpeg"}
_PICTURE = re.compile(r"images/[0-9a-f]{64}\.\w+")
_EXCHANGE = 2  # renameat2: both names change places at once
_AT_FDCWD = -100


def data_file(format: Format, options: Options, split: str | None) -> str:
    """Name of the data file of a split, below the folder."""
    if format.name == "huggingface":
        inner = row_format(format, options)
        return f"data/{split or 'train'}{inner.suffixes[0]}"
    stem, _, suffix = format.file.partition(".")
    return f"{split or stem}.{suffix}"


def companions(name: str, format: Format, options: Options, files: Sequence[Written]) -> dict[str, bytes]:
    """The files beside the data of the bundle `name`: name -> content."""
    if format.name == "llama-factory":
        return {"dataset_info.json": _dataset_info(name, row_format(format, options).name, files)}
    if format.name == "huggingface":
        return {"README.md": _card(name, row_format(format, options).name, files)}
    return {}


def _dataset_info(name: str, rows: str, files: Sequence[Written]) -> bytes:
    key = re.sub(r"\W+", "_", name).strip("_") or "dataset"
    info = {f"{key}_{file.split}" if file.split else key: {"file_name": file.name, **_SHAPES[rows]} for file in files}
    return (json.dumps(info, indent=2, ensure_ascii=False) + "\n").encode()


_SHAPES: dict[str, dict[str, Any]] = {  # as LLaMA-Factory names what the shapes of rows hold
    "sharegpt": {
        "formatting": "sharegpt",
        "columns": {"messages": "conversations", "images": "images"},
        "tags": {
            "role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt",
            "system_tag": "system",
        },
    },
    "messages": {
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
            "system_tag": "system",
        },
    },
    "alpaca": {
        "formatting": "alpaca",
        "columns": {
            "prompt": "instruction", "query": "input", "response": "output", "system": "system", "history": "history",
            "images": "images",
        },
    },
    "preference": {
        "formatting": "alpaca", "ranking": True,
        "columns": {"prompt": "prompt", "chosen": "chosen", "rejected": "rejected"},
    },
}  # fmt: skip


def _card(name: str, rows: str, files: Sequence[Written]) -> bytes:
    count = sum(file.rows for file in files)
    configured = "\n".join(f"      - split: {file.split or 'train'}\n        path: {file.name}" for file in files)
    counted = "\n".join(f"| {file.split or 'train'} | {file.rows:,} | `{file.sha256}` |" for file in files)
    return f"""---
pretty_name: {json.dumps(name, ensure_ascii=False)}
size_categories:
  - {_size(count)}
tags:
  - gristmill
configs:
  - config_name: default
    data_files:
{configured}
---

# {name}

{count:,} rows in the format {rows}, made with Gristmill. Where each row came from stands in the row;
`{IN_FOLDER}` says how they were chosen.

| split | rows | sha256 |
|---|---|---|
{counted}
""".encode()


def _size(count: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if count < limit:
            return name
    return "1M<n<10M" if count < 10_000_000 else "10M<n<100M"


class Pictures:
    """The pictures of a bundle: each is copied once, under its hash."""

    def __init__(self, folder: Path, read: ReadImage | None) -> None:
        self._folder = folder / IMAGES
        self._read = read
        self.count = 0

    async def path(self, digest: str) -> str:
        """Where the picture lies, below the bundle. Raises `UsageError` U413 when nobody can read pictures here."""
        for suffix in _SUFFIXES.values():
            if (self._folder / f"{digest}{suffix}").exists():
                return f"{IMAGES}/{digest}{suffix}"
        if self._read is None:
            raise UsageError(
                "these rows name pictures, and nothing was given to read them with", code="U413",
                hint="pass read_image=blobs.read",
            )  # fmt: skip
        data = await self._read(digest)
        name = f"{digest}{_SUFFIXES.get(media_type_of_bytes(digest, data), '.bin')}"
        self._folder.mkdir(exist_ok=True)
        await asyncio.to_thread(_store, self._folder / name, data)
        self.count += 1
        return f"{IMAGES}/{name}"


def _store(path: Path, data: bytes) -> None:
    try:
        with open(path, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise explain(error, path) from error


def checked_folder(path: Path) -> Path:
    """The folder to make or to replace. Raises `UsageError` U404 for one that holds anything but an earlier export."""
    try:
        target = path.expanduser().resolve()
        if target.exists() and not target.is_dir():
            raise UsageError(f"{path} is a file, and this format is a folder", code="U404")
        if target.is_dir() and any(target.iterdir()):
            _check_replaceable(path, target)
        target.parent.mkdir(parents=True, exist_ok=True)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"{str(path)!r} is not a path: {error}", code="U404") from None
    except OSError as error:
        raise explain(error, path) from error
    return target


def _check_replaceable(path: Path, target: Path) -> None:
    try:
        document = json.loads((target / IN_FOLDER).read_bytes())
        ours = {file["name"] for file in document["files"]} if document["schema"] == SCHEMA else set()
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    for file in target.rglob("*"):
        name = file.relative_to(target).as_posix()
        if not file.is_dir() and not (ours and (name in ours or name == IN_FOLDER or _PICTURE.fullmatch(name))):
            raise UsageError(
                f"{path} holds {name}, which no export has written", code="U404",
                hint="name another folder, or move that away", safe="nothing was written or deleted",
            )  # fmt: skip


def publish_folder(temporary: Path, target: Path) -> None:
    """Gives a complete folder its name, in the place of the one that was there."""
    for folder, _, _ in os.walk(temporary):
        sync_folder(Path(folder))
    if not target.exists():
        os.rename(temporary, target)
    elif _exchange(temporary, target):
        shutil.rmtree(temporary)
    else:  # a file system without exchange: for a moment there is neither
        former = target.parent / f".gristmill-{secrets.token_hex(8)}.old"
        os.rename(target, former)
        os.rename(temporary, target)
        shutil.rmtree(former)
    sync_folder(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    if rename is None:
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0)
