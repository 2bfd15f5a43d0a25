"""PDF to Markdown, page by page.

kreuzberg's Markdown of a PDF has no page marks, and its page boundaries belong to another text, so the Markdown is
put together here from its list of nodes, each of which knows its page. Where the nodes of a page miss a good part of
the page's own words (tables of contents, mostly, which look like tables and are torn to pieces), the plain text of
that page is taken instead: no word of a page is lost for the sake of its looks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gristmill.data.media import PDF
from gristmill.errors import InputError
from gristmill.operators.documents_extract import Assembly, Extract, printable
from gristmill.operators.documents_kreuzberg import extract
from gristmill.operators.documents_outline import table

WORD = re.compile(r"\w+")
MARKER = re.compile(r"[•▪◦‣·*-]\s+|\d{1,3}[.)]\s+")
LEADERS = re.compile(r"(?:\. ?){4,}")
MISSING_LIMIT = 0.25  # share of a page's words that its nodes may lack; running heads are some 5 %
REPEATED = 5  # pages; a "heading" at the edge of so many of them is a running head, and so not a heading
NOT_TITLES = frozenset({"", "untitled", "(anonymous)", "unspecified", "(unspecified)"})


def read_pdf(data: bytes, name: str) -> Extract:
    """Raises P202 (password), P203 (damaged) and P205 (no text on any page)."""
    result = extract(data, PDF, name, structure=True)
    plain = {int(page["page_number"]): printable(page["content"]) for page in result.pages or ()}
    nodes = _by_page(result.document["nodes"] if result.document else ())
    running = _running_heads(nodes)
    assembly = Assembly()
    for number in sorted(plain.keys() | nodes.keys()):
        before = len(assembly.parts)
        own = nodes.get(number, [])
        if _is_complete(own, plain.get(number, "")):
            _add_nodes(assembly, own, running, _width(plain.get(number, "")))
        else:
            assembly.add(_rewrap(plain[number], _width(plain[number])))
        assembly.end_page(number, before)
    if not assembly.parts:
        pages = f"{len(plain)} page{'s' * (len(plain) != 1)}"
        raise InputError(
            f"no text was found in {name} ({pages}): it looks like a scan, and text recognition (OCR) is not on",
            code="P205", hint="run the file through an OCR program and add the result",
        )  # fmt: skip
    return assembly.finish(_title(result.metadata, assembly))


def _by_page(nodes: Sequence[Mapping[str, Any]]) -> dict[int, list[Mapping[str, Any]]]:
    """The nodes that carry text, by page; a node without a page stands where the one before it does."""
    found: dict[int, list[Mapping[str, Any]]] = {}
    number, ordered = 1, False
    counters: dict[int, int] = {}
    for node in nodes:
        content = dict(node["content"])
        number = int(node.get("page") or number)
        if content["node_type"] == "list_item":
            parent = node.get("parent")
            ordered = parent is not None and bool(nodes[parent]["content"].get("ordered"))
            counters[parent or 0] = counters.get(parent or 0, 0) + 1
            content["mark"] = f"{counters[parent or 0]}. " if ordered else "- "
        if content["node_type"] not in ("group", "list", "page_break", "image"):
            found.setdefault(number, []).append(content)
    return found


def _is_complete(nodes: Sequence[Mapping[str, Any]], plain: str) -> bool:
    if any(node["node_type"] == "table" and _is_contents(node) for node in nodes):
        return not plain
    wanted = Counter(WORD.findall(plain))
    missing = wanted - Counter(WORD.findall(" ".join(_words(node) for node in nodes)))
    return missing.total() <= max(8, MISSING_LIMIT * wanted.total())


def _is_contents(node: Mapping[str, Any]) -> bool:
    return len(LEADERS.findall(_words(node))) >= 3


def _words(node: Mapping[str, Any]) -> str:
    if node["node_type"] == "table":
        return " ".join(cell["content"] for cell in node["grid"]["cells"])
    return str(node.get("text") or "")


def _add_nodes(assembly: Assembly, nodes: Sequence[Mapping[str, Any]], running: frozenset[str], width: int) -> None:
    previous = ""
    for node in nodes:
        kind, text = node["node_type"], printable(str(node.get("text") or "")).strip("\n")
        if kind in ("heading", "title") and _shape(text) not in running:
            assembly.add_heading(int(node.get("level") or 1), text)
        elif kind == "table":
            assembly.add(_table(node["grid"]))
        elif kind == "code":
            assembly.add(f"```{node.get('language') or ''}\n{text}\n```")
        elif kind == "list_item" and not _goes_on(assembly, text):
            body = MARKER.sub("", _rewrap(text, width).strip())
            assembly.add(node["mark"] + body.replace("\n", "\n  "), gap="\n" if previous == kind else "\n\n")
        else:
            assembly.add(_rewrap(text, width), gap=" " if _goes_on(assembly, text) else "\n\n")
        previous = kind


def _goes_on(assembly: Assembly, text: str) -> bool:
    """Whether the text is the rest of a sentence that the line or the page before broke off.

    kreuzberg takes a line that begins with a short word and a full stop ("end. When ...") for an item of a list.
    """
    last = assembly.parts[-1].rpartition("\n")[2] if assembly.parts else ""
    return (
        text[:1].islower() and len(last) >= 40 and not last.startswith(("#", "|", "```"))
        and (last[-1].isalnum() or last[-1] in ",-\u2013")
    )  # fmt: skip


def _running_heads(nodes: Mapping[int, Sequence[Mapping[str, Any]]]) -> frozenset[str]:
    """Heads and feet that come back with the page number changed: the first or last thing on several pages."""
    seen: Counter[str] = Counter()
    for own in nodes.values():
        edges = {_shape(str(node.get("text") or "")) for node in (*own[:1], *own[-1:]) if node["node_type"] != "table"}
        seen.update(edges)
    return frozenset(shape for shape, count in seen.items() if count >= REPEATED and shape)


def _shape(text: str) -> str:
    shape = re.sub(r"\b(?:\d+|[ivxlc]+)\b", "#", " ".join(text.split()))
    return shape if len(shape) <= 120 else ""


def _table(grid: Mapping[str, Any]) -> str:
    rows = [["" for _ in range(int(grid["cols"]))] for _ in range(int(grid["rows"]))]
    for cell in grid["cells"]:
        if cell["row"] < len(rows) and cell["col"] < len(rows[cell["row"]]):
            rows[cell["row"]][cell["col"]] = printable(cell["content"])
    return table(rows)


def _width(page: str) -> int:
    """How long the lines of a page are that the margin ended: all but the longest tenth, which may be code."""
    lengths = sorted(len(line.strip()) for line in page.split("\n") if len(line.strip()) >= 20)
    return lengths[len(lengths) * 9 // 10] if lengths else 0


def _rewrap(text: str, width: int) -> str:
    """Joins lines that the page width broke; keeps those that were meant: verses, rows, code, last lines."""
    joined: list[str] = []
    full = False
    for line in (line.strip() for line in text.split("\n")):
        if joined and full and line and not LEADERS.search(line) and not MARKER.match(line):
            joined[-1] += f" {line}"
        else:
            joined.append(line)
        full = len(line) >= max(0.8 * width, 35)
    return "\n".join(joined)


def _title(metadata: Mapping[str, Any], assembly: Assembly) -> str | None:
    title = " ".join(printable(str(metadata.get("title") or "")).split())
    if title.lower() not in NOT_TITLES:
        return title
    return next((heading.title for heading in assembly.headings if heading.level == 1), None)
