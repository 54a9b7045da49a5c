"""`smartsite decode` as a subprocess: one JSON object a line for each message, in order."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zstandard

from device_profiles.catalogue import SHIPPED

GOLDEN = Path(__file__).parents[1] / "profiles" / "golden"
KEYS = ["accepted", "reason", "detail", "offset", "readings", "refused", "notes", "frames"]
READING = ["observed_at", "series", "values", "flags"]
FRAME = (
    b"##0169QN=20260301090203000;ST=39;CN=2011;PW=123456;MN=310000SITE0000000000042;Flag=5;CP=&&"
    b"DataTime=20260301090200;a34004-Rtd=35.2,a34004-Flag=N;a34002-Rtd=78.5,a34002-Flag=N&&4380\r\n"
)
Decode = Callable[..., subprocess.CompletedProcess[bytes]]


@pytest.fixture
def decode(folder: Path, environment: dict[str, str]) -> Decode:
    def run(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "smartsite", "decode", *arguments],
            cwd=folder,
            env=environment,
            input=stdin,
            capture_output=True,
            timeout=120,
            check=False,
        )

    return run


def lines(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def recorded(*payloads: bytes) -> bytes:
    return b"".join(
        json.dumps(
            {
                "received_at": "2026-03-01T01:02:05Z",
                "topic": "site/riverside/dust/gate/telemetry",
                "payload_base64": base64.b64encode(payload).decode(),
            }
        ).encode()
        + b"\n"
        for payload in payloads
    )


def test_a_recording_plain_compressed_and_from_standard_input(decode: Decode, folder: Path) -> None:
    case = GOLDEN / "yunzhu-env" / "what_cannot_be"
    expected = json.loads((case / "expected.json").read_text("utf-8"))
    data = (case / "input.jsonl").read_bytes()
    packed = folder / "day.jsonl.zst"
    packed.write_bytes(zstandard.compress(data[:900]) + zstandard.compress(data[900:]))
    by_file = decode("--profile", "yunzhu-env", str(case / "input.jsonl"))
    assert lines(by_file) == expected
    assert lines(decode("--profile", "yunzhu-env", str(packed))) == expected
    sheet = str(SHIPPED / "yunzhu" / "environment.toml")
    assert lines(decode("--profile", sheet, "-", stdin=data)) == expected
    assert lines(decode("--profile", "yunzhu-env", stdin=data)) == expected


def test_hj212_shows_its_frames(decode: Decode) -> None:
    (whole,) = lines(decode("--profile", "hj212", "--raw", "-", stdin=FRAME))
    assert list(whole) == KEYS
    assert list(whole["readings"][0]) == READING
    assert whole["readings"][0]["values"] == {"pm2_5_ug_m3": 35.2, "pm10_ug_m3": 78.5}
    assert whole["readings"][0]["flags"] == {"pm2_5_ug_m3": "N", "pm10_ug_m3": "N"}
    assert whole["frames"] == [
        {
            "header": {
                "QN": "20260301090203000", "ST": "39", "CN": "2011", "PW": "123456",
                "MN": "310000SITE0000000000042", "Flag": "5",
            },
            "cp": [
                {"DataTime": "20260301090200"},
                {"a34004-Rtd": "35.2", "a34004-Flag": "N"},
                {"a34002-Rtd": "78.5", "a34002-Flag": "N"},
            ],
        }
    ]  # fmt: skip
    bad = FRAME.replace(b"4380", b"4381").replace(b"Flag=5", b"FLAG=5")
    (refused,) = lines(decode("--profile", "hj212", "--raw", stdin=bad))
    assert list(refused) == KEYS
    assert (refused["accepted"], refused["reason"]) == (False, "crc")
    assert refused["readings"] == []
    assert refused["frames"][0]["header"]["FLAG"] == "5", "as it was sent"


def test_garbage_has_its_line_too(decode: Decode, folder: Path) -> None:
    payload = b'{"ts": 1772326923000, "values": {"pm10_ug_m3": 7, "noise_db": "x", "leq_db": 300}}'
    data = b"not a line\n\n" + recorded(payload, b"\xff", b"") + b'{"topic": 5}\n'
    found = lines(decode("--profile", "native-dust", "-", stdin=data))
    assert [each["reason"] for each in found] == ["syntax", None, "encoding", "syntax", "syntax"]
    assert all(list(each) == KEYS for each in found)
    assert found[1]["readings"][0]["values"] == {"pm10_ug_m3": 7}
    assert [(part["field"], part["value"], part["reason"]) for part in found[1]["refused"]] == [
        ("noise_db", "'x'", "type"),
        ("leq_db", "300.0", "range"),
    ]
    broken = folder / "broken.jsonl.zst"
    broken.write_bytes(b"this is not zstd")
    (fault,) = lines(decode("--profile", "native-dust", str(broken)))
    assert fault["reason"] == "encoding"


def test_a_time_after_its_receipt_is_refused(decode: Decode) -> None:
    payload = b'{"ts": "2090-01-01T00:00:00Z", "values": {"pm10_ug_m3": 7}}'
    (found,) = lines(decode("--profile", "native-dust", "-", stdin=recorded(payload)))
    assert (found["accepted"], found["reason"], found["readings"]) == (False, "time", [])
    (bare,) = lines(decode("--profile", "native-dust", "--raw", "-", stdin=payload))
    assert bare["accepted"], "without a time of receipt nothing says that it is to come"
    old = payload.replace(b"2090", b"2016")
    (kept,) = lines(decode("--profile", "native-dust", "-", stdin=recorded(old)))
    assert kept["accepted"], "recordings are old"


def test_gateways_and_cameras_keep_the_shape(decode: Decode) -> None:
    for profile, more in (
        ("thingsboard-gateway-dust", {"device"}),
        ("kks-alarm", {"device", "what", "score", "boxes", "picture"}),
        ("generic-camera", {"picture"}),
    ):
        found = lines(decode("--profile", profile, str(GOLDEN / profile / "usual" / "input.jsonl")))
        for result in found:
            assert list(result) == KEYS
            for reading in result["readings"]:
                assert list(reading)[:4] == READING
                assert more <= set(reading)


def test_what_the_caller_can_mend_is_said(decode: Decode, folder: Path) -> None:
    wrong = folder / "wrong.toml"
    wrong.write_text('id = "x"\ntitle = "x"\nkind = "dust"\nformat = "jpeg"\ntime = 5\n', "utf-8")
    for arguments, said in (
        (("--profile", "nobody"), b"--profile nobody: not a .toml file and not one of "),
        (("--profile", "wrong.toml"), b"wrong.toml: time: "),
        (("--profile", "hj212", "gone.jsonl"), b"gone.jsonl: No such file"),
    ):
        done = decode(*arguments)
        assert done.returncode == 78, done
        assert said in done.stderr
        assert b"Traceback" not in done.stderr
        assert done.stdout == b""


def test_nobody_has_to_read_to_the_end(folder: Path, environment: dict[str, str]) -> None:
    (folder / "long.jsonl").write_bytes(recorded(*[FRAME] * 3_000))
    command = f"{sys.executable} -m smartsite decode --profile hj212 long.jsonl | head -n 1"
    done = subprocess.run(
        ["sh", "-c", command],
        cwd=folder, env=environment, capture_output=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.count(b"\n") == 1
    assert done.stderr == b""
