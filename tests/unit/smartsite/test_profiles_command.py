"""`smartsite profiles`: what there is, what is wrong with a file, and beginning a new one."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from device_profiles.catalogue import SHIPPED, load_profile, load_profiles
from smartsite.commands.profiles import app, example_faults
from smartsite.errors import Misconfigured

RUNNER = CliRunner()


def run(*arguments: str, code: int = 0) -> tuple[str, str]:
    done = RUNNER.invoke(app, arguments)
    assert done.exit_code == code, done.output
    return done.stdout, done.stderr


def test_what_there_is() -> None:
    table, _ = run("list")
    listed = json.loads(run("list", "--json")[0])
    assert {each["id"] for each in listed} == set(load_profiles().by_id)
    assert all(each["id"] in table for each in listed)
    (deye,) = (each for each in listed if each["id"] == "deye-crane")
    assert (deye["kind"], deye["format"], deye["fits"]["make"]) == ("crane", "json", "DEYE")
    assert Path(deye["file"]).is_file()


def test_one_is_shown_as_it_stands() -> None:
    text, where = run("show", "hj212")
    assert text == (SHIPPED / "hj212" / "dust.toml").read_text("utf-8")
    assert where.strip().endswith("dust.toml")
    sheet: dict[str, Any] = json.loads(run("show", "yunzhu-env", "--json")[0])
    assert sheet["values"]["tsp_ug_m3"] == {"at": "tsp", "unit": "mg/m3", "range": [0.0, 30.0]}
    with pytest.raises(Misconfigured, match="there is no profile 'nobody'"):
        RUNNER.invoke(app, ["show", "nobody"], catch_exceptions=False)


def test_the_shipped_are_right() -> None:
    assert run("check")[1] == f"{len(load_profiles())} profiles are right\n"


EVENT = (SHIPPED / "aidrive" / "alert.toml").read_text("utf-8")
CRANE = (SHIPPED / "generic" / "crane_nested.toml").read_text("utf-8")
CAMERA = (SHIPPED / "generic" / "camera.toml").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (CRANE, "seq = 5120,", "seq = 5,", "reading 0: seq is 5120, the file says 5"),
        (CRANE, "T01:02:03Z, seq", "T01:02:04Z, seq", "observed_at is 2026-03-01T01:02:03+00:00"),
        (CRANE, "load_t = 2,", "load_t = 3,", "load_t is 2.0, the file says 3.0"),
        (CRANE, "load_t = 2,", "", "it holds ['hook_height_m', 'load_t',"),
        (CRANE, '["wind", "collision_front"]', "[]", "alarms is ('wind', 'collision_front')"),
        (CRANE, '"value": 26.4', '"value": 2600', "trolley_m 2600 is not within"),
        (CRANE, '"time": "2026', '"time": "x', "is refused: time: time 'x-03"),
        (CRANE, "[example]", "[example]\nreceived_at = 2020-01-01T00:00:00Z", None),
        (EVENT, 'what = "no_helmet", boxes', 'what = "no_vest", boxes', "what is no_helmet"),
        (EVENT, "score = 0.91, box", "score = 0.5, box", "boxes are [('no_helmet', 0.91,"),
        (EVENT, "picture = [16, 12]", "picture = [8, 8]", "the picture is {'width': 16"),
        (CAMERA, "[{ observed_at", "[{ observed_at = 2026-03-01T01:02:05Z }, { observed_at",
         "gives 1 readings, the file says 2"),
        (CAMERA, "received_at = 2026-03-01T01:02:05Z\n", "", "observed_at is that of receipt"),
    ],
)  # fmt: skip
def test_an_example_that_is_not_true_is_told(
    tmp_path: Path, text: str, old: str, new: str, said: str | None
) -> None:
    assert text.count(old) == 1
    file = tmp_path / "model.toml"
    file.write_text(text.replace(old, new), "utf-8")
    faults = example_faults(load_profile(file))
    if said is None:
        assert faults == []
    else:
        assert all(line.startswith(f"{file}: example: ") for line in faults)
        assert any(said in line for line in faults), faults


def test_check_says_every_fault_and_fails(tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(CRANE.replace("generic-crane-nested", "own-crane"), "utf-8")
    bare = tmp_path / "bare.toml"
    bare.write_text(CRANE.partition("[example]")[0].replace("crane-nested", "bare"), "utf-8")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text("id = 5", "utf-8")
    told = run("check", str(own), str(bare), str(wrong), code=1)[1]
    assert f"{own}: fits: make 'generic', models 'crane-nested'" in told
    assert f"{bare}: example: is missing" in told
    assert f"{wrong}: id: " in told
    alone = tmp_path / "alone.toml"
    alone.write_text(own.read_text("utf-8").replace('["crane-nested"]', '["own"]'), "utf-8")
    assert run("check", str(alone))[1] == "1 profile is right\n"


def test_a_new_file_is_right_as_it_stands(tmp_path: Path) -> None:
    for kind in ("dust", "crane"):
        file = tmp_path / "Acme" / f"{kind}_1.toml"
        assert f"{file}: fill it in" in run("new", str(file), "--kind", kind)[1]
        assert run("check", str(file))[1] == "1 profile is right\n"
        assert load_profile(file).sheet.id == f"acme-{kind}_1"
    for arguments in (["new", str(file)], ["new", str(tmp_path / "c.toml"), "--kind", "camera"]):
        with pytest.raises(Misconfigured):
            RUNNER.invoke(app, arguments, catch_exceptions=False)
