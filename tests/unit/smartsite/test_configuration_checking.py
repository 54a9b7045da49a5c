"""`smartsite check`: files, secrets and how they fit, every fault on a line of its own."""

import base64
from pathlib import Path

import pytest

from smartsite.checking import find_faults
from smartsite.settings import BrokerSettings, DatabaseSettings, Settings, VisionSettings

ORGANISATIONS = """
[[organisation]]
id = "builder"
name = "Builder"
[[organisation]]
id = "city"
name = "City"
"""
REST = """
[[site]]
id = "s"
name = "S"
contractor = "builder"
regulator = "city"
[[device]]
site = "s"
id = "d1"
kind = "dust"
[[recipient]]
id = "r"
organisation = "city"
url = "https://city.example/hook"
secret = "env:HOOK_SECRET"
"""


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + base64.b64encode(bytes(32)).decode())


def settings_with(folder: Path, *texts: str) -> Settings:
    files = []
    for number, text in enumerate(texts):
        files.append(folder / f"site{number}.toml")
        files[-1].write_text(text)
    return Settings(site_files=tuple(files))


def test_what_fits_has_no_faults(tmp_path: Path) -> None:
    assert find_faults(Settings()) == []
    assert find_faults(settings_with(tmp_path, ORGANISATIONS + REST)) == []


def test_a_file_may_refer_to_one_before_it(tmp_path: Path) -> None:
    assert find_faults(settings_with(tmp_path, ORGANISATIONS, REST)) == []


def test_every_reference_that_leads_nowhere_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HOOK_SECRET")
    text = REST.replace('site = "s"', 'site = "x"').replace('kind = "dust"', 'kind = "crane"')
    found = find_faults(settings_with(tmp_path, text))
    file = tmp_path / "site0.toml"
    keys = (
        "site.0.contractor",
        "site.0.regulator",
        "device.0.site",
        "device.0.geometry",
        "recipient.0.organisation",
        "recipient.0.secret",
    )
    assert len(found) == len(keys)
    for key, line in zip(keys, found, strict=True):
        assert line.startswith(f"{file}: {key}: ")


def test_a_bad_site_file_does_not_hide_the_next(tmp_path: Path) -> None:
    settings = settings_with(tmp_path, "[[site]]\nid = 'a b'", "nonsense", ORGANISATIONS + REST)
    found = find_faults(settings)
    assert sum(str(tmp_path / "site0.toml") in line for line in found) == len(found) - 1
    assert str(tmp_path / "site1.toml") in found[-1]
    assert any("site.0.id" in line for line in found)


def test_files_and_secrets_that_are_not_there_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    missing = tmp_path / "none"
    settings = Settings(
        site_files=(missing,),
        broker=BrokerSettings(
            password="env:NOT_SET", ca_file=missing, cert_file=missing, key_file=tmp_path
        ),
        database=DatabaseSettings(password=f"file:{missing}"),
        vision=VisionSettings(model=missing),
    )
    found = find_faults(settings)
    keys = (
        "broker.password",
        "database.password",
        "broker.ca_file",
        "broker.cert_file",
        "broker.key_file",
        "vision.model",
        str(missing),
    )
    assert len(found) == len(keys)
    for key, line in zip(keys, found, strict=True):
        assert line.startswith(f"{key}: ")
