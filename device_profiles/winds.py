"""Winds by name: what devices write where others write degrees.

Sixteen directions of 22.5° by their Chinese names, in the word orders that are seen (北东北,
北北东 and 东北偏北 are one direction), and by the English letters.
A wind is named by where it comes from.
"""

from __future__ import annotations

_CHINESE = (
    ("北",),
    ("北东北", "北北东", "东北偏北"),
    ("东北",),
    ("东东北", "东北东", "东北偏东"),
    ("东",),
    ("东东南", "东南东", "东南偏东"),
    ("东南",),
    ("南东南", "南南东", "东南偏南"),
    ("南",),
    ("南西南", "南南西", "西南偏南"),
    ("西南",),
    ("西西南", "西南西", "西南偏西"),
    ("西",),
    ("西西北", "西北西", "西北偏西"),
    ("西北",),
    ("北西北", "北北西", "西北偏北"),
)
_ENGLISH = (
    "N", "NNE", "NE", "ENE", "E", "ESE", "SE", "SSE",
    "S", "SSW", "SW", "WSW", "W", "WNW", "NW", "NNW",
)  # fmt: skip
_ENDINGS = ("", "风", "向", "风向")


def _degrees() -> dict[str, float]:
    table: dict[str, float] = {}
    for number, (names, letters) in enumerate(zip(_CHINESE, _ENGLISH, strict=True)):
        for name in names:
            for written in {name, name.replace("东", "東")}:
                table |= dict.fromkeys([written + ending for ending in _ENDINGS], number * 22.5)
        table[f"正{names[0]}"] = table[f"正{names[0]}风"] = number * 22.5
        table[letters] = table[letters.lower()] = number * 22.5
    return table


WINDS: dict[str, float] = _degrees()
"""Degrees by word."""
