"""What sessions do to the state of tasks, runs, workers and locks: each of these meets each other one."""

from __future__ import annotations

import contextlib
from typing import Any

from gristmill.engine import fleet, items, locks, queue, workflow
from gristmill.engine.locks import Held
from gristmill.engine.queue import Failure, NewTask
from gristmill.engine.workflow import NewItem
from gristmill.errors import LockHeld
from tests.engine.interleaving import ONE, TWO, Act, Stage
from tests.engine.story import BROKEN

AGAIN = Failure("T300", "TransientError", "no answer", retry=True, backoff=0.0)


async def claim(stage: Stage, on: Any, side: int) -> None:
    await queue.claim(on, stage.dying, {"*": 100}, ["bare"])


async def claim_by_another(stage: Stage, on: Any, side: int) -> None:
    await queue.claim(on, stage.others[side], {"*": 100}, ["bare"])


async def claim_with_locks(stage: Stage, on: Any, side: int) -> None:
    await queue.claim(on, stage.others[side], {"*": 100}, ["bare"], locked=True)


async def claim_suspects(stage: Stage, on: Any, side: int) -> None:
    await queue.claim(on, stage.others[side], {"*": 100}, ["bare"], suspects=True)


async def claim_of_a_limited_pool(stage: Stage, on: Any, side: int) -> None:
    await queue.claim(on, stage.dying, {"limited": 10}, ["bare"], limited=True)


async def settle(stage: Stage, on: Any, side: int) -> None:
    """As a worker does it: with what follows, and a note for the items in which nothing does."""
    done = await queue.settle(on, stage.dying, [(stage.claims[name], "ok") for name in "ab"])
    if stage.claims["a"].id in done:
        await queue.enqueue(on, [NewTask(stage.runs[0], "bare", step=1, item_id=stage.item["a"])])
    if stage.claims["b"].id in done:
        await items.check_items(on, [stage.item["b"]])


async def settle_the_last(stage: Stage, on: Any, side: int) -> None:
    done = await queue.settle(on, stage.dying, [(stage.claims[name], "ok") for name in "xy"])
    if stage.claims["y"].id in done:
        await items.check_items(on, [stage.item["y"]])


async def settle_the_last_with_a_follower(stage: Stage, on: Any, side: int) -> None:
    if await queue.settle(on, stage.dying, [(stage.claims["y"], "ok")]):
        await queue.enqueue(on, [NewTask(stage.runs[2], "bare", step=1, item_id=stage.item["y"])])


async def fail_for_good(stage: Stage, on: Any, side: int) -> None:
    await queue.fail(on, stage.dying, stage.claims["a"], BROKEN)


async def fail_and_try_again(stage: Stage, on: Any, side: int) -> None:
    await queue.fail(on, stage.dying, stage.claims["b"], AGAIN)


async def crash(stage: Stage, on: Any, side: int) -> None:
    await queue.crash(on, stage.dying, stage.claims["a"], "signal 11")


async def release(stage: Stage, on: Any, side: int) -> None:
    await queue.release(on, [(stage.claims[name], 0.0, "busy") for name in "ab"])


async def take_back(stage: Stage, on: Any, side: int) -> None:
    await queue.take_back(on, stage.claims["b"].id, stage.claims["b"].token, "somebody wants it so")


async def give_back(stage: Stage, on: Any, side: int) -> None:
    await queue.give_back(on, stage.dying, "lost replies", [stage.claims["a"].token])


async def leave(stage: Stage, on: Any, side: int) -> None:
    await on.execute(queue.SQL["leave"], stage.dying.id, stage.dying.nonce, "stopped")
    await queue.give_back(on, stage.dying, "its worker was stopped")


async def rescue(stage: Stage, on: Any, side: int) -> None:
    await queue.rescue(on, stage.others[side].id, 0.0)


async def beat(stage: Stage, on: Any, side: int) -> None:
    await on.fetchval(queue.SQL["beat"], stage.dying.id, stage.dying.nonce)


async def pause_a_worker(stage: Stage, on: Any, side: int) -> None:
    await fleet.order(on, "pause", [stage.dying.id], by="anna")


async def cancel_the_run(stage: Stage, on: Any, side: int) -> None:
    await workflow.cancel(on, stage.runs[0])


async def cancel_the_last_run(stage: Stage, on: Any, side: int) -> None:
    await workflow.cancel(on, stage.runs[2])


