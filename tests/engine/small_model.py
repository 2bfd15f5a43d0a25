"""Small models of the protocol, searched whole: every state that any order of steps can lead to."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
SOUND = ""


@dataclass(frozen=True, slots=True)
class Model(Generic[S]):
    """A protocol. `steps` are all that can happen next, each with its name; time is not in it: whatever may take long
    may take until after any other step. `wrong` says what must never be; `complete`, what every end must be."""

    name: str
    start: S
    steps: Callable[[S, str], Iterator[tuple[str, S]]]
    wrong: Callable[[S], str | None]
    complete: Callable[[S], bool]
    broken: dict[str, str]  # variants: what is left out, and what that leads to


@dataclass(frozen=True, slots=True)
class Found:
    """How many states there are; what is wrong in the nearest bad one, and the shortest way there."""

    states: int
    wrong: str | None
    way: tuple[str, ...]


def search(model: Model[S], variant: str = SOUND) -> Found:
    """Breadth first, so that the first bad state is a nearest one. Raises `KeyError` for an unknown variant."""
    if variant != SOUND:
        model.broken[variant]
    came: dict[S, tuple[S, str] | None] = {model.start: None}
    ahead = deque([model.start])
    while ahead:
        state = ahead.popleft()
        wrong, ends = model.wrong(state), True
        if wrong is None:
            for label, following in model.steps(state, variant):
                ends = False
                if following not in came:
                    came[following] = (state, label)
                    ahead.append(following)
            if ends and not model.complete(state):
                wrong = "it stands still and is not complete"
        if wrong is not None:
            return Found(len(came), wrong, _way(came, state))
    return Found(len(came), None, ())


def _way(came: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    labels = []
    while (step := came[state]) is not None:
        state, label = step
        labels.append(label)
    return tuple(reversed(labels))


T = TypeVar("T")


def put(values: tuple[T, ...], place: int, value: T) -> tuple[T, ...]:
    """The same tuple with another value at this place."""
    return (*values[:place], value, *values[place + 1 :])
