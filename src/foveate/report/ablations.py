"""Tables 3 to 6, 12 to 15: rows that differ from FVG-PT in one setting."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from foveate.report import published
from foveate.report.cards import odd_sets
from foveate.report.charts import named
from foveate.report.context import Context, any_marked, figures_block, figures_row, titled
from foveate.report.kinds import STUDIES, Study, changed, epochs, full_settings, main_lines, studied
from foveate.report.lines import Group, Line
from foveate.report.model import Block, Cell, Chart, Number, Point, Row, Section, Series
from foveate.report.pairs import against, alike, tests_block, tests_of, tests_said
from foveate.report.three import HEADS, KINDS, Rows, highest, is_best
from foveate.report.titles import set_title

_PAPERS = {"adapter_hidden": "adapter_dim_hm", "gate_hidden": "gate_dim_hm", "gate_depth": "gate_layers"}
_OTHER = Study(
    "other-settings",
    "Other settings",
    "Rows that differ from the paper's method in other ways than its tables do.",
    (),
    "",
)


def ablations(group: Group, context: Context) -> Iterator[Section]:
    """Yield a section for each study that there are rows of."""
    told: set[str] = {line.label for line in main_lines(group.lines)}
    for study in STUDIES:
        for method, lines in studied(study, group.lines):
            told |= {label for line in lines for label in (line.label, *line.twins)}
            yield _section(study, method, lines, group, context)
    lengths = list(_lengths(group))
    told |= {line.label for lines in lengths for line in lines}
    for lines in lengths:
        yield _length_section(lines, group, context)
    rest = [line for line in group.lines if line.label not in told and not told & set(line.twins)]
    if rest:
        reference = [
            line for line in main_lines(group.lines) if any(line.method == one.method for one in rest)
        ]
        yield _section(_OTHER, "", [*reference, *rest], group, context)


def _section(study: Study, method: str, lines: Sequence[Line], group: Group, context: Context) -> Section:
    ordered = sorted(_on_same_sets(lines), key=lambda line: _order(study, line))
    rows = Rows(group, tuple(ordered), context.bootstrap)
    whole = {set_title(key) for key in rows.sets} == set(published.sets())
    odd = odd_sets(result for line in ordered for result in line.results)
    beside = context.beside(group) and whole and method == "fvgpt+coop" and not odd
    tested = [line for line in ordered if not changed(line)]
    pairs = against(tested[0], ordered) if tested else []
    tests, refused = tests_of(pairs, rows.asked_flat, set_title)
    notes = context.notes(
        group, ordered, marked=any_marked(three[kind] for three in rows.averages.values() for kind in KINDS)
    )
    if context.beside(group) and not beside and study.shown in ("components", *_PAPERS):
        notes.append(
            "Published figures are averages over the eleven sets for FVG-PT over CoOp, and are not set "
            "beside others."
        )
    notes += [
        f"{line.label} is the same training as {', '.join(line.twins)}." for line in ordered if line.twins
    ]
    notes = [*tests_said(tests), *alike(ordered, rows.asked_flat), *notes, *refused]
    return Section(
        f"{study.key}-{method.replace('+', '-')}".strip("-")
        if method not in ("", "fvgpt+coop")
        else study.key,
        titled(f"{study.title}{f', over {_host(method)}' if _host(method) else ''}", group),
        f"{study.lead} {_sets_said(rows)}",
        (_block(study, rows, beside),),
        charts=(_chart(study, rows),),
        chart_caption="HM of the averages, with its 95 % interval over pictures and seeds.",
        details=tuple(_details(rows, [] if not tests else [tests_block(tests)])),
        missing=rows.missing(),
        notes=tuple(notes),
        card=context.card(group, ordered),
        drawn=group.drawn,
    )


def _on_same_sets(lines: Sequence[Line]) -> list[Line]:
    """Return rows with the runs on those sets that the study is about: where any setting was varied."""
    studied_on = {place for line in lines if changed(line) for place in line.runs}
    if not studied_on:
        return list(lines)
    cut = [{place: runs for place, runs in line.runs.items() if place in studied_on} for line in lines]
    return [replace(line, runs=runs) for line, runs in zip(lines, cut, strict=True) if runs]


def _host(method: str) -> str:
    titles = {"coop": "CoOp", "kgcoop": "KgCoOp", "promptsrc": "PromptSRC", "mmrl": "MMRL", "maple": "MaPLe"}
    host = method.partition("+")[2]
    return titles.get(host, host)


def _sets_said(rows: Rows) -> str:
    if len(rows.sets) == 1:
        return f"On {set_title(rows.sets[0])} alone."
    return f"Averages over {len(rows.sets)} sets; HM is that of the two averages."


def _order(study: Study, line: Line) -> tuple[float, bool, str]:
    settings = full_settings(line)
    value = settings.get(study.shown)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value), False, line.label
    if study.shown == "components":
        return float(sum(_components(line))), not _components(line)[1], line.label
    return 0.0, bool(changed(line)), line.label


def _components(line: Line) -> tuple[bool, bool, bool]:
    """Return which of FRG, FDC and PC a row has; without adapters, a gate has nothing to say."""
    settings = full_settings(line)
    adapters = settings["adapters"] != "none"
    return bool(settings["foreground_gate"]) and adapters, adapters, bool(settings["prior_branch"])


def _block(study: Study, rows: Rows, beside: bool) -> Block:
    best = {kind: highest([three[kind] for three in rows.averages.values()]) for kind in KINDS}
    made: list[Row] = []
    for line in rows.lines:
        three = rows.averages.get(line.label)
        paper = _paper(study, line) if beside else None
        numbers = [
            Number(None)
            if three is None
            else three[kind].number(paper and paper[place], best=is_best(three[kind], best[kind]))
            for place, kind in enumerate(KINDS)
        ]
        made.append(Row(line.label, (*_shown(study, line), *numbers)))
    heads = _heads(study)
    return Block("", ("row", *heads, *HEADS), tuple(made))


def _heads(study: Study) -> tuple[str, ...]:
    if study.shown == "components":
        return ("FRG", "FDC", "PC")
    return (study.shown.replace("_", " "),) if study.shown else ()


def _shown(study: Study, line: Line) -> tuple[Cell, ...]:
    if study.shown == "components":
        return tuple("✓" if on else "" for on in _components(line))
    return (str(full_settings(line)[study.shown]),) if study.shown else ()


def _paper(study: Study, line: Line) -> tuple[float | None, float | None, float | None] | None:
    if study.shown == "components":
        return published.components(*_components(line))
    table = _PAPERS.get(study.shown)
    return None if table is None else published.swept(table, full_settings(line)[study.shown])


def _chart(study: Study, rows: Rows) -> Chart:
    lines = [line for line in rows.lines if line.label in rows.averages]
    points: list[Point] = []
    for place, line in enumerate(lines):
        number = rows.averages[line.label].hm.number()
        points.append(Point(number.value or 0.0, place, number.low, number.high))
    names = tuple(named((_name(study, line), rows.averages[line.label].hm)) for line in lines)
    return Chart(
        "dots",
        _capital(study.title.rpartition(": ")[2]),
        (Series("HM", tuple(points), 0),),
        names,
        "HM, %",
    )


def _name(study: Study, line: Line) -> str:
    if study.shown in ("components", ""):
        return line.label
    return f"{study.shown.replace('_', ' ')} {full_settings(line)[study.shown]}"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _details(rows: Rows, tests: Sequence[Block]) -> Iterator[Block]:
    figures: list[Row] = []
    for line in rows.lines:
        every = {
            **rows.found[line.label],
            **({"": rows.averages[line.label]} if line.label in rows.averages else {}),
        }
        for key, three in every.items():
            where = set_title(key) if key else "average"
            figures += [
                figures_row(line.label, where, head, three[kind].number())
                for head, kind in zip(HEADS, KINDS, strict=True)
            ]
    yield figures_block(figures)
    yield from tests


def _lengths(group: Group) -> Iterator[list[Line]]:
    """Yield rows that are one method on EuroSAT, trained for different times (Table 15)."""
    plain = [
        line for line in group.lines if not changed(line) and any(key == "eurosat" for key, _ in line.runs)
    ]
    for method in sorted({line.method for line in plain if line.method.startswith("fvgpt+")}):
        own = [line for line in plain if line.method == method and epochs(line) is not None]
        if len({epochs(line) for line in own}) > 1:
            yield own


def _length_section(lines: Sequence[Line], group: Group, context: Context) -> Section:
    only = [
        replace(line, runs={place: runs for place, runs in line.runs.items() if place[0] == "eurosat"})
        for line in lines
    ]
    study = Study(
        "table-15", "Table 15: length of the training on EuroSAT", "Ten epochs of EuroSAT's base classes "
        "are 200 steps.",
        (), "",
    )  # fmt: skip
    only.sort(key=lambda line: (float(epochs(line) or 0), line.label))
    return replace(_section(study, "", only, group, context), title=titled(study.title, group))
