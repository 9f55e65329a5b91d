"""What may share a table, what is marked, and what is never set beside what."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from synthetic_sweeps import CLIP, answers, likely, lively, measured, result, write_all

from foveate.errors import InputError
from foveate.report.model import Number, Report, Section, TableRow, text
from foveate.report.sections import build
from foveate.report.writing import html
from foveate.sweep.results import Measured, Result

ROWS = {"CoOp": "coop", "CoOp + FVG-PT": "fvgpt+coop"}


def report_of(folder: Path, results: list[Result], *, against: bool = True) -> Report:
    return build(write_all(folder, results), against=against, draws=100)


def section(report: Report, key: str) -> Section:
    return next(one for one in report.sections if one.key == key)


def row(found: Section, label: str, block: int = 0) -> TableRow:
    return next(one for one in found.blocks[block].rows if one.label == label)


def numbers(found: Section, label: str, block: int = 0) -> list[Number]:
    return [cell for cell in row(found, label, block).cells if isinstance(cell, Number)]


def every_number(report: Report) -> list[Number]:
    return [
        cell
        for one in report.sections
        for block in one.blocks
        for line in block.rows
        if not line.published
        for cell in line.cells
        if isinstance(cell, Number)
    ]


def test_a_missing_run_is_named_and_what_it_is_in_is_marked(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd", "eurosat"], (1, 2, 3))
    gone = [one for one in results if (one.row, one.dataset, one.seed) != ("CoOp", "dtd", 2)]
    found = section(report_of(tmp_path, gone), "table-1")
    assert found.missing == ("CoOp on DTD, seed 2",)
    assert [block.title for block in found.blocks] == ["Average over 2 sets", "DTD", "EuroSAT"]
    assert {number.mark for number in numbers(found, "CoOp", 0) + numbers(found, "CoOp", 1)} == {"†"}
    assert {number.mark for number in numbers(found, "CoOp", 2) + numbers(found, "CoOp + FVG-PT", 0)} == {""}
    assert [number.seeds for number in numbers(found, "CoOp", 1)] == [2, 2, 2]
    assert not any(number.best for number in numbers(found, "CoOp", 0))
    assert any(note.startswith("†") for note in found.notes)


def test_a_missing_set_is_no_silent_average(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd", "eurosat"], (1,))
    found = section(
        report_of(tmp_path, [one for one in results if (one.row, one.dataset) != ("CoOp", "dtd")]), "table-1"
    )
    assert numbers(found, "CoOp", 0)[0].mark == "†"
    assert numbers(found, "CoOp", 1)[0].value is None
    # What is published beside it is over the same sets: EuroSAT alone.
    assert numbers(found, "CoOp", 0)[0].published == 88.43
    assert numbers(found, "CoOp + FVG-PT", 0)[0].published == pytest.approx((81.13 + 89.76) / 2)


def test_other_weights_have_a_table_of_their_own(tmp_path: Path) -> None:
    plain = lively({"CoOp": "coop"}, ["dtd"], (1, 2))
    other = [
        replace(one, clip="laion/CLIP-ViT-B-16", hashes={**one.hashes, "weights": "ff"}) for one in plain
    ]
    write_all(tmp_path / "a", plain)
    report = report_of(tmp_path, [replace(one, key=f"b/{one.key}") for one in other])
    titles = [one.title for one in report.sections if one.key in ("table-1", "table-1-2")]
    assert len(titles) == 2
    assert all("weights" in title for title in titles)


def test_two_sweeps_with_other_settings_are_two_rows(tmp_path: Path) -> None:
    write_all(tmp_path / "short", lively({"CoOp": "coop"}, ["dtd"], (1, 2)))
    long = lively({"CoOp": "coop"}, ["dtd"], (1, 2), training={"epochs": 50})
    found = section(report_of(tmp_path / "long", long), "table-1")
    assert [line.label for line in found.blocks[0].rows] == ["CoOp"]
    both = section(build(tmp_path, draws=100), "table-1")
    assert [line.label for line in both.blocks[0].rows] == [
        "CoOp (training.epochs 10)",
        "CoOp (training.epochs 50)",
    ]


def test_the_same_run_twice_counts_once(tmp_path: Path) -> None:
    results = lively({"CoOp": "coop"}, ["dtd"], (1, 2))
    write_all(tmp_path / "a", results)
    write_all(tmp_path / "b", results)
    assert numbers(section(build(tmp_path, draws=100), "table-1"), "CoOp")[0].seeds == 2


def test_the_same_run_with_other_answers_is_refused(tmp_path: Path) -> None:
    (one,) = lively({"CoOp": "coop"}, ["dtd"], (1,))
    changed = measured("dtd", "base", answers(50, 400, "other"), 24)
    write_all(tmp_path / "a", [one])
    write_all(tmp_path / "b", [replace(one, measured=(changed, *one.measured[1:]))])
    with pytest.raises(InputError, match=r"are both CoOp on DTD, seed 1, with other answers"):
        build(tmp_path)


def test_two_splits_of_a_set_are_refused(tmp_path: Path) -> None:
    one, two = lively({"CoOp": "coop"}, ["dtd"], (1, 2))
    with pytest.raises(InputError, match="are of two splits of DTD, other and"):
        report_of(tmp_path, [one, replace(two, hashes={**two.hashes, "split": "other"})])


def test_drawn_scenes_are_labelled_and_have_nothing_published_beside(tmp_path: Path) -> None:
    report = report_of(tmp_path, lively(ROWS, ["world-1", "world-2"], (1, 2), clip="tiny"))
    assert all(one.drawn and "drawn scenes" in one.heading for one in report.sections)
    assert all(number.published is None for number in every_number(report))
    assert not any(one.key.startswith(("table-10", "table-11")) for one in report.sections)


def test_drawn_scenes_and_photographs_do_not_share_a_table(tmp_path: Path) -> None:
    write_all(tmp_path, lively(ROWS, ["world-1"], (1,)))
    report = report_of(tmp_path, lively(ROWS, ["dtd"], (1,)))
    tables = [one for one in report.sections if one.key in ("table-1", "table-1-2")]
    assert [(one.drawn, [block.title for block in one.blocks]) for one in tables] == [
        (False, ["DTD"]),
        (True, ["world-1"]),
    ]


@pytest.mark.parametrize("clip", ["tiny", "openai/clip-vit-base-patch32"])
def test_other_towers_have_nothing_published_beside(tmp_path: Path, clip: str) -> None:
    report = report_of(tmp_path, lively(ROWS, ["dtd"], (1,), clip=clip))
    assert all(number.published is None for number in every_number(report))
    assert any("ViT-B/16" in note for note in section(report, "table-1").notes)


def test_parts_of_sets_have_nothing_published_beside(tmp_path: Path) -> None:
    part = [
        result(
            "CoOp",
            "dtd",
            1,
            *(measured("dtd", split, answers(70, 50, split), 5) for split in ("base", "new")),
        )
    ]
    report = report_of(tmp_path, part)
    assert all(number.published is None for number in every_number(report))
    assert "DTD has 5 classes (base), the whole set 24" in " ".join(section(report, "table-1").notes)


def test_without_against_nothing_published_is_said(tmp_path: Path) -> None:
    report = report_of(tmp_path, lively(ROWS, ["dtd"], (1, 2)), against=False)
    assert all(number.published is None for number in every_number(report))


def test_rows_on_other_pictures_are_not_compared(tmp_path: Path) -> None:
    one, two = lively(ROWS, ["dtd"], (1,))
    moved = tuple(replace(answer, digest="other") for answer in two.measured)
    found = section(report_of(tmp_path, [one, replace(two, measured=moved)]), "table-1")
    assert not any(block.title.startswith(("Paired", "What a plug-in")) for block in found.details)
    assert (
        "Not compared, the test pictures differ: CoOp → CoOp + FVG-PT on DTD (base), DTD (new)."
        in found.notes
    )
    assert not any(number.best for label in ROWS for number in numbers(found, label))


def test_the_card_says_where_the_paper_does_otherwise(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd"], (1, 4), training={"epochs": 50}, shots=4)
    said = dict(section(report_of(tmp_path, results), "table-1").card)
    assert said["seeds"] == "1, 4"
    assert "5806e77cd80f" in said["weights"]
    for part in (
        "shots 4 (16)",
        "seeds 1, 4 (1, 2, 3)",
        "epochs 50 (10) for CoOp",
        "settings of released-code",
    ):
        assert part in said["differs from the paper"]
    assert "differs from the paper" not in dict(
        section(report_of(tmp_path, [], against=False), "table-1").card
    )


def test_settings_that_differ_between_sets_are_told(tmp_path: Path) -> None:
    write_all(tmp_path, lively({"CoOp": "coop"}, ["dtd", "food101"], (1,)))
    report = report_of(tmp_path, lively({"CoOp": "coop"}, ["eurosat"], (1,), training={"epochs": 20}))
    said = dict(section(report, "table-1").card)["differs between sets"]
    assert said == "CoOp: training.epochs 10, but 20 on EuroSAT"


def test_ablations_are_sorted_by_their_settings(tmp_path: Path) -> None:
    write_all(tmp_path, lively(ROWS, ["dtd", "eurosat", "food101"], (1,)))
    changes = {
        "thin": {"gate_depth": 1},
        "usual": {},
        "thick": {"gate_depth": 3},
        "no gate": {"foreground_gate": False},
        "no KL": {"terms": ["base", "gate", "distill", "prior"]},
        "narrow": {"adapter_hidden": 16},
        "blur": {"fill": "blur"},
    }
    made = [
        one
        for name, fvgpt in changes.items()
        for one in lively({name: "fvgpt+coop"}, ["dtd", "eurosat"], (1,), settings={"fvgpt": fvgpt})
    ]
    report = report_of(tmp_path, made)
    labels = {one.key: [line.label for line in one.blocks[0].rows] for one in report.sections}
    assert labels["table-1"] == ["CoOp", "CoOp + FVG-PT"]
    assert labels["table-3"] == ["no gate", "CoOp + FVG-PT"]
    assert labels["table-4-adapters"] == ["narrow", "CoOp + FVG-PT"]
    assert labels["table-5"] == ["thin", "CoOp + FVG-PT", "thick"]
    assert labels["table-12"] == ["CoOp + FVG-PT", "no KL", "no gate"]
    assert labels["other-settings"] == ["CoOp + FVG-PT", "blur"]
    found = section(report, "table-5")
    assert "CoOp + FVG-PT is the same training as usual." in found.notes
    assert not found.missing  # Food101 was not part of the study
    assert "2 sets" in found.lead


def test_other_protocols_have_their_tables(tmp_path: Path) -> None:
    few = [
        result(
            name,
            "dtd",
            seed,
            measured("dtd", "base", likely(50 + shots, 80, seed, name, "dtd"), 47),
            protocol="few-shot",
            variant=f"{shots}-shots",
            method=method,
            shots=shots,
        )
        for name, method in ROWS.items()
        for seed in (1, 2)
        for shots in (1, 16)
    ]
    halves = {"base": 24, "new": 23}
    less = [
        result(
            name,
            "dtd",
            1,
            *(
                measured("dtd", half, likely(50 + 20 * share, 80, 1, name, half), n)
                for half, n in halves.items()
            ),
            protocol="data-efficiency",
            variant=f"fraction-{share:g}",
            method=method,
            shots=int(16 * share),
        )
        for name, method in ROWS.items()
        for share in (0.25, 1.0)
    ]
    there = measured("imagenet", "base", likely(70, 90, 1, "CoOp", "i"), 1000)
    carried = measured("imagenet_r", "new", likely(60, 90, 1, "CoOp", "r"), 200)
    domains = [result("CoOp", "imagenet", 1, there, carried, protocol="domain-generalisation")]
    seeds = lively({"CoOp": "coop"}, ["dtd"], range(1, 6), protocol="seed-robustness")
    report = report_of(tmp_path, [*few, *less, *domains, *seeds])
    assert {one.key for one in report.sections} == {"few-shot", "data-efficiency", "domains", "seeds"}
    assert section(report, "few-shot").blocks[0].columns == ("method", "1 shot", "16 shots")
    assert section(report, "data-efficiency").blocks[2].title == "DTD, HM"
    assert section(report, "data-efficiency").blocks[0].columns == ("method", "25 %", "100 %")
    assert [number.value for number in numbers(section(report, "domains"), "CoOp")] == [70, 60, 60]
    assert row(section(report, "seeds"), "CoOp").cells[-1] == "5"
    assert len(section(report, "seeds").charts[0].series[0].points) == 5
    assert html(report).count('class="curve"') == 2 * 2  # two rows, two charts of one set each


def test_all_names_together_and_shift(tmp_path: Path) -> None:
    report = report_of(tmp_path, lively(ROWS, ["dtd"], (1, 2)))
    trained, others, both, _ = (number.value for number in numbers(section(report, "generalised"), "CoOp"))
    assert both == pytest.approx(2 * (trained or 0) * (others or 0) / ((trained or 0) + (others or 0)))
    assert section(report, "fig-5").blocks[0].columns[:3] == ("method", "shift base", "shift new")
    assert numbers(section(report, "fig-5"), "CoOp")[0].value == pytest.approx(1.0, abs=0.1)


def test_the_worst_group_is_over_the_classes_at_home_and_under_a_condition(tmp_path: Path) -> None:
    def asked(where: str, split: str, cat: int, dog: int) -> Measured:
        right = torch.tensor([one < cat for one in range(10)] + [one < dog for one in range(5)])
        found = measured(f"dtd@{where}", split, right)
        return replace(found, per_class={"cat": (cat, 10), "dog": (dog, 5)})

    def answered(shift: int) -> list[Measured]:
        home = [asked("home", "base", 7, 5), asked("home", "new", 10, 4)]
        return [*home, asked("any", "base", 6 + shift, 2), asked("any", "new", 9, 5)]

    results = [result("CoOp", "dtd", seed, *answered(seed), method="coop") for seed in (1, 2)]
    results += [result("CLIP", "dtd", 1, *answered(0)[2:], method="zeroshot")]
    found = section(report_of(tmp_path, results), "worst-groups")
    assert found.blocks[0].columns == (
        "method",
        *("worst group base any", "worst group base home", "worst group new any", "worst group new home"),
    )
    # At home: base cat 7 of 10, new dog 4 of 5. Anywhere: base dog 2 of 5; new still dog at home.
    assert [one.value for one in numbers(found, "CoOp")] == [40.0, 70.0, 80.0, 80.0]
    assert "CLIP" not in [one.label for one in found.blocks[0].rows]  # it was not asked at home


def test_figures_do_not_depend_on_the_order_of_files(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd", "eurosat"], (1, 2, 3))
    first = report_of(tmp_path / "a" / "sweep", results)
    again = report_of(
        tmp_path / "b" / "sweep", [replace(one, key=f"{n}") for n, one in enumerate(reversed(results))]
    )
    assert first.sections == again.sections


def test_same_answers_are_said_and_have_the_same_interval(tmp_path: Path) -> None:
    results = lively({"CoOp": "coop"}, ["dtd", "eurosat"], (1, 2))
    results += [replace(one, row="KgCoOp", method="kgcoop", key=f"again/{one.key}") for one in results]
    results += lively({"MMRL": "mmrl"}, ["dtd", "eurosat"], (1, 2))
    found = section(report_of(tmp_path, results, against=False), "table-1")
    said = [note for note in found.notes if "same answers" in note]
    assert said == ["KgCoOp gave the same answers as CoOp to every picture, under every seed."]
    for block in range(3):
        one, other = numbers(found, "CoOp", block), numbers(found, "KgCoOp", block)
        assert [(a.low, a.high) for a in one] == [(b.low, b.high) for b in other]


def test_what_all_rows_reach_is_nobodys_best(tmp_path: Path) -> None:
    results = lively({"CoOp": "coop"}, ["dtd"], (1,))
    results += [replace(one, row="KgCoOp", method="kgcoop", key=f"again/{one.key}") for one in results]
    report = report_of(tmp_path, results, against=False)
    assert not any(number.best for number in every_number(report))


def test_tests_are_summed_up_for_all_of_them_together(tmp_path: Path) -> None:
    right = {
        "CoOp": {"base": torch.arange(60) < 30, "new": torch.arange(60) < 30},
        "CoOp + FVG-PT": {"base": torch.arange(60) < 50, "new": torch.arange(60) < 31},
    }
    results = [
        result(name, "dtd", 1, *(measured("dtd", split, own) for split, own in right[name].items()))
        for name in ROWS
    ]
    found = section(report_of(tmp_path, results, against=False), "table-1")
    assert found.notes[0] == (
        "Paired tests: 1 of 2 with p (Holm) below 0.05: CoOp → CoOp + FVG-PT (higher in 1, lower in 0). "
        "Uncorrected it would be 1, where chance alone gives up to 0.1."
    )
    (tests,) = (block for block in found.details if block.kind == "tests")
    last = [line.cells[-1] for line in tests.rows]
    assert [text(cell) for cell in last] == ["< 0.001", "1.000"]
    assert [isinstance(cell, Number) and cell.best for cell in last] == [True, False]
    assert isinstance(last[0], Number)
    assert last[0].value == pytest.approx(
        2 * 2.0**-19
    )  # Holm: twice a half to the power of 20, on both sides


def test_charts_mark_means_of_fewer_runs(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd", "eurosat"], (1, 2))
    gone = [one for one in results if (one.row, one.dataset) != ("CoOp", "dtd")]
    found = section(report_of(tmp_path, gone), "table-1")
    assert found.charts[0].names == ("CoOp †", "CoOp + FVG-PT")
    assert [point.y for point in found.charts[0].series[1].points] == [0, 1]  # published ones stay beside


def test_who_learns_nothing_has_no_speed_of_tuning(tmp_path: Path) -> None:
    results = lively({"CLIP": "zeroshot"}, ["dtd"], (1,), learned_numbers=0)
    assert text(row(section(report_of(tmp_path, results), "took"), "CLIP").cells[-2]) == "–"


def test_vit_l14_has_a_table_of_its_own(tmp_path: Path) -> None:
    results = lively(ROWS, ["dtd"], (1,), clip=CLIP.replace("base-patch16", "large-patch14"))
    found = section(report_of(tmp_path, results), "vit-l14")
    assert all(
        number.published is None for number in numbers(found, "CoOp")
    )  # averages over eleven sets alone
