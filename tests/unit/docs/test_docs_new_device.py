"""The page on new devices names every key a profile may have, and nothing else."""

from typing import Any

import pytest
from pydantic import BaseModel

from device_profiles import datasheets
from device_profiles.decoding.terms import Terms
from device_profiles.fitting import Entry, Fits
from device_profiles.hj212.factors import Dialect
from device_profiles.hj212.frames import Tolerance
from device_profiles.sites import Device
from tests.unit.docs.manual import DOCS, anchors, links, table_with

PAGE = DOCS / "new-device.md"
TABLES: dict[str, type[BaseModel]] = {
    "key of the file": datasheets.Datasheet,
    "key of [fits]": Fits,
    "key of [each]": datasheets.Each,
    "key of [time]": datasheets.Time,
    "key of series": datasheets.SeriesAt,
    "key of [values.NAME]": datasheets.Value,
    "key of flag": datasheets.Flag,
    "key of [[alarms]]": datasheets.Alarm,
    "key of [[contradictions]]": datasheets.Contradiction,
    "key of [rest]": datasheets.Rest,
    "key of [text]": datasheets.Text,
    "key of [pairs]": datasheets.Pairs,
    "key of [csv]": datasheets.Csv,
    "key of [frame]": datasheets.Frame,
    "key of length": datasheets.Length,
    "key of check": datasheets.Check,
    "key of select": datasheets.Select,
    "key of [picture]": datasheets.Picture,
    "key of [verdict]": datasheets.Verdict,
    "key of [boxes]": datasheets.Boxes,
    "key of [hj212]": datasheets.Hj212,
    "key of [example]": datasheets.Example,
    "key of readings": datasheets.ExampleReading,
}


@pytest.mark.parametrize(("title", "model"), TABLES.items())
def test_every_key_of_a_profile_is_explained(title: str, model: type[BaseModel]) -> None:
    rows = table_with(PAGE, title, "what it says")
    assert sorted(row[title] for row in rows) == sorted(model.model_fields)
    assert all(row["what it says"] for row in rows)


def test_every_table_of_a_profile_is_there() -> None:
    explained = {*TABLES.values(), datasheets.ExampleBox}  # a box's keys stand in its row
    assert explained == set(Entry.__subclasses__())
    box = next(
        row for row in table_with(PAGE, "key of readings") if row["key of readings"] == "boxes"
    )
    assert all(name in box["what it says"] for name in datasheets.ExampleBox.model_fields)


def test_every_word_that_may_be_said_is_on_the_page() -> None:
    text = PAGE.read_text("utf-8")
    words: list[Any] = [
        *datasheets.Format,
        *datasheets.NUMBER_BYTES,
        *datasheets.TIME_BYTES,
        *datasheets.WORD_TABLES,
        *Dialect,
        *Tolerance,
    ]
    assert [word for word in words if str(word) not in text] == []


def test_what_one_device_does_otherwise_is_in_the_site_file() -> None:
    title = "key of [[device]]"
    rows = {row[title] for row in table_with(PAGE, title)}
    assert rows <= set(Device.model_fields)
    own = {name for name in Terms.__dataclass_fields__ if name != "limits"}
    assert own <= rows


def test_links_lead_somewhere() -> None:
    for link in links(PAGE):
        file, _, anchor = link.partition("#")
        target = DOCS / file if file else PAGE
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link
