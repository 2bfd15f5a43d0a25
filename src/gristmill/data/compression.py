"""zstd for stored artifacts: part of Python from 3.14 on, before that the package `backports.zstd`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from gristmill.errors import EnvironmentProblem


class Compress(BaseModel):
    """What is stored compressed: what operators write that make records of these kinds ("document", "vector"), and how
    hard it is tried (1 to 19; 3 is quick). Inputs are kept as they came."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kinds: tuple[str, ...] = ()
    level: int = Field(3, ge=1, le=19)


def compress(data: bytes, level: int) -> bytes:
    """One zstd frame. Raises `EnvironmentProblem` F205 without the library."""
    made: bytes = _zstd().compress(data, level)
    return made


def decompress(data: bytes) -> bytes:
    """The bytes of a frame; b"" for what is none, which no checksum takes for the content. Raises F205."""
    zstd = _zstd()
    try:
        found: bytes = zstd.decompress(data)
    except zstd.ZstdError:
        return b""
    return found


def compressed_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.zst")


def _zstd() -> Any:
    try:
        from compression import zstd  # type: ignore[import-not-found]
    except ImportError:
        try:
            from backports import zstd
        except ImportError:
            raise EnvironmentProblem(
                "zstd is not installed", code="F205", hint='pip install "gristmill[zstd]" on every machine',
                safe="nothing was written; everything finished so far is kept",
            ) from None  # fmt: skip
    return zstd
