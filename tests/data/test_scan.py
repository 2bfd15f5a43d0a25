import errno
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gristmill.data import media
from gristmill.data.media import media_type_of_bytes
from gristmill.data.scan import Found, Unreadable, scan

FILES = Path(__file__).parent.parent / "files"


def make(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"text of {name}")


def names_of(*paths) -> list[str]:
    return [entry.name for entry in scan(paths)]


def test_a_folder_gives_its_files_sorted_and_without_the_hidden_ones(tmp_path):
    make(tmp_path, "b.md", "a/z.txt", "a/b/c.md", ".hidden", ".git/config", ".gristmill/data", "a/.x", "~$lock.docx",
         "gristmill.toml")  # fmt: skip
    assert names_of(tmp_path) == ["a/b/c.md", "a/z.txt", "b.md"]
    found = list(scan([tmp_path]))
    assert found == list(scan([str(tmp_path)]))
    assert found[2] == Found("b.md", tmp_path / "b.md", 12, "text/markdown")


def test_a_single_file_is_called_by_its_own_name_even_when_hidden(tmp_path):
    make(tmp_path, "deep/.notes.md")
    assert names_of(tmp_path / "deep" / ".notes.md") == [".notes.md"]


def test_several_paths_never_share_a_name(tmp_path):
    make(tmp_path, "one/docs/a.md", "two/docs/a.md", "three/a.md", "four/a.md")
    assert names_of(tmp_path / "one/docs", tmp_path / "three") == ["docs/a.md", "three/a.md"]
    assert names_of(tmp_path / "one/docs", tmp_path / "two/docs") == ["one/docs/a.md", "two/docs/a.md"]
    assert names_of(tmp_path / "three/a.md", tmp_path / "four/a.md") == ["three/a.md", "four/a.md"]
    make(tmp_path, "x/a/b.md", "y/a/b.md", "z/b.md")
    names = names_of(tmp_path / "x/a", tmp_path / "y/a/b.md", tmp_path / "z/b.md")
    assert len(set(names)) == len(names) == 3


def test_a_path_inside_of_another_one_is_looked_at_once(tmp_path):
    make(tmp_path, "docs/a.md", "docs/sub/b.md", "docs/.secret/c.md")
    assert names_of(tmp_path / "docs", tmp_path / "docs/sub", tmp_path / "docs") == ["a.md", "sub/b.md"]
    assert len(names_of(tmp_path / "docs", tmp_path / "docs/.secret")) == 3


def test_links_are_followed_to_files_inside_and_nowhere_else(tmp_path):
    make(tmp_path, "root/real/a.md", "outside/b.md")
    root = tmp_path / "root"
    (root / "again.md").symlink_to("real/a.md")
    (root / "loop").symlink_to(".")
    (root / "real" / "up").symlink_to("..")
    (root / "self").symlink_to("self")
    (root / "dangling").symlink_to("nothing")
    (root / "out.md").symlink_to("../outside/b.md")
    (root / "outfolder").symlink_to("../outside")
    result = {entry.name: getattr(entry, "code", "found") for entry in scan([root])}
    assert result == {
        "again.md": "found", "dangling": "F103", "out.md": "F104", "outfolder": "F104", "real/a.md": "found",
        "self": "F103",
    }  # fmt: skip
    (tmp_path / "door").symlink_to("root")
    assert "real/a.md" in names_of(tmp_path / "door")


def test_what_cannot_be_read_is_reported_and_the_rest_goes_on(tmp_path):
    make(tmp_path, "a.md", "z.md")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        entries = list(scan([tmp_path, tmp_path / "missing.md"]))
    problems = [entry for entry in entries if isinstance(entry, Unreadable)]
    assert [(problem.path.name, problem.code) for problem in problems] == [
        ("pipe", "F105"), ("socket", "F105"), ("missing.md", "F101"),
    ]  # fmt: skip
    assert problems[2].reason == "missing.md does not exist"
    assert len(entries) == 5


