"""The frame store: pictures kept as they came, in files named by the SHA-256 of their bytes."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path


class FrameStore:
    """A folder of pictures by content.

    Writing the same picture twice writes it once. A picture is there, on the disk and under its
    name, when `put` returns: file and folder are synced.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def sweep(self, before: float) -> int:
        """Remove what writers that were killed have left half done.

        Args:
            before: Only files last changed before this time, seconds since 1970.

        Returns:
            How many were removed.
        """
        removed = 0
        for path in self._root.glob("??/??/.new-*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < before:
                    path.unlink()
                    removed += 1
        return removed

    def path(self, sha256: bytes) -> Path:
        """Where a picture lies.

        Args:
            sha256: Hash of its bytes, 32 bytes.

        Returns:
            The path, whether or not there is a file.
        """
        name = sha256.hex()
        return self._root / name[:2] / name[2:4] / f"{name}.jpg"

    @property
    def there(self) -> bool:
        """Whether there is a store: before its first picture there is none."""
        return self._root.is_dir()

    def remove(self, sha256: bytes, since: float) -> bool:
        """Remove a picture that nothing refers to.

        Whoever puts the same picture at that moment freshens it first, so it stays; or comes
        after it is gone, and writes it anew.

        Args:
            sha256: Hash of its bytes, 32 bytes.
            since: A picture put since this time stays, seconds since 1970.

        Returns:
            Whether it was removed; False: it is not here, or is fresh.

        Raises:
            OSError: The folder is not writable.
        """
        path = self.path(sha256)
        with contextlib.suppress(FileNotFoundError), self._locked(fcntl.LOCK_EX):
            if path.stat().st_mtime < since:
                path.unlink()
                return True
        return False

    def freshen(self, sha256: bytes) -> bool:
        """Say that a picture is wanted: a row that refers to it is about to be written.

        Args:
            sha256: Hash of its bytes, 32 bytes.

        Returns:
            Whether there is one.
        """
        with contextlib.suppress(FileNotFoundError), self._locked(fcntl.LOCK_SH):
            os.utime(self.path(sha256))
            return True
        return False

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        descriptor = os.open(self._root / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    def put(self, data: bytes) -> bytes:
        """Keep a picture.

        Args:
            data: Its bytes.

        Returns:
            Their SHA-256, 32 bytes.

        Raises:
            OSError: The disk is full or not writable; nothing was kept.
        """
        sha256 = hashlib.sha256(data).digest()
        path = self.path(sha256)
        if path.exists() and self.freshen(sha256):
            # Whoever put it there may have been stopped before its name was on the disk.
            for folder in (path.parent, path.parent.parent, self._root):
                _sync_folder(folder)
            return sha256
        created = _make_folders(path.parent, self._root)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
        for folder in (path.parent, *created):
            _sync_folder(folder)
        return sha256

    def get(self, sha256: bytes) -> bytes:
        """Fetch a picture.

        Args:
            sha256: Hash of its bytes.

        Returns:
            The bytes, checked against the hash.

        Raises:
            FileNotFoundError: It is not here, or was removed by the retention policy.
            ValueError: The file's bytes are not those that were stored.
        """
        data = self.path(sha256).read_bytes()
        if hashlib.sha256(data).digest() != sha256:
            raise ValueError(f"the stored frame {sha256.hex()} was altered")
        return data


def _make_folders(folder: Path, root: Path) -> list[Path]:
    """Make a folder and those above it; the folders whose entries changed have to be synced."""
    changed: list[Path] = []
    missing: list[Path] = []
    while not folder.exists():
        missing.append(folder)
        if folder == root:
            break
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(parents=True, exist_ok=True)
        changed.append(path.parent)
    return changed


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
