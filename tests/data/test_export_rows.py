"""What exports hold: shapes, splits, pairs, bundles, and that what was written can be read again."""

from __future__ import annotations

import csv
import hashlib
import importlib
import io
import json
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gristmill.data.export_formats import FORMATS, Options
from gristmill.data.exports import Manifest, Row, export
from gristmill.data.import_rows import Problem, records_in
from gristmill.data.import_shapes import Reading, body_of
from gristmill.data.kinds import Conversation, Example, Turn, content_hash
from gristmill.data.rows import COLUMNS
from gristmill.errors import InputError, UsageError

PICTURE = b"\x89PNG\r\n\x1a\n" + bytes(20)
PNG = hashlib.sha256(PICTURE).hexdigest()
EXAMPLE = Example(
    question="What opens\nfirst?", answer='=The "inlet".', quote="the inlet", evidence_start=8, evidence_end=17,
    model="openai:small", reasoning="First the inlet.\nThen the rest.", reasoning_origin="native", answer_type="label",
    grounded=True, system="Be short.", image=PNG, label=("pumps/valves", "inlet"),
)  # fmt: skip
BARE = Example(question="'=1+1?", answer="2")
TALK = Conversation(
    turns=(
        Turn(role="system", content="Be kind."), Turn(role="user", content="Hello?"),
        Turn(role="assistant", content="Hello.", reasoning="Greet."), Turn(role="user", content="And?"),
        Turn(role="assistant", content="Nothing."),
    ), rounds=3, scenario="a shop", model="openai:small", label=("talk",),
)  # fmt: skip
SHORT_TALK = Conversation(
    turns=(Turn(role="user", content="Hello?"), Turn(role="assistant", content="Yes.")), rounds=1, model="m"
)
ONE_EXCHANGE = ("prompt-completion",)


def row_of(body: Example | Conversation, **lineage: Any) -> Row:
    """The row that the database gives for such a record."""
    from gristmill.data.dataset import _CONTENT

    content = _CONTENT[body.kind](body.model_dump_json())
    return Row(**content, kind=body.kind, record_id="7", source="a.md", document="d", **lineage)


async def stream(rows: Iterable[Row]) -> AsyncIterator[Row]:
    for row in rows:
        yield row


async def read_image(digest: str) -> bytes:
    assert digest == PNG
    return PICTURE


async def write(path: Path, format: str, made: Iterable[Row], **options: Any) -> Manifest:
    return await export(stream(made), path, format, Options(**options), read_image=read_image)


def read(path: Path, reading: Reading | None = None) -> list[Any]:
    found = []
    for place, row in records_in(path.name, path.read_bytes()):
        assert not isinstance(row, Problem), (place, row)
        found.append(body_of(row, reading or Reading({}, ("question", "answer"))))
    return found


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


READABLE = ("jsonl", "csv", "parquet", "alpaca", "sharegpt", "messages", "thinking-messages", "prompt-completion")


@pytest.mark.parametrize("format", READABLE)
@pytest.mark.parametrize("array", [False, True])
async def test_what_was_exported_and_read_again_is_the_same_record(tmp_path: Path, format: str, array: bool) -> None:
    if array and not FORMATS[format].array_suffix:
        return
    bodies = [EXAMPLE, BARE] if format in ONE_EXCHANGE else [EXAMPLE, BARE, TALK, SHORT_TALK]
    path = tmp_path / f"rows{'.json' if array else FORMATS[format].suffixes[0]}"
    await write(path, format, map(row_of, bodies))
    assert [content_hash(one) for one in read(path)] == [content_hash(one) for one in bodies]


