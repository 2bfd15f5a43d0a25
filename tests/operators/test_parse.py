import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import Document, Source
from gristmill.errors import InputError, WorkflowError
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context
from gristmill.operators.parse import parse

FILES = Path(__file__).parent.parent / "files"
HANDBOOK = Path(__file__).parents[2] / "docs" / "handbook"


@pytest.fixture
def read(tmp_path):
    """Runs the operator on bytes under a name and returns (document, text)."""
    blobs = Blobs(tmp_path / "blobs", reserve=0)

    async def run(name: str, data: bytes, **options) -> tuple[Document, str]:
        source = Source(name=name, blob=await blobs.write(data), size=len(data), media_type="")
        (made,) = await run_operator(parse, [source], {}, options, Context(blobs=blobs))
        document = made.body
        text = (await blobs.read(document.text_blob)).decode()
        check(document, text)
        return document, text

    return run


def check(document: Document, text: str) -> None:
    """What holds for every document: counts are right, maps fit the text, the text can be stored."""
    assert document.characters == len(text)
    assert "\r" not in text
    assert "\0" not in text
    last = 0
    for page in document.pages:
        assert last <= page.start <= page.end <= len(text)
        last = page.end
    for heading in document.headings:
        line = text[heading.start :].split("\n", 1)[0]
        assert heading.title.split()[0].strip("*`_[]") in line


async def failure(read, name: str, data: bytes, **options) -> InputError:
    with pytest.raises(InputError) as error:
        await read(name, data, **options)
    return error.value


async def test_markdown_passes_through_unchanged_with_its_outline(read):
    text = "Intro e\u0301 🌾\n\n# One *two* `three`\n\n```sh\n# no heading\n```\n\n"
    text += "Under\nlined\n---\n\n> # quoted\n\n### Deep ###\n"
    document, kept = await read("a.md", text.encode())
    assert kept == text
    assert [(h.level, h.title, text[h.start]) for h in document.headings] == [
        (1, "One two three", "#"), (2, "Under lined", "U"), (3, "Deep", "#"),
    ]  # fmt: skip
    assert (document.title, document.media_type, document.backend) == ("One two three", "text/markdown", "text")


async def test_front_matter_is_no_heading_and_may_hold_the_title(read):
    document, _ = await read("a.md", b'---\ntitle: "The mill"\ntags: x\n---\n# First\ntext')
    assert document.title == "The mill"
    assert [heading.title for heading in document.headings] == ["First"]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "gb18030", "shift_jis"]
)
async def test_text_is_read_in_many_encodings(read, encoding):
    plain = {
        "cp1252": "Der Müller mahlt das Korn für die Bäcker der großen Stadt. ",
        "shift_jis": "水車小屋で穀物を挽いています。",
    }
    text = plain.get(encoding, "磨坊把谷物磨成面粉，供面包师使用。Grain and flour. ") * 8
    _, kept = await read("a.txt", text.encode(encoding))
    assert kept == text


async def test_line_ends_nuls_and_damaged_utf8_are_put_right_and_nothing_else(read):
    _, kept = await read("a.txt", b"one\r\ntwo\rthree\x00 e\xcc\x81 \xc2\xa0 end  \n\n\n")
    assert kept == "one\ntwo\nthree\ufffd e\u0301 \u00a0 end  \n\n\n"
    _, kept = await read("b.txt", "谷物".encode() * 50 + b"\xff" + "磨坊".encode())
    assert kept == "谷物" * 50 + "\ufffd磨坊"


async def test_a_pdf_has_a_map_of_its_pages(read):
    document, text = await read("a.pdf", (FILES / "three-pages.pdf").read_bytes())
    assert [page.number for page in document.pages] == [1, 2, 3]
    for page in document.pages:
        part = text[page.start : page.end]
        assert part.startswith(f"# Chapter {page.number}: the mill")
        assert f"This is page {page.number}. Körner." in part
        assert part.endswith("turns slowly.")
    assert [heading.start for heading in document.headings] == [page.start for page in document.pages]
    assert (document.title, document.backend) == ("Three pages", "kreuzberg")


async def test_slides_come_in_the_order_they_are_shown_with_their_notes(read):
    document, text = await read("a.pptx", (FILES / "slides.pptx").read_bytes())
    slides = [text[page.start : page.end] for page in document.pages]
    assert [slide.split("\n")[0] for slide in slides] == ["## Slide 3", "## Slide 1", "## Slide 2"]
    assert "| left | right |" in slides[2]
    assert slides[2].endswith("Notes: Say this aloud")
    assert "Notes" not in slides[0] + slides[1]


