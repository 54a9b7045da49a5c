"""The brightness of each block of 8 × 8 pixels of a JPEG, read without decoding the rest.

A motion gate needs no more of a picture, and what a decoder spends most of its time on, the
texture of the blocks, it does not need at all. libjpeg cannot leave that out: of a whole decoding
at 1280 × 720, its smallest takes 0.44, this 0.28.

`means.c` does it, compiled by `build.py` to WebAssembly: the same file runs on every machine, no
compiler is needed to install the product, and a hostile picture meets C inside a sandbox, where
all it can reach is the picture itself and the tables its codes make.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
import numpy.typing as npt
from wasmtime import Engine, Func, Global, Instance, Memory, Module, Store

Image = npt.NDArray[np.uint8]

MOST_BYTES = 16 << 20
"""Of a JPEG that is read here; larger ones are left to libjpeg."""

CODE = Path(__file__).with_name("means.wasm")


class _Sandbox:
    """One instance of the module: memory of its own, one picture at a time."""

    def __init__(self) -> None:
        engine = Engine()
        self._store = Store(engine)
        module = Module(engine, CODE.read_bytes())
        exports = Instance(self._store, module, []).exports(self._store)
        self._means = cast("Func", exports["means"])
        self._jpeg: int = cast("Global", exports["jpeg"]).value(self._store)
        self._levels: int = cast("Global", exports["levels"]).value(self._store)
        # It never grows, so it never moves; what no picture touches costs no memory.
        memory = cast("Memory", exports["memory"]).get_buffer_ptr(self._store)
        self._memory: Image = np.ctypeslib.as_array(memory)
        self._lock = Lock()

    def means(self, data: bytes) -> Image | None:
        size = len(data)
        if size > MOST_BYTES:
            return None
        with self._lock:
            self._memory[self._jpeg : self._jpeg + size] = np.frombuffer(data, np.uint8)
            shape: int = self._means(self._store, size)
            rows, columns = divmod(shape, 1 << 16)
            found: Image = self._memory[self._levels : self._levels + rows * columns].copy()
        return found.reshape(rows, columns) if rows else None


@cache
def _sandbox() -> _Sandbox:
    return _Sandbox()


def block_means(data: bytes) -> Image | None:
    """Read how bright each block of a JPEG is.

    Args:
        data: A JPEG, or whatever claims to be one.

    Returns:
        Height / 8 × width / 8, rounded up, 0 to 255: exactly the picture that libjpeg decodes at
        an eighth in grey. None where libjpeg has to be asked: the picture is progressive, CMYK or
        RGB, its means come in several scans, it is larger than `MOST_BYTES`, cut off or broken.
    """
    return _sandbox().means(data)