@pytest.mark.parametrize("format", ["sharegpt", "messages", "alpaca", "prompt-completion"])
@pytest.mark.parametrize("reasoning", ["field", "inline", "drop"])
async def test_the_chain_of_thought_goes_where_it_is_wanted(
    tmp_path: Path, format: str, reasoning: Literal["field", "inline", "drop"]
) -> None:
    path = tmp_path / "rows.jsonl"
    await write(path, format, [row_of(EXAMPLE)], reasoning=reasoning)
    text = path.read_text("utf-8")
    assert ("<think>" in text) is (reasoning == "inline")
    assert ("First the inlet." in text) is (reasoning != "drop")
    expected = EXAMPLE if reasoning != "drop" else EXAMPLE.model_copy(
        update={"reasoning": None, "reasoning_origin": None}
    )  # fmt: skip
    assert read(path) == [expected]


TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TEXTS, TEXTS, st.none() | TEXTS)
@pytest.mark.parametrize("format", ["jsonl", "csv", "messages"])
async def test_no_text_is_changed_by_a_round_trip(
    tmp_path: Path, format: str, question: str, answer: str, quote: str | None
) -> None:
    if answer.startswith("<think>") or question.startswith("<image>"):
        return
    example = Example(question=question, answer=answer, quote=quote)
    path = tmp_path / f"rows{FORMATS[format].suffixes[0]}"
    await write(path, format, [row_of(example)])
    assert read(path) == [example]


async def test_columns_are_chosen_and_renamed_and_read_back_by_their_new_names(tmp_path: Path) -> None:
    wanted = {"question": "prompt", "answer": "completion", "label": "topic", "source": "file"}
    for format, name in (("jsonl", "a.jsonl"), ("csv", "a.csv"), ("parquet", "a.parquet")):
        path = tmp_path / name
        await write(path, format, [row_of(BARE, title="T")], columns=wanted)
        reading = Reading({"question": "prompt", "answer": "completion", "label": "topic"}, ("question", "answer"))
        assert read(path, reading) == [BARE]
    assert list(lines(tmp_path / "a.jsonl")[0]) == ["prompt", "completion", "topic", "file"]
    header = next(csv.reader(io.StringIO((tmp_path / "a.csv").read_text("utf-8"))))
    assert header == ["prompt", "completion", "topic", "file"]


async def test_thinking_messages_have_the_fields_of_their_data_set(tmp_path: Path) -> None:
    await write(tmp_path / "a.jsonl", "thinking-messages", [row_of(EXAMPLE)], lineage=False, language="tr")
    assert lines(tmp_path / "a.jsonl") == [{
        "reasoning_language": "Turkish", "developer": "Be short.", "user": EXAMPLE.question,
        "analysis": EXAMPLE.reasoning, "final": EXAMPLE.answer, "messages": [
            {"role": "system", "content": "Be short.", "thinking": None},
            {"role": "user", "content": EXAMPLE.question, "thinking": None},
            {"role": "assistant", "content": EXAMPLE.answer, "thinking": EXAMPLE.reasoning},
        ],
    }]  # fmt: skip


async def test_a_talk_in_a_format_of_one_exchange_is_refused_with_what_to_do(tmp_path: Path) -> None:
    for format in ("prompt-completion", "preference"):
        with pytest.raises(UsageError) as caught:
            await write(tmp_path / "a.jsonl", format, [row_of(TALK)])
        assert caught.value.code == "U411"
        assert "conversation" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


