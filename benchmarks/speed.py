"""Speed of foveate and of the reference implementation, in one thread: `python benchmarks/speed.py`.

Each pair times the reference implementation ("the field's way") and then foveate; a row's ratio is the
median over its pairs. Weights are random, of ViT-B/16's size. `--rows` selects rows; README.md lists
them.
"""

import argparse
import gc
import json
import platform
import statistics
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import torch

from speed_ideas import COMPILED, IDEAS
from speed_memory import measured
from speed_rows import ROWS, Row, seconds
from speed_setup import QUICK, Bench, Sizes

RESULTS = Path(__file__).parent / "results"
Found = dict[str, object]

MEMORY = {
    "memory-stage": ("fvgpt stage over coop", ("stage-field",), ("stage",)),
    "memory-stage-shared": ("the same, the field's way with one CLIP", ("stage-field-shared",), ("stage",)),
    "memory-chunks": (
        "texts of 1,000 classes: chunks",
        ("texts", "--chunk", "0"),
        ("texts", "--chunk", "2048"),
    ),
}
SCALES = {f"scale-{method}": ("step", "--method", method) for method in ("coop", "kgcoop")}
GROUPS = {
    "table": list(ROWS),
    "ideas": list(IDEAS),
    "compiled": list(COMPILED),
    "memory": list(MEMORY),
    "scale": list(SCALES),
}


def timed(row: Row, pairs: int) -> Found:
    """Time both implementations in alternation."""
    if row.warm:
        seconds(row.field), seconds(row.ours)
    field, ours = [], []
    for _ in range(pairs):
        field.append(seconds(row.field))
        ours.append(seconds(row.ours))
    ratios = [a / b for a, b in zip(field, ours, strict=True)]
    return {
        "work": row.work,
        "field_s": statistics.median(field),
        "foveate_s": statistics.median(ours),
        "ratio": statistics.median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "bound": row.bound,
        "note": row.note,
        "pairs": list(zip(field, ours, strict=True)),
    }


def peaks(name: str, sizes: Sizes, extra: list[str]) -> Found:
    """Measure the peak memory of both implementations, each in its own process."""
    work, field, ours = MEMORY[name]
    if name == "memory-chunks":
        extra = [*extra, "--classes", str(sizes.test_classes)]
    else:
        extra = [*extra, "--classes", str(sizes.classes)]
    a, b = measured(*field, *extra), measured(*ours, *extra)
    return {"work": work, "field": a, "foveate": b, "share": b["peak_mb"] / a["peak_mb"]}


def scale(name: str, sizes: Sizes, extra: list[str]) -> Found:
    """Measure a step with increasing numbers of classes."""
    by_classes = {str(n): measured(*SCALES[name], "--classes", str(n), *extra) for n in sizes.scales}
    return {"work": f"{name.removeprefix('scale-')} step, batch {sizes.batch}", "by_classes": by_classes}


def lines(name: str, found: Found) -> list[str]:
    """Return a result as lines of the Markdown table for its kind."""
    if name in MEMORY:
        field, ours = found["field"], found["foveate"]
        assert isinstance(field, dict)
        assert isinstance(ours, dict)
        towers = f"{ours['loaded_mb']:.0f}"
        peak = f"{field['peak_mb']:.0f} | {ours['peak_mb']:.0f} | {found['share']:.2f}"
        return [f"| {found['work']} | {towers} | {peak} |"]
    if name in SCALES:
        rows = found["by_classes"]
        assert isinstance(rows, dict)
        return [
            f"| {found['work']} | {int(n):,} | {row['step_s']:.2f} | {row['peak_mb']:.0f} |"
            for n, row in rows.items()
        ]
    spread = f"{found['ratio']:.2f} ({found['least']:.2f} to {found['most']:.2f})"
    bound = "" if found["bound"] is None else f"{found['bound']:.2f}"
    return [f"| {found['work']} | {found['field_s']:.3g} | {found['foveate_s']:.3g} | {spread} | {bound} |"]


