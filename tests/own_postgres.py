"""A PostgreSQL from any folder of programs, as a server of one's own: made, started, killed, promoted; or under pytest.

    python -m tests.own_postgres /usr/lib/postgresql/15/bin tests/engine tests/db -n 2

runs these tests against that version (`initdb` and `postgres` are all it needs). `GRISTMILL_TEST_SERVER` is its URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import asyncpg

ACCOUNT = "nobody" if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
SETTINGS = {
    "listen_addresses": "",
    "max_connections": "200",
    "fsync": "off",
    "lc_messages": "C",
    "timezone": "UTC",
    "port": "5432",
}


class OwnPostgres:
    """One data folder and its socket below `folder`, and the programs in `binaries`."""

    def __init__(self, binaries: Path, folder: Path, **settings: str) -> None:
        self.binaries, self.folder, self.settings = binaries, folder, SETTINGS | settings
        self.environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C"}
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)
        if ACCOUNT:
            shutil.chown(folder, ACCOUNT)

    @property
    def url(self) -> str:
        return f"postgresql://gristmill@/gristmill?host={self.folder}&port={self.settings['port']}"

    def run(self, program: str, *arguments: str) -> None:
        """A program of PostgreSQL, to its end. Raises `RuntimeError` with its words."""
        done = subprocess.run(
            [self.binaries / program, *arguments], cwd=self.folder, user=ACCOUNT, check=False,
            capture_output=True, text=True,
            env=self.environment,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(done.stderr)

    def make(self) -> None:
        self.run("initdb", "-D", "data", "-U", "gristmill", "-A", "trust", "-E", "UTF8", "--no-sync", "--locale=C")

    async def start(self) -> None:
        """Returns when it answers."""
        told = [word for name, value in self.settings.items() for word in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", "-D", "data", "-k", str(self.folder), *told],
                cwd=self.folder, user=ACCOUNT, stdout=log, stderr=log, env=self.environment,
            )  # fmt: skip
        url = self.url.replace("/gristmill?", "/postgres?")
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError, asyncpg.CannotConnectNowError):
                    return await (await asyncpg.connect(url)).close()
                if self.process.poll() is not None:
                    raise RuntimeError((self.folder / "log").read_text())
                await asyncio.sleep(0.05)

    async def ask(self, statement: str, database: str = "postgres") -> object:
        connection = await asyncpg.connect(self.url.replace("/gristmill?", f"/{database}?"))
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    def end(self, how: signal.Signals = signal.SIGINT) -> None:
        if self.process is not None:
            self.process.send_signal(how)
            self.process.wait()


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, and which the server's account may enter."""
    with tempfile.TemporaryDirectory(prefix="own-postgres-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@asynccontextmanager
async def own_postgres(binaries: Path, **settings: str) -> AsyncIterator[OwnPostgres]:
    with own_folder() as folder:
        server = OwnPostgres(binaries, folder / "server", **settings)
        server.make()
        await server.start()
        try:
            await server.ask("create database gristmill")
            yield server
        finally:
            server.end()


async def main(binaries: Path, *arguments: str) -> int:
    async with own_postgres(binaries) as server:
        print(await server.ask("select version()"), flush=True)
        tests = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "pytest", *arguments, env=os.environ | {"GRISTMILL_TEST_SERVER": server.url}
        )
        return await tests.wait()


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    raise SystemExit(asyncio.run(main(Path(sys.argv[1]).absolute(), *sys.argv[2:])))