async def test_office_tables_become_markdown(read):
    document, text = await read("a.docx", (FILES / "table.docx").read_bytes())
    assert "Ünïcode 谷物 🌾" in text
    assert "| cell 00 | cell 01 |\n| --- | --- |\n| cell 10 | cell 11 |" in text
    assert document.title == "Prices"
    _, text = await read("a.xlsx", (FILES / "sheets.xlsx").read_bytes())
    assert text.startswith("## Prices\n\n| item | price |\n| --- | --- |\n| flour | 3.5 |\n| two lines \\| pipe | 4 |")


async def test_html_keeps_its_code_and_its_text_and_loses_its_head(read):
    page = (
        "<html><head><title>A &amp; B</title><meta name=author content=x><script>evil()</script></head><body>before"
        "<h1>One</h1><p>é &lt;b&gt;</p><hr><p>after a rule</p><hr><pre><code># install\n\n\n## twice"
        "\n  $ ls   -l\n</code></pre><table><tr><th>a</th><th>long   head</th></tr><tr><td>1<td>2</table>"
        "<img src='http://192.0.2.1/x.png'></body></html>"
    )
    document, text = await read("a.html", page.encode())
    assert document.title == "A & B"
    assert [heading.title for heading in document.headings] == ["One"]
    assert text.startswith(
        "before\n\n# One\n\né <b>\n\nafter a rule\n\n```\n# install\n\n\n## twice\n  $ ls   -l\n```\n\n"
    )
    assert "| a | long head |\n| --- | --- |\n| 1 | 2 |" in text
    assert "evil" not in text


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("<TABLE><TR><TD>A</td><TD>B</TABLE>", "| A | B |"),
        ("<TABLE BORDER=1><TR><TD>A<TD>B<TR><TD>C<TD>D</TABLE>", "| A | B |\n| --- | --- |\n| C | D |"),
        ("<table><thead><tr><th>h<th>i<tbody><tr><td>1<td>2</table>", "| h | i |\n| --- | --- |\n| 1 | 2 |"),
        ("<table><tr><td>a</td><td><table><tr><td>b<td>c</table></td></tr><tr><td>d</table>", "| d |"),
    ],
)
async def test_tables_without_end_tags_keep_their_cells(read, table, words):
    _, text = await read("a.html", f"<p>before{table}after".encode())
    assert words in text
    assert text.startswith("before")
    assert text.endswith("after\n")


async def test_html_says_its_own_encoding(read):
    page = '<html><head><meta charset="koi8-r"></head><body><p>Мельница мелет зерно</p></body></html>'
    _, text = await read("a.html", page.encode("koi8-r"))
    assert text == "Мельница мелет зерно\n"


