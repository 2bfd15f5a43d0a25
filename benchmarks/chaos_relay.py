"""A network between one worker and the server, to be cut: python -m benchmarks.chaos_relay SOCKET [own].

Listens on a port of 127.0.0.1 and forwards to the server's Unix socket, which any network namespace can reach. With
`own` it first takes a network namespace of its own, which its worker enters too: then `down` takes the interface down,
and the kernels of both sides drop what they send, as when a cable is pulled. Without it `down` is emulated: nothing is
forwarded, and nobody is told. Lines on standard input:

    cut      resets every connection         swallow  lets requests through, swallows the replies, then resets
    down     nothing gets through            up       it does again
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import socket
import struct
import sys
from dataclasses import dataclass, field

CLONE_NEWNET = 0x40000000
GET_FLAGS, SET_FLAGS, UP = 0x8913, 0x8914, 0x1
SWALLOW = 0.3  # seconds
CHUNK = 65536


def own_network() -> None:
    """A network namespace with nothing but a loopback interface, up. Raises `OSError` where that is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "cannot make a network namespace")
    set_loopback(up=True)


def set_loopback(*, up: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = fcntl.ioctl(control, GET_FLAGS, struct.pack("16sh14x", b"lo", 0))
        flags = struct.unpack("16sh14x", request)[1]
        fcntl.ioctl(control, SET_FLAGS, struct.pack("16sh14x", b"lo", flags | UP if up else flags & ~UP))


@dataclass
class Relay:
    """All connections of one worker."""

    upstream: str
    own: bool
    writers: set[asyncio.StreamWriter] = field(default_factory=set)
    swallowing: bool = False

    def __post_init__(self) -> None:
        self.through = asyncio.Event()
        self.through.set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.through.wait()
            server_reader, server_writer = await asyncio.open_unix_connection(self.upstream, limit=2**20)
        except OSError:
            writer.transport.abort()
            return
        both = {writer, server_writer}
        self.writers |= both
        try:
            await asyncio.wait(
                (
                    asyncio.ensure_future(self._pump(reader, server_writer, replies=False)),
                    asyncio.ensure_future(self._pump(server_reader, writer, replies=True)),
                ),
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            for each in both:
                each.transport.abort()
            self.writers -= both

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, replies: bool) -> None:
        try:
            while data := await source.read(CHUNK):
                await self.through.wait()
                if not (replies and self.swallowing):
                    target.write(data)
                    await target.drain()
        except OSError:
            pass

    def cut(self) -> None:
        for writer in list(self.writers):
            writer.transport.abort()

    async def swallow(self) -> None:
        self.swallowing = True
        await asyncio.sleep(SWALLOW)
        self.cut()
        self.swallowing = False

    def switch(self, *, up: bool) -> None:
        if self.own:
            set_loopback(up=up)
        elif up:
            self.through.set()
        else:
            self.through.clear()


async def main(upstream: str, *, own: bool) -> None:
    if own:
        own_network()
    relay = Relay(upstream, own)
    server = await asyncio.start_server(relay.accept, "127.0.0.1", 0, limit=2**20)
    print(server.sockets[0].getsockname()[1], flush=True)
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := await commands.readline():
        match line.strip():
            case b"cut":
                relay.cut()
            case b"swallow":
                await relay.swallow()
            case b"down" | b"up":
                relay.switch(up=line.strip() == b"up")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], own="own" in sys.argv[2:]))
