"""Table 7: what rows cost, from `foveate cost`, and from the runs of the sweep themselves."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from foveate.evaluate.metrics import mean
from foveate.report.context import titled
from foveate.report.lines import Group, Line, flat
from foveate.report.model import Block, Number, Row, Section
from foveate.report.published import tables
from foveate.sweep.results import Result

COST = "cost.json"
COSTS = "table-7"
"""Key of the section."""
_COLUMNS = {
    "learned_numbers": "learned",
    "tuning_pictures_per_second": "tuning /s",
    "banked_pictures_per_second": "on a bank /s",
    "inference_pictures_per_second": "inference, base /s",
    "new_inference_pictures_per_second": "inference, new /s",
    "peak_memory_mb": "peak MB",
}


@dataclass(frozen=True)
class Costs:
    """What `foveate cost` measured.

    Attributes:
        path: Its file.
        values: What is in it.
    """

    path: Path
    values: Mapping[str, Any]


def costs_in(folder: Path) -> tuple[list[Costs], list[str]]:
    """Return all `cost.json` below a folder, and what is wrong with those that cannot be read."""
    found: list[Costs] = []
    damaged: list[str] = []
    for path in sorted(Path(place) / COST for place, _, names in os.walk(folder) if COST in names):
        try:
            values = cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))
            costs = Costs(path, values)
            _section(costs, against=False)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{path} is damaged: {' '.join(str(error).split())}")
            continue
        found.append(costs)
    return found, damaged


def cost_sections(found: Sequence[Costs], against: bool) -> Iterator[Section]:
    """Yield a table for each file."""
    for costs in found:
        yield _section(costs, against)


def _section(costs: Costs, against: bool) -> Section:
    values = costs.values
    rows = [
        Row(
            str(row["row"]),
            (
                f"{row['learned_numbers']:,}",
                *(Number(row.get(name), digits=1) for name in _COLUMNS if name != "learned_numbers"),
            ),
        )
        for row in values["rows"]
    ]
    if against:
        for name, one in cast("Mapping[str, Mapping[str, float]]", tables()["cost_flowers102_mmrl"]).items():
            numbers = [Number(one["tuning_fps"], digits=1), "–", Number(one["inference_fps"], digits=1), "–"]
            memory = Number(one["gpu_memory_MB"], digits=1)
            rows.append(
                Row(f"{name}, published", (f"{one['learnable_params_M']:.2f} M", *numbers, memory), True)
            )
    settings = cast("Mapping[str, Any]", values.get("settings", {}))
    counted = cast("Mapping[str, str]", values.get("counted", {}))
    notes = [
        f"{_COLUMNS.get(name, name)}: {what}"
        for name, what in counted.items()
        if name in _COLUMNS or name == "speeds"
    ]
    if against:
        notes.append(
            "Published figures are of the authors' GPU and of MMRL on Flowers102: the ratio of rows may be "
            "compared, not the values."
        )
    return Section(
        COSTS,
        "Table 7: cost",
        "Numbers learned, pictures a second while tuning (from pictures, and from a bank of features) and "
        "while answering (base names, new names), and peak memory; measured apart from the sweep by "
        "foveate cost.",
        (
            Block(
                "",
                ("method", *_COLUMNS.values()),
                tuple(rows),
            ),
        ),
        notes=tuple(notes),
        card=tuple(
            (name, text)
            for name, text in (
                ("ran on", str(values["device"])),
                ("settings", ", ".join(f"{name} {value}" for name, value in flat(settings).items())),
                (
                    "versions",
                    ", ".join(
                        f"{name} {value}"
                        for name, value in cast("Mapping[str, str]", values.get("versions", {})).items()
                    ),
                ),
            )
            if text
        ),
    )


def runs_section(group: Group, lines: Sequence[Line], against: bool) -> Section:
    """Return what the runs of a sweep took, row by row and device by device."""
    rows: list[Row] = []
    for line in lines:
        by_device: dict[str, list[Result]] = {}
        for result in line.results:
            by_device.setdefault(result.device, []).append(result)
        rows += [Row(line.label, (device, *_took(by_device[device]))) for device in sorted(by_device)]
    columns = (
        "method",
        "device",
        "runs",
        "learned numbers",
        "train, s",
        "test, s",
        "tuning pictures/s",
        "peak MB",
    )
    return Section(
        "took",
        titled("What the runs took", group),
        "Means over the runs of base to new, as they ran in the sweep: other jobs may have shared the "
        "machine, and what had been done before a stop is not in the seconds. A plug-in's seconds are "
        "those of its own stage where its backbone was there. To compare costs, measure them apart: "
        "foveate cost.",
        (Block("", columns, tuple(rows)),),
        notes=(
            "Published costs (Table 7) stand beside what foveate cost measures: put its cost.json into "
            "this folder.",
        )
        if against and not group.drawn
        else (),
        drawn=group.drawn,
    )


def _took(results: Sequence[Result]) -> Iterator[Number | str]:
    train = mean([result.seconds.get("train", 0.0) for result in results])
    speeds = [
        result.pictures * float(epochs) / result.seconds["train"]
        for result in results
        if result.learned_numbers
        and result.seconds.get("train")
        and (epochs := flat(result.config).get("training.epochs"))
    ]
    yield str(len(results))
    learned = sorted({result.learned_numbers for result in results})
    yield f"{learned[0]:,}" if len(learned) == 1 else f"{learned[0]:,} to {learned[-1]:,}"
    yield Number(train, digits=1)
    yield Number(mean([result.seconds.get("test", 0.0) for result in results]), digits=1)
    yield Number(mean(speeds) if speeds else None, digits=1)
    yield Number(mean([result.peak_memory_mb for result in results]), digits=0)
