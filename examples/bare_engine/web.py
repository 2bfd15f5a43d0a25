"""A web application that enqueues in the transaction of the request: uvicorn web:app

An account and the task of its welcome letter are committed together. Needs fastapi and uvicorn.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, HTTPException, Request

from gristmill.engine import Engine
from gristmill.errors import NoResult

engine = Engine()


@engine.task("welcome", pool="mail", attempts=5, retry={"ConnectionError": "snooze"})
async def welcome(account: int, name: str) -> str:
    return f"Dear {name}, you are account {account}."


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    # A worker inside the web process is handy for small loads; `await engine.work()` in a process of its own is safer.
    async with engine, engine.working({"mail": 4}):
        app.state.accounts = await asyncpg.create_pool(engine.database_url, min_size=1, max_size=4)
        await app.state.accounts.execute(
            "create table if not exists public.account (id bigint generated always as identity, name text unique)"
        )
        yield
        await app.state.accounts.close()


app = FastAPI(lifespan=lifespan)


@app.post("/accounts", status_code=201)
async def create_account(name: str, request: Request) -> dict[str, Any]:
    try:
        async with request.app.state.accounts.acquire() as connection, connection.transaction():
            number = await connection.fetchval("insert into public.account (name) values ($1) returning id", name)
            task = await engine.enqueue(welcome, account=number, name=name, connection=connection)
            if name == "nobody":
                raise HTTPException(422, "nobody is not a name")  # after the enqueue: it is rolled back, too
    except asyncpg.UniqueViolationError:
        raise HTTPException(409, f"{name} has an account") from None
    await engine.hint()
    return {"account": number, "task": task.id}


@app.get("/tasks/{number}")
async def show_task(number: int) -> dict[str, Any]:
    try:
        return {"result": await engine.result(number, wait=5)}
    except NoResult as error:
        if error.code == "R105":
            raise HTTPException(404, error.message) from None
        return {"result": None, "state": error.state, "why": error.hint or error.message}
