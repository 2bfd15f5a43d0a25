"""HTML and EPUB to Markdown.

kreuzberg's HTML reader is good at the body of a page and does four things to the rest that no reader wants: it turns
the head into a false heading, reads a rule below a line as a heading too, puts blank lines into code, and loses table
cells that are not closed. All four are met before it sees the page: the head is cut off, rules become empty
paragraphs, the lines of code are marked, and cells are closed.
Its EPUB reader crashes on text outside ASCII (4.10), so books are opened here and read as the pages they consist of.
"""

from __future__ import annotations

import html
import io
import posixpath
import re
import zipfile
import zlib
from collections import Counter
from urllib.parse import unquote
from xml.etree import ElementTree

from gristmill.data.media import EPUB, HTML
from gristmill.errors import InputError
from gristmill.operators import documents_text
from gristmill.operators.documents_extract import Extract, printable, without_data_urls
from gristmill.operators.documents_kreuzberg import damaged, extract, locked
from gristmill.operators.documents_outline import compact_tables, outline

LINE_MARK = "\ue001"  # a private character, put before every line of code and taken away again
CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w.:-]+)|<\?xml[^>]{0,100}encoding=["']([\w.:-]+)""", re.I)  # noqa: E501  # fmt: skip
TITLE = re.compile(r"<title\b[^>]*>(.*?)</title\s*>", re.I | re.S)
HEAD = re.compile(r"<head\b.*?</head\s*>|<(?:title|script|style|template)\b.*?</(?:title|script|style|template)\s*>", re.I | re.S)  # noqa: E501  # fmt: skip
LOOSE = re.compile(r"<(?:meta|link|base)\b[^>]*>|<!--.*?-->", re.I | re.S)
RULE = re.compile(r"<hr\b[^>]*>", re.I)
CODE = re.compile(r"(<pre\b[^>]*>)(.*?)(</pre\s*>)", re.I | re.S)
TAG_NAME = re.compile(r"</?[A-Za-z][A-Za-z0-9]*")
TABLE_TAG = re.compile(r"<(/?)(table|thead|tbody|tfoot|tr|td|th)\b[^>]*>", re.I)
DEPTH = 50  # kreuzberg loses without a word what is nested deeper than 60
NESTED = re.compile(r"<(/?)(?:div|span|section|article|main|table|tbody|tr|td|ul|ol|blockquote|font|b|i|em|strong|a|form|center)\b", re.I)  # noqa: E501  # fmt: skip
BOXES = re.compile(r"</?(?:div|section|article|main|form|center|blockquote)\b[^>]*>", re.I)
WRAPPERS = re.compile(r"</?(?:span|font|b|i|em|strong)\b[^>]*>", re.I)
TAG = re.compile(r"<[^>]*>")
DRAWING = re.compile(r"<(svg|math)\b.*?</\1\s*>", re.I | re.S)
ENTITIES = re.compile(rb"<!(?:DOCTYPE[^>\[]*\[|ENTITY)", re.I)


def read_html(data: bytes, name: str) -> Extract:
    """Raises P203 (damaged), P205 (no text) and P209 (nested too deep)."""
    page = without_data_urls(_decode(data, name))
    text = _markdown(page, name)
    if _depth(page) > DEPTH and _misses(page, text):
        text = _markdown(WRAPPERS.sub(" ", BOXES.sub("<p></p>", page)), name)
        if _misses(page, text):
            raise InputError(f"{name} is nested too deep: a part of its text cannot be reached", code="P209")
    if not text.strip():
        raise InputError(
            f"no text was found in {name}; pages that are built by a script hold none until they run in a browser",
            code="P205",
        )  # fmt: skip
    return Extract(text, _title(page), headings=outline(text))


def read_epub(data: bytes, name: str) -> Extract:
    """The chapters of a book in reading order. Raises P202 (copy protection), P203 (damaged) and P205 (no text)."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as book:
            title, chapters = _spine(book, name)
            pages = [_decode(book.read(chapter), name) for chapter in chapters]
    except (zipfile.BadZipFile, ElementTree.ParseError, KeyError, OSError, EOFError, ValueError, zlib.error) as error:
        raise damaged(name, EPUB) from error
    except RuntimeError as error:  # zipfile's way to say that a member is encrypted
        raise locked(name) from error
    text = "\n\n".join(filter(None, (_markdown(page, name).strip("\n") for page in pages)))
    if not text.strip():
        raise InputError(f"no text was found in {name}", code="P205")
    text += "\n"
    return Extract(text, title, headings=outline(text))


def _depth(page: str) -> int:
    """How deep elements that have to be closed are nested, at least."""
    depth = deepest = 0
    for found in NESTED.finditer(page):
        depth = max(0, depth - 1) if found.group(1) else depth + 1
        deepest = max(deepest, depth)
    return deepest


def _misses(page: str, text: str) -> bool:
    """Whether a good part of the page's words are not in the text."""
    wanted = Counter(re.findall(r"\w+", html.unescape(TAG.sub(" ", LOOSE.sub("", HEAD.sub("", page))))))
    missing = wanted - Counter(re.findall(r"\w+", text))
    return missing.total() > 0.05 * wanted.total()


