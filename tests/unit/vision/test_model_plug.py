"""A model of somebody else's: described, checked, fed and read as it wants to be."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from pydantic import BaseModel

from detectors.vision import self_test
from detectors.vision.errors import Misconfigured
from detectors.vision.model import SHIPPED, Model, open_session
from detectors.vision.picture import Image
from detectors.vision.plug import CLASSES, Description, Output, Preprocessing
from device_profiles.readings import Box
from tests.unit.docs.manual import DOCS, blocks, table_with
from tests.unit.vision.tiny_onnx import Node, always, colours, model

Floats = npt.NDArray[np.float32]
Put = Callable[..., Path]

SIDE = 64
CELLS = 64 + 16 + 4


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a model and the TOML beside it."""

    def put(data: bytes, toml: str = "", name: str = "mine") -> Path:
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        if toml:
            path.with_suffix(".toml").write_text(toml, "utf-8")
        return path

    return put


def described(output: str, classes: str = '["helmet", "head"]', preprocessing: str = "") -> str:
    return (
        f"classes = {classes}\ninput_size = {SIDE}\n"
        f'[preprocessing]\ncolour = "BGR"\n{preprocessing}\n[output]\n{output}\n'
    )


def loaded(path: Path) -> Model:
    return Model(path, tested=False)


def picture(colour: tuple[int, int, int], width: int = SIDE, height: int = SIDE) -> Image:
    return np.full((height, width, 3), colour, np.uint8)


def seen(path: Path, image: Image, least: float = 0.5) -> list[tuple[str, float]]:
    return [(box.label, box.score) for box in loaded(path).see(image, least, every=True)]


# --- feeding -----------------------------------------------------------------------------------

ONE_BOX = 'layout = "yolo"'
BOX = (32, 32, 20, 10)
THREE = '["helmet", "head", "person"]'


@pytest.mark.parametrize(
    ("preprocessing", "scores"),
    [
        ("range = [0, 1]", {"helmet": 1.0, "head": 0.2, "person": 0.0}),
        ("", {"helmet": 255, "head": 51, "person": 0}),
        (
            "range = [0, 1]\nmean = [0.5, 0.1, -1]\nstd = [0.5, 0.2, 2]",
            {"helmet": 1.0, "head": 0.5, "person": 0.5},
        ),
        ("range = [-1, 1]", {"helmet": 1.0, "head": -0.6, "person": -1.0}),
    ],
)
def test_brightness_becomes_what_the_model_wants(
    put: Put, preprocessing: str, scores: dict[str, float]
) -> None:
    path = put(colours(BOX), described(ONE_BOX, THREE, preprocessing))
    found = dict(seen(path, picture((255, 51, 0)), -10))
    assert found == pytest.approx(scores, abs=2e-3)


def test_channels_come_in_the_models_order(put: Put) -> None:
    toml = described(ONE_BOX, THREE, "range = [0, 1]").replace("BGR", "RGB")
    assert seen(put(colours(BOX), toml), picture((255, 0, 0))) == [("person", 1.0)]


@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_tensors_of_other_types(put: Put, dtype: str) -> None:
    path = put(colours(BOX, dtype=dtype), described(ONE_BOX, THREE))
    assert seen(path, picture((200, 0, 0)), 100) == [("helmet", 200.0)]


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("top-left", (0, 0, 128, 64)),
        ("centre", (0, 16 / 64 * 128 - 32, 128, 64)),
        ("stretch", (0, 0, 128, 64)),
    ],
)
def test_boxes_are_taken_out_of_the_letterbox(
    put: Put, how: str, wanted: tuple[float, float, float, float]
) -> None:
    box = {"top-left": (32, 16, 64, 32), "centre": (32, 32, 64, 32), "stretch": (32, 32, 64, 64)}
    preprocessing = f'letterbox = "{how}"\nrange = [0, 1]\npadding = 0'
    path = put(colours(box[how]), described(ONE_BOX, THREE, preprocessing))
    (found, *_) = loaded(path).see(picture((255, 255, 255), 128, 64), 0.1)
    assert found.box == pytest.approx(wanted, abs=0.01)
    # A wide picture fills half of a square, and all of it where it is stretched.
    assert found.score == pytest.approx(1.0 if how == "stretch" else 0.5, abs=0.01)


