"""Locks of those who are not tasks: real races between connections, real kills, and both sides of a claim."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from gristmill.db.database import open_pool
from gristmill.engine import queue, upkeep
from gristmill.engine.holding import hold
from gristmill.engine.lock_keys import check_key, lock_key, spelled
from gristmill.engine.locks import Held, acquire, force_release, holders, refresh, release, sweep_expired
from gristmill.errors import Busy, LockHeld, LockLost, UsageError
from tests.engine.conftest import Enqueue, register, until

STORE = "store:handbook"


async def take(database: Any, key: Any = STORE, who: str = "anna", **more: Any) -> Held:
    return await acquire(database, key, **({"holder_kind": "cli", "holder": who, "wait": 0} | more))


async def refused(database: Any, key: Any = STORE, **more: Any) -> LockHeld:
    with pytest.raises(LockHeld) as caught:
        await take(database, key, "another", **more)
    return caught.value


async def claim(pool: Any, claimer: queue.Claimer, n: int = 10) -> list[queue.Task]:
    return await queue.claim(pool, claimer, {"*": n}, ["bare"], locked=True)


async def expire(pool: Any, key: str = STORE) -> None:
    """Its time has passed, without waiting for it."""
    await pool.execute("update lock set expires_at = clock_timestamp() - interval '1 ms' where key = $1", key)


async def blocked(pool: Any) -> bool:
    """Whether a session waits for another one's row."""
    sql = (
        "select exists (select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock')"
    )
    return bool(await pool.fetchval(sql))


# -- keys


def test_two_spellings_of_a_folder_give_one_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "data" / "store"
    store.mkdir(parents=True)
    (tmp_path / "link").symlink_to(store)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    spellings = [
        store, str(store), f"{store}/", "data/store", "./data//store/", "data/../data/store/.", "link", "link/",
        "~/data/store", Path("data/store"), f"/{store}",
    ]  # fmt: skip
    keys = {lock_key("path", spelling) for spelling in spellings}
    assert keys == {f"path:{store.resolve()}"}
    assert check_key(keys.pop()) == spelled("data/store") == spelled("path:data/store")


def test_a_path_that_does_not_exist_yet_has_the_key_that_it_will_have(tmp_path: Path) -> None:
    before = lock_key("path", tmp_path / "a" / ".." / "later")
    (tmp_path / "later").mkdir()
    assert lock_key("path", tmp_path / "later") == before


def test_a_path_under_another_kind_is_refused_because_nobody_else_would_find_it(tmp_path: Path) -> None:
    for name in (tmp_path, str(tmp_path), "./store", "../store", "~/store", Path("store"), "."):
        with pytest.raises(UsageError, match="is a path"):
            lock_key("store", name)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("", "x"), ("Store", "x"), ("a b", "x"), ("x" * 40, "x"), ("store", ""), ("store", " "), ("store", "a\0b")],
)
def test_what_cannot_be_a_key_is_refused(kind: str, name: str) -> None:
    with pytest.raises(UsageError) as caught:
        lock_key(kind, name)
    assert (caught.value.code, bool(caught.value.hint)) == ("U451", True)


def test_names_are_compared_without_spaces_around_and_composed() -> None:
    assert lock_key("store", " cafe\u0301 ") == lock_key("store", "caf\u00e9") == "store:caf\u00e9"


def test_a_long_name_keeps_its_beginning_and_its_own_key() -> None:
    one, other = lock_key("path", "/" + "d/" * 2000 + "a"), lock_key("path", "/" + "d/" * 2000 + "b")
    assert one != other
    assert len(one) == len(other) == 200
    assert check_key(one) == one


def test_every_name_gives_a_key_that_can_be_stored(tmp_path: Path) -> None:
    for name in (os.fsdecode(b"\xff\xfe"), "line\nbreak", "tab\t", "\U0001f512"):
        key = lock_key("path", tmp_path / name)
        assert key.isprintable()
        assert check_key(key).encode()