async def test_splits_go_by_document_and_depend_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [
        Row(f"q{document}.{chunk}", "a", chunk=f"c{document}.{chunk}", document=f"d{document}", source=f"{document}.md")
        for document in range(200) for chunk in range(3)
    ]  # fmt: skip
    shares = {"train": 8, "valid": 1, "test": 1}
    manifest = await write(tmp_path / "a.jsonl", "jsonl", rows, split=shares, seed=7)
    names = ["a-test.jsonl", "a-train.jsonl", "a-valid.jsonl", "a.jsonl.manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    split = {name: {row["document"] for row in lines(tmp_path / f"a-{name}.jsonl")} for name in shares}
    chunks = {name: {row["chunk"] for row in lines(tmp_path / f"a-{name}.jsonl")} for name in shares}
    assert sum(map(len, split.values())) == len(set().union(*split.values())) == 200
    assert sum(map(len, chunks.values())) == 600
    assert 130 < len(split["train"]) < 185
    assert manifest.splits == {name: 3 * len(found) for name, found in split.items()}
    stored = json.loads((tmp_path / "a.jsonl.manifest.json").read_text("utf-8"))
    assert (stored["splits"], stored["options"]["seed"]) == (manifest.splits, 7)
    for file in stored["files"]:
        assert file["sha256"] == hashlib.sha256((tmp_path / file["name"]).read_bytes()).hexdigest()
    again = await write(tmp_path / "b.jsonl", "jsonl", reversed(rows), split=shares, seed=7)
    other = await write(tmp_path / "c.jsonl", "jsonl", rows, split=shares, seed=8)
    assert again.splits == manifest.splits
    assert {row["document"] for row in lines(tmp_path / "b-test.jsonl")} == split["test"]
    assert {row["document"] for row in lines(tmp_path / "c-test.jsonl")} != split["test"]
    assert other.rows == 600


async def test_a_filter_and_a_balance_choose_rows(tmp_path: Path) -> None:
    rows = [Row(f"q{n}", "a", label=(("x", "y", "x")[n % 3],), score=float(n)) for n in range(30)]
    manifest = await write(tmp_path / "a.jsonl", "jsonl", rows, where="score >= 3", balance=4)
    assert [row["score"] for row in lines(tmp_path / "a.jsonl")] == [3, 4, 5, 6, 7, 8, 10, 13]
    assert manifest.rows == 8


async def test_pairs_are_the_best_and_the_worst_answer_to_a_question(tmp_path: Path) -> None:
    def answer(question: str, text: str, score: float | None) -> Row:
        return Row(question, text, score=score, question_id=question, model=text, record_id=text)

    rows = [
        answer("1", "middling", 3), answer("1", "bad", 1), answer("1", "best", 5), answer("1", "unjudged", None),
        answer("2", "alone", 5), answer("3", "same", 2), answer("3", "as good", 2), answer("4", "no", 0),
        answer("4", "yes", 1),
    ]  # fmt: skip
    await write(tmp_path / "a.jsonl", "preference", rows)
    found = lines(tmp_path / "a.jsonl")
    assert [(row["prompt"], row["chosen"], row["rejected"]) for row in found] == [
        ("1", "best", "bad"),
        ("4", "yes", "no"),
    ]
    assert (found[0]["metadata"]["score"], found[0]["metadata"]["rejected_score"]) == (5, 1)


@pytest.mark.parametrize("rows", FORMATS["llama-factory"].rows)
async def test_the_tags_of_a_llama_factory_bundle_match_its_rows(tmp_path: Path, rows: str) -> None:
    made = [row_of(EXAMPLE, score=4.0), row_of(EXAMPLE.model_copy(update={"answer": "No."}), score=1.0)]
    made += [] if rows == "preference" else [row_of(BARE), row_of(TALK)]
    manifest = await write(tmp_path / "my set", "llama-factory", made, rows=rows, split={"train": 1, "test": 1})
    info = json.loads((tmp_path / "my set" / "dataset_info.json").read_text("utf-8"))
    assert list(info) == ["my_set_train", "my_set_test"]
    found = 0
    for entry in info.values():
        for row in lines(tmp_path / "my set" / entry["file_name"]):
            found += 1
            assert set(entry["columns"].values()) <= set(row)
            for picture in row.get("images", ()):
                assert (tmp_path / "my set" / picture).read_bytes() == PICTURE
            if tags := entry.get("tags"):
                said = row[entry["columns"]["messages"]]
                roles = {tags["system_tag"], tags["user_tag"], tags["assistant_tag"]}
                assert all(turn[tags["role_tag"]] in roles and turn[tags["content_tag"]] for turn in said)
                talk = [turn[tags["role_tag"]] for turn in said if turn[tags["role_tag"]] != tags["system_tag"]]
                assert talk == [tags["user_tag"], tags["assistant_tag"]] * (len(talk) // 2)
                marks = sum(turn[tags["content_tag"]].count("<image>") for turn in said)
                assert marks == len(row["images"])
    assert found == manifest.rows == (1 if rows == "preference" else 4)


async def test_a_hugging_face_folder_says_where_its_splits_are(tmp_path: Path) -> None:
    path = tmp_path / "set"
    made = [row_of(EXAMPLE), row_of(TALK), replace(row_of(BARE), document="other")]
    await write(path, "huggingface", made, split={"train": 0.9, "test": 0.1})
    card = (path / "README.md").read_text("utf-8")
    header = yaml.safe_load(card.split("---\n")[1])
    assert header["configs"][0]["data_files"] == [
        {"split": "train", "path": "data/train.parquet"}, {"split": "test", "path": "data/test.parquet"}
    ]  # fmt: skip
    read_again = [body for entry in header["configs"][0]["data_files"] for body in read(path / entry["path"])]
    assert {content_hash(body) for body in read_again} == {content_hash(one) for one in (EXAMPLE, BARE, TALK)}
    assert (path / "images" / f"{PNG}.png").read_bytes() == PICTURE


@pytest.mark.parametrize("format", ["llava", "image-messages"])
async def test_image_formats_name_pictures_that_lie_beside_them(tmp_path: Path, format: str) -> None:
    manifest = await write(tmp_path / "set", format, [row_of(EXAMPLE), row_of(EXAMPLE), row_of(BARE)])
    assert manifest.images == 1
    if format == "llava":
        rows = json.loads((tmp_path / "set" / "data.json").read_bytes())
        assert rows[0]["image"] == f"images/{PNG}.png"
        assert rows[0]["conversations"][1]["value"] == f"<image>\n{EXAMPLE.question}"
        assert "image" not in rows[2]
    else:
        rows = lines(tmp_path / "set" / "data.jsonl")
        parts = rows[0]["messages"][1]["content"]
        assert parts[0] == {"type": "image_url", "image_url": {"url": f"images/{PNG}.png"}}
        assert parts[1] == {"type": "text", "text": EXAMPLE.question}
    name = FORMATS[format].file
    assert [content_hash(one) for one in read(tmp_path / "set" / name)] == [
        content_hash(one) for one in (EXAMPLE, EXAMPLE, BARE)
    ]


async def test_a_bundle_replaces_an_earlier_export_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "set"
    await write(path, "llava", [row_of(EXAMPLE)])
    await write(path, "huggingface", [row_of(BARE)])
    assert sorted(entry.name for entry in path.iterdir()) == ["README.md", "data", "gristmill.manifest.json"]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError) as caught:
        await write(path, "llava", [row_of(EXAMPLE)])
    assert caught.value.code == "U404"
    assert "notes.txt" in caught.value.message
    other = tmp_path / "other"
    other.mkdir()
    (other / "gristmill.manifest.json").write_text("{}")
    with pytest.raises(UsageError):
        await write(other, "llava", [row_of(EXAMPLE)])
    with pytest.raises(UsageError):
        await write(path / "notes.txt", "llava", [row_of(EXAMPLE)])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["other", "set"]


async def test_a_bundle_that_breaks_off_leaves_the_earlier_one_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "set"
    await write(path, "huggingface", [row_of(EXAMPLE)])
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}

    async def broken() -> AsyncIterator[Row]:
        yield row_of(BARE)
        raise ConnectionResetError("the database went away")

    with pytest.raises(ConnectionResetError):
        await export(broken(), path, "huggingface", read_image=read_image)
    with pytest.raises(UsageError, match="pictures"):
        await export(stream([row_of(EXAMPLE)]), path, "llava")
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(
    ("format", "options", "message"),
    [
        ("alpaca", {"columns": {"question": "q"}}, "names of its own"),
        ("jsonl", {"columns": {"questoin": "q"}}, 'no column "questoin"'),
        ("jsonl", {"columns": {"question": "q", "answer": "q"}}, "name of its own"),
        ("jsonl", {"rows": "alpaca"}, "only a bundle"),
        ("llama-factory", {"rows": "csv"}, "cannot hold rows"),
        ("jsonl", {"split": {"a-b": 1.0}}, "name of a split"),
        ("jsonl", {"split": {"a": 0.0}}, "more than 0"),
        ("jsonl", {"split": {"a": float("nan")}}, "more than 0"),
        ("jsonl", {"balance": 0}, "at least 1"),
        ("jsonl", {"where": "x = 1"}, 'no column "x"'),
        ("preference", {"reasoning": "field"}, "no field"),
    ],
)
async def test_options_that_make_no_sense_are_told_before_anything_is_written(
    tmp_path: Path, format: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        await write(tmp_path / "a", format, [row_of(BARE)], **options)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_row_is_told_by_its_place_and_nothing_is_guessed() -> None:
    data = b'{"question": "q", "answer": "a"}\n\n[1]\n{"question": "q"\n{"question": "q", "answer": " "}\n{"x": 1}\n'
    data += b'{"messages": [{"role": "user", "content": "q"}]}\n{"messages": [{"role": "robot", "content": "q"}]}\n'
    told = []
    for place, row in records_in("a.jsonl", data):
        try:
            told.append(row.reason if isinstance(row, Problem) else body_of(row, Reading({}, ("question", "answer"))))
        except ValueError as error:
            told.append(f"{place}: {error}")
    assert told[0] == Example(question="q", answer="a")
    assert told[1] == "not an object, but list"
    assert str(told[2]).startswith("not JSON")
    assert told[3:5] == ['line 5: no "answer"', "line 6: its fields (x) are of no known shape"]
    assert told[5] == 'line 7: no "answer"'
    assert str(told[6]).startswith('line 8: a turn has no "role" that is known')
    for name, bad in (("a.txt", b"x"), ("a.json", b"{}"), ("a.json", b"{"), ("a.parquet", b"PAR1"), ("a.csv", b"\xff")):
        with pytest.raises(InputError):
            list(records_in(name, bad))


def load(name: str) -> Any:
    """A library that rows are written for; heavy, so not everywhere: pip install --group formats-test."""
    try:
        return importlib.import_module(name)
    except ImportError:
        pytest.skip(f"{name} is not installed: pip install --group formats-test")


@pytest.mark.parametrize("format", [name for name, format in FORMATS.items() if name != "huggingface"])
async def test_datasets_loads_every_format(tmp_path: Path, format: str) -> None:
    datasets = load("datasets")
    rows = [row_of(EXAMPLE, score=4.0), row_of(EXAMPLE.model_copy(update={"answer": "No."}), score=1.0), row_of(BARE)]
    bundle = FORMATS[format].bundle
    path = tmp_path / (format if bundle else f"a{FORMATS[format].suffixes[0]}")
    manifest = await write(path, format, rows)
    file = path / manifest.files[0].name if bundle else path
    builder = {".csv": "csv", ".parquet": "parquet"}.get(file.suffix, "json")
    loaded = datasets.load_dataset(builder, data_files=str(file), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(loaded) == manifest.rows > 0


@pytest.mark.parametrize("rows", FORMATS["huggingface"].rows)
async def test_datasets_loads_a_hugging_face_folder_with_its_splits(tmp_path: Path, rows: str) -> None:
    datasets = load("datasets")
    made = [
        replace(row_of(EXAMPLE, score=float(n % 2), question_id=f"{n // 2}"), document=f"{n // 4}", answer=f"{n}")
        for n in range(60)
    ]
    manifest = await write(tmp_path / "set", "huggingface", made, rows=rows, split={"train": 0.7, "test": 0.3})
    loaded = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == manifest.splits
    assert min(manifest.splits.values()) > 0
    if rows == "parquet":
        assert list(loaded["train"].features) == list(COLUMNS)
        assert dict(loaded["train"][0])["label"] == ["pumps/valves", "inlet"]


def test_every_field_of_an_example_has_a_column() -> None:
    missing = set(Example.model_fields) - set(asdict(row_of(BARE)))
    assert not missing
    assert not set(Conversation.model_fields) - set(asdict(row_of(TALK)))
