"""Other ways to read a file: as plain text, by kreuzberg, by a docling-serve; pictures taken out; deep nesting."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest

from gristmill.data.blobs import Blobs
from gristmill.data.kinds import Document, Image, Source
from gristmill.data.media import DOCX, PPTX
from gristmill.errors import Busy, InputError, TransientError, WorkflowError
from gristmill.operators.calling import run_operator
from gristmill.operators.operator import Context
from gristmill.operators.parse import parse
from tests.loopback import Answer, serving

pillow = pytest.importorskip("PIL.Image")
FILES = Path(__file__).parent.parent / "files"


@pytest.fixture
def read(tmp_path):
    """Runs the operator on bytes under a name and returns its records and the document's text."""
    blobs = Blobs(tmp_path / "blobs", reserve=0)

    async def run(
        name: str, data: bytes, *, services: dict[str, str] | None = None, **options
    ) -> tuple[list[Any], str]:
        source = Source(name=name, blob=await blobs.write(data), size=len(data), media_type="")
        made = await run_operator(parse, [source], {}, options, Context(blobs=blobs, services=services or {}))
        bodies = [entry.body for entry in made]
        if not isinstance(bodies[0], Document):
            return bodies, ""
        text = (await blobs.read(bodies[0].text_blob)).decode()
        assert bodies[0].characters == len(text)
        for page in bodies[0].pages:
            assert 0 <= page.start <= page.end <= len(text)
        return bodies, text

    return run


