"""What an action has printed, as a record."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from gristmill.data.body import Body


class ActionResult(Body):
    """The output of an external program. Text fills `stdout`, structured output fills `result`, never both: the
    database refuses it too."""

    kind: ClassVar[str] = "action_result"
    action: str  # "core.http_get"
    version: str  # of its pack
    exit_code: int
    stdout: str = ""  # of output `text`
    result: Any = None  # of output `json`, `yaml` or `jsonl` (a list of objects)
    stderr: str = ""  # the last 8 KiB
    truncated: tuple[Literal["stdout", "stderr"], ...] = ()  # what is marked as cut above, or in the blobs
    stdout_blob: str | None = None  # sha256 of the raw log, where it does not stand above whole
    stderr_blob: str | None = None

    @model_validator(mode="after")
    def _exclusive(self) -> Self:
        if self.stdout and self.result is not None:
            raise ValueError("an action's output is text (stdout) or structured (result), never both")
        return self
