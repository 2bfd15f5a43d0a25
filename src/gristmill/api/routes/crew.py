"""The crew: kinds of workers that a supervisor keeps alive, what each worker was at, and whether more would help."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import Field

from gristmill.api.lanes import Lane, lanes_of
from gristmill.api.routing import role
from gristmill.api.routing import router as new_router
from gristmill.api.sentence import Sentence, sentence_of
from gristmill.api.shapes import Answer, Asking, Body, OpenApp
from gristmill.crew import orders
from gristmill.crew.places import crew_name, crews, places

router = new_router("workers")
PlaceName = Annotated[str, Path(min_length=1, max_length=200)]


class CrewPlace(Answer):
    """A worker that ought to run. `standing`: running, paused, starting, restarting, stopping, stopped, blacklisted or
    disabled; `worker`: what it is in /api/workers; `due_in`: seconds until it is started again."""

    name: str
    kind: str
    spec: str
    standing: str
    restarts: int
    deaths: int
    due_in: float | None
    pid: int | None
    started_at: datetime | None
    cause: str | None
    worker: int | None
    settings: dict[str, Any]


class Crew(Answer):
    """`held`: a supervisor looks after it. `most`: workers at once; `scale`: counts that a person has set."""

    name: str
    state: str
    held: bool
    host: str | None
    pid: int | None
    most: int
    workers: int
    scale: dict[str, int]
    problem: str | None
    version: str | None
    started_at: datetime | None
    places: list[CrewPlace]


class Crews(Answer):
    """`own`: the crew that the settings of this server mean."""

    own: str
    items: list[Crew]


class Scale(Body):
    """So many workers of a kind; null: as the settings say."""

    spec: Annotated[str, Field(min_length=1, max_length=100)]
    count: Annotated[int, Field(ge=0, le=100)] | None
    crew: Annotated[str, Field(min_length=1, max_length=100)] | None = None


class Told(Answer):
    """What an order did to a place: `changed`, or `refused` with the reason; neither: it was so already."""

    place: str
    changed: bool
    refused: str


class Lanes(Answer):
    """What workers were at between `since` and `until`, each lane in order and without gaps."""

    since: datetime
    until: datetime
    items: list[Lane]


@router.get("/crew")
async def crew(app: OpenApp) -> Crews:
    """The crews, their places and what became of each."""
    known = await places(app.pool)
    items = [
        Crew(
            **{name: getattr(one, name) for name in Crew.model_fields if name != "places"},
            places=[
                CrewPlace(
                    **{name: getattr(place, name) for name in CrewPlace.model_fields if name != "worker"},
                    worker=place.worker_id,
                )
                for place in known if place.crew == one.name
            ],
        )
        for one in await crews(app.pool)
    ]  # fmt: skip
    return Crews(own=crew_name(app.settings), items=items)


@router.post("/crew/scale")
@role("operator")
async def scale_crew(wish: Scale, app: OpenApp, caller: Asking) -> Crews:
    """Sets how many workers of a kind run; the supervisor starts or stops them within half a second."""
    await orders.scale(app.pool, wish.crew or crew_name(app.settings), wish.spec, wish.count, by=caller.name)
    return await crew(app)


@router.post("/crew/{place}/{order}")
@role("operator")
async def order_place(
    place: PlaceName, order: Literal["start", "stop", "restart", "pause", "resume", "blacklist", "reset"], app: OpenApp,
    caller: Asking, crew: Annotated[str | None, Query(max_length=100)] = None,
) -> list[Told]:  # fmt: skip
    """An order to a place, or to all of a kind."""
    name = crew or crew_name(app.settings)
    meant = [one.name for one in await orders.chosen(app.pool, name, [place])]
    told = await orders.order(app.pool, name, order, meant, by=caller.name)
    return [Told.model_validate(one) for one in told]


@router.get("/workers/lanes")
async def lanes(app: OpenApp, minutes: Annotated[int, Query(ge=1, le=60)] = 10) -> Lanes:
    """One lane for each worker of the last minutes: work, idle, paused, late, dead."""
    since, until, found = await lanes_of(app.pool, minutes * 60)
    return Lanes(since=since, until=until, items=found)


@router.get("/sentence")
async def sentence(app: OpenApp) -> Sentence:
    """What holds the work up, in one honest sentence: whether more workers would help."""
    return await sentence_of(app)
