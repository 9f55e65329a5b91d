"""`foveate cost`: measure learned parameters, speed and memory of methods."""

import json as json_module
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foveate.clip.precision import Precision
from foveate.commands.options import parse
from foveate.commands.screen import Bars, note, print_table
from foveate.data.naming import split_names
from foveate.errors import InputError
from foveate.files import write_atomically
from foveate.readers import read_json

EXAMPLES = """
    foveate cost --out out/cost.json
    foveate cost --methods mmrl,fvgpt+mmrl --device cuda
    foveate cost --methods coop --clip ViT-L/14 --classes 500
"""
FIGURES = {
    "learned_numbers": "learned numbers",
    "batch_size": "batch",
    "tuning_pictures_per_second": "tuning /s",
    "banked_pictures_per_second": "tuning on a bank /s",
    "filling_pictures_per_second": "filling a bank /s",
    "inference_pictures_per_second": "inference, base /s",
    "new_inference_pictures_per_second": "inference, new /s",
    "peak_memory_mb": "peak MB",
}
"""Columns of the table, by their names in the file."""

PUBLISHED = {"mmrl": "MMRL", "fvgpt+mmrl": "FVG-PT"}
"""Rows of the paper's Table 7 by method: on Flowers102, on a GPU that the paper does not name."""


def cost(  # noqa: PLR0913  (a command's options)
    *,
    methods: str | None = None,
    clip: str = "random",
    classes: int = 51,
    batch_size: int | None = None,
    device: str = "cpu",
    dtype: Precision = "float32",
    shots: int = 16,
    pictures: int | None = None,
    windows: int = 5,
    seconds: float = 1.0,
    json: bool = False,
    out: str | None = None,
) -> None:
    """Measure the cost of methods: learned parameters, pictures per second, peak memory.

    Args:
        methods: Methods, separated by commas; by default the paper's four backbones and FVG-PT over
            each.
        clip: Hub id, folder or file of CLIP weights; "random" has the size of ViT-B/16 and random
            weights.
        classes: Number of classes, with made-up names; 51 is the base half of Flowers102.
        batch_size: Pictures per step; by default that of the method's recipe (4 for coop).
        device: Device of the towers, e.g. cuda.
        dtype: Precision of the frozen towers; auto is bfloat16 where the processor has it, and float16 on
            CUDA.
        shots: Pictures per class, for methods that use all pictures before the first step.
        pictures: Drawn pictures per epoch and bank (16 on a CPU, 256 on a GPU; more for large batches).
        windows: Number of measurements per figure, after a warm-up; the median is reported.
        seconds: Minimum duration of a measurement; each has at least one step.
        json: Print JSON instead of a table.
        out: File for the same JSON, such as cost.json, updated after each method; foveate report reads
            it.
    """
    from foveate.costs.apart import METHODS, as_row, as_table, measure_apart
    from foveate.costs.measuring import CostPlan, check
    from foveate.methods.registry import parts

    names = ["+".join(parts(name)) for name in split_names(methods)] or list(METHODS)
    plans = [
        CostPlan(name, clip, classes, batch_size, device, dtype, shots, pictures, windows, seconds)
        for name in dict.fromkeys(names)
    ]
    for plan in plans:
        check(plan)
    file = None if out is None else Path(out).expanduser()
    if file is not None:
        _refuse_foreign_file(file)
    rows: list[dict[str, Any]] = []
    with Bars() as bars:
        for measured in measure_apart(plans, lambda done, total: bars.count("measuring", done, total)):
            rows.append(as_row(measured))
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(file, _text(as_table(rows, plans[0])))
    table = as_table(rows, plans[0])
    if json:
        sys.stdout.write(_text(table))
    else:
        _print(table)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    cost(**parse("cost", cost, words, examples=EXAMPLES))


def _refuse_foreign_file(file: Path) -> None:
    """Refuse to overwrite a file that is not from an earlier measurement.

    Raises:
        InputError: The path is a folder, or a file that this command did not write.
    """
    if file.is_dir():
        raise InputError(f"{file} is a folder: give a file, such as {file / 'cost.json'}")
    if not file.exists():
        return
    try:
        content = read_json(file)
    except ValueError:
        content = None
    if not isinstance(content, dict) or not {"schema", "rows", "counted"} <= content.keys():
        raise InputError(f"{file} is there, and foveate cost did not write it: choose another --out")


def _text(table: Mapping[str, Any]) -> str:
    from foveate.report.published import PAPER

    published = {"source": f"{PAPER}, Table 7", "rows": _published(table["rows"])}
    content = {**table, "published": published}
    return json_module.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _published(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the paper's figures for the methods that have any."""
    from foveate.report.published import tables

    table = tables()["cost_flowers102_mmrl"]
    measured = [row["method"] for row in rows]
    return {method: table[PUBLISHED[method]] for method in measured if method in PUBLISHED}


def _print(table: Mapping[str, Any]) -> None:
    from foveate.costs.apart import title

    cells = [_cells(row) for row in table["rows"]]
    for method, figures in _published(table["rows"]).items():
        speeds = [f"{figures['tuning_fps']:g}", "", "", f"{figures['inference_fps']:g}", ""]
        learned, memory = f"{figures['learnable_params_M']:.2f} M", f"{figures['gpu_memory_MB']:.0f}"
        cells.append(
            [f"{title(method)}, published: ViT-B/16 on another machine", learned, "", *speeds, memory]
        )
    print_table(("row", *FIGURES.values()), cells)
    note(f"pictures a second on {table['device']}: not to be compared with another machine's, nor a paper's")
    for name, description in table["counted"].items():
        note(f"{FIGURES.get(name, name)}: {description}")


def _cells(row: Mapping[str, Any]) -> list[str]:
    speeds = ("tuning", "banked", "filling", "inference", "new_inference")
    figures = [row[f"{name}_pictures_per_second"] for name in speeds]
    texts = ["" if figure is None else f"{figure:g}" for figure in figures]
    return [
        row["row"],
        f"{row['learned_numbers']:,}",
        str(row["batch_size"]),
        *texts,
        f"{row['peak_memory_mb']:.0f}",
    ]
