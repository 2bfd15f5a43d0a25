"""Annotations as text files: Label Studio's JSON, its short JSON, CSV and TSV of that, and CoNLL-2003."""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from gristmill.data.annotations import Annotation, Entities, Entity, Relations
from gristmill.data.export_writers import GUARDED
from gristmill.review.label_studio.labeling import Labeling
from gristmill.review.label_studio.offsets import Unit
from gristmill.review.label_studio.results import Item, to_result
from gristmill.review.label_studio.subjects import Address, Subject

_SPACE = re.compile(r"\s+")
_ALONE = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")  # a word each


@dataclass(frozen=True, slots=True)
class Entry:
    """One annotated text or picture: what stands of it. `annotation_id` is the record that stands."""

    subject: Subject
    annotation: Annotation
    annotation_id: int
    state: str  # of its review


@dataclass(slots=True)
class Layout:
    """How entries are written, and what had to be left out on the way."""

    labeling: Labeling
    address: Address
    unit: Unit = "codepoint"
    left_out: dict[str, int] = field(default_factory=dict)  # what -> how many

    def lose(self, what: str, count: int = 1) -> None:
        if count:
            self.left_out[what] = self.left_out.get(what, 0) + count


class JsonText:
    """Tasks with their annotations, as Label Studio exports and imports them."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._rows = 0

    def head(self) -> str:
        return "["

    def entry(self, entry: Entry) -> str:
        self._rows += 1
        return ("\n" if self._rows == 1 else ",\n") + json.dumps(self.shape(entry), ensure_ascii=False)

    def tail(self) -> str:
        return "\n]\n" if self._rows else "]\n"

    def shape(self, entry: Entry) -> dict[str, Any]:
        layout = self.layout
        one = {
            "id": entry.annotation_id, "completed_by": {"email": entry.annotation.annotator},
            "result": to_result(entry.annotation, entry.subject, layout.labeling, layout.unit), "was_cancelled": False,
            "ground_truth": False,
        }  # fmt: skip
        data = entry.subject.data(layout.labeling.data_field, layout.address)
        return {"id": entry.subject.record_id, "data": data, "annotations": [one], "predictions": []}


class ShortJsonText(JsonText):
    """The data of a task with the answers beside it, by the names of their tags."""

    def shape(self, entry: Entry) -> dict[str, Any]:
        whole = super().shape(entry)
        (one,) = whole["annotations"]
        made = {**whole["data"], "id": whole["id"], **_answers(one["result"], self.layout.labeling)}
        return {**made, "annotator": entry.annotation.annotator, "annotation_id": entry.annotation_id}


class CsvText:
    """The short JSON as a table; what is no text or number stands in its cell as JSON."""

    def __init__(self, layout: Layout, delimiter: str = ",") -> None:
        self._shape = ShortJsonText(layout).shape
        field_ = layout.labeling.data_field
        names = [control.name or "relations" for control in layout.labeling.controls]
        about = ["source", "title", "document", "project", "run", "subject"]
        pictured = ["picture", "width", "height"] if layout.labeling.medium == "image" else []
        self._columns = ["id", "record_id", field_, *about, *pictured, *names, "annotator", "annotation_id"]
        self._delimiter = delimiter

    def head(self) -> str:
        return self._line(self._columns)

    def entry(self, entry: Entry) -> str:
        row = self._shape(entry)
        return self._line([_cell(row.get(name)) for name in self._columns])

    def tail(self) -> str:
        return ""

    def _line(self, cells: Sequence[Any]) -> str:
        text = io.StringIO(newline="")
        csv.writer(text, delimiter=self._delimiter, lineterminator="\r\n").writerow(cells)
        return text.getvalue()


class ConllText:
    """CoNLL-2003: a word a line with its tag (B-, I-, O), a blank line after each text."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._source: Any = None

    def head(self) -> str:
        return "-DOCSTART- -X- _ O\n\n"

    def entry(self, entry: Entry) -> str:
        source, known = entry.subject.about.get("source"), self._source
        self._source = source
        begin = "-DOCSTART- -X- _ O\n\n" if known not in (None, source) else ""
        text, annotation = entry.subject.text or "", entry.annotation
        found = annotation.entities if isinstance(annotation, Entities | Relations) else ()
        apart = without_overlaps(found)
        self.layout.lose("entities that overlap another one", len(found) - len(apart))
        if isinstance(annotation, Relations):
            self.layout.lose("relations", len(annotation.relations))
        lines = [f"{word} -X- _ {tag}\n" for word, tag in tagged(text, apart)]
        return begin + "".join(lines) + "\n" if lines else begin

    def tail(self) -> str:
        return ""


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """In order of the text, the longest of those that overlap."""
    kept: list[Entity] = []
    for one in sorted(entities, key=lambda one: (one.start - one.end, one.start)):
        if all(one.end <= other.start or one.start >= other.end for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda one: one.start)


def tagged(text: str, entities: Sequence[Entity]) -> Iterator[tuple[str, str]]:
    """Words and their tags; `entities` are in order and apart. A word ends where an entity begins or ends."""
    edges = {edge for one in entities for edge in (one.start, one.end)}
    waiting = list(reversed(entities))
    begun: Entity | None = None
    for start, end in words(text, edges):
        while waiting and waiting[-1].end <= start:
            waiting.pop()
        one = waiting[-1] if waiting and waiting[-1].start <= start else None
        label = _SPACE.sub("_", one.label) if one else ""
        yield text[start:end], "O" if one is None else f"{'I' if one is begun else 'B'}-{label}"
        begun = one


def words(text: str, edges: set[int]) -> Iterator[tuple[int, int]]:
    """Where words are: letters, digits and their marks together, everything else a word of its own, blanks none."""
    start: int | None = None
    for at, sign in enumerate(text):
        joins = _joins(sign)
        if start is not None and (not joins or at in edges):
            yield start, at
            start = None
        if joins:
            start = at if start is None else start
        elif not sign.isspace() and unicodedata.category(sign) != "Cc":
            yield at, at + 1
    if start is not None:
        yield start, len(text)


def _joins(sign: str) -> bool:
    kind = unicodedata.category(sign)
    return (kind[0] in "LNM" or kind in ("Pc", "Cf")) and not _ALONE.match(sign)


def _answers(result: Sequence[Item], labeling: Labeling) -> dict[str, Any]:
    """What was answered, by the name of the tag, as in Label Studio's JSON-MIN; relations by the places of regions."""
    made: dict[str, Any] = {}
    regions = [item for item in result if item["type"] != "relation"]
    places = {item["id"]: at for at, item in enumerate(regions)}
    for item in regions:
        value = item["value"]
        if item["type"] in ("choices", "taxonomy", "textarea", "rating"):
            (answer,) = value.values()
            made[item["from_name"]] = answer[0] if isinstance(answer, list) and len(answer) == 1 else value
        else:
            size = {name: item[name] for name in ("original_width", "original_height") if name in item}
            made.setdefault(item["from_name"], []).append({**value, **size})
    if labeling.find("Relations"):
        made["relations"] = [
            {
                "from": places[item["from_id"]], "to": places[item["to_id"]], "direction": item["direction"],
                "labels": item["labels"],
            }
            for item in result if item["type"] == "relation"
        ]  # fmt: skip
    return made


def _cell(value: Any) -> Any:
    if isinstance(value, list | dict):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and GUARDED.match(value) else value