async def cancel_items(stage: Stage, on: Any, side: int) -> None:
    await items.cancel_items(on, [stage.item["a"], stage.item["b"]])


async def retry_the_run(stage: Stage, on: Any, side: int) -> None:
    await workflow.retry(on, stage.runs[0])


async def retry_the_last_run(stage: Stage, on: Any, side: int) -> None:
    await workflow.retry(on, stage.runs[2])


async def add_inputs(stage: Stage, on: Any, side: int) -> None:
    await workflow.add_items(on, stage.runs[2], [NewItem(b"n" * 32, "n", "n")])


async def look_at_the_inputs_again(stage: Stage, on: Any, side: int) -> None:
    """One of them is gone."""
    await workflow.seal(on, stage.runs[2], ["folder"], ["z"], [stage.item["z"]])


async def advance(stage: Stage, on: Any, side: int) -> None:
    for run_id in stage.runs[1:]:
        await workflow.advance(on, run_id)


async def finish_items(stage: Stage, on: Any, side: int) -> None:
    await items.finish_items(on)


async def expire(stage: Stage, on: Any, side: int) -> None:
    await queue.expire(on)


async def abandon(stage: Stage, on: Any, side: int) -> None:
    await queue.abandon(on)


async def pause_items(stage: Stage, on: Any, side: int) -> None:
    await items.pause_items(on, [stage.item[name] for name in "abc"])


async def resume_items(stage: Stage, on: Any, side: int) -> None:
    await items.resume_items(on, [stage.item["d"]])


async def enqueue_with_keys(stage: Stage, on: Any, side: int) -> None:
    keys = (b"k" * 32, b"l" * 32)
    await queue.enqueue(on, [NewTask(stage.runs[0], "bare", step=1, key=key) for key in keys])


async def enqueue_behind(stage: Stage, on: Any, side: int) -> None:
    after = (stage.claims["a"].id, stage.claims["b"].id)
    await queue.enqueue(on, [NewTask(stage.runs[0], "bare", step=1, after=after, payload='{"behind": 1}')])


async def take_a_lock(stage: Stage, on: Any, side: int) -> None:
    for key in (ONE, TWO):
        with contextlib.suppress(LockHeld):
            await locks.acquire(on, key, holder_kind="cli", holder="we", wait=0)


def _expired(stage: Stage) -> Held:
    return Held((TWO,), (1,), stage.dying.nonce, 0, 60.0, 0.0)


async def renew_a_lock(stage: Stage, on: Any, side: int) -> None:
    await locks.refresh(on, _expired(stage))


async def release_a_lock(stage: Stage, on: Any, side: int) -> None:
    await locks.release(on, _expired(stage))


async def force_a_lock(stage: Stage, on: Any, side: int) -> None:
    await locks.force_release(on, ONE, by="anna")


async def sweep_locks(stage: Stage, on: Any, side: int) -> None:
    await locks.sweep_expired(on)


ALONE = {rescue, advance, finish_items, expire, abandon}  # duties: on a connection, with transactions of their own
POLLS = ALONE | {claim, claim_by_another, claim_with_locks, claim_suspects, claim_of_a_limited_pool, sweep_locks}
ACTS = tuple(
    Act(do.__name__, do, do in ALONE, do in POLLS)
    for do in (
        claim, claim_by_another, claim_with_locks, claim_suspects, claim_of_a_limited_pool, settle, settle_the_last,
        settle_the_last_with_a_follower, fail_for_good, fail_and_try_again, crash, release, take_back, give_back, leave,
        rescue, beat, pause_a_worker, cancel_the_run, cancel_the_last_run, cancel_items, retry_the_run,
        retry_the_last_run, add_inputs, look_at_the_inputs_again, advance, finish_items, expire, abandon, pause_items,
        resume_items, enqueue_with_keys, enqueue_behind, take_a_lock, renew_a_lock, release_a_lock, force_a_lock,
        sweep_locks,
    )
)  # fmt: skip
TIDYING = tuple(act for act in ACTS if act.name in ("abandon", "finish_items", "advance"))
# Who looks at the inputs does not see one that is being added. It stays, and the run that was sealed meanwhile ends
# after it: as if it had been there before, and had been seen.
NEITHER = {("look_at_the_inputs_again", "add_inputs"), ("add_inputs", "look_at_the_inputs_again")}
