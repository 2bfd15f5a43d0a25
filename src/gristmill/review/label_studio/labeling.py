"""What may be said in an annotation project: its labels, as Label Studio's XML and parsed back.

Only an XML library writes and reads the XML, so a label may hold anything that XML can say.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree  # only builds; reading goes through `_Plain`, which refuses declarations

from gristmill.data.rows import joined, parted
from gristmill.errors import UsageError

LARGEST = 2**20  # characters of a configuration that is read
OBJECTS = {"text": "Text", "image": "Image"}
# kind of annotation -> tags that can hold it, the usual first
CONTROLS = {
    "classes": ("Choices", "Taxonomy"), "rating": ("Choices", "TextArea", "Rating"), "entities": ("Labels",),
    "relations": ("Labels", "Relations"), "boxes": ("RectangleLabels",),
}  # fmt: skip
_ITEMS = {"Choices": "Choice", "Labels": "Label", "RectangleLabels": "Label", "Relations": "Relation"}
_SEVERAL = ("Taxonomy", "TextArea")  # take several answers whatever is said
_UNSAYABLE = re.compile("[^\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_COLOURS = (
    "#1f77b4",
    "#d95f02",
    "#1b9e77",
    "#7570b3",
    "#e7298a",
    "#66a61e",
    "#b8860b",
    "#a6761d",
    "#c0392b",
    "#34495e",
)


@dataclass(frozen=True, slots=True)
class Control:
    """One tag that takes answers. Labels of a Taxonomy are paths, as "a/b" (see `gristmill.data.rows.joined`)."""

    tag: str
    name: str  # "" for Relations, which has none
    to_name: str
    labels: tuple[str, ...] = ()  # none: any text may be written
    multiple: bool = False
    most: int = 5  # of a Rating

    @property
    def type(self) -> str:
        """The word that results have for it."""
        return "relation" if self.tag == "Relations" else self.tag.lower()


@dataclass(frozen=True, slots=True)
class Labeling:
    """What is annotated (`medium` "text" or "image", in the field `field` of a task's data), and with what."""

    medium: str
    controls: tuple[Control, ...]
    name: str = ""  # of the tag that shows it; "" the medium's
    field: str = ""

    @property
    def object_name(self) -> str:
        return self.name or self.medium

    @property
    def data_field(self) -> str:
        return self.field or self.medium

    def find(self, *tags: str) -> Control | None:
        """The first control with one of these tags."""
        return next((control for control in self.controls if control.tag in tags), None)

    def need(self, *tags: str) -> Control:
        """The first control with one of these tags. Raises `UsageError` L105."""
        found = self.find(*tags)
        if found is None:
            raise UsageError(f"the labeling configuration has no {' or '.join(tags)}", code="L105")
        return found


def labeling_for(
    kind: str, labels: Sequence[str], *, medium: str = "text", multiple: bool = False, relations: Sequence[str] = (),
    tag: str | None = None, name: str = "label",
) -> Labeling:  # fmt: skip
    """The labeling for a kind of annotation ("classes", "rating", "entities", "relations", "boxes").

    `tag` chooses another than the usual one: "Taxonomy", "TextArea" or "Rating". Raises `UsageError` L101 for no
    labels, and for labels that no configuration can hold, L105 for a tag that does not go with the kind.
    """
    chosen = tag or CONTROLS[kind][0]
    if chosen not in CONTROLS[kind]:
        raise UsageError(f"{chosen} does not hold {kind}", code="L105", hint=f"one of: {', '.join(CONTROLS[kind])}")
    for one in (labels, relations):
        check_labels(one)
    stars = [int(value) for value in labels if re.fullmatch("[0-9]{1,3}", value)] if chosen == "Rating" else []
    if chosen == "Taxonomy":
        labels = _with_those_above(labels)
    if chosen in ("TextArea", "Rating"):
        labels = ()
    elif not labels:
        raise UsageError(f"there are no labels for {kind} yet", code="L101", hint="name them in the step's options")
    several = chosen in _SEVERAL or (multiple and chosen == "Choices")
    controls = [Control(chosen, name, medium, tuple(labels), several, max(1, *stars) if stars else 5)]
    if kind == "relations":
        controls.append(Control("Relations", "", "", tuple(relations)))
    return Labeling(medium, tuple(controls))


def _with_those_above(labels: Sequence[str]) -> list[str]:
    """Paths in a tree, and everything above them: each can be chosen."""
    for label in labels:
        if joined("label", parted(label)) != label or not all(parted(label)):
            raise UsageError(f"{label!r} is no path of a tree", code="L101", hint="parts/joined/by slashes")
    paths = (parted(label)[:depth] for label in labels for depth in range(1, len(parted(label)) + 1))
    order = {path: at for at, path in enumerate(dict.fromkeys(paths))}
    below = sorted(order, key=lambda path: [order[path[:depth]] for depth in range(1, len(path) + 1)])
    return [joined("label", path) for path in below]


def check_labels(labels: Sequence[str]) -> None:
    """Raises `UsageError` L101 for what XML cannot say, for an empty label, and for one that stands twice."""
    for label in labels:
        if not label.strip() or (bad := _UNSAYABLE.search(label)):
            what = f"the character U+{ord(bad[0]):04X} in it" if label.strip() and bad else "nothing but blanks in it"
            raise UsageError(f"{label!r} cannot be a label in Label Studio: {what}", code="L101", hint="rename it")
    if len(set(labels)) < len(labels):
        twice = next(label for at, label in enumerate(labels) if label in labels[:at])
        raise UsageError(f"the label {twice!r} stands twice", code="L101", hint="leave one out")


def configuration(labeling: Labeling) -> str:
    """The labeling as XML; the same labeling gives the same text."""
    view = ElementTree.Element("View")
    shown = {"name": labeling.object_name, "value": f"${labeling.data_field}"}
    if labeling.medium == "text":
        shown |= {"valueType": "text", "granularity": "symbol"}
    else:
        shown |= {"zoom": "true", "zoomControl": "true", "rotateControl": "false"}
    for control in labeling.controls:
        view.append(_element(control))
    view.append(ElementTree.Element(OBJECTS[labeling.medium], shown))
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"


def _element(control: Control) -> ElementTree.Element:
    named = {"name": control.name, "toName": control.to_name} if control.name else {}
    made = ElementTree.Element(control.tag, named)
    if control.tag in ("Choices", "Labels", "RectangleLabels"):
        made.set("choice", "multiple" if control.multiple else "single")
    if control.tag == "Choices":
        made.set("showInLine", "true")
    elif control.tag == "RectangleLabels":
        made.set("canRotate", "true")
    elif control.tag == "TextArea":
        made.set("editable", "true")
        made.set("maxSubmissions", "100")
    elif control.tag == "Rating":
        made.set("maxRating", str(control.most))
    if control.tag == "Taxonomy":
        _add_paths(made, control.labels)
    for at, label in enumerate(control.labels if control.tag in _ITEMS else ()):
        item = ElementTree.SubElement(made, _ITEMS[control.tag], _spelt(label))
        if control.tag != "Relations":
            item.set("background", _COLOURS[at % len(_COLOURS)])
            if at < 9:
                item.set("hotkey", str(at + 1))
    return made


def _spelt(label: str) -> dict[str, str]:
    """A value that starts with $ would be looked up in the task; the alias is what results hold."""
    return {"value": f"\N{FULLWIDTH DOLLAR SIGN}{label[1:]}", "alias": label} if label[0] == "$" else {"value": label}


def _add_paths(tree: ElementTree.Element, labels: Sequence[str]) -> None:
    known: dict[tuple[str, ...], ElementTree.Element] = {(): tree}
    for label in labels:
        path = parted(label)
        for depth in range(1, len(path) + 1):
            if path[:depth] not in known:
                known[path[:depth]] = ElementTree.SubElement(
                    known[path[: depth - 1]], "Choice", _spelt(path[depth - 1])
                )


def parse_configuration(xml: str) -> Labeling:
    """The labeling out of XML, of ours or of anybody's: tags that show things or take other answers are passed over.

    Raises `UsageError`: L102 this is no XML, or it declares entities, or it is too long; L103 it shows neither one text
    nor one picture; L104 a tag lacks what it needs.
    """
    if len(xml) > LARGEST:
        raise UsageError(f"a labeling configuration of {len(xml):,} characters; at most {LARGEST:,}", code="L102")
    parser = ElementTree.XMLParser(target=_Plain())  # noqa: S314  # it refuses every declaration
    try:
        parser.feed(xml)
        root: ElementTree.Element = parser.close()
    except (ElementTree.ParseError, ValueError) as error:
        raise UsageError(f"the labeling configuration is no XML: {error}", code="L102") from None
    shown = [(medium, tag) for medium, name in OBJECTS.items() for tag in root.iter(name)]
    if len(shown) != 1:
        what = "none of these" if not shown else f"{len(shown)} of them"
        raise UsageError(
            f"the labeling configuration shows {what}: a Text, an Image", code="L103", hint="it needs one of them"
        )
    medium, tag = shown[0]
    name, field = _needed(tag, "name"), _needed(tag, "value").removeprefix("$")
    controls = tuple(_control(one) for one in root.iter() if one.tag in {*_ITEMS, "Taxonomy", "TextArea", "Rating"})
    return Labeling(medium, controls, name if name != medium else "", field if field != medium else "")


class _Plain(ElementTree.TreeBuilder):
    """Builds a tree, and refuses a declaration: an entity in it may grow to gigabytes, or read a file."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("a document type is declared, which no labeling configuration needs")


def _control(tag: ElementTree.Element) -> Control:
    relations = tag.tag == "Relations"
    name, to_name = ("", "") if relations else (_needed(tag, "name"), _needed(tag, "toName"))
    if tag.tag == "Taxonomy":
        labels = tuple(joined("label", path) for path in _paths(tag, ()))
    else:
        labels = tuple(_label(item) for item in tag.iter(_ITEMS.get(tag.tag, "")))
    if len(set(labels)) < len(labels):
        twice = next(label for at, label in enumerate(labels) if label in labels[:at])
        raise UsageError(f"{tag.tag} has the label {twice!r} twice", code="L104")
    most = tag.get("maxRating", "5")
    return Control(
        tag.tag, name, to_name, labels, tag.tag in _SEVERAL or tag.get("choice") == "multiple",
        int(most) if most.isascii() and most.isdigit() else 5,
    )  # fmt: skip


def _paths(tag: ElementTree.Element, above: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every path that can be chosen, those above it first."""
    found = []
    for item in tag.findall("Choice"):
        path = (*above, _label(item))
        found += [path, *_paths(item, path)]
    return found


def _label(item: ElementTree.Element) -> str:
    return item.get("alias") or _needed(item, "value")


def _needed(tag: Any, name: str) -> str:
    found = tag.get(name)
    if not found:
        raise UsageError(f"a tag {tag.tag} has no {name}", code="L104")
    return str(found)
