"""Builds a report from a sweep's folder: all tables with results, and the published numbers."""

import json
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

import pandas as pd

from foveate.errors import InputError
from foveate.evaluate.metrics import mean
from foveate.methods.guidance import FvgPtConfig
from foveate.readers import read_json
from foveate.report import claims, published, tables
from foveate.report.figures import AVERAGE, THREE, Difference, FigureKey, Figures, differences, resolve
from foveate.report.frame import (
    RAW,
    ResultGroup,
    SweepResults,
    about,
    flat,
    groups_of,
    read_sweep,
    set_order,
    set_title,
)
from foveate.report.model import (
    Cell,
    Chart,
    ChartPoint,
    Number,
    Report,
    ReportBlock,
    Section,
    Series,
    TableRow,
    count,
    number_of,
)
from foveate.report.protocol import ReportContext, odd_sets, training_of, words_of_range
from foveate.report.statistics import Bootstrap, holm
from foveate.report.tables import Paper, TableSpec, gain_charts, p_number, section_of

_ORDER = (
    *("compare", "claims", "table-1", "conditions", "fig-5", "table-2", "table-3", "table-4", "table-5"),
    *("table-6", "table-7", "took", "table-10", "table-11", "table-12", "adapted", "vit-l14", "table-15"),
    *("lambda", "few-shot", "data-eff", "domains"),
)
_SCENES = (
    "Drawn scenes are small pictures that foveate draws itself: one shape, such as a red star, on a place "
    "such as grass or brick, with an exact mask. A class is a colour and a shape, under a plain or an "
    "invented name. Where classes are at home on a place, they stand there in training. Test scenes stand "
    "anywhere, or as their condition says: at home, on any place, on the home of a sibling (another colour "
    "of the same shape), or on places that no training showed (unseen)."
)
_HOSTS = {"coop": "CoOp", "kgcoop": "KgCoOp", "promptsrc": "PromptSRC", "mmrl": "MMRL", "maple": "MaPLe"}
_SWEPT = {"adapter_hidden": "adapter_dim_hm", "gate_hidden": "gate_dim_hm", "gate_depth": "gate_layers"}
_MMRL_DISTILL = 5.0  # Sec. 4.1; elsewhere the default of all methods applies
COST = {
    "learned_numbers": "learned",
    "tuning_pictures_per_second": "tuning /s",
    "banked_pictures_per_second": "on a bank /s",
    "inference_pictures_per_second": "inference, base /s",
    "new_inference_pictures_per_second": "inference, new /s",
    "peak_memory_mb": "peak MB",
}


def build(
    folder: Path,
    *,
    against: bool = False,
    draws: int = 2000,
    seed: int = 0,
    compare: tuple[str, str] | None = None,
) -> Report:
    """Read all results below a folder and build the report.

    Args:
        folder: Output folder of a sweep.
        against: Whether to show published numbers beside ours.
        draws: Number of bootstrap draws.
        seed: Seed of these draws.
        compare: Two rows to test against each other, by label, name or method: the difference is first
            minus second.

    Raises:
        InputError: There is nothing to report; a newer foveate version wrote it; two sweeps contradict
            each other; or a row does not exist.
    """
    sweep = read_sweep(folder)
    groups = groups_of(sweep.frame)
    context = ReportContext(Bootstrap(draws, seed), against)
    costs, damaged = _costs(folder, against)
    sections = [section for group in groups for section in _sections(group, context)]
    if compare is not None:
        sections += _comparisons(groups, context, *compare)
    warnings = [f"Left out: {error}" for error in (*sweep.damaged, *damaged)]
    if sweep.unfinished:
        others = f", and {len(sweep.unfinished) - 1} more" * (len(sweep.unfinished) > 1)
        warnings.append(f"Begun and not finished: {sweep.unfinished[0]}{others}")
    set_keys = sorted(set(sweep.frame["tested_on"]), key=set_order)
    return Report(
        f"Results of {folder.resolve().name}",
        tuple(_facts(sweep, groups, against)),
        tuple(_with_unique_keys(_in_paper_order([*sections, *costs]))),
        tuple(warnings),
        tuple(_legend(context)),
        tuple((set_title(key), about(key)) for key in set_keys if about(key)),
        sweep.frame[[*RAW]].assign(
            versions=[json.dumps(versions, sort_keys=True) for versions in sweep.frame["versions"]]
        ),
    )


