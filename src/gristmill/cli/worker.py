"""gristmill worker: one worker process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import click

from gristmill.cli import options


@click.command(name="worker")
@click.option(
    "--load", multiple=True, type=click.Path(exists=True, dir_okay=False), help="A Python file with operators."
)
@click.option("--name", default="", help="A name for people; identity is given by the database.")
@click.option("--supervised", is_flag=True, help="Stop when standard input closes.")
@options.home
def command(load: tuple[str, ...], name: str, supervised: bool, home: Path | None) -> None:
    """Claims tasks and works on them until SIGTERM or Ctrl-C: the first drains, the second gives everything back."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    options.call(_work(home, load, name, supervised))


async def _work(home: Path | None, load: tuple[str, ...], name: str, supervised: bool) -> int:
    from gristmill.operators.operator import load_file

    for path in load:
        load_file(path)
    async with options.open_app(home, workers=0) as app:
        worker = app.worker(name)
        loop = asyncio.get_running_loop()

        signals: list[int] = []

        def on_signal() -> None:
            signals.append(1)
            if len(signals) > 2:
                os._exit(130)
            worker.stop(at_once=len(signals) == 2)

        def on_input() -> None:
            if not os.read(0, 1024):  # whoever started us is gone
                loop.remove_reader(0)
                worker.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        if supervised:
            loop.add_reader(0, on_input)
        await worker.run(app.pool)
    return 1 if worker.worn else 0  # 0: it was told to end, and nobody has to start it again
