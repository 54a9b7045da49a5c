"""Writes tiny ONNX models: enough of the format's protobuf for a graph of a few nodes."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

TYPES = {"float32": 1, "uint8": 2, "int64": 7, "float16": 10}
Shape = Sequence[int | str]


class Node(NamedTuple):
    """One operation."""

    kind: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, int | Sequence[int]] = {}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, value: bytes | str) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _tensor(name: str, array: npt.NDArray[np.generic]) -> bytes:
    dims = b"".join(_number(1, side) for side in array.shape)
    return dims + _number(2, TYPES[array.dtype.name]) + _bytes(8, name) + _bytes(9, array.tobytes())


def _value(name: str, shape: Shape, dtype: str) -> bytes:
    sides = b"".join(
        _bytes(1, _number(1, side) if isinstance(side, int) else _bytes(2, side)) for side in shape
    )
    return _bytes(1, name) + _bytes(2, _bytes(1, _number(1, TYPES[dtype]) + _bytes(2, sides)))


def _node(node: Node) -> bytes:
    attributes = b""
    for name, value in node.attributes.items():
        if isinstance(value, int):
            attributes += _bytes(5, _bytes(1, name) + _number(3, value) + _number(20, 2))
        else:
            ints = b"".join(_number(8, each) for each in value)
            attributes += _bytes(5, _bytes(1, name) + ints + _number(20, 7))
    return (
        b"".join(_bytes(1, name) for name in node.inputs)
        + b"".join(_bytes(2, name) for name in node.outputs)
        + _bytes(4, node.kind)
        + attributes
    )


def model(
    nodes: Sequence[Node],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, npt.NDArray[np.generic]],
    *,
    shape: Shape = (1, 3, 64, 64),
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """An ONNX file: input ``images``, some nodes, outputs of floats."""
    graph = (
        b"".join(_bytes(1, _node(node)) for node in nodes)
        + _bytes(2, "tiny")
        + b"".join(_bytes(5, _tensor(name, array)) for name, array in constants.items())
        + _bytes(11, _value("images", shape, dtype))
        + b"".join(_bytes(12, _value(name, sides, "float32")) for name, sides in outputs.items())
    )
    return (
        _number(1, 8)
        + _bytes(7, graph)
        + _bytes(8, _number(2, 17))
        + b"".join(
            _bytes(14, _bytes(1, key) + _bytes(2, value)) for key, value in (metadata or {}).items()
        )
    )


def always(
    answer: npt.NDArray[np.float32],
    *,
    shape: Shape = (1, 3, 64, 64),
    dtype: str = "float32",
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A model that gives the same answer to everything."""
    return model(
        [Node("Identity", ["answer"], ["output"])],
        {"output": answer.shape},
        {"answer": answer},
        shape=shape,
        dtype=dtype,
        metadata=metadata,
    )


def colours(
    box: Sequence[float],
    *,
    shape: Shape = (1, 3, 64, 64),
    dtype: str = "float32",
) -> bytes:
    """A model whose one box has the means of the three channels for scores of three classes."""
    nodes = [
        Node("Cast", ["images"], ["floats"], {"to": TYPES["float32"]}),
        Node("ReduceMean", ["floats"], ["means"], {"axes": [2, 3], "keepdims": 1}),
        Node("Reshape", ["means", "shape"], ["scores"]),
        Node("Concat", ["box", "scores"], ["output"], {"axis": 1}),
    ]
    constants: dict[str, npt.NDArray[np.generic]] = {
        "box": np.array(box, np.float32).reshape(1, 4, 1),
        "shape": np.array([1, 3, 1], np.int64),
    }
    return model(nodes, {"output": (1, 7, 1)}, constants, shape=shape, dtype=dtype)
