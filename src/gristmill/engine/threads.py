"""Blocking functions in threads of their own: the event loop goes on, beats and pongs are on time.

A thread cannot be stopped. When its task is cancelled or has taken too long, the task ends and the thread is counted as
lost until it returns by itself. Threads are daemons, so that a lost one does not hold up the end of the process.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from typing import Any

from gristmill.errors import TransientError

_lost: set[threading.Thread] = set()


def lost_threads() -> int:
    """How many threads of this process still run although nobody waits for them any more."""
    return sum(thread.is_alive() for thread in list(_lost)) if _lost else 0


async def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a blocking function in a new thread and returns or raises what it does.

    There is no pool: whoever calls holds a slot, and slots bound the threads. An exception that is no `Exception`
    (`sys.exit` is one) comes back as a `TransientError` T320, for it would end the process.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()

    def finish(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def work() -> None:
        result, error = None, None
        try:
            result = context.run(function, *args, **kwargs)
        except BaseException as raised:
            error = bearable(raised)
        finally:
            _lost.discard(threading.current_thread())
        if not loop.is_closed():
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:
                return  # the loop was closed in this moment: nobody waits

    thread = threading.Thread(target=work, name=f"operator {getattr(function, '__name__', '')}", daemon=True)
    thread.start()
    try:
        return await done
    except asyncio.CancelledError:
        if thread.is_alive():
            _lost.add(thread)
        raise


def bearable(error: BaseException) -> Exception:
    """The error itself, or a `TransientError` T320 for one that asks for the end of the process or of an iteration."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration | StopAsyncIteration):
        return error
    made = TransientError(f"it raised {type(error).__name__}: {error}", code="T320")
    made.__cause__ = error
    return made
