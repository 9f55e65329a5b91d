"""The published tables, `paper-tables.json`: of FVG-PT (arXiv 2603.08708), and averages that others publish.

Rows and sets are matched by their letters and digits alone: "CoOp+FVG-PT" is "CoOp + FVG-PT". Nothing here
needs the extra `report`.
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
"""Where the paper does not agree with itself."""

BaseNewHm = tuple[float, float, float]


def plain(name: str) -> str:
    """Return a name without its signs, for matching."""
    return "".join(letter for letter in name.casefold() if letter.isalnum())


@cache
def tables() -> Mapping[str, Any]:
    """Return the file."""
    text = files("foveate.report").joinpath("paper-tables.json").read_text(encoding="utf-8")
    return cast("Mapping[str, Any]", json.loads(text))


@cache
def sets() -> tuple[str, ...]:
    """Return the titles of the eleven sets in Table 1's order."""
    return tuple(title for title in tables()["base_to_new"]["CoOp"] if title != "average")


@cache
def rows() -> tuple[str, ...]:
    """Return Table 1's rows in its order."""
    return tuple(tables()["base_to_new"])


def row_rank(name: str) -> int:
    """Return the place of a row in Table 1; behind all of them, where it is not in it."""
    known = [plain(row) for row in rows()]
    return known.index(plain(name)) if plain(name) in known else len(known)


def set_rank(title: str) -> int:
    """Return the place of a set in Table 1; behind all of them, where it is not in it."""
    return sets().index(title) if title in sets() else len(sets())


def _row(table: str, name: str) -> Any:
    own = cast("Mapping[str, Any]", tables()[table])
    return next((row for key, row in own.items() if plain(key) == plain(name)), None)


def base_to_new(name: str, title: str) -> BaseNewHm | None:
    """Return Table 1's base, new and HM of a row on a set."""
    row = _row("base_to_new", name)
    if row is None or title not in row:
        return None
    return row[title]["base"], row[title]["new"], row[title]["hm"]


def base_to_new_average(name: str, titles: Iterable[str]) -> BaseNewHm | None:
    """Return Table 1's averages over these sets: as printed, of all eleven; else computed from their rows.

    HM is that of the two averages. Of other methods only the printed ones are known.
    """
    titles = set(titles)
    if titles == set(sets()):
        return base_to_new(name, "average") or _three(_row("other_methods_average", name))
    found = [base_to_new(name, title) for title in sorted(titles)]
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    base, new = mean([one[0] for one in known]), mean([one[1] for one in known])
    return base, new, harmonic_mean(base, new)


def hm_sd(name: str, title: str) -> float | None:
    """Return Table 10's standard deviation of HM over seeds."""
    row = _row("hm_sd", name)
    return None if row is None else row.get(title)


def cross_dataset(name: str, title: str) -> float | None:
    """Return Table 2's accuracy of a row on a target; "ImageNet" is the source."""
    row = _row("cross_dataset", name)
    return None if row is None else row.get("source" if title == "ImageNet" else title)


def cross_dataset_average(name: str, titles: Iterable[str]) -> float | None:
    """Return Table 2's average over these targets, without the source; as printed, over all ten."""
    row = _row("cross_dataset", name)
    titles = set(titles)
    if row is None or not titles or not titles <= row.keys():
        return None
    if titles == row.keys() - {"source", "average"}:
        return row["average"]
    return mean([row[title] for title in sorted(titles)])


def other_methods() -> dict[str, BaseNewHm]:
    """Return published averages of other methods over the eleven sets, DAPT's among them, by name."""
    own = cast("Mapping[str, BaseNewHm]", tables()["other_methods_average"])
    return {name: (base, new, both) for name, (base, new, both) in own.items()}


def vit_l14(name: str) -> BaseNewHm | None:
    """Return the averages of a row on ViT-L/14."""
    return _three(_row("vit_l14", name))


def components(gate: bool, adapters: bool, prior: bool) -> BaseNewHm | None:
    """Return Table 3's averages with these components switched on."""
    wanted = (int(gate), int(adapters), int(prior))
    for row in cast("list[dict[str, float]]", tables()["ablation_components"]):
        if (row["frg"], row["fdc"], row["pc"]) == wanted:
            return row["base"], row["new"], row["hm"]
    return None


def swept(table: str, value: object) -> tuple[float | None, float | None, float | None] | None:
    """Return Table 4's HM of a width, or Table 5's base, new and HM of a depth."""
    found = cast("Mapping[str, Any]", tables()[table]).get(str(value))
    return (None, None, found) if isinstance(found, float) else _three(found)


def _three(values: Sequence[float] | None) -> BaseNewHm | None:
    if values is None:
        return None
    base, new, both = values
    return base, new, both


def tower(clip: str) -> str | None:
    """Return which image tower weights have, by their name; None where it does not say."""
    if clip in (*EMBEDDED, "random"):
        return clip
    known = {"vitb16": TOWER, "patch16": TOWER, "vitb32": "ViT-B/32", "patch32": "ViT-B/32"}
    known = {"vitl14": LARGE_TOWER, "largepatch14": LARGE_TOWER, **known, "patch14": "another ViT"}
    return next((name for part, name in known.items() if part in plain(clip)), None)
