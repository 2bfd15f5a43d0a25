"""ONNX files written by hand: a detector that says the same about every picture. The package onnx is 20 MB of tools for
what is a few bytes of protocol buffers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod


def constant_detector(
    rows: Sequence[Sequence[float]], side: int | None = 64, names: str = "", inputs: Sequence[int] = ()
) -> bytes:
    """A model that takes 1 x 3 x side x side floats (None: any size) and gives 1 x rows x columns, always these."""
    shape = [1, len(rows), len(rows[0])]
    flat = [value for row in rows for value in row]
    assert len(flat) == prod(shape)
    tensor = b"".join(_number(1, size) for size in shape) + _number(2, 1)
    tensor += _bytes(4, struct.pack(f"<{len(flat)}f", *flat)) + _bytes(8, b"rows")
    attribute = _bytes(1, b"value") + _number(20, 4) + _bytes(5, tensor)
    node = _bytes(2, b"output0") + _bytes(4, b"Constant") + _bytes(5, attribute)
    graph = _bytes(1, node) + _bytes(2, b"detector")
    graph += _bytes(11, _value(b"images", [*inputs] or [1, 3, side, side])) + _bytes(12, _value(b"output0", shape))
    model = _number(1, 8) + _bytes(7, graph) + _bytes(8, _number(2, 13))
    if names:
        model += _bytes(14, _bytes(1, b"names") + _bytes(2, names.encode()))
    return model


def _value(name: bytes, shape: Sequence[int | None]) -> bytes:
    sides = b"".join(_bytes(1, _bytes(2, b"any") if side is None else _number(1, side)) for side in shape)
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, 1) + _bytes(2, sides)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = b""
    while value > 127:
        found += bytes([value & 127 | 128])
        value >>= 7
    return found + bytes([value])
