"""The manual's metrics, roles and links against what is there."""

import re
from pathlib import Path

import pytest

from smartsite.supervisor import ROLES
from tests.unit.docs.manual import DOCS, ROOT, anchors, blocks, links, metrics, table_with

PAGE = DOCS / "operations.md"
PAGES = sorted([*DOCS.glob("*.md"), *(ROOT / "deploy").rglob("*.md")])


def test_every_metric_is_explained_with_its_labels() -> None:
    written = {
        row["metric"]: {label for label in row["labels"].split(", ") if label}
        for row in table_with(PAGE, "metric", "labels")
    }
    assert written == metrics()


def test_the_alerts_worth_having_are_about_metrics_there_are() -> None:
    (alerts,) = (block.text for block in blocks(PAGE) if block.language == "promql")
    named = set(re.findall(r"smartsite_\w+", alerts))
    assert named
    assert named <= set(metrics())


def test_every_role_is_explained() -> None:
    assert [row["role"] for row in table_with(PAGE, "role", "what it does")] == list(ROLES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_pages_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
