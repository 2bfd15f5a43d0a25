"""One e-mail through the mail server of the settings."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate

from gristmill.config import Settings
from gristmill.errors import InputError, TransientError

TIMEOUT = 60.0  # seconds for all of it
log = logging.getLogger("gristmill.mail")


async def send(
    settings: Settings, to: Sequence[str], subject: str, text: str, key: str, password: str | None = None
) -> dict[str, str]:
    """Sends one message to all of `to`; returns who was refused, and why, when somebody was not.

    `key` becomes the Message-ID, so that a second attempt is seen as the same message. Raises `TransientError` N310
    (settings are missing here), N311 (no connection, or the server says: later), `InputError` N210 (never),
    N211 (a password, and no encryption).
    """
    import aiosmtplib

    message = compose(settings, to, subject, text, key)
    if password is not None and settings.smtp_security == "none":
        raise InputError(
            "no password is sent over a connection that is not encrypted", code="N211", safe="nothing was sent",
            hint="set smtp_security to starttls or tls, or take smtp_user and smtp_password away",
        )  # fmt: skip
    where = f"{settings.smtp_host}:{settings.smtp_port}"
    try:
        async with asyncio.timeout(TIMEOUT):
            refused, _ = await aiosmtplib.send(
                message, hostname=settings.smtp_host, port=settings.smtp_port,
                username=settings.smtp_user, password=password, use_tls=settings.smtp_security == "tls",
                start_tls=settings.smtp_security == "starttls",
                timeout=TIMEOUT / 2,
            )  # fmt: skip
    except aiosmtplib.SMTPRecipientsRefused as error:
        codes = [one.code for one in error.recipients]
        said = f"{where} takes mail for none of the addresses: {error.recipients[0].message}"
        raise (TransientError(said, code="N311") if min(codes) < 500 else InputError(said, code="N210")) from None
    except aiosmtplib.SMTPResponseException as error:
        said = f"{where} answered {error.code}: {_plain(error.message, password)}"
        if error.code >= 500:
            hint = "check smtp_user and smtp_password" if isinstance(error, aiosmtplib.SMTPAuthenticationError) else ""
            raise InputError(said, code="N210", hint=hint) from None
        raise TransientError(said, code="N311") from None
    except (aiosmtplib.SMTPException, TimeoutError, OSError) as error:
        said = _plain(str(error) or type(error).__name__, password)
        if type(error) in (aiosmtplib.SMTPException, aiosmtplib.SMTPNotSupported):  # no STARTTLS, no AUTH
            hint = 'the server cannot do what smtp_security or smtp_user asks for; see "gristmill doctor --config"'
            raise InputError(f"{where}: {said}", code="N210", hint=hint) from None
        raise TransientError(f"no mail through {where}: {said}", code="N311") from None
    for address, answer in refused.items():
        log.warning("%s takes no mail for %s: %s", where, address, answer.message)
    return {address: f"{answer.code} {answer.message}" for address, answer in refused.items()}


def compose(settings: Settings, to: Sequence[str], subject: str, text: str, key: str) -> EmailMessage:
    """The message. Raises `TransientError` N310 when the settings here name no server or no sender."""
    sender = settings.mail_from or settings.smtp_user
    if settings.smtp_host is None or not sender:
        raise TransientError(
            "the settings name no mail server or no sender", code="N310",
            hint="set smtp_host and mail_from in gristmill.toml where the workers run",
        )  # fmt: skip
    message = EmailMessage()
    message["From"], message["To"] = sender, ", ".join(to)
    message["Subject"] = " ".join(subject.split())[:200]
    message["Date"] = formatdate()
    message["Message-ID"] = f"<{key}@gristmill>"
    message["Auto-Submitted"] = "auto-generated"  # so that no out-of-office answer comes back
    message.set_content(text.encode("utf-8", "replace").decode("utf-8"))
    return message


def _plain(text: str, password: str | None) -> str:
    text = text.replace(password, "...") if password else text
    return " ".join(text.split())[:500]
