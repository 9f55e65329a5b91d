"""The log of a run: what is appended, and what a resumed stage takes back."""

import json
from pathlib import Path

import pytest

from foveate.train.journal import Journal
from foveate.train.loop import Step


def step(number: int, epoch: int = 0) -> Step:
    return Step(epoch, number, 0.1, {"ce": 1.5, "kl": 0.25}, 2.0)


def numbers(path: Path) -> list[tuple[str, int]]:
    return [(line["stage"], line["step"]) for line in map(json.loads, path.read_text().splitlines())]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of two stages, three steps each."""
    path = tmp_path / "log.jsonl"
    for stage in ("coop", "fvgpt+coop"):
        journal = Journal(path, stage)
        for number in range(3):
            journal.step(step(number))
        journal.flush()
    return path


def test_lines_reach_the_disk_with_flush_and_once(tmp_path: Path):
    path = tmp_path / "log.jsonl"
    journal = Journal(path, "coop")
    journal.step(step(0))
    assert not path.exists()
    journal.flush()
    journal.flush()
    journal.step(step(1))
    journal.flush()
    assert numbers(path) == [("coop", 0), ("coop", 1)]


def test_a_step_has_its_sum_and_its_terms(path: Path):
    line = json.loads(path.read_text().splitlines()[0])
    assert line["loss"] == 1.75
    assert (line["loss.ce"], line["loss.kl"], line["lr"], line["grad_norm"]) == (1.5, 0.25, 0.1, 2.0)


def test_rewind_takes_back_later_steps_of_its_own_stage_only(path: Path):
    Journal(path, "fvgpt+coop").rewind(1)
    assert numbers(path) == [("coop", 0), ("coop", 1), ("coop", 2), ("fvgpt+coop", 0)]


def test_rewind_to_the_start_and_beyond_the_end(path: Path):
    before = path.read_text()
    Journal(path, "coop").rewind(3)
    assert path.read_text() == before
    Journal(path, "coop").rewind(0)
    assert numbers(path) == [("fvgpt+coop", i) for i in range(3)]


@pytest.mark.parametrize(
    "broken",
    [b'{"stage": "co', b"\xff\xfe\x00", b"\0\0\0\0", b"17", b"null", b'{"stage": "coop"\n{"step'],
    ids=repr,
)
def test_rewind_drops_half_lines(path: Path, broken: bytes):
    with path.open("ab") as file:
        file.write(broken)
    Journal(path, "fvgpt+coop").rewind(2)
    assert numbers(path) == [*(("coop", i) for i in range(3)), ("fvgpt+coop", 0), ("fvgpt+coop", 1)]


def test_after_a_half_line_new_lines_are_whole(path: Path):
    with path.open("a") as file:
        file.write('{"stage": "fvgpt+coop", "step": 3')
    journal = Journal(path, "fvgpt+coop")
    journal.rewind(3)
    journal.step(step(3))
    journal.flush()
    assert numbers(path)[-1] == ("fvgpt+coop", 3)
    assert len(numbers(path)) == 7


def test_other_events_of_the_stage_stay(path: Path):
    journal = Journal(path, "coop")
    journal.event({"stage": "coop", "note": "began"})
    journal.flush()
    journal.rewind(0)
    assert '"began"' in path.read_text()


def test_without_a_path_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, "coop")
    journal.rewind(0)
    journal.step(step(0))
    journal.flush()
    assert list(tmp_path.iterdir()) == []


def test_rewind_of_a_log_that_is_not_there_makes_none(tmp_path: Path):
    Journal(tmp_path / "log.jsonl", "coop").rewind(0)
    assert list(tmp_path.iterdir()) == []
