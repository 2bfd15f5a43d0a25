"""What follows the end of a process: whether it is started again, when, and when no more."""

from __future__ import annotations

from dataclasses import dataclass

from gristmill.crew.places import Place

DELAYS = (0.0, 2.0, 4.0)  # seconds before the first, second and third restart in a row; then the place is blacklisted
GOOD = 30.0  # seconds of good running after which the restarts in a row are forgotten
MOST_DEATHS = 30  # within an hour: who dies every 31 seconds is no good either


@dataclass(frozen=True, slots=True)
class End:
    """How a process ended. `died`: not in order; `age`: seconds that it lived; `killed`: by its supervisor; `buried`:
    others had given it up, because the database could not be reached or its clock was set."""

    cause: str
    died: bool
    age: float
    killed: bool = False
    buried: bool = False


@dataclass(frozen=True, slots=True)
class Then:
    """The place from then on. `text` is for people, "" where there is nothing to say."""

    state: str
    cause: str
    text: str
    delay: float = 0.0
    restarts: int = 0
    died: bool = False
    blacklisted: bool = False
    wanted: bool = True


def after_end(place: Place, end: End, recent: int, *, stopping: bool) -> Then:
    """`recent`: deaths within the last hour, without this one; `stopping`: the whole crew ends.

    An end that was asked for is no death, however it came about. One that nobody here asked for, but in order, was
    asked for elsewhere (`gristmill workers stop`): such a place stays empty. A machine that began anew charges nobody,
    and a burial is none of the restarts in a row.
    """
    if place.state == "stopping" or stopping or not place.should_run:
        again = place.again and place.should_run and not stopping
        how = f"stopped: {end.cause}" if end.killed else "stopped"
        told = "is started again" if again else "has ended"
        return Then("due" if again else "idle", how, told, restarts=place.restarts)
    if not end.died:
        if end.cause.startswith("the machine"):
            return Then("due", end.cause, f"is started: {end.cause}", restarts=place.restarts)
        return Then("idle", "was told to end by somebody", "was told to end, and is not started again", wanted=False)
    restarts = 0 if end.age > GOOD else place.restarts
    out_of_tries = restarts >= len(DELAYS) and not end.buried
    if out_of_tries or recent + 1 >= MOST_DEATHS:
        often = f"{restarts} restarts in a row" if out_of_tries else f"{recent + 1} deaths within an hour"
        cause = f"{end.cause} (after {often})"
        text = f"died ({cause}) and is blacklisted: gristmill worker reset {place.name}"
        return Then("idle", cause, text, restarts=restarts, died=True, blacklisted=True)
    delay = DELAYS[1] if end.buried else DELAYS[restarts]
    when = f"in {delay:.0f} s" if delay else "now"
    text = f"died ({end.cause}); its tasks are handed on and it is started again {when}"
    return Then("due", end.cause, text, delay, restarts if end.buried else restarts + 1, died=True)
