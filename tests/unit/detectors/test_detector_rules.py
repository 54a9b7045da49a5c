"""The settings of the rules: what they refuse and what they publish."""

from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from detectors.rules import ClockRule, CraneRule, DustRule, HelmetRule, Rules, SilenceRule


@pytest.mark.parametrize(
    ("model", "values", "field"),
    [
        (DustRule, {"limit_ug_m3": 0}, "limit_ug_m3"),
        (DustRule, {"limit_ug_m3": float("nan")}, "limit_ug_m3"),
        (DustRule, {"window_s": 0}, "window_s"),
        (DustRule, {"window_s": float("inf")}, "window_s"),
        (DustRule, {"clear_ratio": 1.1}, "clear_ratio"),
        (DustRule, {"min_coverage": 0}, "min_coverage"),
        (DustRule, {"limit": 80}, "limit"),
        (CraneRule, {"limit_m": -2}, "limit_m"),
        (CraneRule, {"hysteresis_m": -0.1}, "hysteresis_m"),
        (HelmetRule, {"min_score": 1.5}, "min_score"),
        (HelmetRule, {"sightings": 7, "looks": 6}, "sightings lies above looks"),
        (SilenceRule, {"periods": 0.5}, "periods"),
        (SilenceRule, {"at_least_s": 0}, "at_least_s"),
        (SilenceRule, {"grace_s": -1}, "grace_s"),
        (ClockRule, {"jump_s": 0}, "jump_s"),
        (Rules, {"noise": {}}, "noise"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_name(
    model: type[BaseModel], values: dict[str, object], field: str
) -> None:
    with pytest.raises(ValidationError, match=field):
        model.model_validate(values)


def test_defaults_stand_and_each_setting_is_explained() -> None:
    rules = Rules()

    assert (rules.dust.limit_ug_m3, rules.dust.window_s) == (80, 900)
    assert (rules.crane.limit_m, rules.crane.max_age_s) == (2, 3)
    assert (rules.helmet.sightings, rules.helmet.looks) == (4, 6)
    assert (rules.silence.periods, rules.silence.at_least_s, rules.clock.jump_s) == (3, 60, 60)
    assert Rules.model_validate({"dust": {"limit_ug_m3": 150}}).dust.window_s == 900
    for definition in Rules.model_json_schema()["$defs"].values():
        assert definition["description"]
        assert all(setting["description"] for setting in definition["properties"].values())


def test_a_limit_nobody_could_read_in_the_law_says_so() -> None:
    for model, name in ((DustRule, "limit_ug_m3"), (CraneRule, "limit_m")):
        assert "unverified" in str(model.model_fields[name].description)


def test_settings_cannot_be_changed_under_a_detector() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        DustRule().limit_ug_m3 = 1.0  # type: ignore[misc]