def test_a_wide_picture_needs_no_square_where_the_model_takes_any(put: Put) -> None:
    shape = ("batch", 3, "height", "width")
    preprocessing = "range = [0, 1]\npadding = 0"
    free = put(colours(BOX, shape=shape), described(ONE_BOX, THREE, preprocessing), "free")
    assert seen(free, picture((255, 0, 0), 128, 64)) == [("helmet", 1.0)]
    bound = put(
        colours(BOX, shape=shape),
        described(ONE_BOX, THREE, preprocessing + "\nrectangular = false"),
        "bound",
    )
    assert seen(bound, picture((255, 0, 0), 128, 64), 0.2) == [("helmet", 0.5)]


# --- reading -----------------------------------------------------------------------------------


def yolo(rows: list[list[float]]) -> Floats:
    return np.array(rows, np.float32)[np.newaxis]


ROWS = [[20, 30, 10, 20, 0.9, 0.1], [21, 30, 10, 20, 0.8, 0.1], [50, 50, 8, 8, 0.2, 0.7]]
FOUND = [
    Box("helmet", 0.9, (15.0, 20.0, 25.0, 40.0)),
    Box("head", 0.7, (46.0, 46.0, 54.0, 54.0)),
]


def with_objectness(rows: list[list[float]]) -> list[list[float]]:
    """Twice the score, half of it an object's."""
    return [[*row[:4], 0.5, *(2 * score for score in row[4:])] for row in rows]


def corners(rows: list[list[float]]) -> list[list[float]]:
    return [[x - w / 2, y - h / 2, x + w / 2, y + h / 2, *rest] for x, y, w, h, *rest in rows]


def logits(rows: list[list[float]]) -> list[list[float]]:
    return [[*row[:4], *(float(np.log(s / (1 - s))) for s in row[4:])] for row in rows]


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (yolo(ROWS), 'layout = "yolo"'),
        (yolo(ROWS).transpose(0, 2, 1), 'layout = "yolo"'),
        (yolo(with_objectness(ROWS)), 'layout = "yolo"\nobjectness = true'),
        (yolo(with_objectness(ROWS)).transpose(0, 2, 1), 'layout = "yolo"\nobjectness = true'),
        (yolo(corners(ROWS)), 'layout = "yolo"\nbox = "xyxy"'),
        (
            yolo([[*(side / SIDE for side in row[:4]), *row[4:]] for row in ROWS]),
            'layout = "yolo"\nnormalised = true',
        ),
        (yolo(logits(ROWS)), 'layout = "yolo"\nlogits = true'),
        (
            yolo([[15, 20, 25, 40, 0.9, 0], [46, 46, 54, 54, 0.7, 1], [0, 0, 0, 0, 0, -1]]),
            'layout = "boxes"',
        ),
    ],
)
def test_an_answer_is_read_as_described(put: Put, answer: Floats, output: str) -> None:
    path = put(always(np.ascontiguousarray(answer)), described(output))
    found = loaded(path).see(picture((0, 0, 0)), 0.5)
    assert [box.label for box in found] == ["helmet", "head"]
    for box, wanted in zip(found, FOUND, strict=True):
        assert box.score == pytest.approx(wanted.score, abs=1e-3)
        assert box.box == pytest.approx(wanted.box, abs=1e-2)


