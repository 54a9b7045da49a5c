"""What is in `deploy/` fits together, and the service takes it."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.integration.deploy.mosquitto import shell_environment
from tests.unit.docs.manual import ROOT, table_with

COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text("utf-8")


def test_the_settings_and_the_site_pass_the_check(deploy: Path) -> None:
    command = [sys.executable, "-m", "smartsite", "check", "--json", "--config"]
    checked = subprocess.run(
        [*command, deploy / "smartsite.toml"],
        stdout=subprocess.PIPE,
        check=False,
        text=True,
    )
    assert json.loads(checked.stdout) == {"ok": True, "faults": []}
    assert checked.returncode == 0


def test_every_secret_is_made_declared_and_explained(deploy: Path) -> None:
    used = set(re.findall(r"file: \./secrets/(\w+)", COMPOSE))
    made = {file.name for file in (deploy / "secrets").iterdir()} - {"README.md", ".gitignore"}
    explained = {
        row["file"] for row in table_with(ROOT / "deploy" / "secrets" / "README.md", "file")
    }
    named = {
        name
        for file in (ROOT / "deploy").rglob("*")
        if file.is_file() and file.suffix != ".md"
        for name in re.findall(r"/run/secrets/(\w+)", file.read_text("utf-8"))
    }
    assert made == used == explained == named


def test_no_two_secrets_are_alike_and_the_folder_is_closed(deploy: Path) -> None:
    secrets = deploy / "secrets"
    made = {file.name: file.read_text("utf-8") for file in secrets.iterdir()}
    del made["README.md"]
    assert len(set(made.values())) == len(made)
    for name, text in made.items():
        shape = r"whsec_[A-Za-z0-9+/]{43}=" if "webhook" in name else r"[A-Za-z0-9_-]{32}"
        assert re.fullmatch(shape + r"\n", text), name
    assert secrets.stat().st_mode & 0o077 == 0


def test_secrets_that_are_there_stay(deploy: Path) -> None:
    kept = deploy / "secrets" / "database_password"
    before = kept.read_text("utf-8")
    subprocess.run([deploy / "secrets.sh"], check=True, env=shell_environment(deploy))
    assert kept.read_text("utf-8") == before


def test_every_image_is_pinned_and_every_published_port_can_be_moved() -> None:
    images = re.findall(r"^    image: (\S+)$", COMPOSE, re.MULTILINE)
    assert len(images) == 5
    for image in images:
        assert re.search(r":v?\d+\.\d+(\.\d+)?(-\w+)?$", image), image
    ports = re.findall(r'^      - "(.+):(\d+)"$', COMPOSE, re.MULTILINE)
    assert {port for _, port in ports} == {"1883", "9464", "8212", "9090", "3000"}
    examples = (ROOT / "deploy" / ".env.example").read_text("utf-8")
    for listen, _ in ports:
        name, _, default = listen.strip("${}").partition(":-")
        assert f"\n{name}={default}\n" in examples


def test_the_image_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    packages = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    dockerfile = (ROOT / "deploy" / "Dockerfile").read_text("utf-8")
    sent = (ROOT / "deploy" / "Dockerfile.dockerignore").read_text("utf-8")
    assert set(re.findall(r"^COPY (\w+)/ \1/$", dockerfile, re.MULTILINE)) == packages | {
        "requirements"
    }
    assert set(re.findall(r"^!(\w+)/$", sent, re.MULTILINE)) == packages | {"requirements"}
