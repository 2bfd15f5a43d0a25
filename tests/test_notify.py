"""Webhooks against a real HTTP server and e-mail against a real SMTP server, both on the loopback."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill import notify, webhook
from gristmill.config import Settings
from gristmill.db.database import transaction
from gristmill.engine import workflow
from gristmill.errors import ConfigurationError, InputError, TransientError, UsageError

SECRET = "whsec_" + base64.b64encode(b"a secret of the test").decode()


@dataclass
class Asked:
    """One request as it came in."""

    line: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """An HTTP server that answers what it was told to, and keeps what it was sent."""

    answers: list[bytes] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    silent: bool = False
    port: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hooks/secret-path?key=secret-query"

    def answer(self, status: str, body: str = "", *headers: str) -> None:
        head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"content-length: {len(body)}", *headers))
        self.answers.append(f"{head}\r\n{body}".encode())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *lines = head.strip().split("\r\n")
            headers = {key.lower(): value for key, value in (one.split(": ", 1) for one in lines)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.asked.append(Asked(line, headers, body))
            if self.silent:
                await reader.read()
            writer.write(self.answers.pop(0) if self.answers else b"HTTP/1.1 204 No Content\r\n\r\n")
            await writer.drain()
        writer.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()


@dataclass(frozen=True)
class Here:
    """What the handlers need of their process."""

    pool: asyncpg.Pool[Any]
    settings: Settings = field(default_factory=Settings)


async def payload(
    pool: asyncpg.Pool[Any], options: dict[str, Any], name: str = "run.end", **body: Any
) -> dict[str, Any]:
    """What a hook's task about a run with 12 good and 3 bad pieces carries."""
    async with transaction(pool) as connection:
        new = workflow.NewRun("handbook", "qa", (workflow.Step("parse", "bare"),), {})
        run_id, _ = await workflow.find_or_create(connection, new)
        for counter, n in (("completed", 12), ("failed", 2), ("quarantined", 1), ("available", 0)):
            await connection.execute("insert into counter_delta values ($1, 0, $2, $3)", run_id, counter, n)
        await connection.execute("insert into counter values ($1, 0, 'completed', 100)", run_id)
    event = {
        "seq": 7, "name": name, "run_id": run_id, "item_id": None, "task_id": None, "worker_id": None,
        "at": "2030-01-02T03:04:05+00:00", "body": body or {"state": "partial", "epoch": 1},
    }  # fmt: skip
    return {"event": event, "options": options, "hook": {"id": 3, "name": "done"}}


async def hook(receiver: Receiver, pool: asyncpg.Pool[Any], **options: Any) -> dict[str, Any]:
    made = {**notify.webhook_options(receiver.url, private=True), **options}
    return await notify.HANDLERS[notify.WEBHOOK](await payload(pool, made), Here(pool))


async def test_a_webhook_brings_the_event_the_run_and_its_counts(receiver: Receiver, pool: asyncpg.Pool[Any]) -> None:
    assert await hook(receiver, pool) == {"status": 204}
    asked = receiver.asked[0]
    assert asked.line == "POST /hooks/secret-path?key=secret-query HTTP/1.1"
    document = json.loads(asked.body)
    assert document["id"] == asked.headers["idempotency-key"] == asked.headers["webhook-id"]
    assert document["type"] == "run.end"
    assert document["text"].endswith("is partial: 112 done, 3 failed")
    assert document["data"]["event"]["body"] == {"state": "partial", "epoch": 1}
    assert document["data"]["run"]["counts"] == {"completed": 112, "failed": 2, "quarantined": 1}
    assert document["data"]["run"]["workflow"] == "qa"
    assert "webhook-signature" not in asked.headers


