"""The chain: who is judged by what, and what is late."""

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from detectors.rules import DustRule, Rules
from device_profiles.findings import Coverage, Finding
from device_profiles.readings import (
    Box,
    CraneReading,
    Detections,
    DustReading,
    Reported,
    Source,
)
from device_profiles.sites import CameraSettings, CraneGeometry
from device_profiles.vocabulary import Kind
from ingest.store.readings import StoredDevice
from smartsite.chain import Chain, Subject

T0 = datetime(2026, 11, 21, 8, 0, tzinfo=UTC)
RULES = Rules(dust=DustRule(window_s=60, bridge_s=60))


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def geometry(x_m: float) -> CraneGeometry:
    return CraneGeometry(x_m=x_m, y_m=0, jib_height_m=40, jib_m=50, counter_jib_m=15)


def device(name: str, kind: Kind, x_m: float | None = None, site: str = "s") -> StoredDevice:
    return StoredDevice(1, site, name, kind, 10.0, None if x_m is None else geometry(x_m))


def dust(seconds: float, pm10_ug_m3: float, name: str = "d1", site: str = "s") -> DustReading:
    return DustReading(
        site=site,
        device=name,
        observed_at=at(seconds),
        received_at=at(seconds),
        source=Source(1, 1, 0),
        pm10_ug_m3=pm10_ug_m3,
    )


def crane(seconds: float, name: str, slew_deg: float) -> CraneReading:
    return CraneReading(
        site="s",
        device=name,
        observed_at=at(seconds),
        received_at=at(seconds),
        source=Source(1, 1, 0),
        slew_deg=slew_deg,
        trolley_m=20.0,
        hook_height_m=10.0,
    )


HEALTH = {"device.silence", "device.clock", "device.unit", "device.camera", "device.reported"}


def ruled(chain: Chain) -> set[Subject]:
    """What is judged but the devices' own health."""
    return {subject for subject in chain.watches if subject.rule not in HEALTH}


def devices_of(chain: Chain) -> set[tuple[str, ...]]:
    return {subject.devices for subject in ruled(chain)}


def test_every_device_is_judged_by_the_rule_of_its_kind() -> None:
    chain = Chain(RULES, [device("d1", Kind.DUST), device("cam", Kind.CAMERA)])
    rules = {subject.devices: subject.rule for subject in ruled(chain)}
    assert rules == {("d1",): "dust.pm10_mean", ("cam",): "helmet.bare_head"}
    assert {(subject.rule, subject.text) for subject in chain.watches} - {
        (subject.rule, subject.text) for subject in ruled(chain)
    } == {
        ("device.silence", "d1"),
        ("device.clock", "d1"),
        ("device.unit", "d1"),
        ("device.silence", "cam"),
        ("device.camera", "cam"),
        ("device.reported", "cam"),
    }
    assert chain.without_rule == {}


def test_zones_bring_the_rules_they_demand() -> None:
    square = [[0, 0], [1, 0], [1, 1]]

    def rules(**zone: object) -> set[str]:
        plan = CameraSettings.model_validate({"zone": [{"name": "z", "polygon": square, **zone}]})
        camera = StoredDevice(1, "s", "cam", Kind.CAMERA, 1.0, None, camera=plan)
        chain = Chain(RULES, [camera])
        for subject, watch in chain.watches.items():
            if subject.rule != "device.silence":
                again = chain.new_detector(watch.members, at(0), subject.rule)
                assert type(again) is type(watch.detector)
                assert chain.linger(watch) > timedelta()
        return {subject.rule for subject in ruled(chain)}

    assert rules(vest=True) == {"helmet.bare_head", "vest.missing"}
    assert rules(no_entry=True) == {"helmet.bare_head", "zone.entry"}
    assert rules(vest=True, no_entry_hours=["22:00-06:00"]) == {
        "helmet.bare_head",
        "vest.missing",
        "zone.entry",
    }


def test_what_a_cameras_own_ai_says_makes_no_other_rule_late() -> None:
    chain = Chain(RULES, [device("cam", Kind.CAMERA)])
    chain.observe([bare_head(100)])
    claim = Reported(
        site="s",
        device="cam",
        observed_at=at(75),
        received_at=at(101),
        source=Source(1, 1, 0),
        what="no_helmet",
    )
    judged = chain.observe([claim])
    assert judged.late == {}
    assert [item.rule for item in judged.said if isinstance(item, Finding)] == ["device.reported"]


def test_the_picture_of_a_claim_makes_no_other_rule_late() -> None:
    chain = Chain(RULES, [device("cam", Kind.CAMERA)])
    chain.observe([bare_head(100)])
    shown = msgspec.structs.replace(bare_head(75), event=True)
    judged = chain.observe([shown], now=at(101))
    assert judged.late == {}
    lags = {subject.rule: watch.lag for subject, watch in chain.watches.items()}
    assert lags["device.reported"] == timedelta(seconds=26)
    assert lags["helmet.bare_head"] == lags["device.camera"] == timedelta()


