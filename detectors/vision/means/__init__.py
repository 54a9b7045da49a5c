"""The brightness of each block of 8 × 8 pixels of a JPEG, read without decoding the rest.

A motion gate needs no more of a picture, and what a decoder spends most of its time on, the
texture of the blocks, it does not need at all. libjpeg cannot leave that out: its smallest decoding
takes 0.47 of a whole one at 1280 × 720, this 0.27.

`means.c` does it, compiled by `build.py` to WebAssembly: the same file runs on every machine, no
compiler is needed to install the product, and a hostile picture meets C inside a sandbox: what an
overrun could falsify there is a grey picture, of this camera or, by the tables they share, another.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from threading import Lock
from typing import cast

import numpy as np
import numpy.typing as npt
from wasmtime import Engine, Func, Global, Instance, Memory, Module, Store, WasmtimeError

log = logging.getLogger(__name__)

Image = npt.NDArray[np.uint8]

MOST_BYTES = 16 << 20
"""Of a JPEG that is read here; larger ones are left to libjpeg."""

CODE = Path(__file__).with_name("means.wasm")


class _Sandbox:
    """One instance of the module, with memory of its own; one picture at a time."""

    def __init__(self, engine: Engine, module: Module) -> None:
        self._store = Store(engine)
        exports = Instance(self._store, module, []).exports(self._store)
        self._means = cast("Func", exports["means"])
        self._jpeg: int = cast("Global", exports["jpeg"]).value(self._store)
        self._levels: int = cast("Global", exports["levels"]).value(self._store)
        # It never grows, so it never moves; what no picture touched costs no memory.
        memory = cast("Memory", exports["memory"]).get_buffer_ptr(self._store)
        self._memory: Image = np.ctypeslib.as_array(memory)

    def means(self, data: bytes) -> Image | None:
        self._memory[self._jpeg : self._jpeg + len(data)] = np.frombuffer(data, np.uint8)
        shape: int = self._means(self._store, len(data))
        rows, columns = divmod(shape, 1 << 16)
        if not rows:
            return None
        found: Image = self._memory[self._levels : self._levels + rows * columns].copy()
        return found.reshape(rows, columns)


_ONE_AT_A_TIME = Lock()


@cache
def _sandbox() -> _Sandbox | None:
    engine = Engine()
    module = Module(engine, CODE.read_bytes())
    try:
        return _Sandbox(engine, module)
    except WasmtimeError as fault:
        # It reserves 4 GiB of addresses, without using them: `ulimit -v` may forbid that.
        log.warning(
            "still scenes cost twice as much: no sandbox to read them in (%s)",
            " ".join(str(fault).split()),
        )
        return None


def block_means(data: bytes) -> Image | None:
    """Read how bright each block of a JPEG is.

    Args:
        data: A JPEG, or whatever claims to be one.

    Returns:
        Height / 8 × width / 8, rounded up, 0 to 255: the very picture that libjpeg decodes at an
        eighth in grey. None where libjpeg has to be asked: the picture is progressive, CMYK or
        RGB, comes in several scans, is larger than `MOST_BYTES`, cut off or broken, or this
        process may not have a sandbox.
    """
    if len(data) > MOST_BYTES:
        return None
    with _ONE_AT_A_TIME:
        sandbox = _sandbox()
        return sandbox.means(data) if sandbox else None
