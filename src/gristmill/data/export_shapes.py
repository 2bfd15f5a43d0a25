"""What one row looks like in each format that is made of JSON objects: a function from an entry to a plain object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from gristmill.data.kinds import Turn
from gristmill.data.rows import COLUMNS, Row, lineage, plain, turns_of
from gristmill.errors import UsageError

Reasoning = Literal["field", "inline", "drop"]
LANGUAGES = {"en": "English", "zh": "Chinese", "tr": "Turkish"}


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one question, the better one first."""

    chosen: Row
    rejected: Row


Entry = Row | Pair


def row_of(entry: Entry) -> Row:
    """The row that an entry is counted, split and balanced by."""
    return entry.chosen if isinstance(entry, Pair) else entry


@dataclass(frozen=True, slots=True)
class Layout:
    """How a file is laid out, beyond its format."""

    array: bool = False  # one JSON array in place of a line per row
    bom: bool = False  # CSV: start with a byte order mark
    reasoning: Reasoning = "field"
    lineage: bool = True  # with an object `metadata`
    columns: Mapping[str, str] | None = None  # column -> name in the file; None: all of them
    pictures: bool = False  # rows name files of pictures that lie beside: they get an image token and a list of images
    language: str = "en"


Shape = Callable[[Row, Layout], dict[str, Any]]


def columns(row: Row, layout: Layout) -> dict[str, Any]:
    """The columns that are wanted, under the names that are wanted."""
    names = layout.columns or dict.fromkeys(COLUMNS)
    values = {name: plain(getattr(row, name)) for name in names}
    if layout.reasoning != "field":
        values |= {name: value for name, value in _reasoned(row, layout).items() if name in values}
    return {names[name] or name: value for name, value in values.items()}


def _reasoned(row: Row, layout: Layout) -> dict[str, Any]:
    """The columns of a row whose reasoning is dropped, or stands before the answer."""
    said = [{"role": turn.role, "content": spoken(turn, layout), "reasoning": None} for turn in row.turns]
    origin = row.reasoning_origin if layout.reasoning == "inline" else None
    answer = spoken(Turn(role="assistant", content=row.answer, reasoning=row.reasoning), layout)
    return {"answer": answer, "reasoning": None, "reasoning_origin": origin, "turns": said}


def spoken(turn: Turn, layout: Layout) -> str:
    """What a turn says, with its reasoning before it where that goes inline."""
    if layout.reasoning == "inline" and turn.reasoning:
        return f"<think>\n{turn.reasoning}\n</think>\n\n{turn.content}"
    return turn.content


def alpaca(row: Row, layout: Layout) -> dict[str, Any]:
    """instruction, input, output, system; what was said before the last exchange is the history."""
    system, exchanges = _exchanges(row, layout, "alpaca")
    question, last = exchanges[-1]
    made: dict[str, Any] = {
        "instruction": _pictured(question, row, layout), "input": "", "output": spoken(last, layout),
        "system": system or "",
    }  # fmt: skip
    if len(exchanges) > 1 or layout.pictures:
        made["history"] = [[asked, spoken(said, layout)] for asked, said in exchanges[:-1]]
    if layout.reasoning == "field":
        made["reasoning"] = last.reasoning
    return _closed(made, row, layout)


def sharegpt(row: Row, layout: Layout) -> dict[str, Any]:
    """conversations of from (system, human, gpt) and value."""
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    said: list[dict[str, Any]] = []
    for turn, text in _spoken(row, layout):
        entry: dict[str, Any] = {"from": names[turn.role], "value": text}
        if layout.reasoning == "field":
            entry["reasoning"] = turn.reasoning
        said.append(entry)
    return _closed({"conversations": said}, row, layout)


def messages(row: Row, layout: Layout) -> dict[str, Any]:
    """messages of role and content."""
    said: list[dict[str, Any]] = []
    for turn, text in _spoken(row, layout):
        entry: dict[str, Any] = {"role": turn.role, "content": text}
        if layout.reasoning == "field":
            entry["reasoning_content"] = turn.reasoning
        said.append(entry)
    return _closed({"messages": said}, row, layout)


def thinking_messages(row: Row, layout: Layout) -> dict[str, Any]:
    """The fields of the multilingual-thinking data set: what was asked, thought and said, and messages of all three."""
    turns = turns_of(row)
    drop = layout.reasoning == "drop"
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    last = turns[-1]
    said = [
        {"role": turn.role, "content": turn.content, "thinking": None if drop else turn.reasoning} for turn in turns
    ]
    made = {
        "reasoning_language": LANGUAGES.get(layout.language, layout.language), "developer": system or None,
        "user": next((turn.content for turn in reversed(turns) if turn.role == "user"), ""),
        "analysis": None if drop else last.reasoning, "final": last.content, "messages": said,
    }  # fmt: skip
    return _closed(made, row, layout)


