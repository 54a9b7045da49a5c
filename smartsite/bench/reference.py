"""The network that speed is compared with: YOLOX-nano as published, for COCO, at any size.

What a network costs depends on its graph, not on its weights: so the graph is shipped, and the
weights, four megabytes, are drawn by lot. The graph is that of Megvii's YOLOX-nano (Apache License
2.0, https://github.com/Megvii-BaseDetection/YOLOX) with 80 classes, exported to ONNX with batch
norms folded and fixed shapes; ``reference.onnx.zst`` holds it with its large initializers zeroed
and without the shapes of what lies between input and output, which follow from the input's.
``python -m smartsite.bench.reference MODEL.onnx`` makes such a file of a model.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import zstandard

FILE = Path(__file__).parent / "reference.onnx.zst"
STRIDES = (8, 16, 32)

LARGE_BYTES = 1_024
"""Initializers from this size on are zeroed; shapes and biases stay."""

# Fields of ONNX's protobuf (onnx/onnx.proto): where initializers lie, and what they hold.
_GRAPH, _INITIALIZER, _INPUT, _OUTPUT, _BETWEEN = 7, 5, 11, 12, 13
_FLOAT = 1


class Weights(NamedTuple):
    """An initializer of 32-bit floats.

    Attributes:
        start: Of its bytes in the file.
        end: Exclusive.
        inputs: How many numbers each output is a sum of.
    """

    start: int
    end: int
    inputs: int


def _varint(data: bytes | bytearray, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def _fields(
    data: bytes | bytearray, start: int, end: int
) -> Iterator[tuple[int, int, int, int | None]]:
    """Number, start and end of each field of a message, and the value of one that is a number."""
    at = start
    while at < end:
        key, at = _varint(data, at)
        match key & 7:
            case 0:
                value, after = _varint(data, at)
                yield key >> 3, at, after, value
                at = after
            case 2:
                length, at = _varint(data, at)
                yield key >> 3, at, at + length, None
                at += length
            case wire:
                at += {1: 8, 5: 4}[wire]


def weights(data: bytes | bytearray) -> Iterator[Weights]:
    """Find a model's large weights.

    Args:
        data: An ONNX file.

    Yields:
        Each initializer of floats of `LARGE_BYTES` or more.
    """
    for number, start, end, _ in _fields(data, 0, len(data)):
        if number != _GRAPH:
            continue
        for inner, begin, stop, _ in _fields(data, start, end):
            if inner == _INITIALIZER and (found := _initializer(data, begin, stop)) is not None:
                yield found


def _initializer(data: bytes | bytearray, start: int, end: int) -> Weights | None:
    dims: list[int] = []
    kind = raw = None
    for number, begin, stop, value in _fields(data, start, end):
        match number:
            case 1 if value is not None:
                dims.append(value)
            case 1:
                while begin < stop:
                    one, begin = _varint(data, begin)
                    dims.append(one)
            case 2:
                kind = value
            case 9:
                raw = begin, stop
    if kind != _FLOAT or raw is None or raw[1] - raw[0] < LARGE_BYTES:
        return None
    return Weights(*raw, math.prod(dims[1:]))


def reference_model(side: int, seed: int = 1) -> bytes:
    """Give the reference its size and weights.

    Args:
        side: Of its square input, pixels; a multiple of 32 from 128 to 960.
        seed: Of the weights.

    Returns:
        An ONNX file.
    """
    data = bytearray(zstandard.ZstdDecompressor().decompress(FILE.read_bytes()))
    dice = np.random.default_rng(seed)
    for start, end, inputs in weights(data):
        # As wide as keeps a signal's strength from layer to layer (He et al. 2015): numbers that
        # die out would be slower than real ones.
        drawn = dice.standard_normal((end - start) // 4, np.float32) * math.sqrt(2 / inputs)
        data[start:end] = drawn.astype("<f4").tobytes()
    cells = sum((side // stride) ** 2 for stride in STRIDES)
    for port, sizes in ((_INPUT, {2: side, 3: side}), (_OUTPUT, {1: cells})):
        places = list(_sizes(data, port))
        for number, size in sizes.items():
            # All of these are numbers of two bytes, whatever the size.
            data[places[number] : places[number] + 2] = bytes([size & 0x7F | 0x80, size >> 7])
    return bytes(data)


def _sizes(data: bytes | bytearray, port: int) -> Iterator[int]:
    """Where the sizes of the input or output are written, in the order of its dimensions."""
    path = (_GRAPH, port, 2, 1, 2, 1, 1)  # type, tensor, shape, dimension, its size

    def walk(start: int, end: int, depth: int) -> Iterator[int]:
        for number, begin, stop, _ in _fields(data, start, end):
            if number != path[depth]:
                continue
            if depth == len(path) - 1:
                yield begin
            else:
                yield from walk(begin, stop, depth + 1)

    return walk(0, len(data), 0)


def _written(number: int, content: bytes) -> bytes:
    length = len(content)
    size = bytearray()
    while length > 0x7F:
        size.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | 2]) + bytes(size) + bytes([length]) + content


def _without_shapes_between(data: bytes | bytearray) -> bytes:
    """Leave out what a model says of the values between its input and its output."""
    result, at = bytearray(), 0
    for number, start, end, _ in _fields(data, 0, len(data)):
        if number != _GRAPH:
            result += data[at:end]
        else:
            graph, inner_at = bytearray(), start
            for inner, _, inner_end, _ in _fields(data, start, end):
                if inner != _BETWEEN:
                    graph += data[inner_at:inner_end]
                inner_at = inner_end
            result += _written(_GRAPH, bytes(graph))
        at = end
    return bytes(result)


def main() -> None:
    """Write the reference's file from a model."""
    data = bytearray(_without_shapes_between(Path(sys.argv[1]).read_bytes()))
    for start, end, _ in list(weights(data)):
        data[start:end] = bytes(end - start)
    FILE.write_bytes(zstandard.ZstdCompressor(level=22).compress(bytes(data)))


if __name__ == "__main__":
    main()
