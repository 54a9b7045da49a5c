from pathlib import Path

import pytest

from ingest.store.queries import load_queries, parse_queries

GOOD = """-- of the file
-- name: one
-- of the query
SELECT 1

-- name: two
SELECT 2
FROM things
"""


def test_queries_by_name() -> None:
    queries = parse_queries(GOOD, "good.sql")
    assert list(queries) == ["one", "two"]
    assert queries["one"] == "-- of the query\nSELECT 1"
    assert queries["two"] == "SELECT 2\nFROM things"


def test_an_unknown_name_says_what_there_is() -> None:
    with pytest.raises(KeyError, match=r"good.sql has no query 'three'; it has one, two"):
        parse_queries(GOOD, "good.sql")["three"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2\n", "bad.sql:3: query 'a' stands twice"),
        ("SELECT 1\n-- name: a\nSELECT 1\n", "bad.sql:1: SQL before the first"),
        ("-- name: A b\nSELECT 1\n", "bad.sql:1: 'A b' is not a query's name"),
        ("-- name:\nSELECT 1\n", "bad.sql:1: '' is not a query's name"),
        ("-- name: a\n-- nothing\n\n-- name: b\nSELECT 1\n", "bad.sql: query 'a' is empty"),
    ],
)
def test_a_faulty_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError) as fault:
        parse_queries(text, "bad.sql")
    assert message in str(fault.value)


def test_a_file_is_read_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "some.sql"
    path.write_text("-- name: unit\nSELECT 'µg/m³'\n", encoding="utf-8")
    assert load_queries(path)["unit"] == "SELECT 'µg/m³'"