@pytest.mark.parametrize(
    "key",
    ["store", "path:data", "path:/a/../b", "path:/a/", "path://a", "store: x", "store:/a", "Store:x", "store:a\nb"],
)
async def test_a_key_that_was_not_made_by_lock_key_is_refused(pool: Any, key: str) -> None:
    with pytest.raises(UsageError, match=r"key|path|spells"):
        await take(pool, key)


@pytest.mark.parametrize(
    "wrong",
    [{"slots": 0}, {"ttl": 0}, {"ttl": float("nan")}, {"wait": -1}, {"who": " "}, {"holder_kind": "task"}, {"key": []}],
)
async def test_arguments_that_make_no_sense_are_refused(pool: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        await take(pool, **wrong)
    assert caught.value.hint
    assert await holders(pool) == []


# -- acquire, refresh, release


async def test_a_lock_has_one_holder_and_says_who_and_since_when(pool: Any) -> None:
    held = await take(pool, who="anna@mill")
    error = await refused(pool)
    assert f"{STORE} is held by cli anna@mill since 2" in error.message
    assert (error.holders[0].kind, error.holders[0].who, error.holders[0].token) == ("cli", "anna@mill", held.token)
    assert isinstance(error, Busy)  # inside an operator: the attempt is given back and the task waits
    assert await release(pool, held)
    await take(pool, who="another")


async def test_the_same_token_renews_instead_of_waiting_for_itself(pool: Any) -> None:
    held = await take(pool, ttl=5)
    (before,) = await holders(pool)
    again = await take(pool, ttl=60, token=held.token)
    (after,) = await holders(pool)
    assert (again.slots, again.fence, again.token) == (held.slots, held.fence, held.token)
    assert (after.expires_at - before.expires_at).total_seconds() > 50  # type: ignore[operator]
    assert after.since == before.since


async def test_refresh_moves_the_end_and_tells_who_has_lost_it(pool: Any) -> None:
    held = await take(pool, ttl=5)
    until_before = held.until
    assert await refresh(pool, held)
    assert held.until > until_before
    await expire(pool)
    assert await refresh(pool, held)  # nobody had it in between
    await expire(pool)
    await take(pool, who="another")
    assert not await refresh(pool, held)


async def test_release_may_be_repeated_and_leaves_what_is_not_ours_alone(pool: Any) -> None:
    held = await take(pool)
    assert await release(pool, held)
    assert not await release(pool, held)
    new = await take(pool, who="another")
    assert not await release(pool, held)
    assert [one.token for one in await holders(pool)] == [new.token]


async def test_the_fence_grows_with_every_holder(pool: Any) -> None:
    fences = []
    for _ in range(5):
        held = await take(pool)
        fences.append(held.fence)
        assert [one.fence for one in await holders(pool)] == [held.fence]
        await release(pool, held)
    assert fences == sorted(set(fences))


async def test_a_fence_is_never_lower_than_that_of_a_holder_before(pool: Any, database_url: str) -> None:
    """The number is drawn after the slot was won: a slow one must not come with a number from before its turn."""
    first = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill,public"})
    transaction = first.transaction()
    await transaction.start()
    earlier = await take(first)
    waiting = asyncio.create_task(take(pool, who="slow", wait=20))
    await until(lambda: blocked(pool))  # it has begun, and waits for the row of the first
    await queue_numbers(pool, 10)
    await first.execute("delete from lock")
    await transaction.commit()
    assert (await waiting).fence > earlier.fence + 10
    await first.close()


async def queue_numbers(pool: Any, n: int) -> None:
    await pool.fetch("select nextval('fence_seq') from generate_series(1, $1)", n)


async def test_waiting_ends_with_the_patience_or_with_the_lock(pool: Any) -> None:
    held = await take(pool)
    error = await refused(pool, wait=0.2)
    assert "anna" in error.message
    waiting = asyncio.create_task(take(pool, who="patient", wait=None))
    await until(lambda: pool.fetchval("select exists (select 1 from lock where slot = 0)"))
    await release(pool, held)
    assert (await asyncio.wait_for(waiting, 10)).slots == (1,)
    assert [one.slot for one in await holders(pool)] == [1]


async def test_who_stops_waiting_leaves_nothing_behind(pool: Any) -> None:
    await take(pool)
    waiting = asyncio.create_task(take(pool, who="impatient", wait=None))
    await until(lambda: pool.fetchval("select exists (select 1 from lock where slot = 0)"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [one.who for one in await holders(pool)] == ["anna"]


async def test_waiting_inside_a_transaction_is_refused(pool: Any) -> None:
    async with pool.acquire() as connection, connection.transaction():
        with pytest.raises(UsageError, match="inside a transaction"):
            await take(connection, wait=1)
        await take(connection)
    assert len(await holders(pool)) == 1


async def test_a_lock_taken_in_a_transaction_goes_with_it(pool: Any) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async with pool.acquire() as connection, connection.transaction():
            await take(connection)
            raise ZeroDivisionError
    assert await holders(pool) == []


# -- races


@pytest.mark.parametrize("commits", [True, False])
async def test_who_comes_while_another_is_taking_it_waits_for_the_outcome(
    pool: Any, database_url: str, commits: bool
) -> None:
    first = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill,public"})
    transaction = first.transaction()
    await transaction.start()
    await take(first)
    second = asyncio.create_task(take(pool, who="another"))
    await until(lambda: blocked(pool))
    await (transaction.commit() if commits else transaction.rollback())
    if commits:
        with pytest.raises(LockHeld):
            await second
    else:
        assert (await second).slots == (1,)
    assert [one.who for one in await holders(pool)] == (["anna"] if commits else ["another"])
    await first.close()


@pytest.mark.parametrize("renewal_first", [True, False])
async def test_a_renewal_and_a_takeover_of_an_expired_slot_have_one_winner(
    pool: Any, database_url: str, renewal_first: bool
) -> None:
    held = await take(pool)
    await expire(pool)
    first = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill,public"})
    transaction = first.transaction()
    await transaction.start()
    if renewal_first:
        assert await refresh(first, held)
        second = asyncio.create_task(take(pool, who="another"))
        await until(lambda: blocked(pool))
        await transaction.commit()
        with pytest.raises(LockHeld):
            await second
    else:
        await take(first, who="another")
        renewal = asyncio.create_task(refresh(pool, held))
        await until(lambda: blocked(pool))
        await transaction.commit()
        assert not await renewal
    assert [one.who for one in await holders(pool)] == (["anna"] if renewal_first else ["another"])
    await first.close()


async def test_of_many_that_take_over_an_expired_slot_one_gets_it(database_url: str) -> None:
    pool = await open_pool(database_url, size=16)
    for _ in range(10):
        await take(pool, who="dead")
        await expire(pool)
        tries = await asyncio.gather(*(take(pool, who=f"heir {n}") for n in range(16)), return_exceptions=True)
        won = [held for held in tries if isinstance(held, Held)]
        assert len(won) == 1
        assert all(isinstance(lost, Held | LockHeld) for lost in tries)
        assert [one.token for one in await holders(pool)] == [won[0].token]
        await release(pool, won[0])
    pool.terminate()


@pytest.mark.parametrize("slots", [1, 3])
async def test_n_slots_never_have_more_than_n_holders(database_url: str, slots: int) -> None:
    pool = await open_pool(database_url, size=16)
    inside = most = done = 0

    async def one(n: int) -> None:
        nonlocal inside, most, done
        for _ in range(4):
            held = await take(pool, who=str(n), slots=slots, wait=60)
            inside += 1
            most = max(most, inside)
            live = [row for row in await holders(pool, STORE) if row.slot > 0]
            assert len(live) <= slots
            inside -= 1
            done += 1
            assert await release(pool, held)

    await asyncio.gather(*(one(n) for n in range(16)))
    assert most <= slots
    assert done == 64
    assert await holders(pool) == []
    pool.terminate()


async def test_all_slots_can_be_held_at_once_and_no_more(pool: Any) -> None:
    held = [await take(pool, who=str(n), slots=3) for n in range(3)]
    assert {one.slots for one in held} == {(1,), (2,), (3,)}
    error = await refused(pool, slots=3)
    assert "(3 slots) is held by cli " in error.message
    assert len(error.holders) == 3


async def test_somebody_who_means_fewer_slots_does_not_get_in_beside_a_higher_one(pool: Any) -> None:
    first = await take(pool, slots=2)
    second = await take(pool, slots=2, who="bert")
    await release(pool, first if first.slots == (1,) else second)  # slot 1 is free, slot 2 is held
    await refused(pool, slots=1)


# -- several keys


async def test_several_keys_are_taken_all_or_none(pool: Any) -> None:
    held = await take(pool, ["store:b"])
    error = await refused(pool, ["store:c", "store:b", "store:a"])
    assert "store:b is held by" in error.message
    assert [one.key for one in await holders(pool)] == ["store:b"]
    await release(pool, held)
    every = await take(pool, ["store:c", "store:b", "store:a", "store:a"])
    assert every.keys == ("store:a", "store:b", "store:c")
    assert {one.fence for one in await holders(pool)} == {every.fence}
    assert await release(pool, every)
    assert await holders(pool) == []


async def test_opposite_orders_of_two_keys_do_not_wait_for_each_other(database_url: str) -> None:
    pool = await open_pool(database_url, size=12)
    inside = 0

    async def one(keys: list[str]) -> None:
        nonlocal inside
        for _ in range(8):
            held = await take(pool, keys, wait=60)
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1
            await release(pool, held)

    pairs = [["store:a", "store:b"], ["store:b", "store:a"], ["store:b", "store:c", "store:a"]] * 3
    await asyncio.wait_for(asyncio.gather(*(one(keys) for keys in pairs)), 60)
    pool.terminate()


# -- hold


async def test_renewal_keeps_a_lock_past_its_time(pool: Any, database_url: str) -> None:
    async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=0.6) as held:
        (first,) = await holders(pool)
        await until(
            lambda: pool.fetchval("select clock_timestamp() > $1::timestamptz + interval '1 s'", first.expires_at)
        )
        await sweep_expired(pool)
        await refused(pool)
        held.check()
    assert await holders(pool) == []


async def test_a_holder_whose_lock_was_forced_is_stopped_at_once(pool: Any) -> None:
    begun, stopped = asyncio.Event(), False

    async def body() -> None:
        nonlocal stopped
        async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=60):
            begun.set()
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                stopped = True
                raise

    running = asyncio.create_task(body())
    await begun.wait()
    await force_release(pool, STORE, by="bert", reason="it hangs")
    new = await take(pool, who="bert")
    with pytest.raises(LockLost, match="store:handbook was lost: somebody forced it"):
        await asyncio.wait_for(running, 10)
    assert stopped
    assert [one.token for one in await holders(pool)] == [new.token]  # leaving, it did not free what is not its own


async def test_a_body_that_ignores_the_loss_is_told_when_it_ends(pool: Any) -> None:
    async def body() -> None:
        async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=0.4):
            await pool.execute("delete from lock")
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(30)
            await asyncio.sleep(0)

    with pytest.raises(LockLost):
        await body()
    assert not asyncio.current_task().cancelling()  # type: ignore[union-attr]
    await asyncio.sleep(0)


