"""What the roles subscribe to, and what `check` says of profiles and site files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from device_profiles.catalogue import Profiles, load_profiles
from device_profiles.sites import Device
from ingest.profiles import Readers, faults_of, kind_of_note, terms_of
from smartsite.checking import find_faults
from smartsite.errors import Misconfigured
from smartsite.profiles import BUT_EVENTS, EVENTS, EVERYTHING, FRAMES, filters_for
from smartsite.settings import BrokerSettings, FramesSettings, ProfilesSettings, Settings

SHIPPED = load_profiles()

MADE = """
id = "made"
title = "t"
kind = "{kind}"
format = "{format}"
[fits]
make = "made"
topics = [{topics}]
[time]
at = "t"
format = "epoch_ms"
{rest}
"""


def made(folder: Path, topics: list[str], **more: str) -> Path:
    values = {"kind": "dust", "format": "json", "rest": '[values.noise_db]\nat = "n"'} | more
    text = MADE.format(topics=", ".join(f'"{topic}"' for topic in topics), **values)
    (folder / "made.toml").write_text(text, "utf-8")
    return folder


def profiles_of(settings: Settings) -> Profiles:
    return load_profiles(settings.profiles.folders, settings.profiles.topics_of)


def test_without_profiles_of_their_own_the_roles_hear_the_contract() -> None:
    settings = Settings()
    ingest = filters_for("ingest", settings, SHIPPED)
    frames = filters_for("frames", settings, SHIPPED)
    assert (ingest.native, ingest.own, ingest.retired) == (EVERYTHING, (), BUT_EVENTS)
    assert (frames.native, frames.own, frames.retired) == (FRAMES, (), EVENTS)
    assert "v1/gateway/telemetry" in ingest.retired_own


def test_events_with_pictures_are_heard_by_one_role_alone() -> None:
    settings = Settings(frames=FramesSettings(events=True))
    ingest = filters_for("ingest", settings, SHIPPED)
    frames = filters_for("frames", settings, SHIPPED)
    assert (ingest.native, ingest.retired) == (BUT_EVENTS, EVERYTHING)
    assert (frames.native, frames.retired) == (FRAMES + EVENTS, ())
    assert not any("camera/+/+" in one or one.endswith("/event") for one in ingest.native)


def test_a_makes_topics_are_heard_by_the_role_of_its_kind(tmp_path: Path) -> None:
    folder = made(tmp_path, ["a/{x}/{device}", "b/{device}"])
    settings = Settings(profiles=ProfilesSettings(folders=(folder,), topics_of=("made",)))
    profiles = profiles_of(settings)
    assert filters_for("ingest", settings, profiles).own == ("a/+/+", "b/+")
    assert filters_for("frames", settings, profiles).own == ()
    assert "b/+" not in filters_for("ingest", settings, profiles).retired_own


def test_more_filters_than_the_embedded_broker_takes_are_refused(tmp_path: Path) -> None:
    folder = made(tmp_path, [f"t{n}/{{device}}" for n in range(16)])
    terms = ProfilesSettings(folders=(folder,), topics_of=("made",))
    with pytest.raises(Misconfigured, match=r"17 topic filters.*at most 16"):
        filters_for("ingest", Settings(profiles=terms), profiles_of(Settings(profiles=terms)))
    own_broker = Settings(profiles=terms, broker=BrokerSettings(url="mqtt://b"))
    assert len(filters_for("ingest", own_broker, profiles_of(own_broker))) == 17
    assert any("17 topic filters" in fault for fault in find_faults(Settings(profiles=terms)))


def device(**said: Any) -> Device:
    return Device(**{"site": "s", "id": "d", "kind": "dust"} | said)


@pytest.mark.parametrize(
    ("said", "key", "words"),
    [
        ({"profile": "nothing"}, "profile", "there is no profile 'nothing'"),
        ({"profile": "deye-crane"}, "profile", "is of a crane"),
        ({"units": {"pm10_ug_m3": "mg/m3"}}, "units", "native contract"),
        ({"profile": "native-dust", "zone": "UTC"}, "zone", "native contract"),
        ({"profile": "yunzhu-env", "units": {"rain_mm_h": "mm/min"}}, "units.rain_mm_h", "reads"),
        ({"profile": "hj212", "units": {"pm10_ug_m3": "g/m3"}}, "units.pm10_ug_m3", "one of"),
        ({"profile": "yunzhu-env", "tolerate": ["length"]}, "tolerate", "HJ 212"),
        ({"profile": "yunzhu-env", "password": "env:X"}, "password", "HJ 212"),
        ({"profile": "yunzhu-env", "alarm_bits": "left"}, "alarm_bits", "no text of bits"),
        ({"profile": "hj212", "zone": "UTC"}, "zone", "say their zone"),
    ],
)
def test_what_does_not_suit_a_device_is_said(said: dict[str, Any], key: str, words: str) -> None:
    (fault,) = faults_of(device(**said), SHIPPED)
    assert fault[0] == key
    assert words in fault[1]


def test_what_suits_is_sound() -> None:
    assert faults_of(device(), SHIPPED) == []
    assert faults_of(device(profile="native-dust", make="yunzhu"), SHIPPED) == []
    hj212 = device(
        profile="hj212", units={"pm10_ug_m3": "mg/m3"}, tolerate=["crc_modbus"], password="env:X"
    )
    assert faults_of(hj212, SHIPPED) == []


def test_check_names_file_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    file = tmp_path / "site.toml"
    file.write_text(
        """
        [[organisation]]
        id = "o"
        name = "o"
        [[site]]
        id = "s"
        name = "s"
        contractor = "o"
        regulator = "o"
        [[device]]
        site = "s"
        id = "a"
        kind = "dust"
        profile = "nothing"
        [[device]]
        site = "s"
        id = "b"
        kind = "dust"
        profile = "hj212"
        password = "env:NOT_THERE"
        [[device]]
        site = "s"
        id = "c"
        kind = "camera"
        make = "aidrive"
        """,
        "utf-8",
    )
    found = find_faults(Settings(site_files=(file,)))
    assert [line.removeprefix(f"{file}: ").split(": ")[0] for line in found] == [
        "device.1.password",
        "device.0.profile",
        "device.2.profile",
    ]
    heard = Settings(site_files=(file,), frames=FramesSettings(events=True))
    assert len(find_faults(heard)) == 2


def test_broken_profiles_are_said_by_check(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("id = 1", "utf-8")
    found = find_faults(Settings(profiles=ProfilesSettings(folders=(tmp_path,))))
    assert found
    assert all(line.startswith(str(tmp_path / "bad.toml")) for line in found)


def test_devices_that_are_read_alike_share_a_decoder() -> None:
    readers = Readers(SHIPPED)
    profile = SHIPPED.by_id["yunzhu-env"]
    from device_profiles.vocabulary import Kind

    plain = terms_of(Kind.DUST, {})
    other = terms_of(Kind.DUST, {"units": {"pm10_ug_m3": "mg/m3"}})
    assert readers.decoder(profile, plain) is readers.decoder(profile, plain)
    assert readers.decoder(profile, plain) is not readers.decoder(profile, other)
    for number in range(1_000):
        readers.decoder(profile, terms_of(Kind.DUST, {"zone": "UTC", "tolerate": (str(number),)}))
    readers.forget(10)
    assert len(readers._decoders) == 0


@pytest.mark.parametrize(
    ("note", "kind"),
    [
        ("lower_case_crc", "lower_case_crc"),
        ("crc_modbus", "crc_modbus"),
        ("reading 3: moment_pct 20 contradicts load_t 125 of rated_load_t 150", "contradiction"),
        ("pm2_5_ug_m3 35 is above pm10_ug_m3 27", "contradiction"),
        ("reading 0: no time of its own: that of receipt stands in", "no_time"),
        ("a frame without a reading", "no_reading"),
        ("anything else", "other"),
    ],
)
def test_notes_are_of_few_kinds(note: str, kind: str) -> None:
    assert kind_of_note(note) == kind
