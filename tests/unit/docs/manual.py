"""Reads what the tests hold together: the manual's tables and blocks, and our metrics."""

import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

import smartsite.roles

ROOT = Path(__file__).resolve().parents[3]
DOCS = ROOT / "docs"

_FENCE = re.compile(r"^```(\S+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")
_RULE = re.compile(r"^\|(\s*:?-+:?\s*\|)+$")


class Block(NamedTuple):
    """A fenced block: its language, the word after it, its text."""

    language: str
    name: str
    text: str


def blocks(file: Path) -> list[Block]:
    """The fenced blocks of a page, in order."""
    return [Block(language, name, text) for language, name, text in _FENCE.findall(_text(file))]


def tables(file: Path) -> list[list[dict[str, str]]]:
    """The tables of a page, each a list of rows by column title; code marks are taken off."""
    found: list[list[dict[str, str]]] = []
    lines = _text(file).splitlines()
    for number, line in enumerate(lines):
        if not _RULE.match(line.strip()):
            continue
        titles = _cells(lines[number - 1])
        rows = []
        for row in lines[number + 1 :]:
            if not row.startswith("|"):
                break
            rows.append(dict(zip(titles, _cells(row), strict=True)))
        found.append(rows)
    return found


def table_with(file: Path, *titles: str) -> list[dict[str, str]]:
    """The rows of every table of a page that has these columns."""
    return [row for table in tables(file) for row in table if set(titles) <= set(table[0])]


def links(file: Path) -> list[str]:
    """Where the links of a page lead."""
    return _LINK.findall(_text(file))


def anchors(file: Path) -> set[str]:
    """The anchors that a page's headings make, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", _text(file), re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower().strip()).replace(" ", "-") for heading in headings
    }


def metrics() -> dict[str, set[str]]:
    """Every metric of ours, named as Prometheus sees it, and its labels."""
    for module in pkgutil.iter_modules(smartsite.roles.__path__, "smartsite.roles."):
        import_module(module.name)
    ours = {}
    for collector in set(REGISTRY._collector_to_names):
        if isinstance(collector, MetricWrapperBase) and collector._name.startswith("smartsite_"):
            name = collector._name + ("_total" if collector._type == "counter" else "")
            ours[name] = set(collector._labelnames)
    return ours


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("`", "") for cell in line.strip().strip("|").split(" |")]


def _text(file: Path) -> str:
    return file.read_text("utf-8")
