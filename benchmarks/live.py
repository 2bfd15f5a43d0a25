"""Live updates: how much memory a socket takes, and how soon a change is there, with many sockets open.

    python benchmarks/live.py [SOCKETS] [CHANGES]

The server runs in a process of its own; the sockets and the changes come from this one. A change is a committed event;
it has arrived when the last byte of its message is with the client.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import asyncpg
import websockets
from websockets.typing import Origin


def memory(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def cpu(pid: int) -> float:
    """Seconds of CPU time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def settled(socket: websockets.ClientConnection) -> None:
    """Takes the first message, if one comes at once."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(socket.recv(), 0.2)


async def listen(socket: websockets.ClientConnection, arrived: dict[int, list[float]]) -> None:
    async for text in socket:
        at = time.perf_counter()
        for frame in json.loads(text)["frames"]:
            if frame["kind"] == "event":
                arrived.setdefault(frame["data"]["body"]["n"], []).append(at)


async def measure(url: str, database: str, pid: int, count: int, changes: int) -> None:
    connection = await asyncpg.connect(database, server_settings={"search_path": "gristmill"})
    address = url.replace("http", "ws", 1) + "api/ws"
    warm = [await websockets.connect(address, origin=Origin(url.rstrip("/")), compression=None) for _ in range(5)]
    await asyncio.sleep(1)
    before = memory(pid)
    sockets = [
        await websockets.connect(address, origin=Origin(url.rstrip("/")), compression=None) for _ in range(count)
    ]
    await asyncio.gather(*(settled(socket) for socket in sockets))
    each = (memory(pid) - before) / count
    arrived: dict[int, list[float]] = {}
    listening = [asyncio.create_task(listen(socket, arrived)) for socket in sockets]
    idle = cpu(pid)
    await asyncio.sleep(3)
    idle = (cpu(pid) - idle) / 3
    sent, busy, began = {}, cpu(pid), time.perf_counter()
    for number in range(changes):
        await connection.execute(
            "insert into event_inbox (name, body) values ('pool.changed', $1)", json.dumps({"n": number})
        )
        sent[number] = time.perf_counter()
        await asyncio.sleep(0.12 + 0.05 * ((number * 7) % 11) / 11)
    await asyncio.sleep(1)
    seconds = time.perf_counter() - began
    busy, pace = (cpu(pid) - busy) / seconds, changes / seconds
    first = sorted(min(arrived[number]) - at for number, at in sent.items())
    last = sorted(max(arrived[number]) - at for number, at in sent.items())
    whole = sum(len(found) == count for found in arrived.values())
    print(f"{count} sockets: {each / 1024:.1f} KiB of the server's memory for each")
    print(f"CPU of the server: {idle:.1%} idle, {busy:.1%} with {pace:.1f} changes a second")
    for name, times in (("first socket", first), ("last socket", last)):
        median, late = times[len(times) // 2], times[int(len(times) * 0.95)]
        print(f"{name}: p50 {median * 1000:.0f} ms, p95 {late * 1000:.0f} ms, most {times[-1] * 1000:.0f} ms")
    print(f"{whole} of {changes} changes came to every socket, none twice")
    await connection.close()
    for task in listening:
        task.cancel()
    for socket in (*warm, *sockets):
        await socket.close()


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    changes = int(sys.argv[2]) if len(sys.argv) > 2 else 100
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gristmill"]
        server = subprocess.Popen(
            [*command, "api", "--port", "0", "--json"], cwd=folder, stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            url = json.loads(server.stdout.readline())["url"]
            database = subprocess.check_output([*command, "db", "url"], cwd=folder, text=True).strip()
            asyncio.run(measure(url, database, server.pid, count, changes))
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
