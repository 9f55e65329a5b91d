"""Which table a row of base-to-new belongs to, by its settings: ablations differ from FVG-PT in few.

What a row is called does not matter, so tables of one's own are sorted as well as those of the package.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

from foveate.methods.guidance import FvgPtConfig
from foveate.report import published
from foveate.report.lines import Line, flat


@dataclass(frozen=True)
class Study:
    """An ablation.

    Attributes:
        key: For links and files.
        title: Its heading.
        lead: What it is.
        fields: Settings of FVG-PT in which its rows may differ.
        shown: The setting whose value is a column of its own; or the three components.
    """

    key: str
    title: str
    lead: str
    fields: tuple[str, ...]
    shown: str


STUDIES = (
    Study(
        "table-3",
        "Table 3: components",
        "FRG is the foreground reliability gate, FDC the two adapters, PC the prior branch for new classes.",
        ("foreground_gate", "adapters", "prior_branch"),
        "components",
    ),
    Study(
        "table-4-adapters",
        "Table 4: width of the adapters",
        "Numbers inside each adapter; the paper takes 64.",
        ("adapter_hidden",),
        "adapter_hidden",
    ),
    Study(
        "table-4-gates",
        "Table 4: width of the gates",
        "Numbers inside each gate; the paper takes 32.",
        ("gate_hidden",),
        "gate_hidden",
    ),
    Study(
        "table-5",
        "Table 5: layers of a gate",
        "Linear layers of each gate; the paper takes 2.",
        ("gate_depth",),
        "gate_depth",
    ),
    Study(
        "table-6",
        "Table 6: what the gates are told",
        "Each indicator left out once.",
        ("foreground_indicators", "prior_indicators"),
        "",
    ),
    Study(
        "table-12",
        "Table 12: terms of the loss",
        "Each left out once. Without L_FRG there is no gate, and r is 1.",
        ("terms", "foreground_gate"),
        "",
    ),
    Study(
        "adapted-sides",
        "Tables 13, 14: which sides are adapted",
        "Pictures, texts, or both.",
        ("adapters",),
        "adapters",
    ),
    Study(
        "lambda-distill",
        "Fig. 4(b), as far as we can tell: weight of the distillation",
        "λ_d; the paper takes 10.",
        ("lambda_distill",),
        "lambda_distill",
    ),
)


_MMRL_DISTILL = 5.0  # Sec. 4.1; where it is not said, it is the default of all methods


def full_settings(line: Line) -> dict[str, Any]:
    """Return all settings of FVG-PT that a row has, lists as tuples; empty for other methods."""
    if line.method.partition("+")[0] != "fvgpt":
        return {}
    own = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in line.settings.get("fvgpt", {}).items()
    }
    return _usual() | own


@cache
def _usual() -> dict[str, Any]:
    return asdict(FvgPtConfig())


def changed(line: Line) -> set[str]:
    """Return the settings of FVG-PT in which a row differs from the paper's method."""
    usual = _usual()
    found = {name for name, value in full_settings(line).items() if value != usual.get(name)}
    if line.method.endswith("+mmrl") and full_settings(line).get("lambda_distill") == _MMRL_DISTILL:
        found.discard("lambda_distill")
    return found


def main_lines(lines: Sequence[Line]) -> list[Line]:
    """Return Table 1's rows: those it has by name, and methods as they are; none that studies a setting."""
    named = [line for line in lines if published.row_rank(line.name) < len(published.rows())]
    plain = [line for line in lines if line not in named and not changed(line) and not _is_twin(line, lines)]
    return [*named, *plain]


def _is_twin(line: Line, lines: Sequence[Line]) -> bool:
    """Return whether a row is, under another name, the same training as one of Table 1 or an earlier one."""
    known = [other for other in lines if other.label in line.twins]
    return any(
        published.row_rank(other.name) < len(published.rows()) or other.label < line.label for other in known
    )


def studied(study: Study, lines: Sequence[Line]) -> list[tuple[str, list[Line]]]:
    """Return the rows of a study by method: those that differ in its settings alone, with the paper's own."""
    found: list[tuple[str, list[Line]]] = []
    for method in sorted({line.method for line in lines if line.method.startswith("fvgpt+")}):
        own = [line for line in lines if line.method == method]
        inside = [line for line in own if changed(line) <= set(study.fields) and _fits(study, line)]
        if any(_tells(study, line) for line in inside):
            found.append((method, _without_twins(inside)))
    return found


def _fits(study: Study, line: Line) -> bool:
    adapters = full_settings(line)["adapters"]
    if study.key == "table-3":
        return adapters in ("both", "none")
    if study.key == "adapted-sides":
        return adapters != "none"
    return study.key != "table-12" or len(changed(line)) < 2


def _tells(study: Study, line: Line) -> bool:
    """Return whether a row is one that only this study has."""
    first = study.fields[0] if study.key == "table-12" else None
    return bool(changed(line)) and (first is None or first in changed(line))


def _without_twins(lines: Sequence[Line]) -> list[Line]:
    """Leave out rows that are the same training under another name."""
    kept: list[Line] = []
    for line in sorted(
        lines, key=lambda line: (bool(changed(line)), -sum(map(len, line.runs.values())), line.label)
    ):
        if not any(one.label in line.twins for one in kept):
            kept.append(line)
    return kept


def epochs(line: Line) -> str | None:
    """Return how long a row was trained, where its result says so."""
    return flat(next(line.results).config).get("training.epochs")