def picture(width: int, height: int, shade: int = 10, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    pillow.new("RGB", (width, height), (shade, 0, 0)).save(buffer, kind)
    return buffer.getvalue()


async def code_of(read, name: str, data: bytes, **options) -> str:
    with pytest.raises((InputError, TransientError, Busy)) as error:
        await read(name, data, **options)
    return error.value.code


async def test_the_backend_says_who_reads_and_the_document_says_who_did(read):
    (document,), text = await read("a.html", b"<h1>T</h1><p>x</p>", backend="text")
    assert (document.backend, text) == ("text", "<h1>T</h1><p>x</p>")
    (document,), text = await read("a.csv", b"a,b\n1,2\n", backend="kreuzberg")
    assert (document.backend, text) == ("kreuzberg", "| a | b |\n| --- | --- |\n| 1 | 2 |\n")
    (document,), text = await read("a.rtf", b"{\\rtf1 Hello \\b bold}", backend="kreuzberg")
    assert (document.backend, text) == ("kreuzberg", "Hello **bold**\n")
    (document,), _ = await read("a.py", b"def name():\n    pass\n")
    assert (document.backend, document.media_type) == ("text", "text/x-python")
    assert await code_of(read, "a.docx", (FILES / "table.docx").read_bytes(), backend="text") == "P207"
    assert await code_of(read, "a.rtf", b"{\\rtf1 Hello}") == "P204"
    assert await code_of(read, "a.png", picture(20, 20), backend="kreuzberg") == "P204"
    with pytest.raises(WorkflowError, match="backend"):
        parse.using(backend="magic")


def docling(path: str, body: bytes) -> Answer:
    """Answers as docling-serve does: Markdown of the pages that were asked for, and where each text stands."""
    assert path == "/v1/convert/source"
    asked = json.loads(body)
    (source,) = asked["sources"]
    assert source["kind"] == "file"
    data = base64.b64decode(source["base64_string"])
    if data == b"%PDF-busy":
        return Answer(b"later", 503)
    mark = asked["options"]["md_page_break_placeholder"]
    first, last = asked["options"].get("page_range", [1, 3])
    pages = [number for number in range(first, last + 1) if number != 2 or first == 2]  # nothing on the second page
    text = f"\n\n{mark}\n\n".join(f"# Page {number}\n\n<!-- image -->\n\nWords of it." for number in pages)
    content = {"texts": [{"prov": [{"page_no": number}]} for number in pages], "tables": [{"prov": []}]}
    document = {"md_content": text, "json_content": content, "filename": source["filename"]}
    return Answer(json.dumps({"document": document, "status": "success", "errors": []}).encode())


async def test_docling_reads_by_http_and_its_pages_become_the_page_map(read):
    data = (FILES / "three-pages.pdf").read_bytes()
    with serving(docling) as server:
        services = {"docling": server.url + "/"}
        (document,), text = await read("sub/a.pdf", data, backend="docling", services=services)
        assert text == "# Page 1\n\nWords of it.\n\n# Page 3\n\nWords of it.\n"
        assert [page.number for page in document.pages] == [1, 3]
        assert [text[page.start : page.end].split("\n")[0] for page in document.pages] == ["# Page 1", "# Page 3"]
        assert (document.backend, document.title, len(document.headings)) == ("docling", "Page 1", 2)
        (document,), _ = await read("a.docx", (FILES / "table.docx").read_bytes(), backend="docling", services=services)
        assert document.media_type == DOCX
        before = len(server.asked)
        (document,), text = await read("a.md", b"# as it is", backend="docling", services=services)
        assert (document.backend, text, len(server.asked)) == ("text", "# as it is", before)


async def test_the_json_of_docling_is_kept_beside_the_text(read, tmp_path):
    data, blobs = (FILES / "three-pages.pdf").read_bytes(), Blobs(tmp_path / "blobs", reserve=0)
    with serving(docling) as server:
        services = {"docling": server.url}
        (document,), _ = await read("a.pdf", data, backend="docling", services=services)
        whole = json.loads(await blobs.read(document.artifact_blob))
        assert [text["prov"][0]["page_no"] for text in whole["texts"]] == [1, 3]
        (document,), _ = await read("a.pdf", data, backend="docling", docling_pages=1, services=services)
        parts = json.loads(await blobs.read(document.artifact_blob))
        assert [part["texts"][0]["prov"][0]["page_no"] for part in parts] == [1, 2, 3]
    (document,), _ = await read("a.md", b"# as it is")
    assert document.artifact_blob is None


async def test_a_document_of_too_many_pages_is_refused_with_its_number_of_pages(read):
    data = (FILES / "three-pages.pdf").read_bytes()
    (document,), _ = await read("a.pdf", data, max_pages=3)
    assert len(document.pages) == 3
    with pytest.raises(InputError, match=r"a\.pdf has 3 pages, the limit is 2") as error:
        await read("a.pdf", data, max_pages=2)
    assert (error.value.code, "max_pages" in error.value.hint) == ("P212", True)
    with serving(docling) as server:
        assert (
            await code_of(read, "a.pdf", data, backend="docling", max_pages=2, services={"docling": server.url})
            == "P212"
        )
        assert not server.asked  # nothing of it was sent


async def test_a_large_pdf_is_sent_in_ranges_and_put_together_in_order(read):
    data = (FILES / "three-pages.pdf").read_bytes()
    with serving(docling) as server:
        options = {"backend": "docling", "docling_pages": 1, "services": {"docling": server.url}}
        (document,), text = await read("a.pdf", data, **options)
        assert sorted(json.loads(body)["options"]["page_range"] for _, body in server.asked) == [[1, 1], [2, 2], [3, 3]]
    assert [page.number for page in document.pages] == [1, 2, 3]
    assert [text[page.start :].split("\n")[0] for page in document.pages] == ["# Page 1", "# Page 2", "# Page 3"]


async def test_when_a_range_fails_no_other_one_is_asked_for_any_more(read):
    held = threading.Event()

    def refusing(path: str, body: bytes) -> Answer:
        if json.loads(body)["options"]["page_range"] == [1, 1]:
            return Answer(b"who are you", 401)
        held.wait(10)
        return docling(path, body)

    before = asyncio.all_tasks()
    with serving(refusing) as server:
        try:
            options = {"backend": "docling", "docling_pages": 1, "services": {"docling": server.url}}
            assert await code_of(read, "a.pdf", (FILES / "three-pages.pdf").read_bytes(), **options) == "P211"
            assert asyncio.all_tasks() == before
        finally:
            held.set()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (Answer(b'{"status": "failure", "document": {}, "errors": [{"error_message": "no model"}]}'), "P210"),
        (Answer(b'{"status": "success", "document": {"md_content": " "}}'), "P205"),
        (Answer(b'{"detail": "bad"}', 422), "P210"),
        (Answer(b"who are you", 401), "P211"),
        (Answer(b"nothing here", 404), "P211"),
        (Answer(b"slow", 504), "P311"),
        (Answer(b"busy", 503), "T400"),
        (Answer(b"<html>"), "P311"),
    ],
)
async def test_what_docling_cannot_do_has_a_code(read, answer, code):
    with serving(lambda path, body: answer) as server:
        services = {"docling": server.url}
        assert await code_of(read, "a.docx", b"PK\x03\x04", backend="docling", services=services) == code
    if code == "P311":
        assert await code_of(read, "a.docx", b"PK\x03\x04", backend="docling", services=services) == "P311"
    assert await code_of(read, "a.docx", b"PK\x03\x04", backend="docling") == "P211"


async def test_pictures_of_a_pdf_come_out_with_their_pages(read):
    buffer = io.BytesIO()
    pages = [pillow.new("RGB", (size, 40), (size, 0, 0)) for size in (60, 80)]
    pages[0].save(buffer, "PDF", save_all=True, append_images=pages[1:])
    images, _ = await read("scan.pdf", buffer.getvalue(), images=True)
    assert [(image.width, image.height, image.page) for image in images] == [(60, 40, 1), (80, 40, 2)]
    assert all(image.name.startswith("scan.pdf/") for image in images)
    assert await code_of(read, "scan.pdf", buffer.getvalue()) == "P205"  # no text; the pictures were not asked for