async def test_a_body_that_ends_in_the_moment_of_the_loss_is_told_too(pool: Any) -> None:
    async def body() -> None:
        me = asyncio.current_task()
        assert me is not None
        async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=0.4):
            await pool.execute("delete from lock")
            while not me.cancelling():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait([asyncio.create_task(asyncio.sleep(0.01))])

    with pytest.raises(LockLost):
        await body()


async def test_a_loss_and_a_cancellation_at_once_are_a_cancellation(pool: Any) -> None:
    async def body() -> None:
        async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=0.4):
            await pool.execute("delete from lock")
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                raise

    running = asyncio.create_task(body())
    await asyncio.wait([running])
    assert running.cancelled()


async def test_an_error_of_the_body_after_the_loss_is_its_cause(pool: Any) -> None:
    async def body() -> None:
        async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=0.4):
            try:
                await pool.execute("delete from lock")  # slower than 0.3 s on a busy machine, and then lost in here
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                raise ValueError("on the way out") from None

    with pytest.raises(LockLost) as caught:
        await body()
    assert isinstance(caught.value.__cause__, ValueError)


async def test_errors_and_cancellations_of_the_body_pass_and_free_the_lock(pool: Any) -> None:
    with pytest.raises(ZeroDivisionError):
        async with hold(pool, STORE, holder_kind="api", holder="vacuum"):
            raise ZeroDivisionError
    assert await holders(pool) == []

    async def body() -> None:
        async with hold(pool, STORE, holder_kind="api", holder="vacuum"):
            await asyncio.sleep(600)

    running = asyncio.create_task(body())
    await until(lambda: pool.fetchval("select exists (select 1 from lock)"))
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: pool.fetchval("select not exists (select 1 from lock)"))


