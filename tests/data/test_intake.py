"""Globs, archives and what narrows them: what is found, and what is refused with a reason."""

from __future__ import annotations

import io
import re
import stat
import struct
import zipfile
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gristmill.data.archives import Bounds, expand
from gristmill.data.blobs import Blobs
from gristmill.data.intake import found_in
from gristmill.data.scan import Found, Unreadable, scan
from gristmill.data.selection import Inputs, matches, pattern
from gristmill.errors import InputError
from tests.data.test_scan import make


def entries(*places: Path | str, **narrowed) -> dict[str, str]:
    """Names and codes ("" for what can be read), in order."""
    found = list(found_in(Inputs.of(places, **narrowed)))
    assert len({entry.name for entry in found}) == len(found)
    return {entry.name: getattr(entry, "code", "") for entry in found}


def zipped(members: dict[str, bytes | str], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def as_found(path: Path, data: bytes) -> Found:
    path.write_bytes(data)
    (found,) = scan([path])
    assert isinstance(found, Found)
    return found


def test_a_glob_finds_what_it_matches_at_its_depth(tmp_path):
    make(tmp_path, "docs/a.md", "docs/b.txt", "docs/sub/c.md", "docs/sub/deep/d.md", "docs/.hidden.md")
    assert list(entries(tmp_path / "docs/*.md")) == ["a.md"]
    assert list(entries(tmp_path / "docs/**/*.md")) == ["a.md", "sub/c.md", "sub/deep/d.md"]
    assert list(entries(tmp_path / "docs/?.*")) == ["a.md", "b.txt"]
    assert list(entries(tmp_path / "docs/[!b]*")) == ["a.md", "sub/c.md", "sub/deep/d.md"]
    assert list(entries(tmp_path / "docs/*.md", tmp_path / "docs/**/*.txt")) == ["a.md", "b.txt"]
    assert list(entries(tmp_path / "docs", tmp_path / "docs/*.md")) == ["a.md", "b.txt", "sub/c.md", "sub/deep/d.md"]
    assert entries(tmp_path / "docs/*.pdf") == {"*.pdf": "F101"}


def test_a_file_that_is_called_like_a_glob_is_that_file(tmp_path):
    make(tmp_path, "what[1].md", "what1.md")
    assert list(entries(tmp_path / "what[1].md")) == ["what[1].md"]


def test_a_glob_follows_no_link_that_leaves_its_folder(tmp_path):
    make(tmp_path, "docs/a.md", "outside/b.md")
    (tmp_path / "docs/out.md").symlink_to(tmp_path / "outside/b.md")
    (tmp_path / "docs/far").symlink_to(tmp_path / "outside")
    assert entries(tmp_path / "docs/*.md") == {"a.md": "", "out.md": "F104"}
    assert entries(tmp_path / "docs/*/*.md") == {"far/b.md": "F104"}


@pytest.mark.parametrize(
    ("glob", "name"),
    [
        ("**" * 30 + "x", "a" * 4000), ("*a" * 40 + "b", "a" * 255), ("**a" * 40 + "b", "a" * 4000),
        ("**/a/" * 40 + "b", "a/" * 2000), ("**/*a*a*a*a*b/" * 10 + "c", ("a" * 250 + "/") * 16),
    ],
)  # fmt: skip
@pytest.mark.timeout(60)
def test_no_glob_searches_a_name_for_long(glob: str, name: str):
    assert pattern(glob).fullmatch(name) is None  # one that tries all ways ends after the universe does


def test_a_class_never_stands_for_the_end_of_a_folder():
    assert pattern("a[+-9]c").fullmatch("a/c") is None
    assert pattern("a[+-9]c").fullmatch("a5c")


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "/**/", "?", "[ab]", "[!a]"]), max_size=7).map("".join),
    st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4).map("/".join),
)
def test_a_glob_means_what_all_ways_of_reading_it_mean(glob: str, name: str):
    assume(not re.search(r"[^/]\*\*/", glob))
    parts = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]", "[ab]": "[ab]", "[!a]": "[^/a]"}
    plain = re.sub(r"\*\*/|\*\*|\*|\?|\[ab\]|\[!a\]", lambda found: parts[found[0]], glob)
    assert bool(pattern(glob).fullmatch(name)) == bool(re.fullmatch(plain, name))


