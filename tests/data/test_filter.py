"""The filter grammar: what it takes, what it says of what it does not take, and that it means what SQL means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gristmill.data.filter import Both, Compare, In, Kind, Like, Node, Not, Null, holds, parse_filter
from gristmill.data.rows import FILTER_COLUMNS, Row, filter_value, joined, parted
from gristmill.errors import UsageError

KNOWN: Mapping[str, Kind] = {"name": "text", "score": "number", "good": "truth"}
ROW = Row("Why?", "So.", label=("physics", "light"), score=4.0, grounded=True, heading_path=("A", "B"))


def taken(text: str, row: Row = ROW) -> bool | None:
    return holds(parse_filter(text, FILTER_COLUMNS), lambda name: filter_value(row, name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('score >= 4 and label = "physics/light"', True),
        ("score > 4 OR question LIKE 'W%'", True),
        ("not score = 4 or grounded = false", False),
        ("not (score = 4 and grounded = false)", True),
        ("score = 1 or score = 4 and turns = 0", True),  # "and" binds closer
        ("label in ('a', 'physics/light')", True),
        ("label not in ('a', 'b')", True),
        ("quote is null and score is not null", True),
        ("quote = 'x'", None),
        ("not (quote = 'x')", None),
        ("quote = 'x' or score == 4", True),
        ("quote = 'x' and score <> 4", False),
        ("heading_path like 'A > _'", True),
        ("heading_path not like '%A'", True),
        ("answer like 'So\\.'", True),
        ("score > -1.5e0", True),
    ],
)
def test_a_filter_says_which_rows_are_meant(text: str, expected: bool | None) -> None:
    assert taken(text) is expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "at character 1: the filter ends where a column", "columns:"),
        ("scor > 1", 'at character 1: there is no column "scor"', 'did you mean "score"?'),
        ("score >", "at character 8: the filter ends where a value", ""),
        ("score = 'x'", "at character 9: \"score\" is a number, and 'x' is a text", "score = >>>'x'"),
        ("score = high", 'at character 9: "high" is not a value', "text stands in quotes"),
        ("score = null", 'at character 9: "null" is not a value', '"score is null"'),
        ("(score = 1", 'at character 11: ")" is expected, not the end', ""),
        ("score = 1 score = 2", 'at character 11: "score" is not expected', '"and"'),
        ("name = 'abc", "at character 8: this text has no end", ""),
        ("good > true", "at character 6", ""),
        ("score like 'a'", "at character 1", ""),
        ("name ; drop", "at character 6: '; drop' is not known", ""),
        ("score", 'at character 6: what about "score"?', "one of:"),
        ("(" * 101 + "score = 1" + ")" * 101, "more than 100 levels", ""),
        ("not " * 101 + "score = 1", "more than 100 levels", ""),
    ],
)
def test_what_cannot_be_read_is_told_with_its_place(text: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_filter(text, KNOWN)
    assert caught.value.code == "U420"
    assert message in caught.value.message
    assert hint in caught.value.hint


@settings(max_examples=300, deadline=None)
@given(st.text("score nameand(in)=<>!'\"12.%_\\like,tru", max_size=40))
def test_no_text_does_more_than_be_refused(text: str) -> None:
    try:
        node = parse_filter(text, KNOWN)
    except UsageError:
        return
    holds(node, {"name": "a", "score": 1.0, "good": None}.get)


NAMES = st.sampled_from(["", "a", "ab", "a'b", "b%", "a_c", 'x"y', "\\"])
LEAVES: st.SearchStrategy[Node] = st.one_of(
    st.builds(Compare, st.just("name"), st.sampled_from(["=", "!=", "<", ">="]), NAMES),
    st.builds(
        Compare, st.just("score"), st.sampled_from(["=", "!=", "<", "<=", ">", ">="]), st.sampled_from([0.0, 1.5])
    ),
    st.builds(Compare, st.just("good"), st.sampled_from(["=", "!="]), st.booleans()),
    st.builds(In, st.just("name"), st.lists(NAMES, min_size=1, max_size=3).map(tuple)),
    st.builds(Like, st.just("name"), st.sampled_from(["a%", "_", "%b%", "a\\_c", "%\\%"])),
    st.builds(Null, st.sampled_from(["name", "score", "good"])),
)
NODES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(Both, st.lists(inner, min_size=2, max_size=3).map(tuple), st.booleans())
    ),
    max_leaves=8,
)
ROWS: list[dict[str, Any]] = [
    {"name": name, "score": score, "good": good}
    for name in (None, "a", "ab", "a'b", "a_c", "b%", "\\") for score in (None, 0.0, 1.5, 3.0) for good in (None, True)
]  # fmt: skip


def spelt(node: Node) -> str:
    """The filter as text; PostgreSQL reads it too, since the grammar is a part of its own."""
    match node:
        case Compare(column, sign, value):
            return f"{column} {sign} {literal(value)}"
        case In(column, values):
            return f"{column} in ({', '.join(map(literal, values))})"
        case Like(column, pattern):
            return f"{column} like {literal(pattern)}"
        case Null(column):
            return f"{column} is null"
        case Not(inner):
            return f"not ({spelt(inner)})"
        case Both(parts, all_of):
            return f"({(' and ' if all_of else ' or ').join(map(spelt, parts))})"
    raise AssertionError(node)


def literal(value: Any) -> str:
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value).lower()


@settings(max_examples=200, deadline=None)
@given(NODES)
def test_a_filter_that_is_spelt_and_read_means_the_same(node: Node) -> None:
    again = parse_filter(spelt(node), KNOWN)
    assert [holds(again, row.get) for row in ROWS] == [holds(node, row.get) for row in ROWS]


async def test_filters_mean_what_the_database_means_by_them(pool: asyncpg.Pool[Any]) -> None:
    spelling: list[str] = []

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(NODES)
    def collect(node: Node) -> None:
        spelling.append(spelt(node))

    collect()
    chosen = sorted(set(spelling))
    await pool.execute('create table t (at int, name text collate "C", score float8, good bool)')
    await pool.executemany(
        "insert into t values ($1, $2, $3, $4)", [(at, *row.values()) for at, row in enumerate(ROWS)]
    )
    columns = ", ".join(f"({text})" for text in chosen)
    said = await pool.fetch(f"select {columns} from t order by at")  # noqa: S608
    for at, text in enumerate(chosen):
        node = parse_filter(text, KNOWN)
        assert [row[at] for row in said] == [holds(node, row.get) for row in ROWS], text


@given(st.lists(st.text("a/\\b", min_size=1, max_size=4), max_size=4))
def test_a_path_that_was_joined_comes_apart_again(parts: list[str]) -> None:
    assert parted(joined("label", tuple(parts))) == tuple(parts)