def yolox(decoded: bool) -> Floats:
    """A helmet in the cell of stride 16 at column 1, row 2: 40 × 24 pixels about (24, 36)."""
    rows = np.zeros((CELLS, 7), np.float32)
    cell = 64 + 2 * 4 + 1
    rows[cell, :4] = (24, 36, 40, 24) if decoded else (0.5, 0.25, np.log(2.5), np.log(1.5))
    rows[cell, 4:] = 0.8, 0.9, 0.05
    return rows[np.newaxis]


@pytest.mark.parametrize("decoded", [False, True])
def test_yolox_as_published(put: Put, decoded: bool) -> None:
    output = f'layout = "yolox"\nobjectness = true\ndecoded = {str(decoded).lower()}'
    path = put(always(yolox(decoded)), described(output))
    (found,) = loaded(path).see(picture((0, 0, 0)), 0.5)
    assert found == Box("helmet", 0.72, (4.0, 24.0, 44.0, 48.0))


def test_a_model_that_gives_no_numbers_finds_nothing(put: Put) -> None:
    for bad in (np.nan, np.inf, -np.inf):
        answer = np.full((1, 5, 6), bad, np.float32)
        path = put(always(answer), described('layout = "yolo"'), name="bad")
        assert loaded(path).see(picture((0, 0, 0)), 0.5) == []


@pytest.mark.parametrize("score", [np.nan, np.inf, -np.inf])
def test_a_score_that_is_no_number_is_none(put: Put, score: float) -> None:
    answer = yolo([[20, 30, 10, 20, score, 0.1], *ROWS])
    assert loaded(put(always(answer), described(ONE_BOX))).see(picture((0, 0, 0)), 0.5) == FOUND


def test_classes_by_number_and_classes_to_be_ignored(put: Put) -> None:
    answer = yolo([[20, 30, 10, 20, 0.9, 0.1, 0.8], [50, 50, 8, 8, 0.2, 0.7, 0.1]])
    for name, classes in (("list", '["", "person", ""]'), ("table", '{ 1 = "person" }')):
        model = loaded(put(always(answer), described('layout = "yolo"', classes), name))
        assert model.classes == ("person",)
        assert [box.label for box in model.see(picture((0, 0, 0)), 0.5)] == ["person"]


def test_one_output_of_several_is_named(put: Put) -> None:
    nodes = [Node("Identity", ["a"], ["other"]), Node("Identity", ["b"], ["wanted"])]
    constants: dict[str, npt.NDArray[np.generic]] = {
        "a": np.zeros((2, 2), np.float32),
        "b": yolo(ROWS),
    }
    data = model(nodes, {"other": (2, 2), "wanted": (1, 3, 6)}, constants)
    toml = described('layout = "yolo"\nname = "wanted"')
    assert len(seen(put(data, toml), picture((0, 0, 0)))) == 2
    with pytest.raises(Misconfigured, match="other, wanted"):
        loaded(put(data, described('layout = "yolo"'), "unnamed"))
    with pytest.raises(Misconfigured, match="no output 'third'"):
        loaded(put(data, toml.replace("wanted", "third"), "misnamed"))


def test_the_least_score_may_differ_by_class(put: Put) -> None:
    model = loaded(put(always(yolo(ROWS)), described('layout = "yolo"')))
    labels = [box.label for box in model.see(picture((0, 0, 0)), {"helmet": 0.95, "head": 0.6})]
    assert labels == ["head"]
    assert [box.label for box in model.see(picture((0, 0, 0)), {"helmet": 0.5})] == ["helmet"]


# --- describing --------------------------------------------------------------------------------


def metadata(**changes: Any) -> dict[str, str]:
    said = {
        "classes": ["helmet", "head"],
        "input_size": SIDE,
        "preprocessing": {"colour": "BGR"},
        "output": {"layout": "yolo", "columns": ["x", "y"], "scores": "as they are"},
    } | changes
    return {key: json.dumps(value) for key, value in said.items()} | {"licence": "ours"}