def test_names_are_included_and_excluded_by_globs_and_size(tmp_path):
    make(tmp_path, "a.md", "b.txt", "drafts/c.md", "sub/drafts/d.md", "sub/e.md")
    assert list(entries(tmp_path, include=["*.md"], exclude=["drafts"])) == ["a.md", "sub/e.md"]
    assert list(entries(tmp_path, include=["sub/**"])) == ["sub/drafts/d.md", "sub/e.md"]
    (tmp_path / "large.md").write_text("x" * 100)
    assert entries(tmp_path, max_bytes=50)["large.md"] == "F109"
    assert matches("a/b/c.md", ["b"])
    assert not matches("a/b/c.md", ["b/*"])


def test_what_narrows_inputs_is_kept_with_the_run():
    inputs = Inputs.of(["/a", "https://x.example/b"], include=["*.md", "a=b"], exclude=["c"], max_bytes=5)
    assert Inputs.from_plain(inputs.plain()) == inputs
    assert Inputs.from_plain(Inputs.of(["/a"]).plain()) == Inputs(("/a",))
    assert inputs.urls == ["https://x.example/b"]


async def test_the_files_of_an_archive_are_inputs_of_their_own(tmp_path):
    inner = zipped({"deep.md": "deep text", "__MACOSX/x.md": "litter", ".hidden": "x"})
    data = zipped({"a.md": "# one", "sub/b.txt": "two", "sub/inner.zip": inner, "sub/": b""})
    (tmp_path / "set.zip").write_bytes(data)
    found = [entry for entry in found_in(Inputs.of([tmp_path])) if isinstance(entry, Found)]
    assert [entry.name for entry in found] == ["set.zip/a.md", "set.zip/sub/b.txt", "set.zip/sub/inner.zip/deep.md"]
    assert found[0].path == tmp_path / "set.zip/a.md"
    blobs = Blobs(tmp_path / "blobs", reserve=0)
    for entry, text in zip(found, (b"# one", b"two", b"deep text"), strict=True):
        assert entry.media_type in ("text/markdown", "text/plain")
        digest, size = await blobs.write_from(entry.open, entry.size)
        assert await blobs.read(digest) == text
        assert size == len(text) == entry.size
    assert list(entries(tmp_path / "set.zip", include=["*.txt"])) == ["set.zip/sub/b.txt"]
    assert entries(tmp_path, exclude=["set.zip", "blobs"]) == {}


def test_documents_that_are_zip_archives_are_not_opened_as_archives(tmp_path):
    office = Path(__file__).parent.parent / "files" / "table.docx"
    (tmp_path / "set.zip").write_bytes(zipped({"table.docx": office.read_bytes()}))
    assert entries(tmp_path) == {"set.zip/table.docx": ""}