async def test_a_holder_that_cannot_reach_the_database_stops_before_its_time_is_over(
    pool: Any, database_url: str
) -> None:
    cut_off = await open_pool(database_url, size=2, name="cut off")

    async def body() -> None:
        async with hold(cut_off, STORE, holder_kind="api", holder="vacuum", ttl=2.0):
            cut_off.terminate()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                await refused(pool)  # nobody else could have it until now
                raise

    with pytest.raises(LockLost, match="no renewal came through"):
        await body()


async def test_a_holder_that_was_blocked_for_too_long_learns_it_by_its_own_clock(pool: Any) -> None:
    import time

    async def body() -> None:
        async with hold(pool, STORE, holder_kind="api", holder="vacuum", ttl=0.4) as held:
            time.sleep(0.5)
            with pytest.raises(LockLost):
                held.check()
            await asyncio.sleep(30)

    with pytest.raises(LockLost, match="no renewal came through"):
        await body()


HOLDER = """
import asyncio, sys
from gristmill.db.database import open_pool
from gristmill.engine.holding import hold

async def main():
    pool = await open_pool(sys.argv[1], size=2)
    async with hold(pool, "store:handbook", holder_kind="cli", holder="victim", ttl=2.0):
        print("held", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_holder_that_is_killed_or_stopped_loses_it_when_its_time_is_over(
    pool: Any, database_url: str, number: signal.Signals
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"held\n"
    process.send_signal(number)
    (row,) = await holders(pool)
    error = await refused(pool)
    assert "victim" in error.message
    held = await take(pool, who="heir", wait=30)
    assert held.fence > row.fence
    assert await pool.fetchval("select clock_timestamp() >= $1::timestamptz", row.expires_at)
    if number == signal.SIGSTOP:  # it comes back, finds out and goes; the heir keeps what it has
        process.send_signal(signal.SIGCONT)
        _, said = await asyncio.to_thread(process.communicate, None, 30)
        assert b"LockLost" in said
        assert [one.who for one in await holders(pool)] == ["heir"]
    process.kill()
    process.wait()
    process.stdout.close()
    if process.stderr is not None:
        process.stderr.close()


# -- force and sweep


async def test_a_forced_release_names_the_holder_before_and_who_decided(pool: Any) -> None:
    held = await take(pool, who="anna@mill")
    (before,) = await holders(pool)
    (forced,) = await force_release(pool, STORE, by="bert@mill", reason="it hangs\0")
    assert (forced.kind, forced.who, forced.since) == ("cli", "anna@mill", before.since)
    async with pool.acquire() as connection:
        await upkeep.fold(connection)
    body = json.loads(await pool.fetchval("select body from event where name = 'lock.forced'"))
    assert {name: body[name] for name in ("key", "holder_kind", "holder", "by", "fence")} == {
        "key": STORE, "holder_kind": "cli", "holder": "anna@mill", "by": "bert@mill", "fence": held.fence,
    }  # fmt: skip
    assert body["reason"].startswith("it hangs")
    assert body["since"][:10] == before.since.isoformat()[:10]
    assert body["next_fence"] > held.fence
    assert not await refresh(pool, held)
    assert (await take(pool, who="bert")).fence > body["next_fence"]


async def test_forcing_what_nobody_holds_tells_nothing(pool: Any) -> None:
    assert await force_release(pool, STORE, by="bert") == []
    assert not await pool.fetchval("select exists (select 1 from event_inbox where name = 'lock.forced')")
    with pytest.raises(UsageError, match="who decided"):
        await force_release(pool, STORE, by=" ")


async def test_forcing_twice_at_once_tells_it_once(pool: Any) -> None:
    await take(pool)
    both = await asyncio.gather(*(force_release(pool, STORE, by=str(n)) for n in range(4)))
    assert sum(len(forced) for forced in both) == 1
    assert await pool.fetchval("select count(*) from event_inbox where name = 'lock.forced'") == 1


async def test_a_task_whose_lock_was_forced_can_never_finish(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue, bare_run: int
) -> None:
    (task_id,) = await enqueue({}, lock=STORE)
    (task,) = await claim(pool, claimer)
    (forced,) = await force_release(pool, STORE, by="bert", reason="it hangs")
    assert (forced.kind, forced.task_id, forced.run_id) == ("task", task_id, bare_run)
    async with pool.acquire() as connection, connection.transaction():
        assert await queue.settle(connection, claimer, [(task, "ok")]) == set()
    row = await pool.fetchrow("select state, failures, crashes, held from task where id = $1", task_id)
    assert (row["state"], row["failures"], row["crashes"]) == ("available", 0, 0)
    assert "forced by bert" in row["held"]
    event = await pool.fetchrow("select * from event_inbox where name = 'lock.forced'")
    assert (event["run_id"], event["task_id"], event["worker_id"]) == (bare_run, task_id, claimer.id)
    (again,) = await claim(pool, claimer)
    assert again.id == task_id
    assert again.fence > task.fence


@pytest.mark.parametrize("settles_first", [True, False])
async def test_a_settlement_and_a_force_have_one_winner(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue, database_url: str, settles_first: bool
) -> None:
    await enqueue({}, lock=STORE)
    (task,) = await claim(pool, claimer)
    first = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill,public"})
    transaction = first.transaction()
    await transaction.start()
    if settles_first:
        assert await queue.settle(first, claimer, [(task, "ok")]) == {task.id}
        force = asyncio.create_task(force_release(pool, STORE, by="bert"))
        await until(lambda: blocked(pool))
        await transaction.commit()
        assert await force == []  # it had ended: nothing was taken from anybody
    else:
        assert len(await force_release(first, STORE, by="bert")) == 1

        async def settle() -> set[int]:
            async with pool.acquire() as connection, connection.transaction():
                return await queue.settle(connection, claimer, [(task, "ok")])

        settling = asyncio.create_task(settle())
        await until(lambda: blocked(pool))
        await transaction.commit()
        assert await settling == set()
    state = await pool.fetchval("select state from task where id = $1", task.id)
    assert state == ("completed" if settles_first else "available")
    assert await holders(pool) == []
    await first.close()


async def test_the_sweep_frees_what_has_expired_and_nothing_else(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue
) -> None:
    await enqueue({}, lock="store:of-a-task")
    await claim(pool, claimer)
    await pool.execute("update lock set since = since - interval '1 hour'")
    await take(pool, "store:alive")
    await take(pool, "store:dead")
    await expire(pool, "store:dead")
    counts = await asyncio.gather(*(sweep_expired(pool) for _ in range(4)))
    assert sum(counts) == 1
    assert [one.key for one in await holders(pool)] == ["store:alive", "store:of-a-task"]


async def test_the_sweep_frees_a_slot_whose_task_was_changed_by_hand(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue
) -> None:
    await enqueue({}, lock=STORE)
    await claim(pool, claimer)
    await pool.execute("update task set state = 'available', token = null, worker_id = null")
    assert await sweep_expired(pool) == 0  # a claim may just be on its way
    await pool.execute("update lock set since = since - interval '2 minutes'")
    assert await sweep_expired(pool) == 1
    assert len(await claim(pool, claimer)) == 1


# -- tasks and the others


async def test_a_task_waits_for_a_lock_that_somebody_else_holds(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue
) -> None:
    held = await take(pool)
    ids = await enqueue({}, {}, lock=STORE)
    assert await claim(pool, claimer) == []
    await release(pool, held)
    assert [task.id for task in await claim(pool, claimer)] == ids[:1]


async def test_somebody_else_waits_for_a_task_that_holds_the_lock(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue, bare_run: int
) -> None:
    (task_id,) = await enqueue({}, lock=STORE)
    (task,) = await claim(pool, claimer)
    error = await refused(pool)
    assert f"task {task_id} (bare, run {bare_run}) on worker {claimer.id} since" in error.message
    waiting = asyncio.create_task(take(pool, who="vacuum", wait=None))
    await until(lambda: pool.fetchval("select exists (select 1 from lock where slot = 0)"))
    async with pool.acquire() as connection, connection.transaction():
        assert await queue.settle(connection, claimer, [(task, "ok")]) == {task.id}
    held = await asyncio.wait_for(waiting, 10)
    assert held.fence > task.fence


async def test_a_lock_of_a_running_task_never_expires(pool: Any, claimer: queue.Claimer, enqueue: Enqueue) -> None:
    await enqueue({}, lock=STORE)
    await claim(pool, claimer)
    await pool.execute("update lock set since = since - interval '1 day'")
    await pool.execute("update task set claimed_at = claimed_at - interval '1 day'")
    await sweep_expired(pool)
    await refused(pool)


async def test_a_claim_takes_over_an_expired_slot(pool: Any, claimer: queue.Claimer, enqueue: Enqueue) -> None:
    held = await take(pool)
    await enqueue({}, lock=STORE)
    await expire(pool)
    (task,) = await claim(pool, claimer)
    assert task.fence > held.fence
    assert not await refresh(pool, held)
    assert not await release(pool, held)
    assert [one.task_id for one in await holders(pool)] == [task.id]


async def test_claims_and_others_share_the_slots_of_a_key(pool: Any, claimer: queue.Claimer, enqueue: Enqueue) -> None:
    await take(pool, slots=3)
    await enqueue(*[{}] * 5, lock=STORE, lock_slots=3)
    other = await register(pool)
    batches = await asyncio.gather(*(claim(pool, who) for who in (claimer, other) * 3))
    assert sum(len(batch) for batch in batches) <= 2
    while await claim(pool, claimer):
        pass
    assert len([one for one in await holders(pool) if one.slot]) == 3
    await refused(pool, slots=3)


@pytest.mark.parametrize("claim_first", [True, False])
async def test_a_claim_and_another_that_meet_have_one_winner(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue, database_url: str, claim_first: bool
) -> None:
    await enqueue({}, lock=STORE)
    first = await asyncpg.connect(database_url, server_settings={"search_path": "gristmill,public"})
    transaction = first.transaction()
    await transaction.start()
    if claim_first:
        assert len(await claim(first, claimer)) == 1
        second: asyncio.Task[Any] = asyncio.create_task(take(pool))
        await until(lambda: blocked(pool))
        await transaction.commit()
        with pytest.raises(LockHeld):
            await second
    else:
        await take(first)
        second = asyncio.create_task(claim(pool, claimer))
        await until(lambda: blocked(pool))
        await transaction.commit()
        assert await second == []
        assert await pool.fetchval("select state from task") == "available"
    await first.close()


async def test_ten_tasks_in_a_row_do_not_pass_by_who_waits_at_the_door(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue
) -> None:
    await enqueue(*[{}] * 10, lock=STORE)
    (task,) = await claim(pool, claimer)
    waiting = asyncio.create_task(take(pool, who="vacuum", wait=None))
    await until(lambda: pool.fetchval("select exists (select 1 from lock where slot = 0)"))
    async with pool.acquire() as connection, connection.transaction():
        await queue.settle(connection, claimer, [(task, "ok")])
    for _ in range(20):
        assert await claim(pool, claimer) == []
    await release(pool, await asyncio.wait_for(waiting, 10))
    assert len(await claim(pool, claimer)) == 1


async def test_a_release_wakes_idle_workers(pool: Any, database_url: str) -> None:
    heard: asyncio.Event = asyncio.Event()
    listener = await asyncpg.connect(database_url)
    await listener.add_listener(queue.WAKE_CHANNEL, lambda *_: heard.set())
    await release(pool, await take(pool))
    await asyncio.wait_for(heard.wait(), 10)
    await listener.close()


Watching = Callable[..., Awaitable[Any]]


async def test_a_worker_stops_a_task_whose_lock_was_forced_and_does_it_again(
    pool: Any, enqueue: Enqueue, processes: Any, watching: Watching
) -> None:
    (task_id,) = await enqueue({"do": "sleep", "seconds": 600}, lock=STORE)
    processes.start()
    await watching("select token is not null from task where id = $1", task_id)
    before = await pool.fetchval("select fence from task where id = $1", task_id)
    await pool.execute("update task set payload = '{}' where id = $1", task_id)
    assert len(await force_release(pool, STORE, by="bert")) == 1
    await watching("select state = 'completed' from task where id = $1", task_id)
    assert await pool.fetchval("select fence from done where task_id = $1", task_id) > before


# -- the command line


async def gristmill(url: str, folder: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command."""
    environment = {**os.environ, "GRISTMILL_DATABASE_URL": url, "GRISTMILL_HOME": str(folder / "home")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gristmill", *arguments, cwd=folder, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_the_list_says_who_holds_what(
    pool: Any, claimer: queue.Claimer, enqueue: Enqueue, database_url: str, tmp_path: Path, bare_run: int
) -> None:
    assert (await gristmill(database_url, tmp_path, "locks"))[:2] == (0, "nobody holds a lock\n")
    held = await take(pool, who="anna@mill")
    (task_id,) = await enqueue({}, lock="store:of-a-task")
    await claim(pool, claimer)
    code, out, _ = await gristmill(database_url, tmp_path, "locks")
    assert code == 0
    assert f"{STORE}  slot 1  cli anna@mill since 2" in out
    assert f"task {task_id} (bare, run {bare_run}) on worker {claimer.id}" in out
    code, out, _ = await gristmill(database_url, tmp_path, "locks", "--json")
    document = json.loads(out)
    assert (code, document["schema"]) == (0, "gristmill.locks/1")
    first = document["locks"][0]
    assert (first["key"], first["holder_kind"], first["holder"], first["fence"], first["waits"], first["live"]) == (
        STORE, "cli", "anna@mill", held.fence, False, True,
    )  # fmt: skip
    assert document["locks"][1]["expires_at"] is None


