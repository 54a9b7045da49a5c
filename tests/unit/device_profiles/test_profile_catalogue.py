"""Which profile a device is read by, which topics are whose, and decoders beside a profile."""

from pathlib import Path

import pytest

from device_profiles.catalogue import ProfileFault, Profiles, load_profile, load_profiles
from device_profiles.decoding.terms import Terms
from device_profiles.errors import Reason, Rejected
from device_profiles.fitting import Fits, topic_filter, version_of
from device_profiles.vocabulary import Kind


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("2.1.3", (2, 1, 3)),
        ("V2.10", (2, 10)),
        ("fw 3.0.0-beta2", (3,)),
        ("2.0", (2,)),
        ("0.9", (0, 9)),
        ("release", None),
        ("", None),
    ],
)
def test_versions_are_numbers(text: str, version: tuple[int, ...] | None) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    ("firmware", "fitting", "others"),
    [
        ("", ["", "1", "x"], []),
        (">=2.0, <3", ["2", "2.0.1", "V2.99"], ["1.9", "3", "3.0.0", "", "x"]),
        ("<=2.1", ["2.1", "2.1.0", "1"], ["2.1.1", "2.2"]),
        (">1", ["1.0.1", "2"], ["1", "1.0", "0.9"]),
        ("==1.4", ["1.4", "1.4.0", "fw1.4"], ["1.4.1", "14"]),
        ("<10", ["9", "9.10"], ["10.0"]),
    ],
)
def test_firmware_is_a_range(firmware: str, fitting: list[str], others: list[str]) -> None:
    fits = Fits(make="acme", firmware=firmware)
    assert all(fits.covers("acme", "any", version) for version in fitting)
    assert not any(fits.covers("acme", "any", version) for version in others)


@pytest.mark.parametrize(
    ("models", "fitting", "others"),
    [
        (["*"], ["", "x"], []),
        (["XW-*", "YY-2?"], ["xw-1", "XW-", "yy-20"], ["XW1", "YY-2", "YY-200"]),
        (["a[12]"], ["A1", "a2"], ["a3", "a[12]"]),
    ],
)
def test_models_are_shell_patterns(
    models: list[str], fitting: list[str], others: list[str]
) -> None:
    fits = Fits(make="Acme", models=tuple(models))
    assert all(fits.covers("ACME", model, "") for model in fitting)
    assert not any(fits.covers("acme", model, "") for model in others)
    assert not fits.covers("other", fitting[0], "")


def test_a_device_finds_its_profile() -> None:
    profiles = load_profiles()
    found = profiles.find(Kind.CRANE, "Deye", "any", "")
    assert found is not None
    assert found.sheet.id == "deye-crane"
    for kind, make in ((Kind.DUST, "deye"), (Kind.CRANE, "nobody"), (Kind.CRANE, "")):
        assert profiles.find(kind, make, "any", "") is None
    both = {kind: profiles.find(kind, "yunzhu", "", "") for kind in (Kind.DUST, Kind.CRANE)}
    assert {kind: each and each.sheet.id for kind, each in both.items()} == {
        Kind.DUST: "yunzhu-env",
        Kind.CRANE: "yunzhu-crane",
    }


def test_topics_outside_the_contract_belong_to_those_listened_to() -> None:
    topic = "BIM/Sets/zhgd/DEYE/18090302/RealtimeDataCrane"
    assert load_profiles().match_topic(topic) is None
    profiles = load_profiles(topics_of=["deye-crane", "jetlinks-dust", "thingsboard-gateway-dust"])
    match = profiles.match_topic(topic)
    assert match is not None
    assert (match.profile.sheet.id, match.device) == ("deye-crane", "18090302")
    child = profiles.match_topic("/p/gw/child/dev-7/properties/report")
    assert child is not None
    assert (child.profile.sheet.id, child.device) == ("jetlinks-dust", "dev-7")
    gateway = profiles.match_topic("v1/gateway/telemetry")
    assert gateway is not None
    assert (gateway.profile.sheet.id, gateway.device) == ("thingsboard-gateway-dust", "")
    for other in (
        "BIM/Sets/zhgd/DEYE/18090302/RuntimeData",
        "BIM/Sets/zhgd/DEYE/1/2/RealtimeDataCrane",
        "BIM/Sets/zhgd//1/RealtimeDataCrane",
        "x/" + topic,
        topic + "/x",
        "BIM/Sets/zhgd/DEYE/" + "1" * 200 + "/RealtimeDataCrane",
        "",
    ):
        assert profiles.match_topic(other) is None
    assert topic_filter("a/{maker}/{device}/x") == "a/+/+/x"


def test_one_topic_is_one_profiles() -> None:
    with pytest.raises(ProfileFault, match=r"fits: topic '/\{product\}/\{device\}/prop.* could be"):
        load_profiles(topics_of=["jetlinks-dust", "jetlinks-crane"])
    with pytest.raises(ProfileFault, match="topics_of: 'gone' is no profile with topics"):
        load_profiles(topics_of=["gone"])
    with pytest.raises(ProfileFault, match="topics_of: 'yunzhu-env' is no profile with topics"):
        load_profiles(topics_of=["yunzhu-env"])


SHEET = """
id = "own"
title = "own"
kind = "dust"
format = "python"
decoder = "own.py:build"
[values.pm10_ug_m3]
at = "pm10"
"""
CODE = """
from device_profiles.errors import Reason, Rejected
from device_profiles.readings import Decoded, Telemetry

def build(sheet, terms):
    def decode(payload):
        if payload == b"refuse":
            raise Rejected(Reason.CRC, "as it says")
        number = float(payload)
        return Decoded([Telemetry(1772326923000000, (float("nan"), number, *[float("nan")] * 9))])
    return decode
"""


def test_a_decoder_lies_beside_its_profile(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(SHEET, "utf-8")
    (tmp_path / "own.py").write_text(CODE, "utf-8")
    decode = load_profiles([tmp_path]).by_id["own"].decoder(Terms())
    assert decode(b"7.5").readings[0].values[1] == 7.5
    with pytest.raises(Rejected) as caught:
        decode(b"refuse")
    assert caught.value.reason is Reason.CRC
    with pytest.raises(Rejected, match=r"own\.py:build failed: ValueError") as caught:
        decode(b"garbage")
    assert caught.value.reason is Reason.TYPE


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "there is no"),
        ("def other(): pass", "has no attribute 'build'"),
        ("import nothing_of_that_name", "nothing_of_that_name"),
        ("def build(:", "SyntaxError"),
    ],
)
def test_a_decoder_that_cannot_be_loaded_is_told(
    tmp_path: Path, code: str | None, said: str
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(SHEET, "utf-8")
    if code is not None:
        (tmp_path / "own.py").write_text(code, "utf-8")
    with pytest.raises(ProfileFault) as caught:
        load_profile(file)
    (line,) = caught.value.faults
    assert line.startswith(f"{file}: decoder: ")
    assert said in line


def test_profiles_are_counted() -> None:
    shipped = load_profiles()
    assert len(shipped) == len(shipped.by_id) >= 30
    assert len(Profiles([])) == 0