def test_names_that_lead_out_of_an_archive_and_links_are_refused_and_the_rest_goes_on(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in ("good.md", "../up.md", "/etc/absolute.md", "a/../../b.md", "C:\\windows.md", "twice.md"):
            archive.writestr(name, "text")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("twice.md", "other")
        link = zipfile.ZipInfo("link.md")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        locked = zipfile.ZipInfo("locked.md")
        archive.writestr(locked, "secret")
    data = buffer.getvalue().replace(b"PK\x01\x02", b"PK\x01\x02")
    place = data.rfind(b"locked.md") - 46  # its entry in the table of contents: the flag says that it is encrypted
    data = data[: place + 8] + struct.pack("<H", 1) + data[place + 10 :]
    found = list(expand(as_found(tmp_path / "set.zip", data)))
    codes = sorted((entry.name.removeprefix("set.zip/"), getattr(entry, "code", "")) for entry in found)
    assert codes == [
        ("../up.md", "F115"), ("/etc/absolute.md", "F115"), ("C:/windows.md", "F115"), ("a/../../b.md", "F115"),
        ("good.md", ""), ("link.md", "F116"), ("locked.md", "F112"), ("twice.md", ""), ("twice.md", "F115"),
    ]  # fmt: skip
    assert not (tmp_path / "up.md").exists()


def refusals(tmp_path: Path, data: bytes, bounds: Bounds) -> list[tuple[str, str]]:
    found = expand(as_found(tmp_path / "set.zip", data), bounds)
    return [(entry.code, entry.reason) for entry in found if isinstance(entry, Unreadable)]


def test_bombs_are_refused_before_anything_is_unpacked(tmp_path):
    bomb = zipped({"zeros.txt": b"\0" * 3_000_000})
    ((code, reason),) = refusals(tmp_path, bomb, Bounds(small=1_000_000))
    assert (code, "zip bomb" in reason, "add the folder" in reason) == ("F113", True, True)
    assert refusals(tmp_path, bomb, Bounds()) == []  # small enough to harm nobody
    ((code, _),) = refusals(tmp_path, bomb, Bounds(unpacked=2_000_000))
    assert code == "F113"
    ((code, reason),) = refusals(tmp_path, zipped({f"{n}.md": "x" for n in range(20)}), Bounds(entries=19))
    assert (code, "20 entries" in reason) == ("F113", True)


def test_bounds_count_archives_inside_of_archives_together(tmp_path):
    data = zipped({f"{n}.zip": zipped({"zeros.txt": b"\0" * 400_000}) for n in range(4)})
    found = list(expand(as_found(tmp_path / "set.zip", data), Bounds(small=1_000_000)))
    assert [getattr(entry, "code", "") for entry in found] == ["", "", "F113", "F113"]
    data = zipped({"a.md": "x"})
    for _ in range(5):
        data = zipped({"more.zip": data, "beside.md": "y"})
    found = list(expand(as_found(tmp_path / "deep.zip", data), Bounds(depth=3)))
    assert [(entry.name.count("more.zip"), getattr(entry, "code", "")) for entry in found] == [
        (0, ""), (1, ""), (2, ""), (3, "F114"),
    ]  # fmt: skip


def test_a_size_that_lies_is_not_believed(tmp_path):
    data = bytearray(zipped({"a.txt": b"x" * 100_000}))
    struct.pack_into("<L", data, data.rfind(b"PK\x01\x02") + 24, 10)  # says 10 bytes
    (found,) = expand(as_found(tmp_path / "set.zip", bytes(data)))
    assert isinstance(found, Unreadable) or found.size == 10
    if isinstance(found, Found):
        with pytest.raises(InputError) as error, found.open() as file:
            file.read()
        assert error.value.code == "F111"


@pytest.mark.parametrize(
    "data",
    [
        b"PK\x03\x04 and then nothing", zipped({"a.md": "x" * 50})[:-10], b"PK\x05\x06" + b"\0" * 18,
        zipped({"a.md": "words " * 50}).replace(b"PK\x01\x02", b"PK\x09\x09"),
    ],
)  # fmt: skip
def test_a_broken_or_empty_archive_says_so(tmp_path, data):
    (entry,) = found_in(Inputs.of([_write(tmp_path / "set.zip", data)]))
    assert isinstance(entry, Unreadable)
    assert (entry.name, entry.code) == ("set.zip", "F111")


async def test_damage_inside_of_an_archive_costs_that_file_only(tmp_path):
    data = bytearray(zipped({"a.md": "words of the first file", "b.md": "words of the second"}, zipfile.ZIP_STORED))
    data[data.find(b"words of the first")] ^= 1
    first, second = expand(as_found(tmp_path / "set.zip", bytes(data)))
    assert isinstance(first, Unreadable)
    assert first.code == "F111"
    assert isinstance(second, Found)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