async def test_a_release_without_force_only_says_who_holds_it(pool: Any, database_url: str, tmp_path: Path) -> None:
    key = lock_key("path", tmp_path / "store")
    await take(pool, key, "anna@mill")
    code, out, err = await gristmill(database_url, tmp_path, "locks", "release", "store")
    assert (code, out) == (1, "")
    assert "error[T410]" in err
    assert "is held by cli anna@mill since" in err
    assert f"gristmill locks release {key} --force" in err
    assert len(await holders(pool)) == 1
    code, out, _ = await gristmill(
        database_url, tmp_path, "locks", "release", "./store/", "--force", "--reason", "gone"
    )
    assert code == 0
    assert f"{key} was taken away from cli anna@mill" in out
    event = json.loads(await pool.fetchval("select body from event_inbox where name = 'lock.forced'"))
    assert event["reason"] == "gone"
    assert "@" in event["by"]
    code, out, _ = await gristmill(database_url, tmp_path, "locks", "release", key, "--force", "--json")
    assert (code, json.loads(out)["forced"]) == (0, [])


async def test_a_key_is_released_as_it_is_listed_whoever_made_it(pool: Any, database_url: str, tmp_path: Path) -> None:
    held = await take(pool)
    await pool.execute("update lock set key = 'of another version'")
    code, out, _ = await gristmill(database_url, tmp_path, "locks", "release", "of another version", "--force")
    assert (code, out.startswith("of another version was taken away from cli anna")) == (0, True)
    assert not await refresh(pool, held)


async def test_a_key_that_cannot_be_is_wrong_usage(database_url: str, tmp_path: Path) -> None:
    code, _, err = await gristmill(database_url, tmp_path, "locks", "release", "store:./x", "--force")
    assert code == 2
    assert "error[U451]" in err