HEADS = {
    "table": "| work | field s | foveate s | ratio (median, range) | arithmetic bound |",
    "ideas": "| idea | off s | on s | ratio (median, range) | arithmetic bound |",
    "compiled": "| what | plain s | compiled s | ratio (median, range) | arithmetic bound |",
    "memory": "| peak memory | towers alone MB | field MB | foveate MB | share |",
    "scale": "| work | classes | s | peak MB |",
}


def tables(results: dict[str, Found]) -> str:
    """Return all results as Markdown."""
    parts: list[str] = []
    for group, names in GROUPS.items():
        own = [name for name in names if name in results]
        if own:
            rule = "|" + "---|" * (HEADS[group].count("|") - 1)
            parts += [HEADS[group], rule, *(line for name in own for line in lines(name, results[name])), ""]
    notes = [f"- {found['work']}: {found['note']}." for found in results.values() if found.get("note")]
    return "\n".join([*parts, *notes])


def machine() -> dict[str, object]:
    """Return everything that the figures depend on, except the code."""
    model = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        named = (
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line
        )
        model = next(named, model)
    return {
        "cpu": model,
        "threads": torch.get_num_threads(),
        "kernels": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
    }


def chosen(rows: list[str]) -> list[str]:
    """Return the names of rows, with groups expanded.

    Raises:
        SystemExit: A row does not exist.
    """
    every = [name for names in GROUPS.values() for name in names]
    found = [name for row in rows for name in (every if row == "all" else GROUPS.get(row, [row]))]
    unknown = [name for name in found if name not in every]
    if unknown:
        raise SystemExit(f"there is no row {unknown[0]!r}; there are {', '.join([*GROUPS, *every])}")
    return list(dict.fromkeys(found))


def save(path: Path, sizes: Sizes, results: dict[str, Found]) -> None:
    """Write the figures and everything they depend on; called after each row, so a run may be stopped."""
    path.parent.mkdir(parents=True, exist_ok=True)
    date = datetime.now(UTC).date().isoformat()
    content = {"date": date, "machine": machine(), "sizes": asdict(sizes), "rows": results}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def run(name: str, bench: Bench, pairs: int, *, quick: bool) -> Found:
    """Measure one row."""
    extra = ["--quick"] if quick else []
    if name in MEMORY:
        return peaks(name, bench.sizes, extra)
    if name in SCALES:
        return scale(name, bench.sizes, extra)
    return timed({**ROWS, **IDEAS, **COMPILED}[name](bench), pairs)


def parse(words: list[str] | None) -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", nargs="+", default=["all"], help="rows or groups: table, ideas, memory, scale"
    )
    parser.add_argument("--pairs", type=int, default=3, help="measurements of each way")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, only to see that all of it runs")
    parser.add_argument(
        "--names", type=Path, help="a file of class names, one a line, in place of made-up ones"
    )
    parser.add_argument(
        "--out", type=Path, help="where to write; default: results/cpu-DATE.json beside this file"
    )
    return parser.parse_args(words)


def main(words: list[str] | None = None) -> None:
    """Measure, print tables, write the figures."""
    args = parse(words)
    rows = chosen(args.rows)
    torch.set_num_threads(1)  # with two threads, any other busy process distorts the ratios
    sizes = QUICK if args.quick else Sizes()
    names = args.names.read_text(encoding="utf-8").splitlines() if args.names else None
    date = datetime.now(UTC).date().isoformat()
    out = args.out or (None if args.quick else RESULTS / f"cpu-{date}.json")
    results: dict[str, Found] = {}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(sizes, Path(folder), names)
        for name in rows:
            print(f"{name} ...", file=sys.stderr, flush=True)
            results[name] = run(name, bench, args.pairs, quick=args.quick)
            gc.collect()
            if out:
                save(out, sizes, results)
    print(tables(results))


if __name__ == "__main__":
    main()
