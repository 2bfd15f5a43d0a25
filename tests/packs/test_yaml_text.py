"""YAML from strangers."""

from __future__ import annotations

import json

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.packs.yaml_text import NotYaml, read_yaml

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aéß漢😀 :-#'\"{}[]&*!|>%@`,?~.\n\t", max_size=12),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.text("abcdé漢", max_size=6), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES)
def test_what_yaml_and_json_can_both_say_comes_back(value: object) -> None:
    assert read_yaml(yaml.safe_dump(value, allow_unicode=True))[0] == value
    assert read_yaml(json.dumps(value, ensure_ascii=False))[0] == value


def test_words_are_what_they_look_like() -> None:
    value, _ = read_yaml("[yes, 'no', on, 12:30, 012, 1e3, +1, ~, True, null, 2020-01-01, 0x1F, '', .5, -2.]")
    assert value == ["yes", "no", "on", "12:30", 12, 1000.0, 1, None, True, None, "2020-01-01", "0x1F", "", 0.5, -2.0]


def test_the_line_of_every_value_is_known() -> None:
    value, lines = read_yaml("a: 1\nb:\n  - x\n  - c: 2020-01-01\n")
    assert value == {"a": 1, "b": ["x", {"c": "2020-01-01"}]}
    assert (lines["a",], lines["b", 0], lines["b", 1, "c"]) == (1, 3, 4)


BILLION = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        (BILLION, "aliases", 2),
        ("a: 1\nb: !!python/object/apply:os.system ['true']\n", "the tag", 2),
        ("a: 1\na: 2\n", "second time", 2),
        ("[" * 100_000, "nested deeper", 1),
        ("- .inf\n", "JSON does not have", 1),
        (f"- {'9' * 6000}\n", "4300 digits", 1),
        ("---\na\n---\nb\n", "second document", 3),
        ("? [a]\n: b\n", "a key is text", 1),
        ("a:\n\t- b\n", "cannot start", 2),
        ("a: '\0'\n", "not allowed", 0),
        ("a: \ud800\n", "Unicode", 0),
        ("x" * (2**20 + 1), "characters", 0),
    ],
    ids=["billion", "tag", "twice", "deep", "infinity", "digits", "documents", "key", "tab", "nul", "half", "large"],
)
def test_what_is_no_honest_yaml_is_refused_with_its_line(text: str, problem: str, line: int) -> None:
    with pytest.raises(NotYaml, match=problem) as caught:
        read_yaml(text)
    assert caught.value.line == line
