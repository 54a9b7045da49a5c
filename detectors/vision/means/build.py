"""Compile `means.c` to WebAssembly: `make means`.

The compiler is the package `ziglang`, pinned by hash like everything else, so that the same source
gives the same bytes again. The module carries the hash of what it was made of, and a test holds it
to that.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE / "means.c"
CODE = HERE / "means.wasm"

FLAGS = (
    "-target",
    "wasm32-freestanding",
    "-mcpu=mvp+bulk_memory+mutable_globals+sign_ext",
    "-std=c17",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-O3",
    "-nostdlib",
    "-Wl,--no-entry",
    "-Wl,--export=jpeg",
    "-Wl,--export=levels",
    "-Wl,--strip-all",
    "-Wl,-z,stack-size=65536",
)

SECTION = b"source"
"""Name of the section that holds the SHA-256 of flags and source."""


def source_hash() -> bytes:
    """Hash what the module is made of.

    Returns:
        The SHA-256 of the flags and the source.
    """
    return hashlib.sha256("\0".join(FLAGS).encode() + b"\0" + SOURCE.read_bytes()).digest()


def compiled() -> bytes:
    """Compile.

    Returns:
        The module, with the hash of its source as its last section.

    Raises:
        subprocess.CalledProcessError: The source is wrong, or the compiler is not there.
    """
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / CODE.name
        command = [sys.executable, "-m", "ziglang", "cc", *FLAGS, "-o", str(code), SOURCE.name]
        subprocess.run(command, check=True, cwd=HERE)
        payload = bytes([len(SECTION)]) + SECTION + source_hash()
        return code.read_bytes() + bytes([0, len(payload)]) + payload


def main() -> None:
    """Write the module beside its source, and say whether it is another one."""
    before, after = CODE.read_bytes() if CODE.exists() else b"", compiled()
    CODE.write_bytes(after)
    news = "the same as before" if before == after else "changed"
    sys.stdout.write(f"{CODE.name}: {len(after)} bytes, {news}\n")


if __name__ == "__main__":
    main()
