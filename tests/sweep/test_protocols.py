"""From tables to jobs: who is trained on what, what is asked, and that nothing is trained twice."""

from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.sweep.config import read_sweep
from foveate.sweep.jobs import Job
from foveate.sweep.plan import jobs_of, plan

ROWS = "rows: {CoOp: {method: coop}, CoOp + FVG-PT: {method: fvgpt+coop}}"
CONFIGS = Path(__file__).parents[2] / "configs"


def _jobs(tmp_path: Path, text: str) -> dict[str, Job]:
    (tmp_path / "table.yaml").write_text(text)
    jobs = jobs_of(read_sweep(tmp_path / "table.yaml"), lambda key, parts: f"a {key} of {{}}.")
    assert len({job.key for job in jobs}) == len(jobs)
    ready: set[str] = set()
    for job in jobs:
        assert job.waits_for is None or job.waits_for in ready
        ready.add(job.key)
    return {job.key: job for job in jobs}


def _asked(job: Job) -> list[tuple[str, str]]:
    return [(one.dataset, one.split) for one in job.questions]


def test_base_to_new(tmp_path: Path):
    jobs = _jobs(tmp_path, f"{{protocol: base-to-new, sets: [dtd, eurosat], seeds: [1, 2], {ROWS}}}")
    assert len(jobs) == 8
    guided = jobs["base-to-new/dtd/coop-fvg-pt/seed-2"]
    assert guided.needs == "base-to-new/dtd/coop/seed-2"
    assert _asked(guided) == [("dtd", "base"), ("dtd", "new")]
    assert (guided.config.classes, guided.config.shots) == ("base", 16)
    assert guided.config.template == "a dtd of {}."


def test_all_names_together(tmp_path: Path):
    jobs = _jobs(tmp_path, f"{{protocol: base-to-new, sets: dtd, seeds: 1, mixed: true, {ROWS}}}")
    assert _asked(jobs["base-to-new/dtd/coop/seed-1"])[2] == ("dtd", "all")


@pytest.mark.parametrize("protocol", ["cross-dataset", "domain-generalisation"])
def test_models_carried_over(tmp_path: Path, protocol: str):
    jobs = _jobs(
        tmp_path, f"{{protocol: {protocol}, source: imagenet, sets: [dtd, eurosat], seeds: 1, {ROWS}}}"
    )
    assert list(jobs) == [f"{protocol}/imagenet/coop/seed-1", f"{protocol}/imagenet/coop-fvg-pt/seed-1"]
    for job in jobs.values():
        assert _asked(job) == [("imagenet", "base"), ("dtd", "new"), ("eurosat", "new")]
        assert job.config.classes == "all"


def test_few_shot(tmp_path: Path):
    jobs = _jobs(tmp_path, f"{{protocol: few-shot, sets: dtd, seeds: 1, {ROWS}}}")
    assert [job.config.shots for job in jobs.values() if job.row == "CoOp"] == [1, 2, 4, 8, 16]
    assert jobs["few-shot/dtd/coop-fvg-pt/4-shots/seed-1"].needs == "few-shot/dtd/coop/4-shots/seed-1"
    assert _asked(jobs["few-shot/dtd/coop/4-shots/seed-1"]) == [("dtd", "base")]


def test_data_efficiency_in_both_readings(tmp_path: Path):
    shares = "protocol: data-efficiency, sets: dtd, seeds: 1, fractions: [0.25, 1.0]"
    jobs = _jobs(tmp_path, f"{{{shares}, {ROWS}}}")
    assert jobs["data-efficiency/dtd/coop/fraction-0.25/seed-1"].config.shots == 4
    assert jobs["data-efficiency/dtd/coop/fraction-1/seed-1"].config.shots == 16
    jobs = _jobs(tmp_path, f"{{{shares}, selectors: [uniform, herding], classes: all, {ROWS}}}")
    chosen = jobs["data-efficiency/dtd/coop-fvg-pt/herding-0.25/seed-1"]
    config = chosen.config
    assert (config.select, config.fraction, config.shots) == ("herding", 0.25, None)
    assert chosen.needs == "data-efficiency/dtd/coop/herding-0.25/seed-1"
    assert _asked(chosen) == [("dtd", "base")]


