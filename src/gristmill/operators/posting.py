"""One JSON request to a service that operators stand on: a detector, docling-serve."""

from __future__ import annotations

from datetime import timedelta

from gristmill.errors import InputError, TransientError


async def post_json(
    url: str, body: bytes, *, who: str, limit: int, large: str, away: str
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers (names in small letters) and body of the answer. No redirect is followed; it has 10 s to connect.

    Raises `InputError` with the code `large` for an answer of more than `limit` bytes, `TransientError` with the code
    `away` when none comes.
    """
    from pyreqwest import exceptions as http
    from pyreqwest.client import ClientBuilder

    builder = ClientBuilder().follow_redirects(False).connect_timeout(timedelta(seconds=10))
    answer = bytearray()
    try:
        async with (
            builder.build() as client,
            client.post(url)
            .headers({"content-type": "application/json"})
            .body_bytes(body)
            .build_streamed() as response,
        ):
            while (chunk := await response.body_reader.read_chunk()) is not None:
                answer += chunk.to_bytes()
                if len(answer) > limit:
                    raise InputError(f"{who} gave an answer of more than {limit // 2**20} MiB", code=large)
            headers = {str(name).lower(): str(value) for name, value in response.headers.items()}
            return response.status, headers, bytes(answer)
    except http.PyreqwestError as error:
        raise TransientError(f"no answer from {who} at {url}: {type(error).__name__}", code=away) from None