async def test_each_attempt_bears_the_same_key_and_a_good_signature(
    receiver: Receiver, pool: asyncpg.Pool[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    told = await payload(pool, {**notify.webhook_options(receiver.url, private=True, secret="env:HOOK_SECRET")})
    receiver.answer("503 Busy")
    with pytest.raises(TransientError):
        await notify.HANDLERS[notify.WEBHOOK](told, Here(pool))
    await notify.HANDLERS[notify.WEBHOOK](told, Here(pool))
    (tmp_path / "secret").write_text("plain words\n")
    told["options"]["secret"] = f"file:{tmp_path / 'secret'}"
    await notify.HANDLERS[notify.WEBHOOK](told, Here(pool))
    assert len({asked.headers["idempotency-key"] for asked in receiver.asked}) == 1
    for asked, raw in zip(receiver.asked, (b"a secret of the test",) * 2 + (b"plain words",), strict=True):
        signed = f"{asked.headers['webhook-id']}.{asked.headers['webhook-timestamp']}.".encode() + asked.body
        expected = base64.b64encode(hmac.new(raw, signed, hashlib.sha256).digest()).decode()
        assert asked.headers["webhook-signature"] == f"v1,{expected}"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("500 Oops", TransientError), ("503 Later", TransientError), ("429 Slowly", TransientError),
        ("408 Timeout", TransientError), ("425 Early", TransientError), ("400 Bad", InputError),
        ("401 Who", InputError), ("404 Nowhere", InputError), ("410 Gone", InputError), ("304 Same", InputError),
    ],
)  # fmt: skip
async def test_the_answer_decides_whether_it_is_tried_again(
    receiver: Receiver, pool: asyncpg.Pool[Any], status: str, error: type[Exception]
) -> None:
    receiver.answer(status, "because   of\nthat")
    with pytest.raises(error) as caught:
        await hook(receiver, pool)
    assert f"answered {status[:3]}" in str(caught.value)
    assert "secret" not in str(caught.value)
    if status[0] != "3":
        assert "because of that" in str(caught.value)


async def test_a_redirect_is_not_followed(receiver: Receiver, pool: asyncpg.Pool[Any]) -> None:
    receiver.answer("302 Found", "", f"location: http://127.0.0.1:{receiver.port}/elsewhere")
    with pytest.raises(InputError) as caught:
        await hook(receiver, pool)
    assert "redirects" in caught.value.hint
    assert len(receiver.asked) == 1


async def test_silence_broken_connections_and_closed_ports_are_tried_again(
    receiver: Receiver, pool: asyncpg.Pool[Any]
) -> None:
    receiver.answers.append(b"")
    with pytest.raises(TransientError) as caught:
        await hook(receiver, pool)
    assert caught.value.code == "N301"
    receiver.silent = True
    with pytest.raises(TransientError) as caught:
        await hook(receiver, pool, timeout=0.2)
    assert caught.value.code == "N302"
    with pytest.raises(TransientError) as caught:
        await hook(receiver, pool, url="http://127.0.0.1:9/secret")
    assert caught.value.code == "N301"
    assert "secret" not in str(caught.value)
    with pytest.raises(TransientError, match="no address is known"):
        await hook(receiver, pool, url="http://nobody.invalid/")


async def test_a_webhook_goes_to_no_private_address_unless_it_may_and_to_no_metadata_ever(
    receiver: Receiver, pool: asyncpg.Pool[Any]
) -> None:
    for url in (receiver.url, f"http://localhost:{receiver.port}/", f"http://2130706433:{receiver.port}/",
                f"http://[::ffff:127.0.0.1]:{receiver.port}/", "http://10.1.2.3/", "http://[fd12::1]/"):  # fmt: skip
        with pytest.raises(InputError, match="of a private network") as caught:
            await hook(receiver, pool, url=url, private=False)
        assert "--allow-private" in caught.value.hint
    for url in ("http://169.254.169.254/latest", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://0.0.0.0/",
                "http://100.100.100.200/", "http://[::ffff:169.254.169.254]/", "http://[64:ff9b::a9fe:a9fe]/",
                "http://[2002:a9fe:a9fe::1]/", "http://224.0.0.1/"):  # fmt: skip
        with pytest.raises(InputError, match="no webhook may go"):
            await hook(receiver, pool, url=url, private=True)
    assert receiver.asked == []
    assert webhook.forbidden(ipaddress.ip_address("93.184.216.34"), private=False) == ""