def with_pictures(file: str, added: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO((FILES / file).read_bytes())
    with zipfile.ZipFile(buffer, "a") as archive:
        for name, data in added.items():
            archive.writestr(name, data)
    return buffer.getvalue()


async def test_pictures_of_office_files_come_out_once_and_small_ones_do_not(read):
    added = {
        "word/media/one.png": picture(30, 20), "word/media/same.png": picture(30, 20),
        "word/media/two.jpg": picture(50, 20, 90, "JPEG"), "word/media/dot.png": picture(3, 3),
        "word/media/broken.png": b"\x89PNG\r\n\x1a\nno",
    }  # fmt: skip
    (document, *images), text = await read("a.docx", with_pictures("table.docx", added), images=True)
    assert "cell 00" in text
    assert document.backend == "kreuzberg"
    assert [(image.name, image.width) for image in images] == [("a.docx/one.png", 30), ("a.docx/two.jpg", 50)]
    assert all(isinstance(image, Image) and image.perceptual_hash for image in images)


async def test_a_picture_on_a_slide_knows_its_slide(read):
    with zipfile.ZipFile(FILES / "slides.pptx") as archive:
        first = next(name for name in archive.namelist() if name == "ppt/slides/_rels/slide1.xml.rels")
        relations = archive.read(first)
    link = b'<Relationship Id="rIdX" Type="http://x/image" Target="../media/p.png"/></Relationships>'
    buffer = io.BytesIO()
    with zipfile.ZipFile(FILES / "slides.pptx") as archive, zipfile.ZipFile(buffer, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, archive.read(name) if name != first else relations.replace(b"</Relationships>", link))
        copy.writestr("ppt/media/p.png", picture(30, 20))
    (document, image), _ = await read("a.pptx", buffer.getvalue(), images=True)
    assert (document.media_type, image.page) == (PPTX, 2)  # the first file is the second slide that is shown


async def test_pictures_written_into_html_and_markdown_leave_the_text(read):
    url = "data:image/png;base64," + base64.b64encode(picture(30, 20)).decode()
    page = f"<p>before</p><img alt='a mill' src='{url}'><p>after</p>".encode()
    (_, image), text = await read("a.html", page, images=True)
    assert (image.width, "base64" in text, "a mill" in text, "after" in text) == (30, False, True, True)
    assert "base64" not in (await read("a.html", page))[1]
    (document, image), text = await read("a.md", f"# One\n\n![mill]({url})\n\n# Two".encode(), images=True)
    assert (image.height, text) == (20, "# One\n\n![mill](picture.png)\n\n# Two")
    assert [text[heading.start :][:5] for heading in document.headings] == ["# One", "# Two"]


async def test_a_file_that_is_a_picture_becomes_one_only_when_pictures_are_wanted(read):
    (image,), _ = await read("sub/a.png", picture(30, 20), images=True)
    assert (image.name, image.media_type, image.page) == ("sub/a.png", "image/png", None)
    assert await code_of(read, "a.png", picture(30, 20)) == "P204"
    assert await code_of(read, "a.png", b"\x89PNG\r\n\x1a\nno", images=True) in ("P203", "P204")


@pytest.mark.parametrize("depth", [70, 5000])
async def test_deep_nesting_loses_no_text_or_says_so(read, depth):
    _, text = await read("a.html", b"<p>before</p>" + b"<div>" * depth + b"deep words" + b"</div>" * depth + b"after")
    assert "deep words" in text
    assert "after" in text
    lists = b"<ul><li>" * depth + b"deep words" + b"</li></ul>" * depth
    assert await code_of(read, "a.html", lists) == "P209"
    _, text = await read("a.md", b"> " * depth + b"deep\n\n" + b"- " * depth + b"list")
    assert text.endswith("list")
    _, text = await read("a.json", b"[" * depth + b"]" * depth)
    assert len(text) == 2 * depth


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("empty.md", b"", "P201"), ("binary.csv", bytes(range(256)) * 8, "P207"),
        ("binary.py", b"\x7fELF\2\1\1\0" * 40, "P207"), ("page.html", b"\0" * 4000, "P207"),
        ("half.docx", (FILES / "table.docx").read_bytes()[:3000], "P203"),
        ("half.epub", b"PK\x03\x04" + b"x" * 2000, "P203"),
    ],
)  # fmt: skip
async def test_bad_input_has_a_clear_reason_with_pictures_too(read, name, data, code):
    for images in (False, True):
        assert await code_of(read, name, data, images=images) == code