def _facts(sweep: SweepResults, groups: Sequence[ResultGroup], against: bool) -> Iterator[str]:
    frame = sweep.frame
    tested = frame["folder"].nunique()
    rows = {label for group in groups for label in group.frame["label"]}
    counts = {
        "run": tested,
        "row": len(rows),
        "test set": frame["tested_on"].nunique(),
        "seed": frame["seed"].nunique(),
    }
    untested = sweep.runs - tested
    backbones = f"; {untested} more runs are backbones that were asked nothing" if untested else ""
    yield ", ".join(count(number, what) for what, number in counts.items()) + f"{backbones}."
    drawn = {group.drawn for group in groups}
    if drawn == {True, False}:
        yield "Some tables are of drawn scenes; they say so, and no published figure stands beside them."
    elif drawn == {True}:
        yield "All of it was measured on drawn scenes: it says how methods compare there, not on photographs."
    if True in drawn:
        yield _SCENES
    if against and False in drawn:
        yield f"Published figures are those of {published.PAPER}."


def _legend(context: ReportContext) -> Iterator[str]:
    yield "Figures are means over seeds, ± their standard deviation (n − 1). Accuracy is percent of pictures."
    yield (
        "Bold is the highest figure of its column, whether or not others are lower by more than chance: "
        "intervals and tests say that. A test is bold where its p (Holm) is below 0.05."
    )
    yield "HM is the harmonic mean of base and new; over several sets, of averaged base and averaged new."
    yield (
        f"95 % intervals are percentiles of {context.bootstrap.draws} bootstrap draws (seed "
        f"{context.bootstrap.seed}) of test pictures and of seeds: pictures with replacement in each test "
        "split, and n − 1 of n seeds for each set that was trained on. With few seeds they are rather too "
        "narrow where seeds differ more than pictures do. Each is for its own figure: about one in twenty "
        "misses."
    )
    yield (
        "Paired tests are exact: picture by picture, which row gave which answers is flipped, over all "
        "seeds at once (McNemar's exact test, where there is one seed). They hold for these tuned models. "
        "p (Holm) is corrected for all tests under one table. Rows are compared on identical test pictures "
        "only."
    )


def _in_paper_order(sections: Sequence[Section]) -> list[Section]:
    """Sort the sections: photographs before drawn scenes, each in the papers' order."""
    photographs = any(not section.drawn for section in sections if section.key != "table-7")

    def rank(section: Section) -> tuple[bool, int, str, str]:
        drawn = section.drawn or (section.key == "table-7" and not photographs)  # costs are of no pictures
        prefixed = [index for index, prefix in enumerate(_ORDER) if section.key.startswith(prefix)]
        exact = [index for index, prefix in enumerate(_ORDER) if section.key == prefix]
        return drawn, min(exact or prefixed or [len(_ORDER)]), section.key, section.title

    return sorted(sections, key=rank)


def _with_unique_keys(sections: Sequence[Section]) -> Iterator[Section]:
    """Yield sections with unique keys: a second "table-1" becomes "table-1-2"."""
    counts: dict[str, int] = {}
    for section in sections:
        counts[section.key] = number = counts.get(section.key, 0) + 1
        yield section if number == 1 else replace(section, key=f"{section.key}-{number}")


def _sections(group: ResultGroup, context: ReportContext) -> Iterator[Section]:
    """Yield all tables of a group."""
    make_sections: Callable[[ResultGroup, ReportContext], Iterator[Section | None]] = {
        **{"cross-dataset": _transfer, "domain-generalisation": _transfer, "few-shot": _curves},
        **{"data-efficiency": _curves, "seed-robustness": _robustness},
    }.get(group.protocol, _base_to_new)
    claims_section = claims.section(group, context)
    yield from (
        section for section in (claims_section, *make_sections(group, context)) if section is not None
    )