def test_a_description_in_the_metadata_is_enough(put: Put) -> None:
    assert len(seen(put(always(yolo(ROWS), metadata=metadata())), picture((0, 0, 0)))) == 2


def test_what_the_file_beside_it_says_counts(put: Put) -> None:
    path = put(
        always(yolo(corners(ROWS)), metadata=metadata()),
        '[output]\nbox = "xyxy"\n[operating_point]\nhelmet = 0.25\n',
    )
    model = loaded(path)
    assert model.description.output.layout == "yolo"
    assert model.operating_point == {"helmet": 0.25, "head": 0.5}
    assert model.see(picture((0, 0, 0)), model.operating_point) == FOUND


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (described(ONE_BOX).replace('"head"', '"heads"'), "classes: heads: no rule knows these"),
        (described(ONE_BOX, '["", ""]'), "classes: names none of helmet"),
        (described(ONE_BOX, '["helmet"]'), "1 classes make 5 columns"),
        (described(ONE_BOX, '{ 7 = "person" }'), "8 classes make 12 columns"),
        (described(ONE_BOX).replace("64", "96"), "input_size of 96 × 96: the height differs"),
        (described(ONE_BOX).replace("64", "1000000"), "input_size"),
        (described('layout = "ssd"'), "output.layout"),
        (described('layout = "yolox"'), "64 × 64: strides (8, 16, 32) make 84 rows"),
        (described(ONE_BOX + "\nobjectnes = true"), "output.objectnes"),
        (described(ONE_BOX, preprocessing="std = [0, 1, 1]"), "preprocessing.std"),
        (described(ONE_BOX, preprocessing="range = [1, 0]"), "preprocessing.range"),
        (described(ONE_BOX, preprocessing="multiple_of = 48"), "not a multiple of 48"),
        (described(ONE_BOX) + "\n[operating_point]\nhat = 0.5", "operating_point: hat"),
        ("classes = [", "not readable as TOML"),
        ('classes = ["helmet", "head"]\n', "output: Field required"),
    ],
)
def test_a_wrong_description_is_refused_with_its_file(put: Put, toml: str, said: str) -> None:
    path = put(always(yolo(ROWS)), toml)
    with pytest.raises(Misconfigured) as caught:
        loaded(path)
    assert said in str(caught.value)
    assert "mine." in str(caught.value)


def test_every_fault_is_said_at_once(put: Put) -> None:
    toml = 'classes = ["hat"]\ninput_size = 64\n[preprocessing]\ncolour = "CMY"\n'
    with pytest.raises(Misconfigured) as caught:
        loaded(put(always(yolo(ROWS)), toml))
    keys = [line.split(": ")[1] for line in str(caught.value).splitlines()]
    assert keys == ["classes", "preprocessing.colour", "output"]


def test_faults_of_the_metadata_and_of_the_file_are_told_apart(put: Put) -> None:
    path = put(
        always(yolo(ROWS), metadata=metadata(input_size=[16, SIDE])),
        "[output]\nlayout = 'nothing'\n",
    )
    with pytest.raises(Misconfigured) as caught:
        loaded(path)
    first, second = sorted(str(caught.value).splitlines())
    assert first.startswith(f"{path} (metadata): input_size")
    assert second.startswith(f"{path.with_suffix('.toml')}: output.layout")


def test_without_any_description_it_says_what_to_do(put: Put) -> None:
    with pytest.raises(Misconfigured, match=r"mine\.toml beside it.*docs/own-model\.md"):
        loaded(put(always(yolo(ROWS))))
    with pytest.raises(Misconfigured, match="not JSON"):
        loaded(put(always(yolo(ROWS), metadata={"classes": "helmet"}), name="prose"))


@pytest.mark.parametrize(
    "shape", [(1, 3, 64), (1, 1, 64, 64), (2, 3, 64, 64), (1, 3, 32, 64), (1, 64, 64, 3)]
)
def test_what_takes_no_picture_is_refused(put: Put, shape: tuple[int, ...]) -> None:
    path = put(always(yolo(ROWS), shape=shape), described(ONE_BOX))
    with pytest.raises(Misconfigured, match="takes"):
        loaded(path)


