"""What is wrong with a result: everything, each with its place. Label Studio's own validator lets most of it pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gristmill.data.rows import joined
from gristmill.review.label_studio.labeling import Control, Labeling
from gristmill.review.label_studio.offsets import Unit
from gristmill.review.label_studio.subjects import Subject

SLACK = 1e-6  # percent; what a browser's arithmetic leaves
DIRECTIONS = ("right", "left", "bi")
Value = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """`where` is a path into the task, like "annotations[0].result[2].value.end"."""

    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def check_task(
    task: Any, labeling: Labeling, subject: Subject | None = None, unit: Unit = "codepoint"
) -> list[Problem]:
    """Everything that is wrong with a task and its annotations and predictions; [] when nothing is.

    With `subject` the task has to be about it: the same text, letter by letter. Places count in `unit`.
    """
    return list(_task(task, labeling, subject, unit))


def _task(task: Any, labeling: Labeling, subject: Subject | None, unit: Unit) -> Iterator[Problem]:
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        yield Problem("data", "missing, or no object")
        return
    content = data.get(labeling.data_field)
    if not isinstance(content, str):
        yield Problem(f"data.{labeling.data_field}", "missing, or no text")
        return
    if subject is None and labeling.medium == "text":
        subject = Subject(0, "", content)
    elif subject is not None and subject.picture is None and content != subject.shown.text:
        yield Problem(f"data.{labeling.data_field}", "is not the text that was annotated: offsets would not fit")
        return
    for part in ("annotations", "predictions"):
        entries = task.get(part, [])
        if not isinstance(entries, list):
            yield Problem(part, "no list")
            continue
        for at, entry in enumerate(entries):
            where = f"{part}[{at}]"
            if not isinstance(entry, dict):
                yield Problem(where, "no object")
                continue
            if (score := entry.get("score")) is not None and not _between(score, 0, 1):
                yield Problem(f"{where}.score", f"{score!r} is not between 0 and 1")
            yield from _result(entry.get("result"), labeling, subject, unit, f"{where}.result")


def check_result(
    result: Any, labeling: Labeling, subject: Subject | None = None, unit: Unit = "codepoint"
) -> list[Problem]:
    """Everything that is wrong with the result of one annotation; [] when nothing is."""
    return list(_result(result, labeling, subject, unit, "result"))


def _result(result: Any, labeling: Labeling, subject: Subject | None, unit: Unit, where: str) -> Iterator[Problem]:
    if not isinstance(result, list):
        yield Problem(where, "missing, or no list")
        return
    ids: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    for at, item in enumerate(result):
        place = f"{where}[{at}]"
        if not isinstance(item, dict):
            yield Problem(place, "no object")
        elif item.get("type") != "relation":
            if isinstance(item.get("id"), str):
                ids[item["id"]] += 1
            yield from _item(item, labeling, subject, unit, place, answered)
    for region, count in ids.items():
        if count > 1:
            yield Problem(where, f"the id {region!r} stands {count} times")
    for at, item in enumerate(result):
        if isinstance(item, dict) and item.get("type") == "relation":
            yield from _relation(item, labeling, ids, f"{where}[{at}]")


def _item(
    item: Value, labeling: Labeling, subject: Subject | None, unit: Unit, where: str, answered: Counter[str]
) -> Iterator[Problem]:
    name, value = item.get("from_name"), item.get("value")
    control = next((one for one in labeling.controls if one.name and one.name == name), None)
    if control is None:
        yield Problem(f"{where}.from_name", f"{name!r} is none of the configuration's tags")
        return
    if item.get("type") != control.type:
        yield Problem(f"{where}.type", f"{item.get('type')!r}; {name} gives {control.type!r}")
    if item.get("to_name") != labeling.object_name or control.to_name != labeling.object_name:
        yield Problem(f"{where}.to_name", f"{item.get('to_name')!r}; what is shown is {labeling.object_name!r}")
    if (score := item.get("score")) is not None and not _between(score, 0, 1):
        yield Problem(f"{where}.score", f"{score!r} is not between 0 and 1")
    if not isinstance(value, dict):
        yield Problem(f"{where}.value", "missing, or no object")
        return
    if control.tag in _REGIONS:
        if not isinstance(item.get("id"), str) or not item["id"]:
            yield Problem(f"{where}.id", "missing: a region needs one")
        yield from _labels(value.get(control.type), control, f"{where}.value.{control.type}", one=True)
        if control.tag == "Labels":
            yield from _span(value, subject, unit, f"{where}.value")
        else:
            yield from _box(item, value, subject, where)
        return
    answered[control.name] += 1
    if answered[control.name] > 1:
        yield Problem(where, f"a second answer of {name}")
    yield from _ANSWERS[control.tag](value, control, f"{where}.value")


def _labels(found: Any, control: Control, where: str, *, one: bool = False) -> Iterator[Problem]:
    if not isinstance(found, list) or not found or not all(isinstance(label, str) for label in found):
        yield Problem(where, "missing, or no list of labels")
        return
    yield from (Problem(where, f"{label!r} is none of its labels") for label in found if label not in control.labels)
    if len(set(found)) < len(found):
        yield Problem(where, "a label stands twice")
    if len(found) > 1 and (one or not control.multiple):
        yield Problem(where, f"{len(found)} labels where one is wanted")


def _choices(value: Value, control: Control, where: str) -> Iterator[Problem]:
    yield from _labels(value.get("choices"), control, f"{where}.choices")


def _taxonomy(value: Value, control: Control, where: str) -> Iterator[Problem]:
    paths = value.get("taxonomy")
    if not isinstance(paths, list) or not all(
        isinstance(path, list) and all(isinstance(part, str) for part in path) for path in paths
    ):
        yield Problem(f"{where}.taxonomy", "missing, or no list of paths")
        return
    yield from _labels([joined("label", tuple(path)) for path in paths], control, f"{where}.taxonomy")


def _text_area(value: Value, control: Control, where: str) -> Iterator[Problem]:
    texts = value.get("text")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) and text for text in texts):
        yield Problem(f"{where}.text", "missing, or no list of texts")


def _rating(value: Value, control: Control, where: str) -> Iterator[Problem]:
    stars = value.get("rating")
    if not _between(stars, 0, control.most) or float(stars) != int(stars):  # type: ignore[arg-type]
        yield Problem(f"{where}.rating", f"{stars!r} is no whole number from 0 to {control.most}")


def _span(value: Value, subject: Subject | None, unit: Unit, where: str) -> Iterator[Problem]:
    start, end = value.get("start"), value.get("end")
    for name, place in (("start", start), ("end", end)):
        if isinstance(place, bool) or not isinstance(place, int) or place < 0:
            yield Problem(f"{where}.{name}", f"{place!r} is no place in a text")
            return
    if start >= end:  # type: ignore[operator]
        yield Problem(where, f"it starts at {start} and ends at {end}")
        return
    if subject is None or subject.text is None:
        return
    shown = subject.shown
    there = shown.slice(start, end, unit)  # type: ignore[arg-type]
    length = len(shown.text) + (len(shown.wide) if unit == "utf16" else 0)
    if end > length:  # type: ignore[operator]
        yield Problem(f"{where}.end", f"{end}, and the text has {length} characters")
    elif (said := value.get("text")) is not None and said != there:
        other: Unit = "utf16" if unit == "codepoint" else "codepoint"
        counted = said == shown.slice(start, end, other)  # type: ignore[arg-type]
        why = f"; its places seem to count in {other}" if counted else ""
        yield Problem(f"{where}.text", f"{_short(said)}, and the text has {_short(there)} there{why}")


def _box(item: Value, value: Value, subject: Subject | None, where: str) -> Iterator[Problem]:
    for name in ("x", "y", "width", "height"):
        if not _between(value.get(name), -SLACK, 100 + SLACK):
            yield Problem(f"{where}.value.{name}", f"{value.get(name)!r} is not between 0 and 100 percent")
            return
    x, y, width, height = (float(value[name]) for name in ("x", "y", "width", "height"))
    rotation = value.get("rotation", 0)
    if not _between(rotation, -360, 360):
        yield Problem(f"{where}.value.rotation", f"{rotation!r} is no angle in degrees")
        return
    if width <= SLACK or height <= SLACK:
        yield Problem(f"{where}.value", "it has no area")
    elif not rotation and (x + width > 100 + SLACK or y + height > 100 + SLACK):
        yield Problem(f"{where}.value", f"it sticks out of the picture: {x:g} + {width:g}, {y:g} + {height:g} percent")
    if item.get("image_rotation", 0) not in (0, 360):
        yield Problem(f"{where}.image_rotation", "the picture was turned while it was labelled; ours stand upright")
    if subject is not None and subject.picture is not None:
        for name, size in (("original_width", subject.picture.width), ("original_height", subject.picture.height)):
            if item.get(name, size) != size:
                yield Problem(f"{where}.{name}", f"{item[name]!r}, and the picture has {size} pixels")


def _relation(item: Value, labeling: Labeling, ids: Mapping[str, int], where: str) -> Iterator[Problem]:
    control = labeling.find("Relations")
    if control is None:
        yield Problem(where, "the configuration has no relations")
        return
    for end in ("from_id", "to_id"):
        if not isinstance(item.get(end), str) or item[end] not in ids:
            yield Problem(f"{where}.{end}", f"{item.get(end)!r} is none of the regions")
    if item.get("direction", "right") not in DIRECTIONS:
        yield Problem(f"{where}.direction", f"{item.get('direction')!r} is none of {', '.join(DIRECTIONS)}")
    if not item.get("labels"):
        yield Problem(f"{where}.labels", "a relation without a label says nothing")
    else:
        yield from _labels(item["labels"], Control("Relations", "", "", control.labels, True), f"{where}.labels")


def _between(value: Any, low: float, high: float) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and low <= value <= high  # false for NaN too


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


_REGIONS = ("Labels", "RectangleLabels")
_ANSWERS: dict[str, Callable[[Value, Control, str], Iterator[Problem]]] = {
    "Choices": _choices, "Taxonomy": _taxonomy, "TextArea": _text_area, "Rating": _rating,
}  # fmt: skip


def told(problems: Sequence[Problem], most: int = 5) -> str:
    """The problems as one sentence."""
    more = f"; and {len(problems) - most} more" if len(problems) > most else ""
    return "; ".join(map(str, problems[:most])) + more
