"""Every profile keeps what all profiles promise: one test over all of them."""

import json
import math
import tomllib
from pathlib import Path

import msgspec
import pytest

from device_profiles.catalogue import SHIPPED, Profile, load_profile, load_profiles
from device_profiles.datasheets import Format
from device_profiles.decoding.encoding import encode_mapped
from device_profiles.decoding.terms import Terms
from device_profiles.decoding.times import AT_RECEIPT
from device_profiles.errors import Reason
from device_profiles.readings import Telemetry
from device_profiles.recording import read_recording
from device_profiles.units import conversion
from device_profiles.vocabulary import QUANTITIES, Kind
from ingest.pipeline import TimeLimits
from smartsite.commands.profiles import example_faults
from smartsite.decoding import explainer
from tests.profiles.mutating import GOLDEN

PROFILES = load_profiles().by_id
EVERY = [pytest.param(profile, id=name) for name, profile in PROFILES.items()]
CASES = sorted(GOLDEN.glob("*/*/"))
READS_VALUES = [each for each in PROFILES.values() if each.sheet.format in
                (Format.JSON, Format.TEXT, Format.PAIRS, Format.CSV, Format.STRUCT)]  # fmt: skip
ENCODES = [
    "chengdu-env", "cranerecord-upload", "deye-crane", "generic-columns", "generic-crane-left",
    "generic-pairs", "jetlinks-crane", "jetlinks-dust", "liyang-crane", "thingsboard-crane",
    "thingsboard-dust", "yunzhu-crane", "yunzhu-env",
]  # fmt: skip
REASONS = {
    "crc", "length", "incomplete", "syntax", "encoding", "too_large", "unknown_device", "time",
    "range", "type",
}  # fmt: skip
LIMITS = TimeLimits(120, 3 * 86_400)


