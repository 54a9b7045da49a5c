"""The manual's table of settings against the settings themselves."""

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from smartsite.errors import Misconfigured
from smartsite.settings import ENV_PREFIX, Settings, load_settings
from tests.unit.docs.manual import DOCS, ROOT, blocks, table_with

PAGE = DOCS / "configuration.md"
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def _leaves(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            yield from _leaves(type(field.default), (*path, name))
        else:
            yield ".".join((*path, name)), field


LEAVES = dict(_leaves(Settings))
ROWS = {row["key"]: row for row in table_with(PAGE, "key", "environment", "default")}


def _schema(name: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads((DOCS / name).read_text("utf-8")))


def test_every_setting_stands_in_the_manual_and_nothing_else() -> None:
    assert list(ROWS) == list(LEAVES)
    assert all(row["what it is"] for row in ROWS.values())


@pytest.mark.parametrize("key", LEAVES)
def test_a_settings_default_and_range_are_the_manuals(key: str) -> None:
    row, field = ROWS[key], LEAVES[key]
    default = field.default
    if default is None:
        assert row["default"] == "absent"
    else:
        written = tomllib.loads(f"value = {row['default']}")["value"]
        assert written == (list(default) if isinstance(default, tuple) else type(written)(default))
    bounds = [
        f"{sign} {getattr(part, name):g}"
        if isinstance(getattr(part, name), float)
        else f"{sign} {getattr(part, name)}"
        for part in field.metadata
        for name, sign in SIGNS.items()
        if hasattr(part, name)
    ]
    assert row["allowed"] == ", ".join(bounds)


@pytest.mark.parametrize("key", [key for key in LEAVES if key != "site_files"])
def test_a_settings_environment_variable_reaches_it(
    key: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    variable = ROWS[key]["environment"]
    assert variable == ENV_PREFIX + key.upper().replace(".", "__")
    monkeypatch.setenv(variable, "?")
    said = _refused()
    if said:
        # What the setting cannot be is refused by name; a certificate without its key by section.
        assert variable in said or f"{key.rpartition('.')[0]}:" in said
        return
    found: Any = load_settings()
    for name in key.split("."):
        found = getattr(found, name)
    assert str(found) == "?"


def _refused() -> str:
    try:
        load_settings()
    except Misconfigured as fault:
        return str(fault)
    return ""


def test_a_list_in_the_environment_is_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SMARTSITE_SITE_FILES", '["a.toml", "b.toml"]')
    assert load_settings().site_files == (Path("a.toml"), Path("b.toml"))


def test_the_manuals_example_is_read(tmp_path: Path) -> None:
    (example,) = (block.text for block in blocks(PAGE) if block.name == "settings")
    _schema("settings.schema.json").validate(tomllib.loads(example))
    file = tmp_path / "smartsite.toml"
    file.write_text(example, "utf-8")
    settings = load_settings(file)
    assert settings.rules.dust.limit_ug_m3 == 100.0
    assert settings.site_files == (tmp_path / "site.toml",)


def test_the_published_schemas_know_the_files_we_ship() -> None:
    settings = tomllib.loads((ROOT / "deploy" / "smartsite.toml").read_text("utf-8"))
    _schema("settings.schema.json").validate(settings)
    site = tomllib.loads((ROOT / "deploy" / "site.example.toml").read_text("utf-8"))
    _schema("site.schema.json").validate(site)
    demo = tomllib.loads((ROOT / "simulators" / "demo_site.toml").read_text("utf-8"))
    _schema("site.schema.json").validate(demo)


@pytest.mark.parametrize(
    ("schema", "document"),
    [
        ("settings.schema.json", {"broker": {"urll": "embedded"}}),
        ("settings.schema.json", {"broker": {"password": "hunter2"}}),
        ("settings.schema.json", {"ingest": {"flush_rows": 0}}),
        ("site.schema.json", {"device": [{"site": "s 1", "id": "d", "kind": "dust"}]}),
        ("site.schema.json", {"device": [{"site": "s", "id": "d", "kind": "crab"}]}),
    ],
)
def test_the_published_schemas_refuse_what_the_models_refuse(
    schema: str, document: dict[str, object]
) -> None:
    assert not _schema(schema).is_valid(document)
