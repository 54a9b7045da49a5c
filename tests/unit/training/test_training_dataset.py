"""Dataset folders read, and the cache of their pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from detectors.training.dataset import (
    CACHED_SIDE,
    DatasetError,
    PixelCache,
    manifest_hash,
    read_dataset,
    resized,
)
from detectors.training.recipe import CLASSES, HEAD, HELMET, NO_VEST
from tests.unit.training.drawn_dataset import SCENES, Scene, drawn, write_dataset


def test_pictures_come_as_the_manifest_says(dataset: Path) -> None:
    pictures = read_dataset(dataset)
    assert [picture.path.stem for picture in pictures] == [scene.name for scene in SCENES]
    assert [picture.split for picture in pictures] == [scene.split for scene in SCENES]
    assert [picture.source for picture in pictures[:5]] == ["heads"] * 5
    for picture, scene in zip(pictures, SCENES, strict=True):
        assert picture.classes.tolist() == [thing[0] for thing in scene.things]
        pixels = picture.boxes * np.array([scene.width, scene.height] * 2)
        np.testing.assert_allclose(
            pixels, np.array([thing[1:] for thing in scene.things]).reshape(-1, 4), atol=1e-3
        )


def test_what_a_source_labels_is_known_and_what_it_labels_roughly_is_not_exact(
    dataset: Path,
) -> None:
    heads, *_, bodies = (p for p in read_dataset(dataset) if p.source != "negative")
    named = dict(zip(CLASSES, zip(heads.known, heads.exact, strict=True), strict=True))
    assert [name for name, (known, _) in named.items() if known] == ["helmet", "head"]
    assert [name for name, (_, exact) in named.items() if exact] == ["helmet", "head"]
    assert bodies.known.tolist() == [True, False, True, True, True]
    assert bodies.exact.tolist() == [False, False, True, True, True]
    assert bodies.classes.tolist() == [NO_VEST, HELMET]


def test_people_free_scenes_know_everything(dataset: Path) -> None:
    empty = [picture for picture in read_dataset(dataset) if picture.source == "negative"]
    assert [picture.split for picture in empty] == ["train", "val"]
    assert all(picture.known.all() and not len(picture.boxes) for picture in empty)


def test_boxes_are_cut_at_the_picture(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, [Scene("x", things=((HEAD, -20, 60, 50, 130),))])
    (picture,) = read_dataset(folder)
    np.testing.assert_allclose(picture.boxes * 96, [[0, 60, 50, 96]], atol=1e-3)


def without(name: str) -> Callable[[Path], None]:
    def remove(folder: Path) -> None:
        (folder / name).unlink()

    return remove


def saying(name: str, text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / name).write_text(text, encoding="ascii")

    return write


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (saying("classes.txt", "head\nhelmet\nperson\nvest\nno_vest\n"), "classes.txt"),
        (saying("classes.txt", "helmet\nhead\n"), "classes.txt"),
        (without("images/a2.png"), "a2.png"),
        (without("labels/b1.txt"), "b1.txt"),
        (without("negatives/n1.png"), "n1.png"),
        (saying("labels/a1.txt", "5 0.5 0.5 0.1 0.1\n"), "a1.txt"),
        (saying("labels/a1.txt", "-1 0.5 0.5 0.1 0.1\n"), "a1.txt"),
        (saying("labels/a1.txt", "0.5 0.5 0.5 0.1 0.1\n"), "a1.txt"),
        (saying("labels/a1.txt", "0 0.5 0.5 0.1\n"), "a1.txt"),
        (saying("labels/a1.txt", "0 0.5 0.5 0.1 0.1\n0 0.5\n"), "a1.txt"),
        (saying("labels/a1.txt", "0 0.5 nan 0.1 0.1\n"), "a1.txt"),
        (saying("labels/a1.txt", "helmet 0.5 0.5 0.1 0.1\n"), "a1.txt"),
    ],
)
def test_a_folder_that_breaks_its_word_is_refused_by_name(
    dataset: Path, spoil: Callable[[Path], None], said: str
) -> None:
    spoil(dataset)
    with pytest.raises(DatasetError, match=said):
        read_dataset(dataset)


def test_a_picture_without_labels_is_one_without_objects(dataset: Path) -> None:
    (dataset / "labels" / "a1.txt").write_text("\n", encoding="ascii")
    picture = read_dataset(dataset)[0]
    assert picture.boxes.shape == (0, 4)
    assert picture.classes.shape == (0,)


def test_the_hash_names_the_data(dataset: Path, tmp_path: Path) -> None:
    before = manifest_hash(dataset)
    assert manifest_hash(write_dataset(tmp_path / "again")) == before
    with (dataset / "negatives.csv").open("a", encoding="utf-8") as file:
        file.write("n3.png,train,00\n")
    assert manifest_hash(dataset) != before


def test_the_cache_gives_back_what_the_files_held(dataset: Path, tmp_path: Path) -> None:
    pictures = read_dataset(dataset)
    cache = PixelCache(pictures, tmp_path / "cache")
    for number, scene in enumerate(SCENES):
        np.testing.assert_array_equal(cache[number], drawn(scene))


def test_a_cache_is_packed_once(dataset: Path, tmp_path: Path) -> None:
    pictures = read_dataset(dataset)
    PixelCache(pictures, tmp_path / "cache")
    for picture in pictures:
        picture.path.unlink()
    again = PixelCache(pictures, tmp_path / "cache")
    np.testing.assert_array_equal(again[4], drawn(SCENES[4]))
    # Other pictures, another cache: and these are gone.
    with pytest.raises(DatasetError, match="not a picture"):
        PixelCache(pictures[:3], tmp_path / "cache")


def test_the_cache_reduces_large_pictures_only(tmp_path: Path) -> None:
    scenes = [Scene("wide", width=2 * CACHED_SIDE, height=300), Scene("tiny", width=7, height=5)]
    cache = PixelCache(read_dataset(write_dataset(tmp_path / "d", scenes)), tmp_path / "cache")
    assert cache[0].shape == (150, CACHED_SIDE, 3)
    np.testing.assert_array_equal(cache[0], resized(drawn(scenes[0]), CACHED_SIDE, 150))
    np.testing.assert_array_equal(cache[1], drawn(scenes[1]))


def test_a_file_that_is_no_picture_leaves_no_cache_behind(dataset: Path, tmp_path: Path) -> None:
    pictures = read_dataset(dataset)
    whole = pictures[3].path.read_bytes()
    pictures[3].path.write_bytes(b"GIF89a")
    with pytest.raises(DatasetError, match=r"a4\.png"):
        PixelCache(pictures, tmp_path / "cache")
    pictures[3].path.write_bytes(whole)
    np.testing.assert_array_equal(PixelCache(pictures, tmp_path / "cache")[3], drawn(SCENES[3]))


def test_the_cache_cannot_be_drawn_upon(dataset: Path, tmp_path: Path) -> None:
    cache = PixelCache(read_dataset(dataset), tmp_path / "cache")
    with pytest.raises(ValueError, match="read-only"):
        cache[0][:] = 0
