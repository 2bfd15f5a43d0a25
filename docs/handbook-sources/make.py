"""Writes the chapters of the handbook that are not Markdown: one HTML, one PDF, one DOCX and one EPUB file.

    python docs/handbook-sources/make.py            writes into docs/handbook
    python docs/handbook-sources/make.py --check    exit code 1 when a file there differs from what would be written

Needs Gristmill's own dependencies and `pip install reportlab==5.1.0` (for the PDF only). The same sources give the same
bytes: all dates are fixed, members of archives are sorted. The other chapters are written in docs/handbook directly.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

SOURCES = Path(__file__).parent
TARGET = SOURCES.parent / "handbook"
AUTHOR = "The Gristmill authors"
DATE = "2026-01-01T00:00:00Z"
MARKDOWN = MarkdownIt("commonmark", {"xhtmlOut": True}).enable("table")


def title_of(text: str) -> str:
    return text.split("\n", 1)[0].removeprefix("# ")


def make_html(text: str) -> bytes:
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="author" content="{AUTHOR}" />
<title>{escape(title_of(text))}</title>
</head>
<body>
{MARKDOWN.render(text)}</body>
</html>
"""
    return page.encode()


def zipped(members: list[tuple[str, str]]) -> bytes:
    """An archive that is the same for the same members; `mimetype`, if there is one, has to be first and unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members:
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_STORED if name == "mimetype" else zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)
    return buffer.getvalue()


def make_epub(text: str) -> bytes:
    head, *rest = re.split(r"(?m)^(?=## )", text)
    parts = [head + rest[0], *rest[1:]] if rest else [head]
    names = [f"part-{number:02}.xhtml" for number in range(1, len(parts) + 1)]
    titles = [title_of(parts[0]), *(part.split("\n", 1)[0].removeprefix("## ") for part in parts[1:])]
    manifest = "".join(
        f'<item id="p{n}" href="{name}" media-type="application/xhtml+xml"/>' for n, name in enumerate(names)
    )
    spine = "".join(f'<itemref idref="p{n}"/>' for n in range(len(names)))
    contents = "".join(
        f'<li><a href="{name}">{escape(title)}</a></li>' for name, title in zip(names, titles, strict=True)
    )
    package = (
        '<?xml version="1.0" encoding="utf-8"?><package xmlns="http://www.idpf.org/2007/opf" version="3.0" '
        'unique-identifier="id"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<dc:identifier id="id">gristmill-handbook-7</dc:identifier><dc:title>{escape(titles[0])}</dc:title>'
        f'<dc:language>en</dc:language><dc:creator>{AUTHOR}</dc:creator><meta property="dcterms:modified">{DATE}</meta>'
        '</metadata><manifest><item id="nav" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/>'
        f"{manifest}</manifest><spine>{spine}</spine></package>"
    )
    members = [
        ("mimetype", "application/epub+zip"),
        ("META-INF/container.xml", '<?xml version="1.0"?><container version="1.0" '
         'xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles><rootfile full-path="book/package.opf" '
         'media-type="application/oebps-package+xml"/></rootfiles></container>'),
        ("book/package.opf", package),
        ("book/nav.xhtml", xhtml("Contents", '<nav xmlns:epub="http://www.idpf.org/2007/ops" epub:type="toc"><ol>'
                                 f"{contents}</ol></nav>")),
    ]  # fmt: skip
    for name, title, part in zip(names, titles, parts, strict=True):
        members.append((f"book/{name}", xhtml(title, MARKDOWN.render(part))))
    return zipped(members)


def xhtml(title: str, body: str) -> str:
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<!DOCTYPE html>\n<html xmlns="http://www.w3.org/1999/xhtml" lang="en">'
        f"<head><title>{escape(title)}</title></head>\n<body>\n{body}</body></html>\n"
    )


# A chapter as a flat list of blocks: (kind, value), where value is the text of the block or the rows of a table.
Block = tuple[str, list[Token] | str | list[list[list[Token]]]]


def blocks_of(text: str) -> list[Block]:
    found: list[Block] = []
    lists: list[str] = []
    rows: list[list[list[Token]]] = []
    kind = "paragraph"
    for token in MARKDOWN.parse(text):
        if token.type == "heading_open":
            kind = f"heading{token.tag[1]}"
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            lists.append(token.type.split("_")[0])
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
        elif token.type == "paragraph_open":
            kind = lists[-1] if lists else "paragraph"
        elif token.type == "fence":
            found.append(("code", token.content.rstrip("\n")))
        elif token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            kind = "cell"
        elif token.type == "table_close":
            found.append(("table", rows))
        elif token.type == "inline" and kind == "cell":
            rows[-1].append(token.children or [])
        elif token.type == "inline":
            found.append((kind, token.children or []))
    return found


def runs(tokens: list[Token]) -> list[tuple[str, str]]:
    """Inline text as (style, text), the style being "", "b", "i" or "code"."""
    style, found = "", []
    for token in tokens:
        if token.type in ("strong_open", "em_open"):
            style = "b" if token.type == "strong_open" else "i"
        elif token.type in ("strong_close", "em_close"):
            style = ""
        elif token.type == "code_inline":
            found.append(("code", token.content))
        elif token.type == "softbreak":
            found.append((style, " "))
        elif token.content:
            found.append((style, token.content))
    return found


def make_pdf(text: str) -> bytes:
    from reportlab.lib import colors
    from reportlab.lib.pagesizes import A5
    from reportlab.lib.styles import getSampleStyleSheet
    from reportlab.platypus import Paragraph, Preformatted, SimpleDocTemplate, Spacer, Table

    styles = getSampleStyleSheet()
    body = styles["BodyText"]
    body.spaceAfter = 6
    story: list[object] = []
    number = 0

    def marked(tokens: list[Token]) -> str:
        tags = {"b": "<b>%s</b>", "i": "<i>%s</i>", "code": '<font face="Courier">%s</font>', "": "%s"}
        return "".join(tags[style] % escape(content) for style, content in runs(tokens))

    for kind, value in blocks_of(text):
        number = number + 1 if kind == "ordered" else 0
        if kind == "code":
            story.append(Preformatted(str(value), styles["Code"]))
        elif kind == "table":
            cells = [[Paragraph(marked(cell), body) for cell in row] for row in value]  # type: ignore[arg-type,union-attr]
            widths = [64, 84, 224] if len(cells[0]) == 3 else None  # wide enough that no cell goes over two lines
            table = Table(cells, hAlign="LEFT", colWidths=widths)
            table.setStyle([("GRID", (0, 0), (-1, -1), 0.5, colors.grey), ("VALIGN", (0, 0), (-1, -1), "TOP")])
            story += [table, Spacer(1, 8)]
        elif kind.startswith("heading"):
            story.append(Paragraph(marked(value), styles[f"Heading{kind[-1]}"]))  # type: ignore[arg-type]
        elif kind == "paragraph":
            story.append(Paragraph(marked(value), body))  # type: ignore[arg-type]
        else:
            mark = f"{number}." if kind == "ordered" else "\u2022"
            story.append(Paragraph(marked(value), body, bulletText=mark))  # type: ignore[arg-type]
    buffer = io.BytesIO()
    SimpleDocTemplate(
        buffer, pagesize=A5, title=title_of(text), author=AUTHOR, subject="Handbook", creator="Gristmill", invariant=1,
        leftMargin=24, rightMargin=24, topMargin=48, bottomMargin=48,
    ).build(story)  # fmt: skip
    return buffer.getvalue()


WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
XML = '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>'
RELATIONS = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
OPEN = "application/vnd.openxmlformats-officedocument.wordprocessingml"


def make_docx(text: str) -> bytes:
    def run(style: str, content: str) -> str:
        marks = {"b": "<w:b/>", "i": "<w:i/>", "code": '<w:rFonts w:ascii="Courier New" w:hAnsi="Courier New"/>'}
        properties = f"<w:rPr>{marks[style]}</w:rPr>" if style else ""
        return f'<w:r>{properties}<w:t xml:space="preserve">{escape(content)}</w:t></w:r>'

    def paragraph(tokens: list[Token], properties: str = "") -> str:
        inner = "".join(run(style, content) for style, content in runs(tokens))
        return f"<w:p>{f'<w:pPr>{properties}</w:pPr>' if properties else ''}{inner}</w:p>"

    def numbered(identifier: int) -> str:
        return f'<w:numPr><w:ilvl w:val="0"/><w:numId w:val="{identifier}"/></w:numPr>'

    parts: list[str] = []
    for kind, value in blocks_of(text):
        if kind == "code":
            parts.append(
                f"<w:p>{'<w:r><w:br/></w:r>'.join(run('code', line) for line in str(value).split(chr(10)))}</w:p>"
            )
        elif kind == "table":
            rows = "".join(
                f"<w:tr>{''.join(f'<w:tc>{paragraph(cell)}</w:tc>' for cell in row)}</w:tr>"
                for row in value  # type: ignore[union-attr]
            )
            columns = "<w:gridCol/>" * len(value[0])  # type: ignore[arg-type]
            parts.append(f"<w:tbl><w:tblPr/><w:tblGrid>{columns}</w:tblGrid>{rows}</w:tbl>")
        elif kind.startswith("heading"):
            parts.append(paragraph(value, f'<w:pStyle w:val="Heading{kind[-1]}"/>'))  # type: ignore[arg-type]
        else:
            marks = {"ordered": numbered(2), "bullet": numbered(1)}
            parts.append(paragraph(value, marks.get(kind, "")))  # type: ignore[arg-type]
    return zipped(docx_members(title_of(text), "".join(parts)))


def docx_members(title: str, body: str) -> list[tuple[str, str]]:
    styles = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/><w:pPr><w:outlineLvl '
        f'w:val="{n - 1}"/></w:pPr><w:rPr><w:b/><w:sz w:val="{36 - 4 * n}"/></w:rPr></w:style>'
        for n in (1, 2, 3)
    )
    levels = "".join(
        f'<w:abstractNum w:abstractNumId="{n}"><w:lvl w:ilvl="0"><w:start w:val="1"/><w:numFmt w:val="{form}"/>'
        f'<w:lvlText w:val="{mark}"/></w:lvl></w:abstractNum>'
        for n, form, mark in ((1, "bullet", "\u2022"), (2, "decimal", "%1."))
    )
    numbers = "".join(f'<w:num w:numId="{n}"><w:abstractNumId w:val="{n}"/></w:num>' for n in (1, 2))
    package = "http://schemas.openxmlformats.org/package/2006"
    return [
        ("[Content_Types].xml", f'{XML}<Types xmlns="{package}/content-types"><Default Extension="rels" ContentType='
         '"application/vnd.openxmlformats-package.relationships+xml"/><Default Extension="xml" ContentType='
         f'"application/xml"/><Override PartName="/word/document.xml" ContentType="{OPEN}.document.main+xml"/>'
         f'<Override PartName="/word/styles.xml" ContentType="{OPEN}.styles+xml"/><Override PartName='
         f'"/word/numbering.xml" ContentType="{OPEN}.numbering+xml"/><Override PartName="/docProps/core.xml" '
         'ContentType="application/vnd.openxmlformats-package.core-properties+xml"/></Types>'),
        ("_rels/.rels", f'{XML}<Relationships xmlns="{package}/relationships"><Relationship Id="r1" Type='
         f'"{RELATIONS}/officeDocument" Target="word/document.xml"/><Relationship Id="r2" Type='
         f'"{package}/relationships/metadata/core-properties" Target="docProps/core.xml"/></Relationships>'),
        ("docProps/core.xml", f'{XML}<cp:coreProperties xmlns:cp="{package}/metadata/core-properties" xmlns:dc='
         '"http://purl.org/dc/elements/1.1/" xmlns:dcterms="http://purl.org/dc/terms/" xmlns:xsi='
         f'"http://www.w3.org/2001/XMLSchema-instance"><dc:title>{escape(title)}</dc:title><dc:creator>{AUTHOR}'
         f'</dc:creator><dcterms:created xsi:type="dcterms:W3CDTF">{DATE}</dcterms:created></cp:coreProperties>'),
        ("word/_rels/document.xml.rels", f'{XML}<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
         f'Type="{RELATIONS}/styles" Target="styles.xml"/><Relationship Id="r2" Type="{RELATIONS}/numbering" '
         'Target="numbering.xml"/></Relationships>'),
        ("word/document.xml", f'{XML}<w:document xmlns:w="{WORD}"><w:body>{body}<w:sectPr/></w:body></w:document>'),
        ("word/numbering.xml", f'{XML}<w:numbering xmlns:w="{WORD}">{levels}{numbers}</w:numbering>'),
        ("word/styles.xml", f'{XML}<w:styles xmlns:w="{WORD}">{styles}</w:styles>'),
    ]  # fmt: skip


CHAPTERS: tuple[tuple[str, str, Callable[[str], bytes]], ...] = (
    ("02-sources-documents-chunks", "html", make_html),
    ("04-workers-and-leases", "pdf", make_pdf),
    ("05-models-and-the-ledger", "docx", make_docx),
    ("07-datasets-and-export", "epub", make_epub),
)


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the chapters of the handbook that are not Markdown.")
    parser.add_argument("--check", action="store_true", help="write nothing, compare with what is there")
    check = parser.parse_args().check
    different = []
    for name, suffix, make in CHAPTERS:
        made = make((SOURCES / f"{name}.md").read_text(encoding="utf-8"))
        target = TARGET / f"{name}.{suffix}"
        if check and (not target.exists() or target.read_bytes() != made):
            different.append(target.name)
        elif not check:
            target.write_bytes(made)
    if different:
        print("out of date:", ", ".join(different), file=sys.stderr)
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