def _part(
    group: ResultGroup, context: ReportContext, labels: Sequence[str], sets: Collection[str] | None = None
) -> Figures:
    """Return the figures of these rows, in this order, for these training sets."""
    frame = group.frame[group.frame["label"].isin(labels)]
    if sets is not None:
        frame = frame[frame["trained_on"].isin(sets)]
    present = set(frame["label"])
    return Figures(frame, context.bootstrap, [label for label in labels if label in present])


def _base_to_new(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    all_figures = Figures(group.frame, context.bootstrap)
    main_labels = _main_rows(all_figures, group)
    if main_labels:
        figures = _part(group, context, main_labels)
        yield _table_1(group, figures, context)
        if figures.conditions != ("",):
            yield section_of(tables.CONDITIONS, group, figures, context, towers=None)
            yield section_of(tables.WORST_GROUPS, group, figures, context, towers=None)
        yield section_of(tables.FIG_5, group, figures, context, towers=None)
        yield section_of(tables.GENERALISED, group, figures, context, towers=None)
        if context.beside(group) and len(figures.seeds) > 1:
            yield _table_10(group, figures, context)
        if context.beside(group) and {set_title(key) for key in figures.sets} == set(published.sets()):
            yield _table_11(group, figures, context)
        yield _runs(group, figures, context)
    yield from _ablations(group, all_figures, main_labels, context)


def _table_1(group: ResultGroup, figures: Figures, context: ReportContext) -> Section | None:
    large = published.tower(group.clip) == published.LARGE_TOWER
    towers = published.LARGE_TOWER if large else published.TOWER
    odd = {label: odd_sets(figures.frame[figures.frame["label"] == label]) for label in figures.labels}
    all_titles = set(published.sets())

    def paper(key: FigureKey) -> float | None:
        titles = [set_title(set_key) for set_key in figures.sets_of(key)]
        name = figures.name(key.label)
        if key.measure not in THREE or any(set_key in odd[key.label] for set_key in figures.sets_of(key)):
            return None
        if large:
            values = published.vit_l14(name) if key.set == AVERAGE and set(titles) == all_titles else None
        elif key.set == AVERAGE:
            values = published.base_to_new_average(name, titles)
        else:
            values = published.base_to_new(name, set_title(key.set))
        return None if values is None else values[THREE.index(key.measure)]

    notes: list[str] = []
    if context.beside(group, towers):
        notes.append(
            "Below each figure are the published one (Table 1 of the paper) and by how much ours is above "
            "it, of the printed digits."
        )
        averages = [FigureKey(label, AVERAGE, 0.0, "", "HM") for label in figures.labels]
        if any({set_title(set_key) for set_key in figures.sets_of(key)} != all_titles for key in averages):
            notes.append(
                "Published averages are computed over the sets that a row has here, from the published rows "
                "of these sets; the paper prints averages over eleven."
            )
        notes += [f"Of the paper: {published.ERRATA[2]}"] if "eurosat" in figures.sets else []
    beside = paper if context.beside(group, towers) else None
    table = tables.VIT_L14 if large else tables.TABLE_1
    return section_of(table, group, figures, context, paper=beside, notes=notes, towers=towers)


def _transfer(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    domains = group.protocol == "domain-generalisation"
    for source in sorted(set(group.frame["trained_on"])):
        figures = Figures(group.frame[group.frame["trained_on"] == source], context.bootstrap)
        beside = context.beside(group) and not domains and set_title(source) == "ImageNet"
        note = (
            "Below each figure are the published one (Table 2 of the paper) and by how much ours is above it."
        )
        yield section_of(
            tables.DOMAINS if domains else tables.TABLE_2,
            group,
            figures,
            context,
            paper=_paper_table_2(figures) if beside else None,
            notes=[note] if beside else [],
            towers=None if domains else published.TOWER,
        )


def _paper_table_2(figures: Figures) -> Paper:
    odd = {label: odd_sets(figures.frame[figures.frame["label"] == label]) for label in figures.labels}

    def paper(key: FigureKey) -> float | None:
        set_keys = figures.targets if key.set == AVERAGE else (key.set,)
        if any(set_key in odd[key.label] for set_key in (figures.source, *set_keys)):
            return None
        name = figures.name(key.label)
        if key.set == AVERAGE:
            return published.cross_dataset_average(name, map(set_title, figures.sets_of(key)))
        return published.cross_dataset(name, set_title(key.set))

    return paper


def _curves(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    """Yield sections with accuracy by amount of training data."""
    figures = Figures(group.frame, context.bootstrap)
    few_shot = group.protocol == "few-shot"
    measure, scale = figures.measures[-1], 1 if few_shot else 100
    charts: list[Chart] = []
    for set_key in (AVERAGE, *figures.sets) if len(figures.sets) > 1 else figures.sets:
        series: list[Series] = []
        for label in figures.labels:
            for condition in figures.conditions:
                keys = [FigureKey(label, set_key, amount, condition, measure) for amount in figures.amounts]
                known = [(key.amount, figures.estimates[key]) for key in keys if key in figures.estimates]
                points = tuple(
                    ChartPoint(scale * amount, estimate.value, *estimate.interval)
                    for amount, estimate in known
                )
                series.append(Series(f"{label} {condition}".strip(), points, len(series)))
        title = set_title(set_key) or f"Average over {len(figures.sets)} sets"
        x_label = "shots a class" if few_shot else "% of the training pictures"
        ticks = tuple(scale * amount for amount in figures.amounts)
        charts.append(Chart("lines", title, tuple(series), (), x_label, f"{measure}, %", ticks))
    note = "No published figures stand beside these: the papers' values are in figures that print none."
    notes = [note] if context.against and not group.drawn else []
    table = tables.FEW_SHOT if few_shot else tables.DATA_EFFICIENCY
    yield section_of(table, group, figures, context, charts=charts, notes=notes, towers=None)


def _robustness(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    """Yield standard deviation and range over seeds for each set, and a chart with a point for each seed."""
    figures = Figures(group.frame, context.bootstrap)
    charts: list[Chart] = []
    for set_key in figures.sets:
        keys = [FigureKey(label, set_key, 0.0, figures.conditions[0], "HM") for label in figures.labels]
        known = [(key.label, figures.estimates[key]) for key in keys if key in figures.estimates]
        series = tuple(
            Series(label, tuple(ChartPoint(value, y) for value in estimate.seeds.values()), y, hollow=True)
            for y, (label, estimate) in enumerate(known)
        )
        charts.append(Chart("dots", set_title(set_key), series, tuple(label for label, _ in known), "HM, %"))
    yield section_of(tables.SEEDS, group, figures, context, charts=charts, towers=None)


def _table_10(group: ResultGroup, figures: Figures, context: ReportContext) -> Section | None:
    """Return Table 10, with a row for the means of the sets' deviations."""
    labels = [label for label in figures.labels if "+" in figures.method(label)] or list(figures.labels)

    def paper(key: FigureKey) -> float | None:
        return None if key.set == AVERAGE else published.hm_sd(figures.name(key.label), set_title(key.set))

    notes = [f"Of the paper: {erratum}" for erratum in published.ERRATA[:2]]
    section = section_of(
        tables.TABLE_10, group, _part(group, context, labels), context, paper=paper, notes=notes
    )
    if section is None:
        return None
    *rows, last = section.blocks[0].rows
    columns = zip(*(row.cells for row in rows), strict=True)
    numbers = [
        [cell.value for cell in column if isinstance(cell, Number) and cell.value is not None]
        for column in columns
    ]
    means = TableRow("mean of these", tuple(Number(mean(values)) if values else "–" for values in numbers))
    return replace(section, blocks=(replace(section.blocks[0], rows=(*rows, means, last)),))


def _table_11(group: ResultGroup, figures: Figures, context: ReportContext) -> Section:
    """Return Table 11: published averages of other methods, including DAPT."""
    rows = [
        TableRow(name, tuple(map(Number, averages)), True)
        for name, averages in published.other_methods().items()
    ]
    for label in figures.labels:
        estimates = [figures.estimates.get(FigureKey(label, AVERAGE, 0.0, "", measure)) for measure in THREE]
        rows += (
            [TableRow(f"{label} (ours)", tuple(map(number_of, estimates)))] if None not in estimates else []
        )
    return Section(
        "table-11",
        group.titled("Table 11: other methods and DAPT, averages over eleven sets"),
        "Published averages, each with its authors' own settings, and ours of this sweep. Rows marked "
        "ViT-B/32 are of another CLIP.",
        (ReportBlock("", ("method", *THREE), tuple(rows)),),
        notes=tuple(context.notes(group, figures)),
        card=context.card(group, figures),
    )


def _runs(group: ResultGroup, figures: Figures, context: ReportContext) -> Section:
    """Return time and memory of the runs, by row and device."""
    runs = figures.frame.drop_duplicates(["label", "trained_on", "amount", "seed"])
    epochs = [float(flat(config).get("training.epochs", "nan")) for config in runs["config"]]
    learns = runs["learned_numbers"].gt(0) & runs["train_seconds"].gt(0)
    runs = runs.assign(speed=(runs["learned_from"] * epochs / runs["train_seconds"]).where(learns))
    rows: list[TableRow] = []
    for label in figures.labels:
        for device, device_runs in runs[runs["label"] == label].groupby("device"):
            means = device_runs[["train_seconds", "test_seconds", "speed", "peak_memory_mb"]].mean()
            numbers = [None if pd.isna(value) else float(value) for value in means]
            cells = (str(device), str(len(device_runs)), words_of_range(device_runs["learned_numbers"]))
            digits = (1, 1, 1, 0)
            rows.append(
                TableRow(
                    label,
                    (*cells, *(Number(number, digits=n) for number, n in zip(numbers, digits, strict=True))),
                )
            )
    heads = ("device", "runs", "learned numbers", "train, s", "test, s", "tuning pictures/s", "peak MB")
    note = "Published costs (Table 7) stand beside what foveate cost measures: put its cost.json here."
    return Section(
        "took",
        group.titled("What the runs took"),
        "Means over the runs of base to new, as they ran in the sweep: other jobs may have shared the "
        "machine, and what had been done before a stop is not in the seconds. A plug-in's seconds are "
        "those of its own stage where its backbone was there. To compare costs, measure them apart: "
        "foveate cost.",
        (ReportBlock("", ("method", *heads), tuple(rows)),),
        notes=(note,) if context.against and not group.drawn else (),
        drawn=group.drawn,
    )


def _costs(folder: Path, against: bool) -> tuple[list[Section], list[str]]:
    """Return a table for each `cost.json` below a folder, and errors of unreadable ones."""
    sections: list[Section] = []
    damaged: list[str] = []
    for path in sorted(
        Path(directory) / "cost.json" for directory, _, names in os.walk(folder) if "cost.json" in names
    ):
        try:
            sections.append(_table_7(read_json(path), against))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{path} is damaged: {' '.join(str(error).split())}")
    return sections, damaged


def _table_7(values: Mapping[str, Any], against: bool) -> Section:
    """Return the results of `foveate cost` as Table 7."""
    rows: list[TableRow] = []
    for row in values["rows"]:
        numbers = (Number(row.get(name), digits=1) for name in COST if name != "learned_numbers")
        rows.append(TableRow(str(row["row"]), (f"{row['learned_numbers']:,}", *numbers)))
    counted = cast("Mapping[str, str]", values.get("counted", {}))
    notes = [
        f"{COST.get(name, name)}: {meaning}" for name, meaning in counted.items() if name in {*COST, "speeds"}
    ]
    if against:
        for name, cost in cast("Mapping[str, Any]", published.tables()["cost_flowers102_mmrl"]).items():
            speeds = (Number(cost["tuning_fps"], digits=1), "–", Number(cost["inference_fps"], digits=1), "–")
            memory = Number(cost["gpu_memory_MB"], digits=1)
            rows.append(
                TableRow(f"{name}, published", (f"{cost['learnable_params_M']:.2f} M", *speeds, memory), True)
            )
        notes.append(
            "Published figures are of the authors' GPU and of MMRL on Flowers102: the ratio of rows may be "
            "compared, not the values."
        )
    settings = {"settings": flat(values.get("settings", {})), "versions": values.get("versions", {})}
    texts = {
        name: ", ".join(f"{key} {value}" for key, value in entries.items())
        for name, entries in settings.items()
    }
    return Section(
        "table-7",
        "Table 7: cost",
        "Numbers learned, pictures a second while tuning (from pictures, and from a bank of features) and "
        "while answering (base names, new names), and peak memory; measured apart from the sweep by "
        "foveate cost.",
        (ReportBlock("", ("method", *COST.values()), tuple(rows)),),
        notes=tuple(notes),
        card=tuple((name, text) for name, text in {"ran on": str(values["device"]), **texts}.items() if text),
    )


# ---- Ablations: rows of FVG-PT are assigned to studies by their settings, not by their names.


@cache
def _paper_settings() -> dict[str, Any]:
    return asdict(FvgPtConfig())


def _settings(figures: Figures, label: str) -> dict[str, Any]:
    """Return all FVG-PT settings of a row, with lists as tuples; empty for other methods."""
    if figures.method(label).partition("+")[0] != "fvgpt":
        return {}
    overrides = (figures.config(label).get("settings") or {}).get("fvgpt", {})
    return _paper_settings() | {
        name: tuple(value) if isinstance(value, list) else value for name, value in overrides.items()
    }


def _changed(figures: Figures, label: str) -> set[str]:
    """Return the FVG-PT settings of a row that differ from the paper's."""
    settings = _settings(figures, label)
    changed = {name for name, value in settings.items() if value != _paper_settings().get(name)}
    if figures.method(label).endswith("+mmrl") and settings.get("lambda_distill") == _MMRL_DISTILL:
        changed.discard("lambda_distill")
    return changed


def _main_rows(figures: Figures, group: ResultGroup) -> list[str]:
    """Return Table 1's rows: those in it by name, and unchanged methods; no rows that vary a setting."""
    named = [
        label for label in figures.labels if published.row_rank(figures.name(label)) < len(published.rows())
    ]

    def repeats(label: str) -> bool:  # identical training to another row, with another name
        return any(twin in named or twin < label for twin in group.twins[label])

    unchanged = [
        label
        for label in figures.labels
        if label not in named and not _changed(figures, label) and not repeats(label)
    ]
    return [label for label in figures.labels if label in {*named, *unchanged}]


def _ablations(
    group: ResultGroup, figures: Figures, main: Sequence[str], context: ReportContext
) -> Iterator[Section | None]:
    """Yield a section for each study that has rows."""
    covered = set(main)
    for study in tables.STUDIES:
        for method in sorted({figures.method(label) for label in figures.labels}):
            labels = _study_rows(study, figures, group, method)
            covered |= {row for label in labels for row in (label, *group.twins[label])}
            if labels:
                yield _ablation(study, method, labels, group, figures, context)
    for method in sorted({figures.method(label) for label in figures.labels}):
        epoch_rows = _rows_by_epochs(figures, method)
        covered |= set(epoch_rows)
        if epoch_rows:
            yield _ablation(tables.TABLE_15, "", epoch_rows, group, figures, context, ["eurosat"])
    rest = [
        label for label in figures.labels if label not in covered and not covered & set(group.twins[label])
    ]
    methods = {figures.method(label) for label in rest}
    if rest:
        labels = [*(label for label in main if figures.method(label) in methods), *rest]
        yield _ablation(tables.OTHER_SETTINGS, "", labels, group, figures, context)


def _study_rows(study: TableSpec, figures: Figures, group: ResultGroup, method: str) -> list[str]:
    """Return the rows of a study: those that differ only in its settings, and the paper's row."""
    changed = {label: _changed(figures, label) for label in figures.labels if figures.method(label) == method}
    needed = {study.settings[0]} if study.key == "table-12" else set(study.settings)

    def fits(label: str) -> bool:
        adapters = _settings(figures, label).get("adapters")
        if study.key == "table-3":
            return adapters in ("both", "none")
        if study.key == "adapted-sides":
            return adapters != "none"
        return study.key != "table-12" or len(changed[label]) < 2

    candidates = [
        label for label, settings in changed.items() if settings <= set(study.settings) and fits(label)
    ]
    if not method.startswith("fvgpt+") or not any(changed[label] & needed for label in candidates):
        return []
    runs = figures.frame.drop_duplicates("folder")["label"].value_counts()
    chosen: list[str] = []
    for label in sorted(candidates, key=lambda label: (bool(changed[label]), -int(runs[label]), label)):
        if not any(other in group.twins[label] for other in chosen):
            chosen.append(label)
    return chosen


def _rows_by_epochs(figures: Figures, method: str) -> list[str]:
    """Return the rows of one method on EuroSAT with different numbers of epochs (Table 15)."""
    trained = set(figures.frame.loc[figures.frame["trained_on"] == "eurosat", "label"])
    epochs = {
        label: training_of(figures, label).get("epochs")
        for label in figures.labels
        if figures.method(label) == method and method.startswith("fvgpt+") and label in trained
    }
    known = {
        label: float(number)
        for label, number in epochs.items()
        if number is not None and not _changed(figures, label)
    }
    return sorted(known, key=lambda label: (known[label], label)) if len(set(known.values())) > 1 else []


def _ablation(
    study: TableSpec,
    method: str,
    labels: Sequence[str],
    group: ResultGroup,
    all_figures: Figures,
    context: ReportContext,
    sets: Collection[str] = (),
) -> Section | None:
    varied = [label for label in labels if _changed(all_figures, label)]
    if varied and not sets:  # a study covers the sets on which a setting was varied
        sets = set(group.frame.loc[group.frame["label"].isin(varied), "trained_on"])
    labels = sorted(labels, key=lambda label: _study_order(study, all_figures, label))
    figures = _part(group, context, labels, sets or None)
    all_sets = {set_title(key) for key in figures.sets} == set(published.sets())
    beside = context.beside(group) and all_sets and method == "fvgpt+coop" and not odd_sets(figures.frame)
    twins = [(label, ", ".join(group.twins[label])) for label in figures.labels if group.twins[label]]
    notes = [f"{label} is the same training as {others}." for label, others in twins]
    if context.beside(group) and not beside and study.shown in ("components", *_SWEPT):
        notes.insert(
            0, "Published figures stand beside averages over the eleven sets alone, of FVG-PT over CoOp."
        )

    def paper(key: FigureKey) -> float | None:
        values = None
        if study.shown == "components":
            values = published.components(*_components(all_figures, key.label))
        elif study.shown in _SWEPT:
            values = published.swept(_SWEPT[study.shown], _settings(all_figures, key.label)[study.shown])
        return None if values is None or key.set != AVERAGE else values[THREE.index(key.measure)]

    host = method.partition("+")[2]
    table = replace(
        study,
        key=study.key if method in ("", "fvgpt+coop") else f"{study.key}-{method.replace('+', '-')}",
        title=f"{study.title}{f', over {_HOSTS.get(host, host)}' if host else ''}",
    )
    references = [label for label in figures.labels if not _changed(all_figures, label)][:1]
    return section_of(
        table,
        group,
        figures,
        context,
        pairs=[
            (reference, label) for reference in references for label in figures.labels if label != reference
        ],
        paper=paper if beside else None,
        before={label: _shown(study, all_figures, label) for label in figures.labels},
        notes=notes,
    )


def _study_order(study: TableSpec, figures: Figures, label: str) -> tuple[float, bool, str]:
    value = _settings(figures, label).get(study.shown)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), False, label
    if study.shown == "components":
        return float(sum(_components(figures, label))), not _components(figures, label)[1], label
    return 0.0, bool(_changed(figures, label)), label


def _components(figures: Figures, label: str) -> tuple[bool, bool, bool]:
    """Return which of FRG, FDC and PC a row has; a gate has no effect without adapters."""
    settings = _settings(figures, label)
    adapters = settings["adapters"] != "none"
    return bool(settings["foreground_gate"]) and adapters, adapters, bool(settings["prior_branch"])


def _shown(study: TableSpec, figures: Figures, label: str) -> dict[str, str]:
    """Return the columns of a row that give the varied settings."""
    if study.shown == "components":
        marks = ("✓" if present else "" for present in _components(figures, label))
        return dict(zip(("FRG", "FDC", "PC"), marks, strict=True))
    return {study.shown.replace("_", " "): str(_settings(figures, label)[study.shown])} if study.shown else {}


# ---- Comparison of any two rows.


def _comparisons(groups: Sequence[ResultGroup], context: ReportContext, a: str, b: str) -> list[Section]:
    """Return a section for each group that has both rows.

    Raises:
        InputError: A row does not exist, or no group has both rows.
    """
    first, second = (resolve(groups, name) for name in (a, b))
    candidates = [group for group in groups if {first, second} <= set(group.frame["label"])]
    sections = [
        _comparison(candidate, _part(candidate, context, [first, second]), context, first, second)
        for candidate in candidates
    ]
    if first == second or not sections:
        raise InputError(f"--compare: {first!r} and {second!r} are not two rows of one table")
    return sections


def _comparison(
    group: ResultGroup, figures: Figures, context: ReportContext, first: str, second: str
) -> Section:
    by_set = differences(figures, second, first)
    sets = len({diff.key.set for diff in by_set if diff.key.set != figures.source})
    means = differences(figures, second, first, ("amount", "condition")) if sets > 1 else []
    blocks = (
        _comparison_block(
            f"On average over {sets} sets, each of the same weight", means, figures, first, second
        ),
        _comparison_block("Set by set", by_set, figures, first, second),
    )
    refused = figures.comparable(second, first)[1]
    notes = [
        *([f"Not compared, the test pictures differ: {', '.join(refused)}."] if refused else []),
        "p (Holm) is corrected for all tests of a table. HM is no mean over pictures, and has no paired "
        "test.",
        *context.notes(group, figures, None),
    ]
    return Section(
        "compare",
        group.titled(f"{first} against {second}: {group.protocol.replace('-', ' ')}"),
        f"By how much {first} is above {second} on the same pictures under the same seeds, with the 95 % "
        "interval of the difference and the exact paired test.",
        tuple(block for block in blocks if block.rows),
        charts=tuple(gain_charts(figures, [(second, first)], None, figures.conditions)),
        caption="Differences set by set. Bars are 95 % intervals over pictures and seeds.",
        missing=figures.missing,
        notes=tuple(notes),
        card=context.card(group, figures),
        drawn=group.drawn,
    )


def _comparison_block(
    title: str, diffs: Sequence[Difference], figures: Figures, first: str, second: str
) -> ReportBlock:
    corrected = iter(holm([diff.p for diff in diffs if diff.p is not None]))
    rows: list[TableRow] = []
    for diff in diffs:
        number = number_of(diff.estimate, signed=True)
        tested = diff.p is not None
        cells: tuple[Cell, ...] = (
            *(diff.key.measure, Number(diff.after.value), Number(diff.before.value), number, number.interval),
            *(str(number.seeds), *((str(diff.only_second), str(diff.only_first)) if tested else ("", ""))),
            *((p_number(diff.p), p_number(next(corrected), corrected=True)) if tested else ("", "")),
        )
        rows.append(TableRow(figures.where(diff.key), cells))
    heads = (
        "set",
        "measure",
        first,
        second,
        "difference",
        "95 % interval",
        "seeds",
        f"only {first}",
        f"only {second}",
    )
    return ReportBlock(title, (*heads, "p", "p (Holm)"), tuple(rows))
