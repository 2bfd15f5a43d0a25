"""Files as answers, whole or the ranges of them that are asked for."""

from __future__ import annotations

from starlette.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from gristmill.api.problems import Refused, answer


class FileAnswer(FileResponse):
    """A file. A Range that cannot be read (400) or is not in the file (416) is a problem as any other error."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def checked(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (400, 416):
                raise _refused(message)
            await send(message)

        try:
            await super().__call__(scope, receive, checked)
        except Refused as error:
            await answer(error)(scope, receive, send)


def _refused(message: Message) -> Refused:
    status: int = message["status"]
    place = {name.decode(): value.decode() for name, value in message["headers"] if name == b"content-range"}
    said = "the header Range asks for what is not in the file" if status == 416 else "the header Range cannot be read"
    return Refused(status, said, code=f"A{status}", hint="Range: bytes=FIRST-LAST, or without it the whole file",
                   headers=place)  # fmt: skip