def test_a_folder_whose_list_breaks_off_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    class BreaksOff:  # as a folder of the network does, or one of /proc
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def __iter__(self):
            raise PermissionError(errno.EACCES, "Permission denied")

    make(tmp_path, "a.md", "far/b.md", "z.md")
    really = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: BreaksOff() if Path(path).name == "far" else really(path))
    found = {entry.name: getattr(entry, "code", "") for entry in scan([tmp_path], ordered=False)}
    assert found == {"a.md": "", "far": "F102", "z.md": ""}


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("setpriv"), reason="needs to become another user")
@pytest.mark.parametrize("glob", ["", "/**/*"])
def test_a_file_and_a_folder_without_permission_are_reported(glob):
    folder = Path("/tmp") / f"gristmill-scan-{os.getpid()}"  # below tmp_path nobody else may look
    make(folder, "a.md", "closed.md", "shut/inside.md")
    (folder / "link.md").symlink_to("shut/inside.md")
    try:
        folder.chmod(0o755)
        (folder / "closed.md").chmod(0o000)
        (folder / "shut").chmod(0o000)
        program = (
            "import json, sys; from gristmill.data.scan import scan; "
            "print(json.dumps([[e.name, getattr(e, 'code', '')] for e in scan(sys.argv[1:])]))"
        )
        sources = Path(__file__).parents[2] / "src"
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all"]
        result = subprocess.run(
            [*user, sys.executable, "-c", program, f"{folder}{glob}"], capture_output=True, text=True, check=False,
            env={"PYTHONPATH": str(sources), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        if result.returncode != 0 and "Permission denied" in result.stderr and "gristmill" not in result.stdout:
            pytest.skip("the other user may not run this Python")
        assert result.returncode == 0, result.stderr
        refused = [[name, "F102"] for name in ("closed.md", "link.md", "shut")]
        assert json.loads(result.stdout) == [["a.md", ""], *refused]
    finally:
        (folder / "shut").chmod(0o755)
        shutil.rmtree(folder)


def test_a_name_that_is_not_utf8_is_made_storable(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.md")).write_text("x")
    (entry,) = scan([tmp_path])
    assert entry.name == "caf\ufffd.md"
    assert entry.path.read_text() == "x"


def test_an_empty_folder_gives_nothing(tmp_path):
    assert names_of(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.md", b"# x", "text/markdown"),
        ("README", b"words", "text/plain"),
        ("page", b"<!DOCTYPE html><p>", "text/html"),
        ("prog", b"\x7fELF\0\0", "application/x-executable"),
        ("a.txt", b"%PDF-1.4 x", "application/pdf"),
        ("a.pdf", b"hello", "application/pdf"),
        ("a.txt", b"\x89PNG\r\n\x1a\n", "image/png"),
        ("a.webp", b"RIFF1234WEBPVP8 ", "image/webp"),
        ("a.exe", b"MZ", "application/x-msdownload"),
        ("a.docx", b"PK\x03\x04broken", media.DOCX),
        ("a.zip", b"PK\x03\x04broken", media.ZIP),
        ("empty.png", b"", "image/png"),
        ("a.qqq", b"words", media.UNKNOWN),
    ],
)
def test_the_media_type_comes_from_the_content_first(name, data, expected):
    assert media_type_of_bytes(name, data) == expected


def test_office_files_are_known_under_any_name():
    for file, expected in (("table.docx", media.DOCX), ("slides.pptx", media.PPTX), ("sheets.xlsx", media.XLSX)):
        assert media_type_of_bytes("renamed.bin", (FILES / file).read_bytes()) == expected
    assert media_type_of_bytes("x.docx", (FILES / "locked.docx").read_bytes()) == media.OLE
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("mimetype", "application/epub+zip")
    assert media_type_of_bytes("book.zip", buffer.getvalue()) == media.EPUB
