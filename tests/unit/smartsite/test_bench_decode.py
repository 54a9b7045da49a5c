"""What the decode benchmark measures; how fast it is, the benchmark itself tells."""

import pytest

from device_profiles.catalogue import load_profiles
from device_profiles.datasheets import Format
from smartsite.bench.decode import in_turns, mapped_fields, measure, minute_frame

PROFILES = load_profiles().by_id


def test_the_minute_frame_is_a_thousand_bytes_of_a_reading() -> None:
    frame = minute_frame()
    assert len(frame) == 1_000
    (reading,) = PROFILES["hj212"].decoder()(frame).readings
    assert reading.series == 1
    assert sum(value == value for value in reading.values) == 10
    assert len(minute_frame(400)) == 400


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("yunzhu-env", 9 + 1),
        ("yunzhu-crane", 9 + 1 + 1),
        ("generic-crane-nested", 6 + 5 + 2 + 1 + 1),
        ("generic-crane-batch", 2 * 6 + 2 * 3),
        ("thingsboard-gateway-dust", 9 + 2 + 3 + 3 * 2),
        ("aidrive-alert", 3 + 6),
        ("kks-alarm", 3 + 1 + 1 + 4),
    ],
)
def test_fields_are_places_the_datasheet_names(name: str, fields: int) -> None:
    assert mapped_fields(PROFILES[name].sheet) == fields


def test_every_profile_of_json_is_measured() -> None:
    one = PROFILES["yunzhu-env"]
    result = measure([one, PROFILES["hj212"], PROFILES["a5aa-crane"]])
    (row,) = result["profiles"]
    assert (row["id"], row["fields"], row["bytes"]) == (
        "yunzhu-env", 10, len(one.sheet.example.bytes if one.sheet.example else b""),
    )  # fmt: skip
    assert row["bar_us"] == pytest.approx(4 * row["orjson_us"] + 10, abs=0.05)
    assert row["holds"] == (row["us"] <= row["bar_us"])
    assert result["hj212_minute"]["bytes"] == 1_000
    assert all(
        each.sheet.example is not None
        for each in PROFILES.values()
        if each.sheet.format in (Format.JSON, Format.EVENT)
    )


def test_actions_are_timed_in_turns() -> None:
    counts = [0, 0]

    def busy(place: int, size: int) -> None:
        counts[place] += 1
        sum(range(size))

    little, much = in_turns(lambda: busy(0, 100), lambda: busy(1, 20_000))
    assert 0 < little < much
    assert counts[0] > counts[1] > 0