def test_cranes_are_judged_in_pairs_that_can_meet() -> None:
    fleet = [device(name, Kind.CRANE, x_m) for name, x_m in (("c", 60), ("a", 0), ("b", 30))]
    chain = Chain(RULES, [*fleet, device("far", Kind.CRANE, 500)])
    assert devices_of(chain) == {("a", "b"), ("a", "c"), ("b", "c")}
    assert {subject.text for subject in ruled(chain)} == {"a+b", "a+c", "b+c"}
    assert chain.without_rule == {}


def test_cranes_of_different_sites_never_meet() -> None:
    chain = Chain(RULES, [device("a", Kind.CRANE, 0), device("b", Kind.CRANE, 10, site="t")])
    assert ruled(chain) == set()


def test_a_crane_without_geometry_is_said() -> None:
    chain = Chain(RULES, [device("a", Kind.CRANE, 0), device("b", Kind.CRANE)])
    assert ruled(chain) == set()
    assert chain.without_rule == {"s/b": "no geometry registered"}


def test_no_rule_judges_a_single_crane() -> None:
    with pytest.raises(TypeError, match="no rule"):
        Chain(RULES, []).new_detector((device("a", Kind.CRANE, 0),))


def test_readings_reach_the_detector_of_their_device() -> None:
    chain = Chain(RULES, [device("d1", Kind.DUST), device("d1", Kind.DUST, site="t")])
    judged = chain.observe(dust(10.0 * step, 500.0) for step in range(13))
    findings = [item for item in judged.said if isinstance(item, Finding)]
    assert findings
    assert {(item.site, item.subject) for item in findings} == {("s", "d1")}
    assert judged.late == {}


def test_a_pair_hears_both_cranes() -> None:
    chain = Chain(RULES, [device("a", Kind.CRANE, 0), device("b", Kind.CRANE, 40)])
    judged = chain.observe(
        [crane(step, name, slew) for step in range(3) for name, slew in (("a", 90.0), ("b", 270.0))]
    )
    assert any(isinstance(item, Finding) and item.subject == "a+b" for item in judged.said)


def test_strangers_readings_are_passed_over() -> None:
    chain = Chain(RULES, [device("d1", Kind.DUST)])
    judged = chain.observe([dust(0, 500, "d2"), dust(0, 500, site="t"), crane(0, "d3", 0.0)])
    assert (judged.said, judged.late) == ([], {})


def test_late_readings_are_reported_and_not_judged() -> None:
    chain = Chain(RULES, [device("d1", Kind.DUST), device("d2", Kind.DUST)])
    chain.observe(dust(10.0 * step, 10.0) for step in range(13))
    said = chain.advance(at(600))
    assert any(isinstance(item, Coverage) for item in said)
    judged = chain.observe([dust(35, 500), dust(25, 500), dust(45, 500), dust(700, 10)])
    subject = Subject("dust.pm10_mean", "s", ("d1",))
    # Rebuilt from the oldest on; until then nothing of it is judged, however new.
    assert judged.late[subject] == at(25)
    assert [item for item in judged.said if item.rule not in HEALTH] == []


def test_a_late_subject_does_not_stop_the_others() -> None:
    chain = Chain(RULES, [device("d1", Kind.DUST), device("d2", Kind.DUST)])
    chain.observe(dust(10.0 * step, 10.0) for step in range(13))
    judged = chain.observe([dust(0, 10.0), *(dust(10.0 * step, 500.0, "d2") for step in range(13))])
    assert {subject.devices for subject in judged.late} == {("d1",)}
    assert any(isinstance(item, Finding) and item.subject == "d2" for item in judged.said)


def bare_head(seconds: float) -> Detections:
    return Detections(
        site="s",
        device="cam",
        observed_at=at(seconds),
        received_at=at(seconds),
        source=Source(1, 1, 0),
        frame_sha256="00" * 32,
        model_sha256="11" * 32,
        width=640,
        height=480,
        boxes=(Box("head", 0.9, (300.0, 100.0, 360.0, 180.0)),),
    )


@pytest.mark.parametrize("behind_s", [0.0, 12.0, 600.0])
def test_a_slow_clock_makes_one_violation_of_one(behind_s: float) -> None:
    """Ticks wait as long as the camera's readings are known to be late."""
    chain = Chain(RULES, [device("cam", Kind.CAMERA)])
    said = []
    late = 0
    for second in range(60):
        now = at(second + behind_s)
        judged = chain.observe([bare_head(second)], now)
        said += judged.said
        late += len(judged.late)
        said += chain.advance(now - timedelta(seconds=5))
    findings = [item for item in said if isinstance(item, Finding)]
    assert late == 0
    assert len({finding.identity for finding in findings}) == 1
    assert all(finding.closed_at is None for finding in findings)


def test_lag_that_is_over_fades_and_silence_counts_again() -> None:
    chain = Chain(RULES, [device("cam", Kind.CAMERA)])
    chain.observe([bare_head(0)], at(3_600))  # what had waited for an hour
    for second in range(3_600, 3_720):
        chain.observe([bare_head(second)], at(second))
    said = chain.advance(at(3_760))
    assert [item.closed_at for item in said if isinstance(item, Finding)] == [at(3_719)]
