"""The frame store: pictures under their hashes, whole or not at all."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.frame_store import FrameStore


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]


@given(st.lists(st.binary(max_size=50), max_size=6))
@settings(max_examples=25, deadline=None)
def test_pictures_come_back_and_equal_ones_are_kept_once(
    tmp_path_factory: pytest.TempPathFactory, pictures: list[bytes]
) -> None:
    store = FrameStore(tmp_path_factory.mktemp("frames") / "new" / "frames")
    hashes = [store.put(picture) for picture in pictures]
    assert hashes == [hashlib.sha256(picture).digest() for picture in pictures]
    assert [store.get(sha256) for sha256 in hashes] == pictures
    assert len({store.path(sha256) for sha256 in hashes}) == len(set(pictures))


def test_the_same_picture_is_written_once(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    before = store.path(store.put(b"picture")).stat()
    assert store.put(b"picture") == hashlib.sha256(b"picture").digest()
    after = store.path(store.put(b"picture")).stat()
    assert before.st_ino == after.st_ino
    assert len(files(tmp_path)) == 1


def test_another_store_finds_it_by_its_hash(tmp_path: Path) -> None:
    sha256 = FrameStore(tmp_path).put(b"picture")
    assert FrameStore(tmp_path).get(sha256) == b"picture"
    assert sha256.hex() in FrameStore(tmp_path).path(sha256).name


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        FrameStore(tmp_path).get(bytes(32))


@pytest.mark.parametrize("altered", [b"", b"pictur", b"picturf", b"picture\n"])
def test_an_altered_file_is_noticed(tmp_path: Path, altered: bytes) -> None:
    store = FrameStore(tmp_path)
    sha256 = store.put(b"picture")
    store.path(sha256).write_bytes(altered)
    with pytest.raises(ValueError, match=sha256.hex()):
        store.get(sha256)


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    store = FrameStore(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        if call == "fsync":
            patch.setattr(os, "fsync", full)
        else:
            patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            store.put(b"picture")
    assert files(tmp_path) == []
    assert store.get(store.put(b"picture")) == b"picture"


def test_a_file_is_never_seen_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FrameStore(tmp_path)
    path = store.path(hashlib.sha256(b"picture").digest())
    seen = []
    sync = os.fsync

    def look(descriptor: int) -> None:
        seen.append(path.read_bytes() if path.exists() else None)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", look)
    store.put(b"picture")
    # The bytes are on the disk before the name is there, the name after.
    assert seen[0] is None
    assert len(seen) > 1
    assert set(seen[1:]) == {b"picture"}


def test_a_name_that_may_not_be_on_the_disk_is_synced_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FrameStore(tmp_path)
    store.put(b"picture")  # as if by one that was stopped before it had synced the folder
    synced = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    path = store.path(store.put(b"picture"))
    assert path.parent.stat().st_ino in synced


def test_a_folder_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    # A file where the folder ought to be stops root, too.
    (tmp_path / "frames").write_bytes(b"")
    with pytest.raises(OSError, match="frames"):
        FrameStore(tmp_path / "frames").put(b"picture")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable to root")
def test_a_folder_without_rights_is_an_oserror(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            FrameStore(tmp_path).put(b"picture")
    finally:
        tmp_path.chmod(0o700)


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    store = FrameStore(tmp_path)
    sha256 = store.put(b"picture")
    folder = store.path(sha256).parent
    old, young = folder / ".new-old", folder / ".new-young"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1_000, 1_000))
    assert store.sweep(before=2_000) == 1
    assert not old.exists()
    assert young.exists()
    assert store.get(sha256) == b"picture"