def prompt_completion(row: Row, layout: Layout) -> dict[str, Any]:
    """prompt and completion, for rows of one exchange."""
    system, exchanges = _exchanges(row, layout, "prompt-completion")
    if len(exchanges) > 1:
        raise several(row, "prompt-completion")
    question, last = exchanges[0]
    made: dict[str, Any] = {"prompt": _prompted(system, question), "completion": spoken(last, layout)}
    if layout.reasoning == "field":
        made["reasoning"] = last.reasoning
    return _closed(made, row, layout)


def preference(pair: Pair, layout: Layout) -> dict[str, Any]:
    """prompt, chosen and rejected."""
    better, worse = pair.chosen, pair.rejected
    made: dict[str, Any] = {"prompt": _prompted(better.system, better.question)}
    for name, row in (("chosen", better), ("rejected", worse)):
        made[name] = spoken(Turn(role="assistant", content=row.answer, reasoning=row.reasoning), layout)
    if layout.lineage:
        made["metadata"] = lineage(better) | {
            "rejected_record_id": worse.record_id, "rejected_model": worse.model, "rejected_score": worse.score,
        }  # fmt: skip
    return made


def llava(row: Row, layout: Layout) -> dict[str, Any]:
    """id, image, and conversations whose first question holds the image token; a row without a picture has no image."""
    made: dict[str, Any] = {"id": row.record_id}
    if row.image:
        made["image"] = row.image
    talk = sharegpt(row, layout)
    del talk["images"]
    return made | talk


def image_messages(row: Row, layout: Layout) -> dict[str, Any]:
    """messages whose contents are parts: the picture first, then the text."""
    said: list[dict[str, Any]] = []
    for turn in turns_of(row):
        parts: list[dict[str, Any]] = [{"type": "text", "text": spoken(turn, layout)}]
        if turn.role == "user" and row.image and not any(one["role"] == "user" for one in said):
            parts.insert(0, {"type": "image_url", "image_url": {"url": row.image}})
        entry: dict[str, Any] = {"role": turn.role, "content": parts}
        if layout.reasoning == "field":
            entry["reasoning_content"] = turn.reasoning
        said.append(entry)
    made: dict[str, Any] = {"messages": said}
    return made | ({"metadata": lineage(row)} if layout.lineage else {})


def several(row: Row, name: str) -> UsageError:
    """The error for a talk in a format that holds one exchange."""
    return UsageError(
        f"{name} holds one question and one answer; record {row.record_id or '(new)'} is a longer conversation",
        code="U411", hint="""leave conversations out with the filter kind != "conversation", or take messages""",
    )  # fmt: skip


def _prompted(system: str | None, question: str) -> str:
    return f"{system}\n\n{question}" if system else question


def _spoken(row: Row, layout: Layout) -> list[tuple[Turn, str]]:
    said = [(turn, spoken(turn, layout)) for turn in turns_of(row)]
    first = next((at for at, (turn, _) in enumerate(said) if turn.role == "user"), None)
    if first is not None:
        said[first] = (said[first][0], _pictured(said[first][1], row, layout))
    return said


def _exchanges(row: Row, layout: Layout, name: str) -> tuple[str | None, list[tuple[str, Turn]]]:
    """The system's word, and each question with the turn that answers it."""
    turns: Sequence[Turn] = turns_of(row)
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system") or None
    talk = [turn for turn in turns if turn.role != "system"]
    asked, said = talk[::2], talk[1::2]
    if len(asked) != len(said) or {t.role for t in asked} != {"user"} or {t.role for t in said} != {"assistant"}:
        raise UsageError(
            f"{name} needs question and answer by turns; record {row.record_id or '(new)'} has another order",
            code="U411", hint="take messages, which holds any order",
        )  # fmt: skip
    return system, [(one.content, other) for one, other in zip(asked, said, strict=True)]


def _pictured(text: str, row: Row, layout: Layout) -> str:
    return f"<image>\n{text}" if layout.pictures and row.image else text


def _closed(made: dict[str, Any], row: Row, layout: Layout) -> dict[str, Any]:
    if layout.pictures:
        made["images"] = [row.image] if row.image else []
    if layout.lineage:
        made["metadata"] = lineage(row)
        if layout.reasoning == "drop":
            made["metadata"]["reasoning_origin"] = None
    return made
