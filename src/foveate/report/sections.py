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
    *(
        "compare",
        "claims",
        "table-1",
        "conditions",
        "fig-5",
        "table-2",
        "table-3",
        "table-4",
        "table-5",
        "table-6",
        "table-7",
    ),
    *("took", "table-10", "table-11", "table-12", "adapted", "vit-l14", "table-15", "lambda", "few-shot"),
    *("data-eff", "domains"),
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
    warnings = [f"Left out: {one}" for one in (*sweep.damaged, *damaged)]
    if sweep.begun:
        many = f", and {len(sweep.begun) - 1} more" * (len(sweep.begun) > 1)
        warnings.append(f"Begun and not finished: {sweep.begun[0]}{many}")
    drawn = sorted(set(sweep.frame["tested_on"]), key=set_order)
    return Report(
        f"Results of {folder.resolve().name}",
        tuple(_facts(sweep, groups, against)),
        tuple(_numbered(_in_order([*sections, *costs]))),
        tuple(warnings),
        tuple(_legend(context)),
        tuple((set_title(key), about(key)) for key in drawn if about(key)),
        sweep.frame[[*RAW]].assign(
            versions=[json.dumps(one, sort_keys=True) for one in sweep.frame["versions"]]
        ),
    )


def _facts(sweep: SweepResults, groups: Sequence[ResultGroup], against: bool) -> Iterator[str]:
    frame = sweep.frame
    asked = frame["folder"].nunique()
    rows = {label for group in groups for label in group.frame["label"]}
    counts = {
        "run": asked,
        "row": len(rows),
        "test set": frame["tested_on"].nunique(),
        "seed": frame["seed"].nunique(),
    }
    alone = sweep.runs - asked
    more = f"; {alone} more runs are backbones that were asked nothing" if alone else ""
    yield ", ".join(count(number, what) for what, number in counts.items()) + f"{more}."
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


def _in_order(sections: Sequence[Section]) -> list[Section]:
    """Sort the sections: photographs before drawn scenes, each in the papers' order."""
    photographs = any(not section.drawn for section in sections if section.key != "table-7")

    def rank(section: Section) -> tuple[bool, int, str, str]:
        drawn = section.drawn or (section.key == "table-7" and not photographs)  # costs are of no pictures
        known = [place for place, start in enumerate(_ORDER) if section.key.startswith(start)]
        exact = [place for place, start in enumerate(_ORDER) if section.key == start]
        return drawn, min(exact or known or [len(_ORDER)]), section.key, section.title

    return sorted(sections, key=rank)


def _numbered(sections: Sequence[Section]) -> Iterator[Section]:
    """Yield sections with unique keys: a second "table-1" becomes "table-1-2"."""
    seen: dict[str, int] = {}
    for section in sections:
        seen[section.key] = number = seen.get(section.key, 0) + 1
        yield section if number == 1 else replace(section, key=f"{section.key}-{number}")


def _sections(group: ResultGroup, context: ReportContext) -> Iterator[Section]:
    """Yield all tables of a group."""
    make: Callable[[ResultGroup, ReportContext], Iterator[Section | None]] = {
        **{"cross-dataset": _transfer, "domain-generalisation": _transfer, "few-shot": _curves},
        **{"data-efficiency": _curves, "seed-robustness": _robustness},
    }.get(group.protocol, _base_to_new)
    claimed = claims.section(group, context)
    yield from (section for section in (claimed, *make(group, context)) if section is not None)


def _part(
    group: ResultGroup, context: ReportContext, labels: Sequence[str], sets: Collection[str] | None = None
) -> Figures:
    """Return the figures of these rows, in this order, for these training sets."""
    frame = group.frame[group.frame["label"].isin(labels)]
    if sets is not None:
        frame = frame[frame["trained_on"].isin(sets)]
    there = set(frame["label"])
    return Figures(frame, context.bootstrap, [label for label in labels if label in there])


