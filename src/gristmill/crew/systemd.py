"""The unit that keeps the supervisor alive, and what a service tells systemd."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from gristmill.config import Settings

UNIT = """\
# Install as /etc/systemd/system/gristmill.service, then: systemctl daemon-reload && systemctl enable --now gristmill
# Keys belong into /etc/gristmill/keys.env (mode 0600), or into LoadCredential= with key = "secret:NAME".
[Unit]
Description=Gristmill: supervisor, workers and API
After=network-online.target postgresql.service
Wants=network-online.target
# Never given up: a database that is away for an hour is no reason to stay down.
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
WorkingDirectory={folder}
User={user}
EnvironmentFile=-/etc/gristmill/keys.env
# An end in order, as by gristmill down, is one.
Restart=on-failure
RestartSec=1
# Only the supervisor is signalled: it ends its workers in order. When it dies they go on; the next one adopts them.
KillMode=process
TimeoutStopSec={stop}
LimitNOFILE=65536
NoNewPrivileges=true
PrivateTmp=false

[Install]
WantedBy=multi-user.target
"""


def unit(settings: Settings, more: Sequence[str], folder: Path) -> str:
    """A unit file for these settings, with the interpreter and the folder of whoever asks."""
    import getpass

    command = [sys.executable, "-m", "gristmill", "up", "--home", str(settings.home), *more]
    return UNIT.format(
        command=" ".join(shlex.quote(part).replace("%", "%%") for part in command),
        folder=str(folder).replace("%", "%%"),
        user=getpass.getuser(), stop=round(settings.shutdown + 15),
    )  # fmt: skip


def notify(state: str) -> None:
    """Tells systemd, if it has started us: "READY=1"."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.sendto(state.encode(), f"\0{address[1:]}" if address.startswith("@") else address)
