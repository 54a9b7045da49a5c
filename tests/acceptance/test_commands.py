"""The other commands: what they say, and how they refuse."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

Smartsite = Callable[..., subprocess.CompletedProcess[str]]

SITE = """
[[organisation]]
id = "builder"
name = "Builder"

[[organisation]]
id = "office"
name = "Office"

[[site]]
id = "riverside"
name = "Riverside 河滨"
contractor = "builder"
regulator = "office"

[[device]]
site = "riverside"
id = "dust-1"
kind = "dust"
"""


def test_help_teaches(smartsite: Smartsite) -> None:
    run = smartsite("--help")
    assert run.returncode == 0
    for word in ("demo", "run", "check", "migrate", "violations", "devices", "site"):
        assert word in run.stdout
    assert "smartsite site import" in run.stdout


def test_check_says_every_fault_with_file_and_key(smartsite: Smartsite, folder: Path) -> None:
    (folder / "site.toml").write_text(
        SITE.replace('contractor = "builder"', 'contractor = "nobody"')
    )
    (folder / "smartsite.toml").write_text(
        'site_files = ["site.toml"]\n[ingest]\nflush_rows = 0\nflush_seconds = 1\n'
        '[database]\nurl = "postgresql://me:secret@host/db"\n'
    )
    run = smartsite("check", "--json")
    assert run.returncode != 0
    faults = json.loads(run.stdout)["faults"]
    assert len(faults) == 3
    for key in ("ingest.flush_rows", "ingest.flush_seconds", "database.url"):
        assert any("smartsite.toml" in fault and key in fault for fault in faults)
    assert "me:secret" not in run.stdout + run.stderr

    (folder / "smartsite.toml").write_text('site_files = ["site.toml"]\n')
    faults = json.loads(smartsite("check", "--json").stdout)["faults"]
    assert len(faults) == 1
    assert "site.toml" in faults[0]
    assert "site.0.contractor" in faults[0]

    (folder / "site.toml").write_text(SITE)
    run = smartsite("check")
    assert run.returncode == 0
    assert "sound" in run.stderr


def test_the_environment_overrides_the_file(smartsite: Smartsite) -> None:
    run = smartsite("check", "--json", SMARTSITE_INGEST__FLUSH_MS="never")
    assert run.returncode != 0
    (fault,) = json.loads(run.stdout)["faults"]
    assert "SMARTSITE_INGEST__FLUSH_MS" in fault


def test_a_site_is_registered_and_listed(smartsite: Smartsite, folder: Path) -> None:
    (folder / "site.toml").write_text(SITE)
    early = smartsite("devices")
    assert early.returncode != 0
    assert "smartsite run" in early.stderr
    assert smartsite("migrate").returncode == 0
    run = smartsite("site", "import", "site.toml")
    assert run.returncode == 0, run.stderr
    assert "1 devices" in run.stderr
    (device,) = json.loads(smartsite("devices", "--json").stdout)
    assert device["device"] == "dust-1"
    assert device["last_observed_at"] is None
    assert json.loads(smartsite("violations", "--json").stdout) == []

    (folder / "site.toml").write_text(SITE.replace('kind = "dust"', 'kind = "crane"'))
    run = smartsite("site", "import", "site.toml")
    assert run.returncode != 0
    assert "riverside/dust-1" in run.stderr
    assert "Traceback" not in run.stderr


def test_a_role_alone_needs_services(smartsite: Smartsite) -> None:
    run = smartsite("run", "--role", "judge")
    assert run.returncode == 78
    assert "broker.url and database.url" in run.stderr
    assert "Traceback" not in run.stderr


def test_an_unknown_role_is_refused(smartsite: Smartsite) -> None:
    run = smartsite("run", "--role", "cook")
    assert run.returncode == 78
    assert "cook" in run.stderr
