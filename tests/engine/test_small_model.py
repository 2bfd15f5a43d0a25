"""The protocol as small models, searched whole: the sound one never goes wrong, whatever is left out shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.engine.small_lease import LEASE
from tests.engine.small_model import Model, search
from tests.engine.small_paid import PAID_ANSWERS
from tests.engine.small_run import RUN
from tests.engine.small_slots import SLOT

MODELS: tuple[Model[Any], ...] = (LEASE, RUN, PAID_ANSWERS, SLOT)
BROKEN = [pytest.param(model, variant, id=variant) for model in MODELS for variant in model.broken]
PROOFS = Path(__file__).parents[2] / "docs/concepts/proofs.md"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_no_order_of_steps_goes_wrong(model: Model[Any]) -> None:
    found = search(model)
    print(f"{model.name}: {found.states} states")
    assert (found.wrong, found.way) == (None, ())
    assert found.states > 3000


@pytest.mark.parametrize(("model", "variant"), BROKEN)
def test_the_model_refutes(model: Model[Any], variant: str) -> None:
    found = search(model, variant)
    print("\n".join(found.way))
    assert found.wrong == model.broken[variant]
    assert found.way


def test_a_shortest_way_to_the_fault_is_shown() -> None:
    assert search(RUN, "barriers are looked for before open tasks").way == (
        "task 0 is settled",
        "house 0 has the run's row",
        "house 0 finds no barrier due",
        "task 1 is settled",
        "house 0 finds nothing open",
        "house 0 ends the run",
    )


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(KeyError):
        search(RUN, "nothing of the kind")


def test_the_document_lists_every_variant_and_what_it_leads_to() -> None:
    rows = re.findall(r"^\| (the [^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", PROOFS.read_text(), re.MULTILINE)
    assert rows == [(model.name, *broken) for model in MODELS for broken in model.broken.items()]
