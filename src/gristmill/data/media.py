"""What a file is: by its first bytes where they say it, else by the extension of its name."""

from __future__ import annotations

import io
import zipfile
from pathlib import PurePosixPath
from typing import BinaryIO

UNKNOWN = "application/octet-stream"
PDF = "application/pdf"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
EPUB = "application/epub+zip"
HTML = "text/html"
MARKDOWN = "text/markdown"
ZIP = "application/zip"
OLE = "application/x-ole-storage"  # Office before 2007, and every password-protected Office file since

EXTENSIONS = {
    ".md": MARKDOWN, ".markdown": MARKDOWN, ".mdown": MARKDOWN, ".mkd": MARKDOWN,
    ".txt": "text/plain", ".text": "text/plain", ".log": "text/plain", ".rst": "text/x-rst",
    ".adoc": "text/plain", ".org": "text/plain", ".tex": "text/plain",
    ".csv": "text/csv", ".tsv": "text/tab-separated-values",
    ".json": "application/json", ".jsonl": "application/jsonl", ".yaml": "application/yaml", ".yml": "application/yaml",
    ".html": HTML, ".htm": HTML, ".xhtml": HTML,
    ".pdf": PDF, ".docx": DOCX, ".docm": DOCX, ".pptx": PPTX, ".pptm": PPTX, ".xlsx": XLSX, ".xlsm": XLSX,
    ".epub": EPUB,
    ".doc": "application/msword", ".xls": "application/vnd.ms-excel", ".ppt": "application/vnd.ms-powerpoint",
    ".odt": "application/vnd.oasis.opendocument.text", ".rtf": "application/rtf", ".xml": "application/xml",
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp",
    ".bmp": "image/bmp", ".tif": "image/tiff", ".tiff": "image/tiff", ".svg": "image/svg+xml",
    ".zip": ZIP, ".gz": "application/gzip", ".tar": "application/x-tar", ".7z": "application/x-7z-compressed",
    ".exe": "application/x-msdownload",
}  # fmt: skip

CODE_TYPES = {  # source code, and the language that it is in
    "text/x-python": "python", "text/javascript": "javascript", "text/x-typescript": "typescript",
    "text/x-java": "java", "text/x-kotlin": "kotlin", "text/x-scala": "scala", "text/x-csharp": "csharp",
    "text/x-go": "go", "text/x-rust": "rust", "text/x-c": "c", "text/x-c++": "cpp", "text/x-ruby": "ruby",
    "text/x-php": "php", "text/x-swift": "swift", "text/x-shellscript": "shell", "text/x-sql": "sql",
}  # fmt: skip
EXTENSIONS |= {
    ".py": "text/x-python", ".js": "text/javascript", ".mjs": "text/javascript", ".jsx": "text/javascript",
    ".ts": "text/x-typescript", ".tsx": "text/x-typescript", ".java": "text/x-java", ".kt": "text/x-kotlin",
    ".scala": "text/x-scala", ".cs": "text/x-csharp", ".go": "text/x-go", ".rs": "text/x-rust", ".c": "text/x-c",
    ".h": "text/x-c", ".cc": "text/x-c++", ".cpp": "text/x-c++", ".hpp": "text/x-c++", ".rb": "text/x-ruby",
    ".php": "text/x-php", ".swift": "text/x-swift", ".sh": "text/x-shellscript", ".sql": "text/x-sql",
}  # fmt: skip

SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\x00", "image/tiff"),
    (b"MM\x00*", "image/tiff"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE),
    (b"%PDF-", PDF),
    (b"{\\rtf", "application/rtf"),
    (b"\x7fELF", "application/x-executable"),
    (b"MZ\x90\x00", "application/x-msdownload"),
    (b"\x1f\x8b\x08", "application/gzip"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
)
HEAD = 4096  # bytes that are looked at

TEXT_TYPES = frozenset(
    {MARKDOWN, "text/plain", "text/x-rst", "text/csv", "text/tab-separated-values",
     "application/json", "application/jsonl", "application/yaml", *CODE_TYPES}
)  # fmt: skip


def extension(name: str) -> str:
    """The extension in lower case with its dot, or "" (`.tar.gz` gives `.gz`)."""
    return PurePosixPath(name).suffix.lower()


def media_type(name: str, file: BinaryIO) -> str:
    """The media type of an open file; a signature beats the name, because names are often wrong."""
    file.seek(0)
    head = file.read(HEAD)
    by_name = EXTENSIONS.get(extension(name))
    found = _by_signature(head)
    if head.startswith(b"PK\x03\x04"):
        found = _inside_zip(file) or (by_name if by_name in (DOCX, PPTX, XLSX, EPUB) else ZIP)
    if found is not None:
        return found
    if by_name == PDF or (by_name is None and extension(name) == ""):
        return PDF if by_name == PDF else _nameless(head)
    return by_name or UNKNOWN


def media_type_of_bytes(name: str, data: bytes) -> str:
    return media_type(name, io.BytesIO(data))


def _by_signature(head: bytes) -> str | None:
    for signature, found in SIGNATURES:
        if head.startswith(signature):
            return found
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return "image/webp"
    return None


def _inside_zip(file: BinaryIO) -> str | None:
    """Which of the document formats that are zip archives this is; None for any other archive, or a broken one."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
            if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
                return archive.read("mimetype").decode("ascii", "replace").strip() or None
    except (zipfile.BadZipFile, OSError, ValueError, RuntimeError, NotImplementedError, EOFError):
        return None
    if "META-INF/container.xml" in names and any(name.endswith(".opf") for name in names):
        return EPUB  # some writers forget the mimetype member
    if "[Content_Types].xml" in names:
        for folder, found in (("word/", DOCX), ("ppt/", PPTX), ("xl/", XLSX)):
            if any(name.startswith(folder) for name in names):
                return found
    return None


def _nameless(head: bytes) -> str:
    """README, LICENSE and the like: text when it looks like text."""
    start = head.lstrip()[:64].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return HTML
    return UNKNOWN if b"\0" in head and not head.startswith((b"\xff\xfe", b"\xfe\xff")) else "text/plain"
