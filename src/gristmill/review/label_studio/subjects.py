"""What is annotated, as Label Studio is shown it: the data of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pydantic import BaseModel

from gristmill.data.annotated import text_of
from gristmill.data.kinds import Image
from gristmill.data.media import EXTENSIONS
from gristmill.errors import UsageError
from gristmill.review.label_studio.offsets import Shown

Address = Callable[[Image], str]  # where a picture can be loaded from


def picture_name(picture: Image) -> str:
    """The name of a picture's file: the hash of its bytes, and what it is."""
    ending = next((end for end, media in EXTENSIONS.items() if media == picture.media_type and end != ".jpeg"), ".bin")
    return f"{picture.blob}{ending}"


@dataclass(frozen=True)
class Subject:
    """One record that is annotated: `hash` is its content hash (64 hex digits), `about` goes into the task's data."""

    record_id: int
    hash: str
    text: str | None = None
    picture: Image | None = None
    about: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, record_id: int, hash: str, body: BaseModel, about: Mapping[str, Any] | None = None) -> Subject:
        """Raises `UsageError` L106 for a kind that is neither text nor picture."""
        picture = body if isinstance(body, Image) else None
        text = text_of(body)
        if picture is None and text is None:
            raise UsageError(f"a {type(body).__name__} is neither a text nor a picture", code="L106")
        return cls(record_id, hash, text, picture, about or {})

    @property
    def medium(self) -> str:
        return "text" if self.picture is None else "image"

    @cached_property
    def shown(self) -> Shown:
        """The text as it is shown; empty for a picture."""
        return Shown.of(self.text or "")

    def data(self, data_field: str, address: Address = picture_name) -> dict[str, Any]:
        """The `data` of its task. `record_id` is what it is found again by."""
        content = self.shown.text if self.picture is None else address(self.picture)
        known = {"record_id": self.record_id, "subject": self.hash, data_field: content}
        if self.picture is not None:
            known |= {"picture": self.picture.blob, "width": self.picture.width, "height": self.picture.height}
        return {**self.about, **known}
