"""Settings: file, environment and secrets; every fault is said at once, with file and key."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from smartsite.errors import Misconfigured
from smartsite.settings import Settings, load_settings, load_site_file, resolve_secret

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("SMARTSITE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def make(text: str, name: str = "conf/site.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
        return path

    return make


def faults(file: Path | None) -> list[str]:
    with pytest.raises(Misconfigured) as caught:
        load_settings(file)
    return str(caught.value).splitlines()


def test_without_a_file_there_are_defaults() -> None:
    settings = load_settings()
    assert settings.broker.url == settings.database.url == "embedded"
    assert settings.health.listen.startswith("127.0.0.1:")
    assert settings == Settings()


def test_the_folders_own_file_is_found(write: Write) -> None:
    write("[broker]\nprefix = 'east'", "smartsite.toml")
    assert load_settings().broker.prefix == "east"
    assert load_settings(Path("smartsite.toml")).broker.prefix == "east"


def test_a_file_sets_what_it_names_and_nothing_else(write: Write) -> None:
    settings = load_settings(
        write("[ingest]\nflush_ms = 7\n[rules.dust]\nlimit_ug_m3 = 99.5\n[broker]\nversion = '5'")
    )
    assert settings.ingest.flush_ms == 7
    assert settings.ingest.flush_rows == Settings().ingest.flush_rows
    assert settings.rules.dust.limit_ug_m3 == 99.5
    assert settings.rules.crane == Settings().rules.crane
    assert settings.broker.version == "5"


def test_the_environment_overrides_the_file(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSITE_INGEST__FLUSH_MS", "9")
    monkeypatch.setenv("SMARTSITE_RULES__CRANE__LIMIT_M", "3.5")
    monkeypatch.setenv("SMARTSITE_SITE_FILES", '["a.toml"]')
    file = write("[ingest]\nflush_ms = 7\nflush_rows = 5\n[rules.dust]\nlimit_ug_m3 = 99")
    settings = load_settings(file)
    assert (settings.ingest.flush_ms, settings.ingest.flush_rows) == (9, 5)
    assert settings.rules.crane.limit_m == 3.5
    assert settings.rules.dust.limit_ug_m3 == 99
    assert settings.site_files == (file.parent / "a.toml",)


def test_every_fault_is_said_at_once(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMARTSITE_INGEST__FLUSH_ROWS", "many")
    file = write(
        """
        colour = "red"
        [broker]
        url = "http://h"
        port = "high"
        key_file = "key.pem"
        [ingest]
        flush_ms = 0
        [frame]
        [rules.helmet]
        sightings = 9
        """
    )
    said = faults(file)
    for key in ("colour", "broker.url", "broker.port", "ingest.flush_ms", "frame", "rules.helmet"):
        assert any(line.startswith(f"{file}: {key}: ") for line in said), key
    name = "environment SMARTSITE_INGEST__FLUSH_ROWS: ingest.flush_rows: "
    assert any(line.startswith(name) for line in said)
    assert len(said) == 7


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[broker]\nport = 65536", "broker.port"),
        ("[broker]\nprefix = '/a'", "broker.prefix"),
        ("[broker]\nprefix = 'a/#'", "broker.prefix"),
        ("[broker]\ncert_file = 'c'", "broker"),
        ("[broker]\npassword = 'hunter2'", "broker.password"),
        ("[broker]\nversion = '3.1'", "broker.version"),
        ("[database]\nurl = 'mysql://h'", "database.url"),
        ("[ingest]\nworker = 'a b'", "ingest.worker"),
        ("[ingest]\nmax_payload_bytes = 10", "ingest.max_payload_bytes"),
        ("[ingest]\nfuture_s = nan", "ingest.future_s"),
        ("[ingest]\npast_days = inf", "ingest.past_days"),
        ("[vision]\nmin_score = 1", "vision.min_score"),
        ("[health]\nlisten = '9464'", "health.listen"),
        ("[health]\nlisten = '127.0.0.1:99999'", "health.listen"),
        ("[health]\nfresh_s = -1", "health.fresh_s"),
        ("[rules.dust]\nlimit_ug_m3 = nan", "rules.dust.limit_ug_m3"),
        ("broker = 5", "broker"),
        ("site_files = [5]", "site_files.0"),
    ],
)
def test_a_fault_names_file_and_key(write: Write, text: str, key: str) -> None:
    file = write(text)
    (line,) = faults(file)
    assert line.startswith(f"{file}: {key}: ")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    ("section", "url"),
    [
        ("broker", "mqtt://user:hunter2@host"),
        ("broker", "mqtts://:hunter2@host:8883"),
        ("database", "postgresql://user:hunter2@host/name"),
        ("database", "postgres://user:hunter2@host"),
        ("database", "postgresql://user@host/name?password=hunter2"),
        ("database", "postgresql://user@host/name?sslmode=require&password=hunter2"),
    ],
)
def test_a_password_in_a_url_is_refused_and_not_repeated(
    write: Write, monkeypatch: pytest.MonkeyPatch, section: str, url: str
) -> None:
    (line,) = faults(write(f"[{section}]\nurl = '{url}'"))
    assert f"{section}.url: " in line
    assert "`password`" in line
    assert "hunter2" not in line
    monkeypatch.setenv(f"SMARTSITE_{section.upper()}__URL", url)
    (line,) = faults(None)
    assert line.startswith(f"environment SMARTSITE_{section.upper()}__URL: {section}.url: ")
    assert "hunter2" not in line


@pytest.mark.parametrize(
    "url", ["postgresql://user@host/name", "postgresql://host:5433/a", "postgres://h/x?sslmode=off"]
)
def test_a_url_without_password_is_taken(write: Write, url: str) -> None:
    assert load_settings(write(f"[database]\nurl = '{url}'")).database.url == url


@pytest.mark.parametrize(
    ("name", "key"),
    [("SMARTSITE_SITE_FILES", "site_files"), ("SMARTSITE_BROKER", "broker")],
)
def test_a_variable_that_is_not_json_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, key: str
) -> None:
    monkeypatch.setenv(name, "a.toml")
    (line,) = faults(None)
    assert line.startswith(f"environment {name}: {key}: ")


@pytest.mark.parametrize(
    "name",
    ["SMARTSITE_BROKER__URLL", "SMARTSITE_BROKR__URL", "SMARTSITE_INGEST__FLUSH_MS__X"],
)
def test_a_misspelt_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "embedded")
    assert any(line.startswith(f"environment {name}: ") for line in faults(None))


@pytest.mark.parametrize("data", [b"a = [", b"\xff", b"a = 1\na = 2", b"[broker]\n[broker]"])
def test_what_is_no_toml_is_named(tmp_path: Path, data: bytes) -> None:
    file = tmp_path / "bad.toml"
    file.write_bytes(data)
    assert faults(file)[0].startswith(f"{file}: ")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    (line,) = faults(tmp_path / "none.toml")
    assert str(tmp_path / "none.toml") in line
    with pytest.raises(Misconfigured, match=r"none\.toml"):
        load_site_file(tmp_path / "none.toml")


def test_relative_paths_are_taken_from_the_files_folder(write: Write) -> None:
    file = write(
        """
        data_dir = "data"
        site_files = ["one.toml", "/etc/two.toml"]
        [broker]
        ca_file = "ca.pem"
        cert_file = "tls/cert.pem"
        key_file = "/run/key.pem"
        [vision]
        model = "../other.onnx"
        """
    )
    settings, folder = load_settings(file), file.parent
    assert settings.data_dir == folder / "data"
    assert settings.frame_dir == folder / "data" / "frames"
    assert settings.site_files == (folder / "one.toml", Path("/etc/two.toml"))
    assert settings.broker.ca_file == folder / "ca.pem"
    assert settings.broker.cert_file == folder / "tls" / "cert.pem"
    assert settings.broker.key_file == Path("/run/key.pem")
    assert settings.vision.model == folder / "../other.onnx"
    assert load_settings(write("")).vision.model is None


def test_a_secret_lies_in_the_environment_or_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BROKER_PASSWORD", " hunter2\n")
    assert resolve_secret("env:BROKER_PASSWORD", "broker.password") == "hunter2"
    (tmp_path / "secret").write_text("hunter3\n")
    assert resolve_secret(f"file:{tmp_path}/secret", "broker.password") == "hunter3"


def test_a_secret_that_is_not_there_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMPTY", " \n")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "binary").write_bytes(b"hunter2\xff")
    for ref in (
        "env:EMPTY",
        "env:NOT_SET",
        f"file:{tmp_path}/none",
        f"file:{tmp_path}/empty",
        f"file:{tmp_path}",
        f"file:{tmp_path}/binary",
    ):
        with pytest.raises(Misconfigured, match=r"^broker\.password: ") as caught:
            resolve_secret(ref, "broker.password")
        assert "hunter2" not in str(caught.value)


SITE = """
[[organisation]]
id = "builder"
name = "建筑公司"
[[organisation]]
id = "city"
name = "City"
[[site]]
id = "s"
name = "S"
contractor = "builder"
regulator = "city"
[[device]]
site = "s"
id = "c1"
kind = "crane"
geometry = {x_m = 0, y_m = 0, jib_height_m = 40, jib_m = 50, counter_jib_m = 15}
"""


def test_a_site_file(write: Write) -> None:
    found = load_site_file(write(SITE))
    assert [organisation.name for organisation in found.organisation] == ["建筑公司", "City"]
    assert found.site[0].timezone == "Asia/Shanghai"
    assert found.device[0].geometry is not None
    assert found.device[0].geometry.jib_m == 50


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('id = "builder"', 'id = "a builder"', "organisation.0.id"),
        ('name = "S"', 'name = "S"\ntimezone = "Mars/Base"', "site.0.timezone"),
        ('name = "S"', 'name = "S"\ndistrict = "a//b"', "site.0.district"),
        ('name = "S"\n', "", "site.0.name"),
        ('kind = "crane"', 'kind = "lorry"', "device.0.kind"),
        ('kind = "crane"', 'kind = "dust"', "device.0"),
        ("jib_m = 50", "jib_m = 0", "device.0.geometry.jib_m"),
        ("x_m = 0", "x_m = nan", "device.0.geometry.x_m"),
        ("y_m = 0", "y_m = inf", "device.0.geometry.y_m"),
        ("jib_m = 50", "jib_m = 50, top_height_m = 30", "device.0.geometry"),
        ('id = "city"', 'id = "builder"', "(the whole file)"),
    ],
)
def test_a_fault_of_a_site_file_names_file_and_key(
    write: Write, old: str, new: str, key: str
) -> None:
    assert old in SITE
    file = write(SITE.replace(old, new, 1))
    with pytest.raises(Misconfigured) as caught:
        load_site_file(file)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"{file}: {key}: ")
