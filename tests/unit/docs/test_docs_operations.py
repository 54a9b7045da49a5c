"""The manual's metrics, roles and links against what is there."""

import pkgutil
from importlib import import_module
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import smartsite.roles
from smartsite.supervisor import ROLES
from tests.unit.docs.manual import DOCS, ROOT, anchors, links, table_with

PAGE = DOCS / "operations.md"
PAGES = sorted([*DOCS.glob("*.md"), *(ROOT / "deploy").rglob("*.md")])


def _metrics() -> dict[str, set[str]]:
    """Every metric of ours as Prometheus sees its name, and its labels."""
    for module in pkgutil.iter_modules(smartsite.roles.__path__, "smartsite.roles."):
        import_module(module.name)
    ours = {}
    for collector in set(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase) and collector._name.startswith("smartsite_"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            ours[name] = set(collector._labelnames)
    return ours


def test_every_metric_is_explained_with_its_labels() -> None:
    written = {
        row["metric"]: {label for label in row["labels"].split(", ") if label}
        for row in table_with(PAGE, "metric", "labels")
    }
    assert written == _metrics()


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
