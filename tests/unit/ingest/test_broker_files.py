"""Passwords, and the files a broker reads: as its own tools write them."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path

import bcrypt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_profiles.topics import ID, parse_topic
from ingest.credentials import (
    MOST_BYTES,
    Credential,
    User,
    hash_password,
    make_password,
    mosquitto_acl,
    mosquitto_hash,
    mosquitto_passwords,
    nats_subject,
    nats_users,
    require_usable,
    require_user_name,
    user_name,
)
from ingest.errors import Misconfigured
from tests.unit.docs.manual import ROOT

SERVICE = User("smartsite", Credential("$7$s", "$2b$s"))
DUST = User("site/s1/dust/d.1", Credential("$7$d", "$2b$d"))
ids = st.from_regex(ID, fullmatch=True)


def test_a_hash_is_what_mosquitto_passwd_makes() -> None:
    # Of `mosquitto_passwd -b FILE someuser secret`, version 2.0.11.
    written = (
        "$7$101$/vTXiy0LNzUPuXuB$hWBQWpezItpX43JymT7jTEnjoBpZz61VJbDq/OnpEZS1aCvfMy8+kxT87BIFV02A"
        "8UjMd6QWkaE1SC0Zo6sg0Q=="
    )
    salt = base64.b64decode(written.split("$")[3])
    assert mosquitto_hash(b"secret", salt) == written


def test_passwords_are_long_all_different_and_easy_to_type() -> None:
    made = {make_password() for _ in range(100)}
    assert len(made) == 100
    for password in made:
        assert re.fullmatch(r"[A-Za-z0-9_-]{32}", password)
        require_usable(password)


@pytest.mark.parametrize("made", [True, False])
def test_what_is_kept_fits_the_password_and_tells_nothing(made: bool) -> None:
    one, other = (
        hash_password("correct horse", made=made),
        hash_password("correct horse", made=made),
    )
    assert bcrypt.checkpw(b"correct horse", one.nats.encode())
    assert not bcrypt.checkpw(b"correct hors", one.nats.encode())
    assert one.mosquitto != other.mosquitto
    assert one.nats != other.nats
    assert "horse" not in "".join(one)
    # A person's password is worth guessing at, a made one is not.
    assert one.nats.startswith("$2b$04$" if made else "$2b$10$")


@pytest.mark.parametrize("bad", ["", "abc1234", "x" * 73, "密" * 25, "tab\tin it", "null\0in it"])
def test_passwords_that_would_not_work_everywhere_are_refused(bad: str) -> None:
    with pytest.raises(Misconfigured) as refusal:
        require_usable(bad)
    assert not bad or bad not in str(refusal.value)
    require_usable("x" * MOST_BYTES)


@pytest.mark.parametrize("bad", ["", "a:b", "a b", "a\nb", "%u", "a#", "a+", "a\0"])
def test_a_service_user_that_breaks_the_files_is_refused(bad: str) -> None:
    with pytest.raises(Misconfigured):
        require_user_name(bad)
    require_user_name("smartsite")


@given(prefix=st.one_of(st.just(""), ids), site=ids, device=ids)
def test_a_user_name_is_the_topic_without_its_channel(prefix: str, site: str, device: str) -> None:
    address = parse_topic(f"{user_name(prefix, site, 'dust', device)}/telemetry".encode())
    assert (address.prefix, address.site, address.device) == (prefix, site, device)


@given(ids, ids)
def test_no_two_topics_are_one_subject(one: str, other: str) -> None:
    assert (nats_subject(f"site/{one}/a") == nats_subject(f"site/{other}/a")) == (one == other)
    assert nats_subject("site/s1/dust/d.1") == "site.s1.dust.d//1"


def test_mosquittos_files_hold_the_service_the_devices_and_the_operators_own() -> None:
    passwords = mosquitto_passwords(SERVICE, [DUST], "gateway:$7$g\n\n")
    assert passwords == "smartsite:$7$s\nsite/s1/dust/d.1:$7$d\ngateway:$7$g\n"
    acl = mosquitto_acl("smartsite", "user gateway\ntopic write site/s1/#")
    rules = [line for line in acl.splitlines() if line and not line.startswith("#")]
    assert rules == [
        "user gateway",
        "topic write site/s1/#",
        "pattern write %u/telemetry",
        "pattern write %u/event",
        "pattern write %u/status",
        "pattern write %u/frame/+",
        "user smartsite",
        "topic read #",
    ]


def test_the_acl_in_deploy_is_the_commands_own() -> None:
    assert (ROOT / "deploy" / "broker" / "acl").read_text("utf-8") == mosquitto_acl("smartsite")


def test_nats_users_may_publish_as_themselves_only() -> None:
    text = nats_users(SERVICE, [DUST])
    assert text.count('"user":') == 2
    for channel in ("telemetry", "event", "status", "frame.*"):
        assert f'"site.s1.dust.d//1.{channel}"' in text
    assert text.count('"subscribe": {"deny": [">"]}') == 1


def test_mosquittos_own_tool_takes_a_file_of_ours(tmp_path: Path) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed here")
    file = tmp_path / "passwords"
    ours = hash_password(make_password(), made=True)
    file.write_text(mosquitto_passwords(User("smartsite", ours), []))
    subprocess.run([tool, "-b", file, "other", "theirs"], check=True, capture_output=True)
    kept, theirs = file.read_text().splitlines()
    assert kept == f"smartsite:{ours.mosquitto}"
    assert [len(part) for part in kept.partition(":")[2].split("$")] == [
        len(part) for part in theirs.partition(":")[2].split("$")
    ]