def _base_to_new(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    every = Figures(group.frame, context.bootstrap)
    main = _main_rows(every, group)
    if main:
        figures = _part(group, context, main)
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
    yield from _ablations(group, every, main, context)


def _table_1(group: ResultGroup, figures: Figures, context: ReportContext) -> Section | None:
    large = published.tower(group.clip) == published.LARGE_TOWER
    towers = published.LARGE_TOWER if large else published.TOWER
    odd = {label: odd_sets(figures.frame[figures.frame["label"] == label]) for label in figures.labels}
    whole = set(published.sets())

    def paper(key: FigureKey) -> float | None:
        titles = [set_title(one) for one in figures.sets_of(key)]
        name = figures.name(key.label)
        if key.measure not in THREE or any(one in odd[key.label] for one in figures.sets_of(key)):
            return None
        if large:
            found = published.vit_l14(name) if key.set == AVERAGE and set(titles) == whole else None
        elif key.set == AVERAGE:
            found = published.base_to_new_average(name, titles)
        else:
            found = published.base_to_new(name, set_title(key.set))
        return None if found is None else found[THREE.index(key.measure)]

    notes: list[str] = []
    if context.beside(group, towers):
        notes.append(
            "Below each figure are the published one (Table 1 of the paper) and by how much ours is above "
            "it, of the printed digits."
        )
        averages = [FigureKey(label, AVERAGE, 0.0, "", "HM") for label in figures.labels]
        if any({set_title(one) for one in figures.sets_of(key)} != whole for key in averages):
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
        said = (
            "Below each figure are the published one (Table 2 of the paper) and by how much ours is above it."
        )
        yield section_of(
            tables.DOMAINS if domains else tables.TABLE_2,
            group,
            figures,
            context,
            paper=_paper_table_2(figures) if beside else None,
            notes=[said] if beside else [],
            towers=None if domains else published.TOWER,
        )


def _paper_table_2(figures: Figures) -> Paper:
    odd = {label: odd_sets(figures.frame[figures.frame["label"] == label]) for label in figures.labels}

    def paper(key: FigureKey) -> float | None:
        asked = figures.targets if key.set == AVERAGE else (key.set,)
        if any(one in odd[key.label] for one in (figures.source, *asked)):
            return None
        name = figures.name(key.label)
        if key.set == AVERAGE:
            return published.cross_dataset_average(name, map(set_title, figures.sets_of(key)))
        return published.cross_dataset(name, set_title(key.set))

    return paper


def _curves(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    """Yield sections with accuracy by amount of training data."""
    figures = Figures(group.frame, context.bootstrap)
    few = group.protocol == "few-shot"
    measure, scale = figures.measures[-1], 1 if few else 100
    charts: list[Chart] = []
    for place in (AVERAGE, *figures.sets) if len(figures.sets) > 1 else figures.sets:
        series: list[Series] = []
        for label in figures.labels:
            for condition in figures.conditions:
                keys = [FigureKey(label, place, amount, condition, measure) for amount in figures.amounts]
                known = [(key.amount, figures.found[key]) for key in keys if key in figures.found]
                points = tuple(ChartPoint(scale * amount, one.value, *one.interval) for amount, one in known)
                series.append(Series(f"{label} {condition}".strip(), points, len(series)))
        title = set_title(place) or f"Average over {len(figures.sets)} sets"
        x_label = "shots a class" if few else "% of the training pictures"
        ticks = tuple(scale * amount for amount in figures.amounts)
        charts.append(Chart("lines", title, tuple(series), (), x_label, f"{measure}, %", ticks))
    said = "No published figures stand beside these: the papers' values are in figures that print none."
    notes = [said] if context.against and not group.drawn else []
    table = tables.FEW_SHOT if few else tables.DATA_EFFICIENCY
    yield section_of(table, group, figures, context, charts=charts, notes=notes, towers=None)


def _robustness(group: ResultGroup, context: ReportContext) -> Iterator[Section | None]:
    """Yield standard deviation and range over seeds for each set, and a chart with a point for each seed."""
    figures = Figures(group.frame, context.bootstrap)
    charts: list[Chart] = []
    for place in figures.sets:
        keys = [FigureKey(label, place, 0.0, figures.conditions[0], "HM") for label in figures.labels]
        known = [(key.label, figures.found[key]) for key in keys if key in figures.found]
        series = tuple(
            Series(label, tuple(ChartPoint(value, at) for value in one.seeds.values()), at, hollow=True)
            for at, (label, one) in enumerate(known)
        )
        charts.append(Chart("dots", set_title(place), series, tuple(label for label, _ in known), "HM, %"))
    yield section_of(tables.SEEDS, group, figures, context, charts=charts, towers=None)


def _table_10(group: ResultGroup, figures: Figures, context: ReportContext) -> Section | None:
    """Return Table 10, with a row for the means of the sets' deviations."""
    labels = [label for label in figures.labels if "+" in figures.method(label)] or list(figures.labels)

    def paper(key: FigureKey) -> float | None:
        return None if key.set == AVERAGE else published.hm_sd(figures.name(key.label), set_title(key.set))

    notes = [f"Of the paper: {one}" for one in published.ERRATA[:2]]
    made = section_of(
        tables.TABLE_10, group, _part(group, context, labels), context, paper=paper, notes=notes
    )
    if made is None:
        return None
    *rows, last = made.blocks[0].rows
    columns = zip(*(row.cells for row in rows), strict=True)
    known = [
        [cell.value for cell in own if isinstance(cell, Number) and cell.value is not None] for own in columns
    ]
    means = TableRow("mean of these", tuple(Number(mean(own)) if own else "–" for own in known))
    return replace(made, blocks=(replace(made.blocks[0], rows=(*rows, means, last)),))


def _table_11(group: ResultGroup, figures: Figures, context: ReportContext) -> Section:
    """Return Table 11: published averages of other methods, including DAPT."""
    rows = [TableRow(name, tuple(map(Number, own)), True) for name, own in published.other_methods().items()]
    for label in figures.labels:
        own = [figures.found.get(FigureKey(label, AVERAGE, 0.0, "", measure)) for measure in THREE]
        rows += [TableRow(f"{label} (ours)", tuple(map(number_of, own)))] if None not in own else []
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
        for device, own in runs[runs["label"] == label].groupby("device"):
            means = own[["train_seconds", "test_seconds", "speed", "peak_memory_mb"]].mean()
            numbers = [None if pd.isna(value) else float(value) for value in means]
            cells = (str(device), str(len(own)), words_of_range(own["learned_numbers"]))
            digits = (1, 1, 1, 0)
            rows.append(
                TableRow(
                    label, (*cells, *(Number(one, digits=n) for one, n in zip(numbers, digits, strict=True)))
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
    found: list[Section] = []
    damaged: list[str] = []
    for path in sorted(
        Path(place) / "cost.json" for place, _, names in os.walk(folder) if "cost.json" in names
    ):
        try:
            found.append(_table_7(read_json(path), against))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            damaged.append(f"{path} is damaged: {' '.join(str(error).split())}")
    return found, damaged


def _table_7(values: Mapping[str, Any], against: bool) -> Section:
    """Return the results of `foveate cost` as Table 7."""
    rows: list[TableRow] = []
    for row in values["rows"]:
        numbers = (Number(row.get(name), digits=1) for name in COST if name != "learned_numbers")
        rows.append(TableRow(str(row["row"]), (f"{row['learned_numbers']:,}", *numbers)))
    counted = cast("Mapping[str, str]", values.get("counted", {}))
    notes = [f"{COST.get(name, name)}: {what}" for name, what in counted.items() if name in {*COST, "speeds"}]
    if against:
        for name, one in cast("Mapping[str, Any]", published.tables()["cost_flowers102_mmrl"]).items():
            speeds = (Number(one["tuning_fps"], digits=1), "–", Number(one["inference_fps"], digits=1), "–")
            memory = Number(one["gpu_memory_MB"], digits=1)
            rows.append(
                TableRow(f"{name}, published", (f"{one['learnable_params_M']:.2f} M", *speeds, memory), True)
            )
        notes.append(
            "Published figures are of the authors' GPU and of MMRL on Flowers102: the ratio of rows may be "
            "compared, not the values."
        )
    settings = {"settings": flat(values.get("settings", {})), "versions": values.get("versions", {})}
    said = {name: ", ".join(f"{key} {value}" for key, value in own.items()) for name, own in settings.items()}
    return Section(
        "table-7",
        "Table 7: cost",
        "Numbers learned, pictures a second while tuning (from pictures, and from a bank of features) and "
        "while answering (base names, new names), and peak memory; measured apart from the sweep by "
        "foveate cost.",
        (ReportBlock("", ("method", *COST.values()), tuple(rows)),),
        notes=tuple(notes),
        card=tuple((name, text) for name, text in {"ran on": str(values["device"]), **said}.items() if text),
    )


# ---- Ablations: rows of FVG-PT are assigned to studies by their settings, not by their names.


@cache
def _usual() -> dict[str, Any]:
    return asdict(FvgPtConfig())


def _settings(every: Figures, label: str) -> dict[str, Any]:
    """Return all FVG-PT settings of a row, with lists as tuples; empty for other methods."""
    if every.method(label).partition("+")[0] != "fvgpt":
        return {}
    own = (every.config(label).get("settings") or {}).get("fvgpt", {})
    return _usual() | {
        name: tuple(value) if isinstance(value, list) else value for name, value in own.items()
    }


def _changed(every: Figures, label: str) -> set[str]:
    """Return the FVG-PT settings of a row that differ from the paper's."""
    settings = _settings(every, label)
    found = {name for name, value in settings.items() if value != _usual().get(name)}
    if every.method(label).endswith("+mmrl") and settings.get("lambda_distill") == _MMRL_DISTILL:
        found.discard("lambda_distill")
    return found


def _main_rows(every: Figures, group: ResultGroup) -> list[str]:
    """Return Table 1's rows: those in it by name, and unchanged methods; no rows that vary a setting."""
    named = [label for label in every.labels if published.row_rank(every.name(label)) < len(published.rows())]

    def again(label: str) -> bool:  # identical training to another row, with another name
        return any(twin in named or twin < label for twin in group.twins[label])

    plain = [
        label
        for label in every.labels
        if label not in named and not _changed(every, label) and not again(label)
    ]
    return [label for label in every.labels if label in {*named, *plain}]


def _ablations(
    group: ResultGroup, every: Figures, main: Sequence[str], context: ReportContext
) -> Iterator[Section | None]:
    """Yield a section for each study that has rows."""
    told = set(main)
    for study in tables.STUDIES:
        for method in sorted({every.method(label) for label in every.labels}):
            labels = _studied(study, every, group, method)
            told |= {one for label in labels for one in (label, *group.twins[label])}
            if labels:
                yield _ablation(study, method, labels, group, context)
    for method in sorted({every.method(label) for label in every.labels}):
        lengths = _lengths(every, method)
        told |= set(lengths)
        if lengths:
            yield _ablation(tables.TABLE_15, "", lengths, group, context, ["eurosat"])
    rest = [label for label in every.labels if label not in told and not told & set(group.twins[label])]
    methods = {every.method(label) for label in rest}
    if rest:
        labels = [*(label for label in main if every.method(label) in methods), *rest]
        yield _ablation(tables.OTHER_SETTINGS, "", labels, group, context)


def _studied(study: TableSpec, every: Figures, group: ResultGroup, method: str) -> list[str]:
    """Return the rows of a study: those that differ only in its settings, and the paper's row."""
    changed = {label: _changed(every, label) for label in every.labels if every.method(label) == method}
    needed = {study.settings[0]} if study.key == "table-12" else set(study.settings)

    def fits(label: str) -> bool:
        adapters = _settings(every, label).get("adapters")
        if study.key == "table-3":
            return adapters in ("both", "none")
        if study.key == "adapted-sides":
            return adapters != "none"
        return study.key != "table-12" or len(changed[label]) < 2

    inside = [label for label, own in changed.items() if own <= set(study.settings) and fits(label)]
    if not method.startswith("fvgpt+") or not any(changed[label] & needed for label in inside):
        return []
    runs = every.frame.drop_duplicates("folder")["label"].value_counts()
    kept: list[str] = []
    for label in sorted(inside, key=lambda label: (bool(changed[label]), -int(runs[label]), label)):
        if not any(one in group.twins[label] for one in kept):
            kept.append(label)
    return kept


def _lengths(every: Figures, method: str) -> list[str]:
    """Return the rows of one method on EuroSAT with different numbers of epochs (Table 15)."""
    trained = set(every.frame.loc[every.frame["trained_on"] == "eurosat", "label"])
    epochs = {
        label: training_of(every, label).get("epochs")
        for label in every.labels
        if every.method(label) == method and method.startswith("fvgpt+") and label in trained
    }
    known = {
        label: float(one) for label, one in epochs.items() if one is not None and not _changed(every, label)
    }
    return sorted(known, key=lambda label: (known[label], label)) if len(set(known.values())) > 1 else []


def _ablation(
    study: TableSpec,
    method: str,
    labels: Sequence[str],
    group: ResultGroup,
    context: ReportContext,
    sets: Collection[str] = (),
) -> Section | None:
    every = Figures(group.frame, context.bootstrap)
    varied = [label for label in labels if _changed(every, label)]
    if varied and not sets:  # a study covers the sets on which a setting was varied
        sets = set(group.frame.loc[group.frame["label"].isin(varied), "trained_on"])
    labels = sorted(labels, key=lambda label: _study_order(study, every, label))
    figures = _part(group, context, labels, sets or None)
    whole = {set_title(key) for key in figures.sets} == set(published.sets())
    beside = context.beside(group) and whole and method == "fvgpt+coop" and not odd_sets(figures.frame)
    twins = [(label, ", ".join(group.twins[label])) for label in figures.labels if group.twins[label]]
    notes = [f"{label} is the same training as {others}." for label, others in twins]
    if context.beside(group) and not beside and study.shown in ("components", *_SWEPT):
        notes.insert(
            0, "Published figures stand beside averages over the eleven sets alone, of FVG-PT over CoOp."
        )

    def paper(key: FigureKey) -> float | None:
        found = None
        if study.shown == "components":
            found = published.components(*_components(every, key.label))
        elif study.shown in _SWEPT:
            found = published.swept(_SWEPT[study.shown], _settings(every, key.label)[study.shown])
        return None if found is None or key.set != AVERAGE else found[THREE.index(key.measure)]

    host = method.partition("+")[2]
    table = replace(
        study,
        key=study.key if method in ("", "fvgpt+coop") else f"{study.key}-{method.replace('+', '-')}",
        title=f"{study.title}{f', over {_HOSTS.get(host, host)}' if host else ''}",
    )
    plain = [label for label in figures.labels if not _changed(every, label)][:1]
    return section_of(
        table,
        group,
        figures,
        context,
        pairs=[(one, label) for one in plain for label in figures.labels if label != one],
        paper=paper if beside else None,
        before={label: _shown(study, every, label) for label in figures.labels},
        notes=notes,
    )


def _study_order(study: TableSpec, every: Figures, label: str) -> tuple[float, bool, str]:
    value = _settings(every, label).get(study.shown)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), False, label
    if study.shown == "components":
        return float(sum(_components(every, label))), not _components(every, label)[1], label
    return 0.0, bool(_changed(every, label)), label


def _components(every: Figures, label: str) -> tuple[bool, bool, bool]:
    """Return which of FRG, FDC and PC a row has; a gate has no effect without adapters."""
    settings = _settings(every, label)
    adapters = settings["adapters"] != "none"
    return bool(settings["foreground_gate"]) and adapters, adapters, bool(settings["prior_branch"])


def _shown(study: TableSpec, every: Figures, label: str) -> dict[str, str]:
    """Return the columns of a row that give the varied settings."""
    if study.shown == "components":
        on = ("✓" if one else "" for one in _components(every, label))
        return dict(zip(("FRG", "FDC", "PC"), on, strict=True))
    return {study.shown.replace("_", " "): str(_settings(every, label)[study.shown])} if study.shown else {}


# ---- Comparison of any two rows.


def _comparisons(groups: Sequence[ResultGroup], context: ReportContext, a: str, b: str) -> list[Section]:
    """Return a section for each group that has both rows.

    Raises:
        InputError: A row does not exist, or no group has both rows.
    """
    first, second = (resolve(groups, name) for name in (a, b))
    having = [group for group in groups if {first, second} <= set(group.frame["label"])]
    made = [_comparison(one, _part(one, context, [first, second]), context, first, second) for one in having]
    if first == second or not made:
        raise InputError(f"--compare: {first!r} and {second!r} are not two rows of one table")
    return made


def _comparison(
    group: ResultGroup, figures: Figures, context: ReportContext, first: str, second: str
) -> Section:
    by_set = differences(figures, second, first)
    sets = len({one.key.set for one in by_set if one.key.set != figures.source})
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
    title: str, found: Sequence[Difference], figures: Figures, first: str, second: str
) -> ReportBlock:
    corrected = iter(holm([one.p for one in found if one.p is not None]))
    rows: list[TableRow] = []
    for one in found:
        number = number_of(one.estimate, signed=True)
        tested = one.p is not None
        cells: tuple[Cell, ...] = (
            *(one.key.measure, Number(one.after.value), Number(one.before.value), number, number.interval),
            *(str(number.seeds), *((str(one.only_second), str(one.only_first)) if tested else ("", ""))),
            *((p_number(one.p), p_number(next(corrected), corrected=True)) if tested else ("", "")),
        )
        rows.append(TableRow(figures.where(one.key), cells))
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
