"""`result.json` is there whole or not at all, and says what it holds."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from foveate.errors import InputError
from foveate.sweep.jobs import Job, slug
from foveate.sweep.results import (
    RESULT,
    Damaged,
    Measured,
    Result,
    packed,
    read_result,
    results_in,
    unpacked,
    write_result,
)
from foveate.train.config import RunConfig

MEASURED = Measured("dtd", "base", 66.7, 3, 2, {"banded": (1, 1), "braided": (1, 2)}, "oA==", "f00d")
RESULT_ = Result(
    key="base-to-new/dtd/coop/seed-1",
    protocol="base-to-new",
    row="CoOp",
    dataset="dtd",
    variant="",
    seed=1,
    method="coop",
    recipe="paper",
    shots=16,
    fraction=None,
    select=None,
    clip="tiny",
    config={"training": {"epochs": 10}},
    hashes={"weights": "a"},
    versions={"foveate": "0"},
    device="cpu",
    seconds={"train": 1.5, "test": 0.5},
    peak_memory_mb=100.0,
    learned_numbers=2048,
    pictures=160,
    measured=(MEASURED,),
)


@given(st.lists(st.booleans(), max_size=40))
def test_packed_answers_come_back(values: list[bool]) -> None:
    assert unpacked(packed(torch.tensor(values, dtype=torch.bool)), len(values)).tolist() == values


def test_packed_answers_of_another_number_are_refused() -> None:
    with pytest.raises(ValueError, match="do not hold 9 values"):
        unpacked(packed(torch.ones(8, dtype=torch.bool)), 9)


def test_a_result_comes_back_as_it_was_written(tmp_path: Path) -> None:
    folder = tmp_path / RESULT_.key
    assert read_result(folder) is None
    write_result(folder, RESULT_)
    assert read_result(folder) == RESULT_
    assert list(results_in(tmp_path)) == [folder]
    assert RESULT_.of("dtd", "base") == MEASURED
    assert RESULT_.of("dtd", "new") is None


def test_no_number_that_is_none_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_result(tmp_path, replace(RESULT_, peak_memory_mb=float("nan")))
    assert not (tmp_path / RESULT).exists()


@pytest.mark.parametrize(("was", "now"), [('"seconds"', '"minutes"'), ("oA==", "x"), ("{", "[")])
def test_a_damaged_result_is_told_from_a_newer_one(tmp_path: Path, was: str, now: str) -> None:
    write_result(tmp_path, RESULT_)
    path = tmp_path / RESULT
    whole = path.read_text()
    path.write_text(whole.replace(was, now))
    with pytest.raises(Damaged, match=RESULT):
        read_result(tmp_path)
    path.write_text(whole.replace('"schema": 1', '"schema": 2'))
    with pytest.raises(InputError, match="newer foveate"):
        read_result(tmp_path)


def test_a_job_knows_its_folder() -> None:
    job = Job("few-shot", "CoOp + FVG-PT", "dtd", RunConfig(seed=3), (), variant="8-shots")
    assert job.key == "few-shot/dtd/coop-fvg-pt/8-shots/seed-3"
    assert slug("MMRL, λ_d = 5") == "mmrl-d-5"
