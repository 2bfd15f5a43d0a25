"""What a row of a file is: an example or a conversation, told by its keys. The other way round than export_shapes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gristmill.data.kinds import Conversation, Example, Turn
from gristmill.data.rows import parted

ROLES = {
    "system": "system", "developer": "system", "human": "user", "user": "user", "gpt": "assistant",
    "assistant": "assistant", "model": "assistant", "bot": "assistant",
}  # fmt: skip
CARRIED = ("quote", "evidence_start", "evidence_end", "model", "reasoning_origin", "answer_type", "grounded", "system")
_THOUGHT = re.compile(r"\A<think>\n?(.*?)\n?</think>(?:\n\n|\s*)(.*)\Z", re.DOTALL)
_OWN = re.compile(r"\A<think>\n(.*?)\n</think>\n\n(.*)\Z", re.DOTALL)  # exactly as an export writes it
_PICTURE = re.compile(r"(?:.*/)?([0-9a-f]{64})(?:\.\w+)?")
_TOKEN = "<image>\n"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows are read: where the file has other names for our fields, what no row may lack."""

    fields: Mapping[str, str]
    required: Sequence[str]
    take_reasoning: bool = True


def body_of(row: dict[str, Any], reading: Reading) -> Example | Conversation:
    """The row as a record. Raises `ValueError`, which says what is wrong with it."""
    named = {ours: row[theirs] for ours, theirs in reading.fields.items() if theirs in row}
    metadata = row.get("metadata")
    known = {**(metadata if isinstance(metadata, dict) else {}), **row, **named}
    turns = _turns(known, row, reading)
    talk = [turn for turn in turns if turn.role != "system"]
    asked = next((turn.content for turn in talk if turn.role == "user"), "")
    found = {**known, "question": asked, "answer": talk[-1].content if talk and talk[-1].role == "assistant" else ""}
    for name in reading.required:
        value = found.get(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            raise ValueError(f'no "{name}"')
    several = known.get("kind") == "conversation" or len(talk) != 2
    try:
        return _conversation(known, turns) if several else _example(known, turns)
    except ValidationError as error:
        first = error.errors()[0]
        raise ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _example(known: Mapping[str, Any], turns: Sequence[Turn]) -> Example:
    question, answer = (turn for turn in turns if turn.role != "system")
    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    carried = {name: known[name] for name in CARRIED if known.get(name) is not None}
    if carried.get("answer_type") not in ("label", "json"):
        carried.pop("answer_type", None)  # a test item's type
    if not answer.reasoning:
        carried.pop("reasoning_origin", None)
    elif "reasoning_origin" not in carried:
        carried["reasoning_origin"] = "inline"
    carried |= {"system": system} if system else {}
    return Example(
        question=question.content, answer=answer.content, reasoning=answer.reasoning, image=_image(known),
        label=_label(known), **{name: value for name, value in carried.items() if value != ""},
    )  # fmt: skip


def _conversation(known: Mapping[str, Any], turns: Sequence[Turn]) -> Conversation:
    if not turns or turns[-1].role != "assistant":
        raise ValueError("the last turn is not the assistant's")
    rounds = known.get("rounds") or sum(1 for turn in turns if turn.role == "assistant")
    return Conversation(
        turns=tuple(turns), rounds=int(rounds),
        scenario=known.get("scenario") or "", model=known.get("model") or "", label=_label(known),
    )  # fmt: skip


def _turns(known: Mapping[str, Any], row: Mapping[str, Any], reading: Reading) -> list[Turn]:
    """What is said in the row, from whatever it is called there. Raises `ValueError` for keys that say nothing."""
    for key, role, content in (("turns", "role", "content"), ("conversations", "from", "value"),
                               ("messages", "role", "content")):  # fmt: skip
        if isinstance(known.get(key), list) and known[key]:
            own = key == "turns"
            return [_turn(entry, role, content, reading, own=own) for entry in known[key]]
    for question, answer in (("question", "answer"), ("instruction", "output"), ("prompt", "completion")):
        if question in known and answer in known:
            return _exchange(known, question, answer, reading)
    if reading.fields:
        missing = [theirs for theirs in reading.fields.values() if theirs not in row]
        raise ValueError(f"no field {', '.join(missing) or 'that holds a question and an answer'}")
    raise ValueError(f"its fields ({', '.join(list(row)[:8])}) are of no known shape")


def _exchange(known: Mapping[str, Any], question: str, answer: str, reading: Reading) -> list[Turn]:
    if isinstance(known[question], list) and isinstance(known[answer], list):  # a talk as prompt and completion
        return [_turn(entry, "role", "content", reading) for entry in (*known[question], *known[answer])]
    turns = [Turn(role="system", content=str(known["system"]))] if known.get("system") else []
    for asked, said in known.get("history") or ():
        turns += [_user(str(asked)), _answered(str(said), None, reading)]
    text = _text(known[question])
    if question == "instruction" and known.get("input"):
        text = f"{text}\n{known['input']}" if text else str(known["input"])
    if question == "prompt" and known.get("system") and text.startswith(f"{known['system']}\n\n"):
        text = text.removeprefix(f"{known['system']}\n\n")
    own = question == "question" and known.get("reasoning") is not None
    said = _text(known[answer])
    if own:
        return [*turns, _user(text), Turn(role="assistant", content=said, reasoning=known["reasoning"])]
    return [*turns, _user(text), _answered(said, known.get("reasoning"), reading)]


def _turn(entry: Any, role: str, content: str, reading: Reading, *, own: bool = False) -> Turn:
    if not isinstance(entry, dict) or entry.get(role) not in ROLES:
        raise ValueError(f'a turn has no "{role}" that is known: {json.dumps(entry, ensure_ascii=False)[:80]}')
    who, text = ROLES[entry[role]], _text(entry.get(content))
    thought = next((entry[key] for key in ("reasoning", "reasoning_content", "thinking") if entry.get(key)), None)
    if who == "assistant":
        return Turn(role="assistant", content=text, reasoning=thought) if own else _answered(text, thought, reading)
    return _user(text) if who == "user" else Turn(role="system", content=text)


def _user(text: str) -> Turn:
    return Turn(role="user", content=text.removeprefix(_TOKEN))


def _answered(text: str, reasoning: str | None, reading: Reading) -> Turn:
    if reasoning is None and reading.take_reasoning and (found := _OWN.match(text) or _THOUGHT.match(text)):
        reasoning, text = found[1], found[2]
    return Turn(role="assistant", content=text, reasoning=reasoning or None)


def _text(value: Any) -> str:
    """A text; of content in parts the text parts. Raises `ValueError`."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, list):
        return "".join(part.get("text") or "" for part in value if isinstance(part, dict))
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    raise ValueError(f"{json.dumps(value, ensure_ascii=False)[:80]} is not a text")


def _label(known: Mapping[str, Any]) -> tuple[str, ...] | None:
    label = known.get("label")
    if isinstance(label, str):
        return parted(label) or None
    return tuple(map(str, label)) or None if isinstance(label, list | tuple) else None


def _image(known: Mapping[str, Any]) -> str | None:
    """The picture's hash; a picture that is not named by its hash is not known here."""
    found = _PICTURE.fullmatch(known["image"]) if isinstance(known.get("image"), str) else None
    return found[1] if found else None