@pytest.mark.parametrize("folder", CASES, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_golden_folder(folder: Path) -> None:
    """As `smartsite decode --profile ID input.jsonl` prints it."""
    explain = explainer(PROFILES[folder.parent.name], LIMITS)
    results = [
        explain(message.payload, message.received_at)
        for message in read_recording(folder / "input.jsonl")
    ]
    printed = json.loads(msgspec.json.encode(results, enc_hook=str))
    assert printed == json.loads((folder / "expected.json").read_text("utf-8"))
    for result in printed:
        assert result["reason"] in {None, *REASONS}
        assert all(part["reason"] in REASONS for part in result["refused"])
        assert "\n" not in (result["detail"] or "")


@pytest.mark.parametrize("profile", EVERY)
def test_profile_keeps_the_invariants(profile: Profile) -> None:
    sheet = profile.sheet
    assert {"usual"} < {folder.name for folder in CASES if folder.parent.name == sheet.id}
    assert sheet.source
    assert example_faults(profile) == []
    quantities = {quantity.name: quantity for quantity in QUANTITIES.get(sheet.kind, ())}
    for name, value in sheet.values.items():
        quantity = quantities[name]
        factor, shift = conversion(value.unit or quantity.unit, quantity.unit)
        for end in value.range or ():
            assert quantity.low <= end * factor + shift <= quantity.high, (name, end)


def test_every_kind_of_device_has_its_shapes() -> None:
    kinds = [profile.sheet.kind for profile in PROFILES.values()]
    makes = {each.sheet.fits.make for each in PROFILES.values() if each.sheet.fits}
    events = [each for each in PROFILES.values() if each.sheet.format is Format.EVENT]
    assert kinds.count(Kind.CRANE) >= 6
    assert kinds.count(Kind.DUST) >= 6
    assert len(events) >= 4
    assert {"jetlinks", "thingsboard", "thingsboard-gateway"} <= makes
    assert all(format_ in {each.sheet.format for each in PROFILES.values()} for format_ in
               set(Format) - {Format.PYTHON})  # fmt: skip


def test_golden_folders_belong_to_profiles() -> None:
    assert {folder.parent.name for folder in CASES} == set(PROFILES)
    assert {file.name for file in GOLDEN.rglob("*") if file.is_file()} == {
        "input.jsonl",
        "expected.json",
    }


@pytest.mark.parametrize("name", ENCODES)
def test_what_is_encoded_decodes(name: str) -> None:
    profile = PROFILES[name]
    assert profile.sheet.example is not None
    decode = profile.decoder()
    for telemetry in decode(profile.sheet.example.bytes).readings:
        at = 1_772_326_923_000_000
        given = msgspec.structs.replace(telemetry, reported_us=at)
        payload = encode_mapped(profile.sheet, given)
        assert payload is not None
        (again,) = decode(payload).readings
        assert again.reported_us == at
        assert again.values == pytest.approx(given.values, rel=1e-9, nan_ok=True)
        assert (again.series, again.seq) == (given.series, given.seq)
        assert (again.alarms or ()) == (given.alarms or ())


def test_what_cannot_be_encoded_says_so() -> None:
    others = [each.sheet for each in PROFILES.values() if each.sheet.id not in ENCODES]
    assert {Format.JSON, Format.STRUCT, Format.TEXT, Format.EVENT} < {one.format for one in others}
    for sheet in others:
        assert encode_mapped(sheet, _ones(sheet.kind)) is None, sheet.id
    hours = msgspec.structs.replace(_ones(Kind.DUST), series=2)
    assert encode_mapped(PROFILES["yunzhu-env"].sheet, hours) is None
    days = msgspec.structs.replace(_ones(Kind.DUST), series=3)
    assert encode_mapped(PROFILES["generic-pairs"].sheet, days) is None


def _ones(kind: Kind) -> Telemetry:
    values = (1.0,) * len(QUANTITIES.get(kind, ()))
    return Telemetry(1_772_326_923_000_000, values)


@pytest.mark.parametrize(
    "profile",
    [
        pytest.param(each, id=each.sheet.id)
        for each in READS_VALUES
        if "trolley_m" in each.sheet.values and not each.sheet.each.is_gateway
    ],
)
def test_radius_beyond_the_jib_is_refused(profile: Profile) -> None:
    """53.7 m on a jib of 50 m, as one crane says: geometry is the limit, with a metre to spare."""
    assert profile.sheet.example is not None
    payload = profile.sheet.example.bytes
    kept = profile.decoder(Terms(limits={"trolley_m": (0.0, 26.4 + 1)}))(payload)
    assert not [part for part in kept.refused if part.field == "trolley_m"]
    short = profile.decoder(Terms(limits={"trolley_m": (0.0, 25.0)}))(payload)
    refused = [part for part in short.refused if part.field == "trolley_m"]
    assert refused
    assert all(part.reason is Reason.RANGE for part in refused)
    assert "0 to 25 m" in refused[0].detail
    place = [quantity.name for quantity in QUANTITIES[Kind.CRANE]].index("trolley_m")
    assert all(math.isnan(telemetry.values[place]) for telemetry in short.readings)


def test_one_device_sends_another_unit_zone_and_end_of_bits() -> None:
    dust = PROFILES["yunzhu-env"]
    assert dust.sheet.example is not None
    (usual,) = dust.decoder()(dust.sheet.example.bytes).readings
    own = Terms(units={"pm10_ug_m3": "mg/m3", "tsp_ug_m3": "ug/m3"}, zone="Asia/Urumqi")
    (odd,) = dust.decoder(own)(dust.sheet.example.bytes.replace(b"68.9", b"0.0689")).readings
    assert odd.values[1] == usual.values[1] == 68.9
    assert odd.values[2] == pytest.approx(usual.values[2] / 1_000)
    assert odd.reported_us - usual.reported_us == 2 * 3_600 * 1_000_000
    crane = PROFILES["yunzhu-crane"]
    assert crane.sheet.example is not None
    (left,) = crane.decoder(Terms(alarm_bits="left"))(
        crane.sheet.example.bytes.replace(b"1100", b"0000").replace(b'"0000', b'"0011', 1)
    ).readings
    assert left.alarms == ("collision", "moment")
    with pytest.raises(ValueError, match="measures pressure"):
        dust.decoder(Terms(units={"pm10_ug_m3": "kPa"}))


def test_time_of_receipt_stands_in_only_where_the_datasheet_says() -> None:
    for profile in READS_VALUES:
        assert profile.sheet.time is not None
        allowed = profile.sheet.time.absent == "received"
        assert profile.sheet.example is not None
        stands_in = [
            reading
            for folder in CASES
            if folder.parent.name == profile.sheet.id and not profile.sheet.each.is_gateway
            for message in read_recording(folder / "input.jsonl")
            for reading in _readings(profile, message.payload)
            if reading.reported_us == AT_RECEIPT
        ]
        assert allowed or not stands_in


def _readings(profile: Profile, payload: bytes) -> list[Telemetry]:
    result = explainer(profile, LIMITS)(payload, None)
    return profile.decoder()(payload).readings if result["accepted"] else []


def test_shipped_files_are_named_by_vendor() -> None:
    for file in SHIPPED.rglob("*.toml"):
        assert file.parent.parent == SHIPPED, "VENDOR/MODEL.toml"
        assert load_profile(file).sheet.id == tomllib.loads(file.read_text("utf-8"))["id"]