FREE = ("batch", 3, "height", "width")


def fixed_within() -> bytes:
    """A model whose graph says its sides are free, and that takes but one size."""
    nodes = [
        Node("Reshape", ["images", "flat"], ["pixels"]),
        Node("ReduceMean", ["pixels"], ["scores"], {"axes": [2], "keepdims": 1}),
        Node("Concat", ["box", "scores"], ["output"], {"axis": 1}),
    ]
    constants: dict[str, npt.NDArray[np.generic]] = {
        "flat": np.array([1, 3, SIDE * SIDE], np.int64),
        "box": np.array([32, 10, 20, 10], np.float32).reshape(1, 4, 1),
    }
    return model(nodes, {"output": (1, 7, 1)}, constants, shape=FREE)


def test_a_model_that_takes_but_one_shape_within_does_not_start(put: Put) -> None:
    with pytest.raises(Misconfigured, match=r"cannot be run on 1 × 3 × (32 × 64|64 × 32).*rectang"):
        loaded(put(fixed_within(), described(ONE_BOX, THREE)))
    square = put(fixed_within(), described(ONE_BOX, THREE, "rectangular = false"), "square")
    ((label, score),) = seen(square, picture((255, 0, 0), 3 * SIDE, SIDE), 160)
    assert label == "helmet"
    assert score == pytest.approx((255 * 21 + 114 * 43) / 64, abs=0.1)


def test_an_answer_that_does_not_follow_the_inputs_shape_does_not_start(put: Put) -> None:
    output = 'layout = "yolox"\nobjectness = true'
    answer = always(yolox(decoded=False), shape=FREE)
    with pytest.raises(Misconfigured, match=r"(64 × 32|32 × 64): strides .* make 42 rows"):
        loaded(put(answer, described(output)))


class Cuda:
    """A session that says it runs on a GPU."""

    def __init__(self, data: bytes) -> None:
        self._session = open_session(data, "it")

    def get_providers(self) -> list[str]:
        return ["CUDAExecutionProvider"]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