@pytest.mark.parametrize(
    "url", ["", "mill", "ftp://example.org/", "http://", "https://user:word@example.org/", "http://exa mple.org/"]
)
def test_a_url_that_is_none_is_refused_at_the_door(url: str) -> None:
    with pytest.raises(UsageError) as caught:
        notify.webhook_options(url)
    assert caught.value.code == "U354"
    assert "user:word" not in caught.value.message + caught.value.hint


async def test_secrets_are_named_never_stored_and_never_shown(
    receiver: Receiver, pool: asyncpg.Pool[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        notify.webhook_options(receiver.url, secret="hunter2")
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"
    with pytest.raises(TransientError, match="is not set where this worker runs"):
        await hook(receiver, pool, secret="env:NOT_SET_ANYWHERE")
    with pytest.raises(TransientError, match="cannot be read"):
        await hook(receiver, pool, secret=f"file:{tmp_path / 'nothing'}")
    monkeypatch.setenv("HOOK_URL", receiver.url)
    assert await hook(receiver, pool, url="env:HOOK_URL") == {"status": 204}
    monkeypatch.setenv("HOOK_SECRET", "whsec_???")
    with pytest.raises(InputError, match="not base64"):
        await hook(receiver, pool, secret="env:HOOK_SECRET")


async def test_a_payload_that_no_hook_made_fails_at_once(pool: asyncpg.Pool[Any]) -> None:
    for wrong in ({}, {"event": {}, "hook": {}}, {"event": 3, "hook": {"id": 1}}):
        with pytest.raises(InputError, match="no payload of a hook"):
            await notify.HANDLERS[notify.WEBHOOK](wrong, Here(pool))


class MailServer:
    """Enough of SMTP to take mail, with STARTTLS and a password if wanted; answers can be changed by command."""

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self.tls = tls
        self.answers: dict[str, str] = {}
        self.said: list[str] = []
        self.mails: list[EmailMessage] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError, asyncio.IncompleteReadError):
            writer.write(b"220 mill\r\n")
            while line := (await reader.readline()).decode().strip():
                self.said.append(line)
                word = line.split(":")[0].split(" ")[0].upper()
                answer = self.answers.get(line.upper(), self.answers.get(word, self._answer(word)))
                writer.write(answer.replace("\n", "\r\n").encode() + b"\r\n")
                await writer.drain()
                if word == "QUIT":
                    break
                if word == "STARTTLS" and answer.startswith("220"):
                    await writer.start_tls(self.tls)  # type: ignore[arg-type]
                if word == "DATA" and answer.startswith("354"):
                    data = await reader.readuntil(b"\r\n.\r\n")
                    self.mails.append(message_from_bytes(data[:-3], policy=policy.default))  # type: ignore[arg-type]
                    writer.write(self.answers.get("END", "250 taken").encode() + b"\r\n")
        writer.close()

    def _answer(self, word: str) -> str:
        if word == "EHLO":
            return "250-mill\n" + ("250-STARTTLS\n" if self.tls else "") + "250 AUTH PLAIN"
        return {"DATA": "354 go on", "AUTH": "235 you are", "STARTTLS": "220 go", "QUIT": "221 bye"}.get(word, "250 ok")


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of "localhost" in one file."""
    folder = tmp_path_factory.mktemp("certificate")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "3650", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(folder / "key"), "-out", str(folder / "cert")],
        check=True, capture_output=True,
    )  # fmt: skip
    (folder / "both").write_text((folder / "key").read_text() + (folder / "cert").read_text())
    return folder / "both"


MakeServer = Callable[..., Any]


@pytest.fixture
async def mail_server(certificate: Path) -> AsyncIterator[MakeServer]:
    """`await mail_server(tls=True)` gives a server and settings for it."""
    servers = []

    async def make(*, tls: bool = False, implicit: bool = False, **more: Any) -> tuple[MailServer, Settings]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        made = MailServer(context if tls else None)
        server = await asyncio.start_server(made.serve, "localhost", 0, ssl=context if implicit else None)
        servers.append(server)
        values = {
            "smtp_host": "localhost", "smtp_port": server.sockets[0].getsockname()[1], "mail_from": "mill@example.org",
            "smtp_security": "tls" if implicit else "starttls" if tls else "none",
        }  # fmt: skip
        return made, Settings.model_validate(values | more)

    yield make
    for server in servers:
        server.close()


async def mail(pool: asyncpg.Pool[Any], settings: Settings, told: dict[str, Any] | None = None) -> dict[str, Any]:
    told = told or await payload(pool, notify.email_options(["miller@example.org"]))
    return await notify.HANDLERS[notify.EMAIL](told, Here(pool, settings))


async def test_an_email_says_how_the_run_ended_and_what_to_do_next(
    pool: asyncpg.Pool[Any], mail_server: MakeServer
) -> None:
    server, settings = await mail_server()
    assert await mail(pool, settings) == {"accepted": 1, "refused": {}}
    message = server.mails[0]
    run = str(message["Subject"]).split()[1]
    assert message["Subject"] == f"[gristmill] {run} is partial: 112 done, 3 failed"
    assert (message["From"], message["To"]) == ("mill@example.org", "miller@example.org")
    assert message["Auto-Submitted"] == "auto-generated"
    text = message.get_content()
    for line in (f"The run {run} (workflow qa) is partial", "112 tasks completed, 3 failed", f"gristmill why {run}",
                 f"gristmill retry {run}", f"gristmill export {run}"):  # fmt: skip
        assert line in text
    assert "$" not in text


async def test_two_attempts_are_one_message_to_those_who_look_at_its_id(
    pool: asyncpg.Pool[Any], mail_server: MakeServer
) -> None:
    server, settings = await mail_server()
    server.answers["END"] = "451 try again"
    told = await payload(pool, notify.email_options(["miller@example.org"]))
    with pytest.raises(TransientError):
        await mail(pool, settings, told)
    server.answers.clear()
    await mail(pool, settings, told)
    assert len({message["Message-ID"] for message in server.mails}) == 1
    assert len(server.mails) == 2


async def test_a_password_goes_only_through_encryption_that_is_checked(
    pool: asyncpg.Pool[Any], mail_server: MakeServer, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "hunter2")
    login = {"smtp_user": "mill", "smtp_password": "env:MAIL_PASSWORD"}
    server, settings = await mail_server(**login)
    with pytest.raises(InputError, match="not encrypted"):
        await mail(pool, settings)
    assert server.said == []
    server, settings = await mail_server(tls=True, **login)
    with pytest.raises(TransientError, match="no mail through"):  # nobody vouches for this certificate
        await mail(pool, settings)
    assert not any(line.startswith("AUTH") for line in server.said)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    for shape in ({"tls": True}, {"implicit": True}):
        server, settings = await mail_server(**shape, **login)
        await mail(pool, settings)
        expected = base64.b64encode(b"\0mill\0hunter2").decode()
        assert [line for line in server.said if line.startswith("AUTH")] == [f"AUTH PLAIN {expected}"]
        assert len(server.mails) == 1
    server, settings = await mail_server(tls=True, **login)
    server.answers["AUTH"] = "535 hunter2 is wrong"
    with pytest.raises(InputError) as caught:
        await mail(pool, settings)
    assert "hunter2" not in str(caught.value)
    assert "smtp_password" in caught.value.hint


async def test_a_server_without_the_wanted_encryption_gets_nothing(
    pool: asyncpg.Pool[Any], mail_server: MakeServer
) -> None:
    server, settings = await mail_server(smtp_security="starttls")
    with pytest.raises(InputError):
        await mail(pool, settings)
    assert server.mails == []
    assert not any(line.startswith("MAIL") for line in server.said)


@pytest.mark.parametrize(
    ("command", "answer", "error"),
    [
        ("MAIL", "451 later", TransientError), ("MAIL", "550 never", InputError), ("RCPT", "450 grey", TransientError),
        ("RCPT", "550 unknown", InputError), ("DATA", "421 closing", TransientError), ("END", "554 spam", InputError),
    ],
)  # fmt: skip
async def test_four_means_later_and_five_means_never(
    pool: asyncpg.Pool[Any], mail_server: MakeServer, command: str, answer: str, error: type[Exception]
) -> None:
    server, settings = await mail_server()
    server.answers[command] = answer
    with pytest.raises(error, match=answer.split()[1]):
        await mail(pool, settings)


async def test_one_refused_address_does_not_keep_the_mail_from_the_others(
    pool: asyncpg.Pool[Any], mail_server: MakeServer
) -> None:
    server, settings = await mail_server()
    server.answers["RCPT TO:<GONE@EXAMPLE.ORG>"] = "550 moved away"
    told = await payload(pool, notify.email_options(["gone@example.org", "here@example.org"]))
    result = await mail(pool, settings, told)
    assert result["accepted"] == 1
    assert "moved away" in result["refused"]["gone@example.org"]
    assert len(server.mails) == 1


async def test_without_a_server_in_the_settings_or_on_the_port_it_waits(pool: asyncpg.Pool[Any]) -> None:
    with pytest.raises(TransientError) as caught:
        await mail(pool, Settings())
    assert "smtp_host" in caught.value.hint
    nobody = Settings(smtp_host="127.0.0.1", smtp_port=9, mail_from="mill@example.org", smtp_security="none")
    with pytest.raises(TransientError, match="no mail through"):
        await mail(pool, nobody)


async def test_templates_know_the_fields_and_names_cannot_add_headers(
    pool: asyncpg.Pool[Any], mail_server: MakeServer
) -> None:
    server, settings = await mail_server()
    options = notify.email_options(
        ["m@example.org"], subject="$run\r\nBcc: x@example.org", text="$failed $money ${state}\n"
    )
    await mail(pool, settings, await payload(pool, options))
    assert server.mails[0]["Bcc"] is None
    assert server.mails[0].get_content().strip() == "3 $money partial"


async def test_a_message_for_a_span_says_how_many_more_there_were(
    pool: asyncpg.Pool[Any], mail_server: MakeServer
) -> None:
    server, settings = await mail_server()
    options = notify.email_options(["m@example.org"], every=60)
    told = await payload(pool, options, "step.failed", step=0, code="T300", message="no luck")
    for seq in range(7, 12):
        await pool.execute(
            "insert into event (seq, name, run_id, body, at) values ($1, 'step.failed', $2, '{}', now())",
            seq, told["event"]["run_id"],
        )  # fmt: skip
    await mail(pool, settings, told)
    assert "step.failed: no luck" in server.mails[0]["Subject"]
    assert "happened 4 times since" in server.mails[0].get_content()


@pytest.mark.parametrize("to", [[], ["miller"], ["a@b\r\nBcc: c@d"], ["a@b, c@d"], ["ü@example.org"], ["a@b"] * 21])
def test_what_is_no_address_is_refused_at_the_door(to: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        notify.email_options(to)
    assert caught.value.code == "U356"


def test_the_password_itself_is_refused_as_a_setting(tmp_path: Path) -> None:
    from gristmill.config import load_settings

    (tmp_path / "gristmill.toml").write_text('smtp_password = "hunter2"\n')
    with pytest.raises(ConfigurationError) as caught:
        load_settings(tmp_path, {})
    assert "hunter2" not in f"{caught.value.message}{caught.value.hint}"
