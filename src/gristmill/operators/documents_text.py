"""Plain text in any encoding."""

from __future__ import annotations

import codecs
import re
import unicodedata

from gristmill.errors import InputError
from gristmill.operators.documents_extract import storable

# The longer marks first: the UTF-32 one begins with the UTF-16 one.
MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
NOISE = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # bytes that texts do not hold; tab to CR and ESC they do
NOISE_LIMIT = 0.02  # share of such bytes above which a file is binary; random bytes have 0.11
SAMPLE = 256 * 1024  # bytes that are looked at to tell text from other things


def decode(data: bytes, name: str) -> tuple[str, str]:
    """The text and the encoding it was in. Raises P207 when the bytes are not text in any encoding."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return storable(data[len(mark) :].decode(encoding, "replace")), encoding
    wide = _wide_encoding(data)
    if wide is not None:
        return storable(data.decode(wide, "replace")), wide
    sample = data[:SAMPLE]
    if len(NOISE.findall(sample)) > max(2, NOISE_LIMIT * len(sample)):
        raise not_text(name)
    try:
        return storable(data.decode("utf-8")), "utf-8"
    except UnicodeDecodeError:
        pass
    replaced = data.decode("utf-8", "replace")
    broken = replaced.count("\ufffd")
    if sum(character > "\x7f" for character in replaced) > 10 * broken:
        return storable(replaced), "utf-8"  # UTF-8 with a few damaged places; as anything else it would be gibberish
    return _guess(data, name)


def _guess(data: bytes, name: str) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise not_text(name)
    return storable(str(best)), best.encoding


def _wide_encoding(data: bytes) -> str | None:
    """UTF-16 without a mark: zero bytes in every second place only, and text once it is decoded."""
    even, odd = data[0:SAMPLE:2].count(0), data[1:SAMPLE:2].count(0)
    if len(data) % 2 or even + odd < max(2, len(data[:SAMPLE]) // 400) or min(even, odd) > max(even, odd) // 50:
        return None
    encoding = "utf-16-le" if odd > even else "utf-16-be"
    try:
        sample = data.decode(encoding)[:2000]
    except UnicodeDecodeError:
        return None
    strange = sum(unicodedata.category(character) in ("Cc", "Cn", "Co") for character in sample)
    strange -= sum(sample.count(character) for character in "\t\n\r\f")
    return encoding if strange <= len(sample) // 50 else None


def not_text(name: str) -> InputError:
    return InputError(f"{name} is named like a text file, but its content is binary", code="P207")