def _markdown(page: str, name: str) -> str:
    page = LOOSE.sub("", HEAD.sub("", page))
    page = RULE.sub("<p></p>", DRAWING.sub("", page))
    page = TAG_NAME.sub(lambda found: found.group().lower(), page)  # it takes <TD>x</td> for two different things
    page = _close_cells(page)
    page = CODE.sub(lambda found: found.group(1) + _mark_lines(found.group(2)) + found.group(3), page)
    if not page.strip():
        return ""
    result = extract(f"<html><body>{page}</body></html>".encode(), HTML, name, structure=False)
    return compact_tables(printable(result.content).replace(LINE_MARK, "")).strip("\n") + "\n"


def _close_cells(page: str) -> str:
    """Adds the end tags of cells and rows that HTML lets one leave out; kreuzberg loses the text behind them."""
    tables: list[list[str]] = [[]]  # what is open in each table that we are inside of: "tr", and then "td" or "th"

    def close(found: re.Match[str]) -> str:
        ends, tag = bool(found.group(1)), found.group(2).lower()
        opened, missing = tables[-1], ""
        begins_table = tag == "table" and not ends
        keep = 0 if tag not in ("td", "th") else opened.index("tr") + 1 if "tr" in opened else 0
        if ends and tag in opened:
            keep = opened.index(tag) + 1
        while not begins_table and len(opened) > keep:
            missing += f"</{opened.pop()}>"
        if begins_table:
            tables.append([])
        elif tag == "table":
            del tables[max(1, len(tables) - 1) :]
        elif ends and tag in opened:
            opened.remove(tag)
        elif not ends and tag in ("tr", "td", "th"):
            opened.append(tag)
        return missing + found.group()

    return TABLE_TAG.sub(close, page)


def _mark_lines(code: str) -> str:
    """Before every line, but not inside of tags that happen to go over a line end."""
    code = code.removeprefix("\n")  # HTML ignores a line end right after <pre>
    code = re.sub(r"\s*((?:</\w+\s*>)*)\s*\Z", r"\1", code)
    parts = re.split(r"(<[^>]*>)", code)
    return LINE_MARK + "".join(part if part.startswith("<") else part.replace("\n", f"\n{LINE_MARK}") for part in parts)


def _decode(data: bytes, name: str) -> str:
    declared = CHARSET.search(data[:2048])
    if declared and not data.startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
        encoding = (declared.group(1) or declared.group(2)).decode("ascii")
        try:
            return printable(data.decode(encoding))
        except (LookupError, UnicodeDecodeError):
            pass  # the page is wrong about itself; many are
    return printable(documents_text.decode(data, name)[0])


def _title(page: str) -> str | None:
    found = TITLE.search(page)
    return " ".join(html.unescape(found.group(1)).split()) or None if found else None


def _spine(book: zipfile.ZipFile, name: str) -> tuple[str | None, list[str]]:
    container = _xml(book.read("META-INF/container.xml"), name)
    package_path = next(
        element.attrib["full-path"] for element in container.iter() if element.tag.endswith("rootfile")
    )  # fmt: skip
    package = _xml(book.read(package_path), name)
    folder = posixpath.dirname(package_path)
    items: dict[str, str] = {}
    order: list[str] = []
    title: str | None = None
    for element in package.iter():
        tag = str(element.tag).rpartition("}")[2]
        if tag == "item" and "html" in element.get("media-type", ""):
            items[element.get("id", "")] = posixpath.normpath(posixpath.join(folder, unquote(element.get("href", ""))))
        elif tag == "itemref":
            order.append(element.get("idref", ""))
        elif tag == "title" and title is None:
            title = " ".join((element.text or "").split()) or None
    chapters = [items[entry] for entry in order if entry in items]
    _refuse_protected(book, chapters, name)
    return title, chapters


def _refuse_protected(book: zipfile.ZipFile, chapters: list[str], name: str) -> None:
    """Fonts may be scrambled in any book; chapters only in one with copy protection."""
    if "META-INF/encryption.xml" not in book.namelist():
        return
    listed = {
        unquote(element.get("URI", "")) for element in _xml(book.read("META-INF/encryption.xml"), name).iter()
        if str(element.tag).endswith("CipherReference")
    }  # fmt: skip
    if listed & set(chapters):
        raise InputError(f"{name} is copy-protected (DRM) and cannot be read", code="P202")


def _xml(data: bytes, name: str) -> ElementTree.Element:
    if ENTITIES.search(data):
        raise damaged(name, EPUB)  # entity definitions: no book needs them, the "billion laughs" attack does
    return ElementTree.fromstring(data)  # noqa: S314  # entities are refused above, and expat reads nothing else
