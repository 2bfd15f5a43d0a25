"""Sets of parameters: they come in the order of their file, wherever they are listed."""

from __future__ import annotations

from pathlib import Path

import pytest

from gristmill.errors import UsageError
from gristmill.workflow_files import configured, read_workflow

TEXT = "name: sizes\nsteps: [parse, split]\nparameters:\n" + "".join(
    f"  {name}: {{split.size: {size}}}\n" for name, size in (("wide", 4000), ("small", 400), ("middle", 900))
)


def test_sets_of_parameters_are_listed_in_the_order_of_their_file(tmp_path: Path) -> None:
    assert list(read_workflow(TEXT)[1]) == ["wide", "small", "middle"]
    path = tmp_path / "sizes.yaml"
    path.write_text(TEXT)
    with pytest.raises(UsageError) as caught:
        configured(str(path), (), "large")
    assert (caught.value.code, caught.value.hint) == ("U304", "wide, small, middle")
