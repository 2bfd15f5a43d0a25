"""Keys of locks: every spelling of one resource gives the same key, and what no other could match is refused."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import PurePath

from gristmill.errors import UsageError

LONGEST_KEY = 200  # characters
_KIND = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_PLACES = ("/", "./", "../", "~")


def lock_key(kind: str, name: str | os.PathLike[str]) -> str:
    """The one key of a resource, as `kind:name`; at most 200 printable characters (a longer name ends in its SHA-256).

    `kind` is a short word. Files and folders are always of the kind "path": the name is made absolute, `.`, `..`, `~`
    and doubled slashes go, symbolic links are followed, so `data/x`, `./data//x/` and a link to it are one key. Reads
    the file system; the path need not exist. Any other name is compared as it is, but for spaces around it and Unicode
    composition. Raises `UsageError` U451 for a kind or a name that cannot be a key, or a path under another kind.
    """
    if not _KIND.fullmatch(kind):
        raise _bad(f"a lock's kind is a short lower-case word, not {kind!r}", "for example path, store or index")
    text = os.fspath(name)
    if not isinstance(text, str) or not text.strip() or "\x00" in text:
        raise _bad(f"a lock needs a name, not {text!r}", "text without NUL, for example lock_key('store', 'handbook')")
    if kind == "path":
        text = os.path.realpath(os.path.expanduser(text))
    elif isinstance(name, PurePath) or text.strip().startswith(_PLACES) or text.strip() in (".", ".."):
        raise _bad(
            f"{text!r} is a path, and {kind!r} would be another key than the one that others use for it",
            f"lock_key('path', {text!r})",
        )
    else:
        text = unicodedata.normalize("NFC", text.strip())
    return _bounded(f"{kind}:{_printable(text)}")


def check_key(key: str) -> str:
    """Returns a key that `lock_key` could have made; raises `UsageError` U451 for any other. Reads no file system.

    It finds relative and unnormalised paths, but cannot know about symbolic links: make keys with `lock_key`.
    """
    kind, colon, name = key.partition(":")
    hint = "make it with lock_key(kind, name), for example lock_key('path', 'data/store')"
    if not colon or not _KIND.fullmatch(kind) or not name.strip() or not key.isprintable() or len(key) > LONGEST_KEY:
        raise _bad(f"{key[:80]!r} is not the key of a lock", hint)
    if kind == "path" and (not name.startswith("/") or name.startswith("//") or os.path.normpath(name) != name):
        raise _bad(f"{key!r} is not an absolute, normalised path", hint)
    if kind != "path" and (name.startswith(_PLACES) or name != unicodedata.normalize("NFC", name.strip())):
        raise _bad(f"{key!r} is not how lock_key spells it", hint)
    return key


def spelled(text: str) -> str:
    """The key that a person means by `kind:name`, or by a path alone. Raises `UsageError` U451."""
    kind, colon, name = text.partition(":")
    if colon and _KIND.fullmatch(kind):
        return lock_key(kind, name)
    return lock_key("path", text)


def _printable(text: str) -> str:
    """Line breaks, and bytes of file names that are not UTF-8, as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _bounded(key: str) -> str:
    if len(key) <= LONGEST_KEY:
        return key
    return f"{key[: LONGEST_KEY - 65]}#{hashlib.sha256(key.encode()).hexdigest()}"


def _bad(message: str, hint: str) -> UsageError:
    return UsageError(message, code="U451", hint=hint, safe="no lock was touched")