def test_pictures_go_together_only_to_a_model_that_takes_several(
    put: Put, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("detectors.vision.model.open_session", lambda data, *_, **__: Cuda(data))
    jpeg = cv2.imencode(".jpg", picture((200, 0, 0)))[1].tobytes()
    toml = described(ONE_BOX, THREE, "rectangular = false")
    for name, data in (("one", fixed_within()), ("same", colours(BOX, shape=FREE))):
        alone = loaded(put(data, toml, name))
        found = alone.look_at_many([jpeg] * 3, 100)
        assert [[box.label for box in boxes] for boxes in found if isinstance(boxes, list)] == [
            ["helmet"]
        ] * 3
        assert "takes one picture at once" in caplog.text
        caplog.clear()


def test_cuda_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(Misconfigured, match="onnxruntime-gpu"):
        Model(device="cuda")


# --- the self-test -----------------------------------------------------------------------------


def test_a_blind_model_does_not_start(put: Put) -> None:
    path = put(always(yolo([[1, 1, 2, 2, 0, 0]])), described(ONE_BOX))
    with pytest.raises(Misconfigured) as caught:
        Model(path)
    said = str(caught.value)
    assert "no helmet at" in said
    assert "no head at" in said
    assert "person" not in said  # it claims to know no people
    assert "it sees nothing" in said


def test_a_model_fed_wrongly_does_not_start(put: Put) -> None:
    data = SHIPPED.read_bytes()
    beside = SHIPPED.with_suffix(".toml").read_text("utf-8")
    assert Model(put(data, beside)).classes == CLASSES
    for wrong in ("range = [0, 0.05]", "range = [-1, 1]"):
        with pytest.raises(Misconfigured, match="does not see what people"):
            Model(put(data, f"[preprocessing]\n{wrong}\n", "wrong"))


def test_a_model_fed_red_for_blue_does_not_start(put: Put) -> None:
    shipped = Model()
    right, swapped = shipped._agreements(self_test.PICTURE.read_bytes())
    print(f"agreement {right:.2f}, with red and blue swapped {swapped:.2f}")  # noqa: T201
    assert right - swapped > 1.5 * self_test.COLOURS_SWAPPED
    beside = SHIPPED.with_suffix(".toml").read_text("utf-8") + "[preprocessing]\ncolour = 'RGB'\n"
    with pytest.raises(Misconfigured, match=r"red and blue swapped|instead of the vest"):
        Model(put(SHIPPED.read_bytes(), beside))


def test_agreement_is_what_is_right_less_what_is_wrong() -> None:
    vest, head = (
        next(box for box in self_test.ANSWER if box.label == label) for label in ("vest", "head")
    )
    found = [
        Box("vest", 0.6, vest.box),
        Box("no_vest", 0.2, vest.box),
        Box("vest", 0.9, head.box),
        Box("head", 0.5, head.box),
    ]
    assert self_test.agreement(found, CLASSES) == pytest.approx(0.9)
    assert self_test.agreement(found, ("helmet", "head")) == pytest.approx(0.5)


def test_the_answer_lies_in_the_picture_and_is_what_is_asked() -> None:
    image = cv2.imread(str(self_test.PICTURE))
    assert image is not None
    height, width = image.shape[:2]
    for box in self_test.ANSWER:
        x1, y1, x2, y2 = box.box
        assert 0 <= x1 < x2 <= width
        assert 0 <= y1 < y2 <= height
    assert self_test.missed(self_test.ANSWER, CLASSES) == []
    assert len(self_test.missed([], CLASSES)) == len(self_test.ANSWER)
    assert self_test.missed([], ("no_vest",)) == []


def test_a_helmet_for_a_head_is_no_answer() -> None:
    head = next(box for box in self_test.ANSWER if box.label == "head")
    found = [Box("helmet", 0.9, head.box), Box("head", 0.5, head.box)]
    (line,) = self_test.missed(found, ("head",))
    assert line.startswith("a helmet instead of the head")


def test_the_pictures_licence_is_told() -> None:
    said = (self_test.PICTURE.parent / "README.md").read_text("utf-8")
    for word in ("Intel", "CC BY 4.0", "Changes made"):
        assert word in said


def test_the_shipped_weights_have_a_point_for_every_class() -> None:
    said = Model().description
    assert set(said.operating_point) == set(said.known) == set(CLASSES)


MANUAL = DOCS / "own-model.md"


@pytest.mark.parametrize("number", range(3))
def test_the_manuals_examples_are_right(number: int) -> None:
    examples = [block.text for block in blocks(MANUAL) if block.name == "model"]
    assert len(examples) == 3
    Description.model_validate(tomllib.loads(examples[number]))


def test_the_manual_knows_every_key_and_its_default() -> None:
    written = {row["key"].split(",")[0]: row["default"] for row in table_with(MANUAL, "key")}
    sections: list[tuple[str, type[BaseModel]]] = [
        ("", Description),
        ("preprocessing.", Preprocessing),
        ("output.", Output),
    ]
    known = {
        prefix + name: field
        for prefix, section in sections
        for name, field in section.model_fields.items()
    }
    for key in ("preprocessing", "output", "preprocessing.std"):
        known.pop(key)
    assert set(written) == set(known)
    for key, field in known.items():
        if field.is_required():
            assert written[key] == ""
        elif key not in ("operating_point", "preprocessing.mean", "output.name"):
            default = field.default
            default = list(default) if isinstance(default, tuple) else default
            assert tomllib.loads(f"value = {written[key]}")["value"] == default
