"""From a sweep's folder to a report."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from foveate.report.ablations import ablations
from foveate.report.amounts import amounts_section
from foveate.report.context import Context
from foveate.report.cost import COSTS, cost_sections, costs_in, runs_section
from foveate.report.estimates import Bootstrap
from foveate.report.kinds import main_lines
from foveate.report.lines import Group, groups_of
from foveate.report.mixed import generalised
from foveate.report.model import Report, Section
from foveate.report.published import PAPER
from foveate.report.reading import Found, read_sweep
from foveate.report.robustness import robustness
from foveate.report.shift import shift_section
from foveate.report.supplement import table_10, table_11
from foveate.report.table_1 import table_1
from foveate.report.three import Rows, line_order, set_order
from foveate.report.titles import about, set_title
from foveate.report.transfer import transfer
from foveate.sweep.results import Result

_ORDER = (
    *(
        "table-1",
        "fig-5",
        "table-2",
        "table-3",
        "table-4",
        "table-5",
        "table-6",
        "table-7",
        "took",
        "table-10",
    ),
    *("table-11", "table-12", "adapted", "vit-l14", "table-15", "lambda", "few-shot", "data-eff", "domains"),
)

_SCENES = (
    "Drawn scenes are small pictures that foveate draws itself: one shape, such as a red star, on a place "
    "such as grass or brick, with an exact mask. A class is a colour and a shape. Where classes are at home "
    "on a place, they stand there in training and anywhere in the test."
)
_JOB = ("key", "protocol", "row", "variant", "seed", "method", "recipe", "shots", "fraction", "select")
_TEST = ("trained_on", "tested_on", "split", "accuracy", "right", "pictures", "classes", "trained", "others")
_HASHES = ("weights", "split_hash", "draw", "names", "masks")
_RUN = ("precision", "learned_numbers", "learned_from", "train_seconds", "test_seconds", "peak_memory_mb")
RAW = (*_JOB, *_TEST, "shift", "digest", "clip", *_HASHES, *_RUN, "device", "versions")


def build(folder: Path, *, against: bool = False, draws: int = 2000, seed: int = 0) -> Report:
    """Read all results below a folder and make the report of them.

    Args:
        folder: What a sweep wrote.
        against: Whether published figures stand beside ours.
        draws: Of the bootstrap.
        seed: Of these draws.

    Raises:
        InputError: There is nothing to report; a newer foveate wrote it; or two sweeps contradict each other.
    """
    found = read_sweep(folder)
    groups = groups_of(found.results, found.folders)
    context = Context(Bootstrap(draws, seed), against)
    costs, damaged = costs_in(folder)
    sections = [section for group in groups for section in _of_group(group, context)]
    sections += cost_sections(costs, against)
    return Report(
        f"Results of {folder.resolve().name}",
        tuple(_facts(found, groups, against)),
        tuple(_numbered(_in_order(sections))),
        tuple(_warnings(found, damaged)),
        (RAW, *(row for result in found.results for row in _raw(result))),
        tuple(_legend(context)),
        tuple(_drawn_sets(found)),
    )


def _of_group(group: Group, context: Context) -> Iterator[Section]:
    if group.protocol in ("cross-dataset", "domain-generalisation"):
        yield from transfer(group, context)
    elif group.protocol in ("few-shot", "data-efficiency"):
        yield amounts_section(group, context)
    elif group.protocol == "seed-robustness":
        yield robustness(Rows(group, tuple(sorted(group.lines, key=line_order)), context.bootstrap), context)
    else:
        yield from _base_to_new(group, context)


def _base_to_new(group: Group, context: Context) -> Iterator[Section]:
    lines = sorted(main_lines(group.lines), key=line_order)
    rows = Rows(group, tuple(lines), context.bootstrap)
    if lines:
        yield table_1(rows, context)
        made = (shift_section, generalised, table_10, table_11)
        yield from (section for make in made if (section := make(rows, context)) is not None)
        yield runs_section(group, lines, context.against)
    yield from ablations(group, context)


def _in_order(sections: Sequence[Section]) -> list[Section]:
    """Return photographs before drawn scenes, and of each the papers' order."""
    photographs = any(not section.drawn for section in sections if section.key != COSTS)

    def rank(section: Section) -> tuple[bool, int, str, str]:
        drawn = section.drawn or (section.key == COSTS and not photographs)  # costs are of no pictures
        known = [place for place, start in enumerate(_ORDER) if section.key.startswith(start)]
        exact = [place for place, start in enumerate(_ORDER) if section.key == start]
        return drawn, min(exact or known or [len(_ORDER)]), section.key, section.title

    return sorted(sections, key=rank)


def _numbered(sections: Sequence[Section]) -> Iterator[Section]:
    """Yield sections under keys of their own: a second "table-1" is "table-1-2"."""
    seen: dict[str, int] = {}
    for section in sections:
        seen[section.key] = number = seen.get(section.key, 0) + 1
        yield section if number == 1 else replace(section, key=f"{section.key}-{number}")


def _facts(found: Found, groups: Sequence[Group], against: bool) -> Iterator[str]:
    asked = [result for result in found.results if result.measured]
    sets = {one.dataset for result in asked for one in result.measured}
    seeds = {result.seed for result in asked}
    rows = {line.label for group in groups for line in group.lines}
    alone = len(found.results) - len(asked)
    more = f"; {alone} more runs are backbones that were asked nothing" if alone else ""
    counts = ((len(asked), "run"), (len(rows), "row"), (len(sets), "test set"), (len(seeds), "seed"))
    yield ", ".join(f"{count} {what}{'s' * (count != 1)}" for count, what in counts) + f"{more}."
    drawn = {group.drawn for group in groups}
    if drawn == {True, False}:
        yield "Some tables are of drawn scenes; they say so, and no published figure stands beside them."
    elif drawn == {True}:
        yield "All of it was measured on drawn scenes: it says how methods compare there, not on photographs."
    if True in drawn:
        yield _SCENES
    if against and False in drawn:
        yield f"Published figures are those of {PAPER}."


def _drawn_sets(found: Found) -> Iterator[tuple[str, str]]:
    keys = {one.dataset for result in found.results for one in result.measured}
    yield from ((set_title(key), said) for key in sorted(keys, key=set_order) if (said := about(key)))


def _warnings(found: Found, damaged: Sequence[str]) -> Iterator[str]:
    for one in (*found.damaged, *damaged):
        yield f"Left out: {one}"
    if found.begun:
        many = f", and {len(found.begun) - 1} more" * (len(found.begun) > 1)
        yield f"Begun and not finished: {min(found.begun)}{many}"


def _legend(context: Context) -> Iterator[str]:
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


def _raw(result: Result) -> Iterator[tuple[str, ...]]:
    hashes = [result.hashes.get(name, "") for name in ("weights", "split", "draw", "names", "masks")]
    seconds = [result.seconds.get(name, "") for name in ("train", "test")]
    for one in result.measured:
        right = sum(right for right, _ in one.per_class.values())
        values = (
            *(
                result.key,
                result.protocol,
                result.row,
                result.variant,
                result.seed,
                result.method,
                result.recipe,
            ),
            *(
                result.shots,
                result.fraction,
                result.select,
                result.dataset,
                one.dataset,
                one.split,
                one.accuracy,
            ),
            *(right, one.pictures, one.classes, one.trained, one.others, one.shift, one.digest, result.clip),
            *hashes,
            *(result.config.get("precision"), result.learned_numbers, result.pictures, *seconds),
            *(result.peak_memory_mb, result.device, json.dumps(result.versions, sort_keys=True)),
        )
        yield tuple("" if value is None else str(value) for value in values)