def test_a_backbone_that_is_no_row_is_one_job_for_all(tmp_path: Path):
    jobs = _jobs(
        tmp_path,
        """
{protocol: base-to-new, sets: dtd, seeds: [1, 2], method: fvgpt+coop,
 rows: {a: {fvgpt: {tau: 1}}, b: {fvgpt: {tau: 2}}, c: {coop: {tokens: 8}}}}
""",
    )
    backbones = [job for job in jobs.values() if job.row.startswith("backbone CoOp")]
    assert len(backbones) == 4  # of four tokens and of eight, for each seed
    assert len({job.row for job in backbones}) == 2
    assert all(not job.questions for job in backbones)
    needs = {job.row: job.needs for job in jobs.values() if job.seed == 1}
    assert needs["a"] == needs["b"] != needs["c"]


def test_the_same_training_is_done_once(tmp_path: Path):
    """Rows of one ablation, the last few-shot column and the whole of the data are often the same run."""
    jobs = _jobs(
        tmp_path,
        f"""
seeds: [1]
sets: [dtd]
tables:
  one: {{protocol: base-to-new, {ROWS}}}
  two: {{protocol: base-to-new, mixed: true, rows: {{all terms: {{method: fvgpt+coop}}}}}}
  more: {{protocol: seed-robustness, seeds: [1, 2], {ROWS}}}
""",
    )
    whole = jobs["base-to-new/dtd/coop-fvg-pt/seed-1"]
    assert jobs["base-to-new/dtd/all-terms/seed-1"].copies == whole.key
    assert jobs["seed-robustness/dtd/coop-fvg-pt/seed-1"].copies == whole.key
    assert jobs["seed-robustness/dtd/coop-fvg-pt/seed-2"].copies is None
    assert _asked(whole) == [("dtd", "base"), ("dtd", "new"), ("dtd", "all")]
    assert whole.identity() == jobs["base-to-new/dtd/all-terms/seed-1"].identity()


def test_two_tables_may_share_rows_but_not_names(tmp_path: Path):
    tables = """
seeds: [1]
sets: [dtd]
protocol: base-to-new
tables:
  one: {rows: {CoOp: {method: coop}}}
  two: {shift: true, rows: {CoOp: {method: coop, epochs: %s}}}
"""
    (job,) = _jobs(tmp_path, tables % 10).values()
    assert job.shift
    with pytest.raises(InputError, match="two tables have a row 'CoOp' of base-to-new with other settings"):
        _jobs(tmp_path, tables % 11)


def test_the_row_has_the_last_word(tmp_path: Path):
    jobs = _jobs(
        tmp_path,
        """
{protocol: base-to-new, sets: dtd, seeds: 1, recipe: upstream, lr: 0.5,
 rows: {MMRL: {method: mmrl, mmrl: {alpha: 0.6}}, FVG: {method: fvgpt+mmrl, epochs: 3}}}
""",
    )
    own = jobs["base-to-new/dtd/mmrl/seed-1"].config
    assert own.settings == {"mmrl": {"regulariser": 6.0, "alpha": 0.6}}
    assert (own.recipe["lr"], own.recipe["epochs"]) == (0.5, 10)
    guided = jobs["base-to-new/dtd/fvg/seed-1"]
    below = jobs[guided.needs]
    assert below.row.startswith("backbone MMRL")  # without the row's alpha
    assert below.config.settings == {"mmrl": {"regulariser": 6.0}}
    assert below.config.recipe["epochs"] == 3


@pytest.mark.parametrize(
    ("name", "runs"),
    [("table1", 264), ("table2", 24), ("sweep-world", 624), ("sweep-protocols", 600), ("claims", 335)],
)
def test_the_files_that_come_with_the_package(name: str, runs: int):
    planned = plan(CONFIGS / f"{name}.yaml")
    assert len(planned.jobs) == runs
    rows = {job.row for job in planned.jobs}
    assert not any(row.startswith("backbone") for row in rows)


def test_sets_are_known_by_any_of_their_names(tmp_path: Path):
    (tmp_path / "t.yaml").write_text(
        f"{{protocol: base-to-new, sets: [DescribableTextures], seeds: 1, {ROWS}}}"
    )
    assert plan(tmp_path / "t.yaml").keys() == ["dtd"]
    (tmp_path / "t.yaml").write_text(f"{{protocol: base-to-new, sets: [dtt], seeds: 1, {ROWS}}}")
    with pytest.raises(InputError, match="no data set 'dtt'; did you mean 'dtd'"):
        plan(tmp_path / "t.yaml")
