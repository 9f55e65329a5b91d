"""The published tables (`paper-tables.json`): FVG-PT (arXiv 2603.08708), and averages of other papers.

Rows and sets are matched by letters and digits only: "CoOp+FVG-PT" equals "CoOp + FVG-PT". This module
does not need the extra `report`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, cast

from foveate.clip.config import EMBEDDED
from foveate.evaluate.metrics import harmonic_mean, mean

PAPER = "FVG-PT, arXiv 2603.08708"
SHOTS, SEEDS, TOWER, LARGE_TOWER = 16, (1, 2, 3), "ViT-B/16", "ViT-L/14"
ERRATA = (
    "Table 10 prints 77.16 as the average HM of CoOp+FVG-PT; Table 1 prints 77.76, which is right.",
    "Table 10's averages of deviations are means of those of single sets, not the deviation of the average.",
    "Table 1 compares CoOp after 10 epochs with FVG-PT after 20 on EuroSAT.",
)
"""Contradictions within the paper."""

BaseNewHm = tuple[float, float, float]


def plain(name: str) -> str:
    """Return only the letters and digits of a name, for matching."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@cache
def tables() -> Mapping[str, Any]:
    """Return the content of `paper-tables.json`."""
    text = files("foveate.report").joinpath("paper-tables.json").read_text(encoding="utf-8")
    return cast("Mapping[str, Any]", json.loads(text))


@cache
def sets() -> tuple[str, ...]:
    """Return the titles of the eleven sets in Table 1's order."""
    return tuple(title for title in tables()["base_to_new"]["CoOp"] if title != "average")


@cache
def rows() -> tuple[str, ...]:
    """Return the rows of Table 1, in order."""
    return tuple(tables()["base_to_new"])


def row_rank(name: str) -> int:
    """Return the index of a row in Table 1; a larger number if it is not there."""
    known = [plain(row) for row in rows()]
    return known.index(plain(name)) if plain(name) in known else len(known)


def set_rank(title: str) -> int:
    """Return the index of a set in Table 1; a larger number if it is not there."""
    return sets().index(title) if title in sets() else len(sets())


def _row(table: str, name: str) -> Any:
    content = cast("Mapping[str, Any]", tables()[table])
    return next((row for key, row in content.items() if plain(key) == plain(name)), None)


def base_to_new(name: str, title: str) -> BaseNewHm | None:
    """Return base, new and HM of a row on a set, from Table 1."""
    row = _row("base_to_new", name)
    if row is None or title not in row:
        return None
    return row[title]["base"], row[title]["new"], row[title]["hm"]


def base_to_new_average(name: str, titles: Iterable[str]) -> BaseNewHm | None:
    """Return Table 1's averages over these sets: printed for all eleven, otherwise computed.

    HM is computed from the two averages. For other methods, only the printed averages are known.
    """
    titles = set(titles)
    if titles == set(sets()):
        return base_to_new(name, "average") or _as_triple(_row("other_methods_average", name))
    results = [base_to_new(name, title) for title in sorted(titles)]
    known = [result for result in results if result is not None]
    if not known or len(known) < len(results):
        return None
    base, new = mean([result[0] for result in known]), mean([result[1] for result in known])
    return base, new, harmonic_mean(base, new)


def hm_sd(name: str, title: str) -> float | None:
    """Return the standard deviation of HM over seeds, from Table 10."""
    row = _row("hm_sd", name)
    return None if row is None else row.get(title)


def cross_dataset(name: str, title: str) -> float | None:
    """Return the accuracy of a row on a target, from Table 2; "ImageNet" is the source."""
    row = _row("cross_dataset", name)
    return None if row is None else row.get("source" if title == "ImageNet" else title)


def cross_dataset_average(name: str, titles: Iterable[str]) -> float | None:
    """Return Table 2's average over these targets, without the source; printed for all ten."""
    row = _row("cross_dataset", name)
    titles = set(titles)
    if row is None or not titles or not titles <= row.keys():
        return None
    if titles == row.keys() - {"source", "average"}:
        return row["average"]
    return mean([row[title] for title in sorted(titles)])


def other_methods() -> dict[str, BaseNewHm]:
    """Return the published averages of other methods, including DAPT, over the eleven sets, by name."""
    averages = cast("Mapping[str, BaseNewHm]", tables()["other_methods_average"])
    return {name: (base, new, hm) for name, (base, new, hm) in averages.items()}


def vit_l14(name: str) -> BaseNewHm | None:
    """Return the averages of a row with ViT-L/14."""
    return _as_triple(_row("vit_l14", name))


def components(gate: bool, adapters: bool, prior: bool) -> BaseNewHm | None:
    """Return Table 3's averages for these components."""
    flags = (int(gate), int(adapters), int(prior))
    for row in cast("list[dict[str, float]]", tables()["ablation_components"]):
        if (row["frg"], row["fdc"], row["pc"]) == flags:
            return row["base"], row["new"], row["hm"]
    return None


def swept(table: str, value: object) -> tuple[float | None, float | None, float | None] | None:
    """Return Table 4's HM for a width, or Table 5's base, new and HM for a depth."""
    values = cast("Mapping[str, Any]", tables()[table]).get(str(value))
    return (None, None, values) if isinstance(values, float) else _as_triple(values)


def _as_triple(values: Sequence[float] | None) -> BaseNewHm | None:
    if values is None:
        return None
    base, new, hm = values
    return base, new, hm


def tower(clip: str) -> str | None:
    """Return the image tower of weights, from their name; None if the name does not contain it."""
    if clip in (*EMBEDDED, "random"):
        return clip
    towers = {"vitb16": TOWER, "patch16": TOWER, "vitb32": "ViT-B/32", "patch32": "ViT-B/32"}
    towers = {"vitl14": LARGE_TOWER, "largepatch14": LARGE_TOWER, **towers, "patch14": "another ViT"}
    return next((name for part, name in towers.items() if part in plain(clip)), None)