def make_epub(chapters: list[str], *, extra: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr(
            "META-INF/container.xml", "<container><rootfiles><rootfile full-path='b/c.opf'/></rootfiles></container>"
        )
        items = "".join(f"<item id='i{n}' href='ch%20{n}.xhtml' media-type='application/xhtml+xml'/>" for n in range(len(chapters)))  # noqa: E501  # fmt: skip
        order = "".join(f"<itemref idref='i{n}'/>" for n in reversed(range(len(chapters))))
        book.writestr(
            "b/c.opf", f"<package><title>Book</title><manifest>{items}</manifest><spine>{order}</spine></package>"
        )
        for number, chapter in enumerate(chapters):
            book.writestr(f"b/ch {number}.xhtml", f"<html><head><title>x</title></head><body>{chapter}</body></html>")
        for name, content in (extra or {}).items():
            book.writestr(name, content)
    return buffer.getvalue()


async def test_a_book_is_read_in_the_order_of_its_spine(read):
    data = make_epub(["<h1>Last</h1><p>Ende: größer als <b>dürfen</b></p>", "<h1>First</h1><p>Anfang</p>"])
    document, text = await read("a.epub", data)
    assert text == "# First\n\nAnfang\n\n# Last\n\nEnde: größer als **dürfen**\n"
    assert document.title == "Book"


@pytest.mark.parametrize(
    ("name", "file", "code", "words"),
    [
        ("a.pdf", "locked.pdf", "P202", "password"),
        ("a.docx", "locked.docx", "P202", "password"),
        ("a.pdf", "truncated.pdf", "P203", "damaged"),
        ("a.pdf", "scan.pdf", "P205", "OCR"),
    ],
)
async def test_a_file_that_cannot_be_read_says_why(read, name, file, code, words):
    error = await failure(read, name, (FILES / file).read_bytes())
    assert error.code == code
    assert words in error.message
    assert name in error.message


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.md", b"", "P201"),
        ("a.png", b"", "P201"),
        ("a.pdf", b"no pdf", "P203"),
        ("a.docx", b"no zip", "P203"),
        ("a.docx", b"PK\x03\x04no zip", "P203"),
        ("a.epub", b"PK\x03\x04no zip", "P203"),
        ("a.exe", b"MZ\x90\x00", "P204"),
        ("a.zip", b"PK\x05\x06" + b"\0" * 18, "P204"),
        ("a.png", b"\x89PNG\r\n\x1a\n123", "P204"),
        ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + "WordDocument".encode("utf-16-le"), "P204"),
        ("a.xyz", b"words", "P204"),
        ("noextension", b"\0\1\2", "P204"),
        ("a.txt", b" \r\n\t ", "P205"),
        ("a.html", b"<html><head><title>x</title></head><body><script>x()</script></body></html>", "P205"),
        ("a.txt", b"\x7fELF\2\1\1\0", "P207"),
        ("a.txt", b"\x89PNG\r\n\x1a\n123", "P204"),
        ("a.txt", bytes(range(256)) * 4, "P207"),
        ("a.md", b"\0" * 1000, "P207"),
    ],
)
async def test_each_kind_of_useless_file_has_its_code(read, name, data, code):
    error = await failure(read, name, data)
    assert error.code == code
    assert name in error.message


async def test_an_unsupported_type_is_named_with_what_is_supported(read):
    error = await failure(read, "a.exe", b"MZ\x90\x00")
    assert '".exe"' in error.message
    assert "PDF" in error.hint
    assert "this workflow reads text" in (await failure(read, "a.jpg", b"\xff\xd8\xff\xe0")).message


async def test_random_bytes_are_not_text(read):
    for _ in range(5):
        assert (await failure(read, "a.txt", os.urandom(5000))).code == "P207"


async def test_a_copy_protected_book_is_refused(read):
    listing = "<encryption><EncryptedData><CipherReference URI='b/ch%200.xhtml'/></EncryptedData></encryption>"
    error = await failure(read, "a.epub", make_epub(["<p>x</p>"], extra={"META-INF/encryption.xml": listing}))
    assert (error.code, "DRM" in error.message) == ("P202", True)


async def test_an_entity_bomb_in_a_book_is_refused(read):
    package = '<!DOCTYPE p [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><package><title>&b;</title></package>'
    data = make_epub(["<p>x</p>"]).replace(b"<package>", package.encode()[:9], 1)
    assert (await failure(read, "a.epub", data)).code == "P203"


async def test_a_file_above_the_limit_is_not_read(read):
    error = await failure(read, "a.md", b"x" * 2000, max_bytes=1999)
    assert error.code == "P206"
    with pytest.raises(WorkflowError, match="max_bytes"):
        parse.using(max_bytes=0)


async def test_a_zip_bomb_is_refused_before_it_is_unpacked(read, monkeypatch):
    module = sys.modules["gristmill.operators.parse"]  # the package has an operator of the same name
    monkeypatch.setattr(module, "BOMB_BYTES", 10_000_000)  # the same check, at a size that a test can make
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        archive.writestr("word/document.xml", b"\0" * 12_000_000)
    error = await failure(read, "a.docx", buffer.getvalue())
    assert (error.code, "zip bomb" in error.message) == ("P208", True)


async def test_every_chapter_of_the_handbook_is_read_with_its_headings(read):
    files = sorted(HANDBOOK.iterdir())
    assert {file.suffix for file in files} == {".md", ".html", ".pdf", ".docx", ".epub"}
    assert sum(file.stat().st_size for file in files) < 500_000
    for file in files:
        document, text = await read(file.name, file.read_bytes())
        assert document.headings[0].level == 1, file.name
        assert document.headings[0].title == document.title, file.name
        assert len(document.headings) >= 6, file.name
        assert 600 <= len(text.split()) <= 1300, file.name
        assert bool(document.pages) == (file.suffix == ".pdf")


def test_importing_the_operators_does_not_load_the_readers():
    program = "import sys, gristmill.operators.parse, gristmill.operators.split; print('kreuzberg' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"
