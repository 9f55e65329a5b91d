"""What methods cost: the clock, what is counted, and `foveate cost`."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from foveate.clip.config import ClipConfig
from foveate.clip.model import Clip
from foveate.costs import measuring
from foveate.costs.apart import METHODS, as_row, measure_apart, title
from foveate.costs.measuring import (
    CostPlan,
    Speed,
    Windows,
    draw_photos,
    last_stage,
    learned_numbers,
    made_up_names,
    measure,
)
from foveate.errors import InputError
from foveate.memory import peak_mb
from foveate.methods.mmrl import Mmrl
from foveate.report.published import tables
from foveate.train.loop import fit
from foveate.types import Batch

QUICK = CostPlan("coop", clip="tiny", classes=3, batch_size=2, pictures=4, windows=1, seconds=0.0)


@pytest.fixture(scope="module")
def vit_b16() -> Clip:
    """ViT-B/16 without numbers: as large as the real one, and there at once."""
    with torch.device("meta"):
        return Clip(ClipConfig())


@pytest.mark.parametrize(
    ("method", "numbers"),
    [("mmrl", 4_992_256), ("fvgpt+mmrl", 132_546), ("coop", 2048), ("fvgpt+coop", 132_546)],
)
def test_learned_numbers_are_those_of_the_paper(vit_b16: Clip, method: str, numbers: int):
    assert learned_numbers(last_stage(method, vit_b16)) == numbers


@pytest.mark.parametrize(("method", "row"), [("mmrl", "MMRL"), ("fvgpt+mmrl", "FVG-PT")])
def test_learned_numbers_round_to_the_published_ones(vit_b16: Clip, method: str, row: str):
    published = tables()["cost_flowers102_mmrl"][row]["learnable_params_M"]
    assert round(learned_numbers(last_stage(method, vit_b16)) / 1e6, 2) == published


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now, self.settled = 100.0, 0

    def __call__(self) -> float:
        return self.now

    def settle(self) -> None:
        """The device is slower than the loop: what it was given takes a tenth of a second more."""
        self.now += 0.1
        self.settled += 1


def test_windows_leave_out_the_warm_up_and_take_the_median():
    clock = Clock()
    windows = Windows(3, 1.0, clock=clock)
    for seconds in (50, 2, 1, 4, 2):  # two pieces of warm-up, then a window a piece
        assert not windows.done
        clock.now += seconds
        windows.count(8)
    assert windows.done
    assert windows.speed() == Speed(4.0, 2.0, 8.0)


def test_a_window_has_as_many_pieces_as_it_takes():
    clock = Clock()
    windows = Windows(1, 1.0, clock=clock)
    for _ in range(4 + 4):  # a quarter of a second each; four warm up
        assert not windows.done
        clock.now += 0.25
        windows.count(2)
    assert windows.speed().typical == 8.0


def test_a_window_ends_when_the_device_has_done_its_work():
    clock = Clock()
    windows = Windows(1, 1.0, clock.settle, clock)
    for _ in range(3):
        clock.now += 0.9
        windows.count(1)
    clock.now += 0.9
    windows.count(1)
    assert windows.done
    assert windows.speed().typical == pytest.approx(2 / 1.9)  # two of 0.9, and 0.1 until the device was done


def test_time_before_a_beginning_is_not_counted():
    clock = Clock()
    windows = Windows(1, 1.0, clock=clock)
    clock.now += 1000
    windows.begin()
    for _ in range(3):
        clock.now += 1
        windows.count(3)
    assert windows.speed().typical == 3.0


def test_no_full_window_is_no_speed():
    with pytest.raises(ValueError, match="no window"):
        Windows(1, 1.0).speed()


def test_tuning_takes_real_steps(monkeypatch: pytest.MonkeyPatch):
    """With one window of any length: two steps of warm-up and one that counts, without a bank and with."""
    steps: list[list[Batch]] = []

    def counted(method: Mmrl, batches: Callable[[int], list[Batch]], *rest: object, **more: object) -> None:
        steps.append([])
        before = {name: tensor.clone() for name, tensor in method.trainable().items()}

        def kept(epoch: int):
            for batch in batches(epoch):
                steps[-1].append(batch)
                yield batch

        fit(method, kept, *rest, **more)  # type: ignore[arg-type]
        assert all(not torch.equal(before[name], tensor) for name, tensor in method.trainable().items())

    monkeypatch.setattr(measuring, "fit", counted)
    cost = measure(replace(QUICK, method="mmrl"))
    unbanked, banked = steps
    assert len(unbanked) == len(banked) == 3
    assert all(batch.images.shape == (2, 3, 64, 64) for batch in unbanked + banked)
    assert not any(batch.frozen for batch in unbanked)
    assert all(set(batch.frozen) == {"clip"} for batch in banked)
    assert (cost.batch_size, cost.stage) == (2, "mmrl")
    assert cost.tuning
    assert cost.banked
    assert cost.peak_memory_mb >= cost.loaded_mb > 0


def test_a_plugin_is_tuned_over_a_frozen_backbone(vit_b16: Clip):
    stage = last_stage("fvgpt+mmrl", vit_b16)
    assert all(name.startswith("guidance.") for name in stage.trainable())
    assert type(stage.backbone) is Mmrl


@pytest.mark.parametrize("method", ["zeroshot", "linear_probe"])
def test_methods_without_steps_have_no_speed_of_tuning(method: str):
    cost = measure(replace(QUICK, method=method, shots=2))
    assert cost.tuning is cost.banked is cost.filling is None
    assert cost.inference.typical > 0
    assert (cost.learned_numbers > 0) == (method == "linear_probe")


def test_a_method_that_looks_first_sees_all_shots():
    few, more = (measure(replace(QUICK, method="tip_adapter", shots=shots)) for shots in (1, 3))
    embed = 128
    assert more.learned_numbers - few.learned_numbers == 3 * 2 * (
        embed + 1
    )  # 2 more a class: keys and owners


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "mmlr"}, "did you mean 'mmrl'"),
        ({"device": "cuda:99"}, "--device cpu"),
        ({"classes": 1}, "classes is 1: give 2 or more"),
        ({"windows": 0}, "windows is 0: give 1 or more"),
        ({"seconds": math.nan}, "seconds is nan"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"clip": "no/where"}, "no/where"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    change: dict[str, object], said: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(InputError, match=said):
        measure(replace(QUICK, **change))


def test_made_up_names_are_different_and_begin_alike():
    names = made_up_names(2000)
    assert len(set(names)) == 2000
    assert names[:51] == made_up_names(51)
    assert {len(name.split()) for name in names} == {1, 2, 3, 4}


def test_drawn_photos_have_masks_of_their_size(tmp_path: Path):
    photos = draw_photos(tmp_path / "new", 5, ["cat", "dog"])
    assert [sample.label for sample in photos.samples] == [0, 1, 0, 1, 0]
    assert all(sample.mask.is_file() for sample in photos.samples)  # type: ignore[union-attr]


def test_the_peak_grows_with_what_is_held():
    before = peak_mb()
    held = torch.ones(300_000_000, dtype=torch.uint8)
    after = peak_mb()
    assert before + 200 < after or before > after - 1 > 300  # the process may have had as much before
    assert len(held)


def test_each_method_has_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(measuring, "draw_photos", None)  # this process could not do it
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    seen: list[tuple[int, int]] = []
    costs = measure_apart(
        [QUICK, replace(QUICK, clip="no/where")], lambda done, total: seen.append((done, total))
    )
    first = next(costs)
    assert (first.method, first.learned_numbers) == ("coop", 4 * 128)
    assert first.tuning
    assert as_row(first)["tuning_pictures_per_second"] == pytest.approx(first.tuning.typical, rel=1e-3)
    with pytest.raises(InputError, match=r"^coop: no/where: not here, and the hub does not answer"):
        next(costs)
    assert seen == [(0, 2), (1, 2)]


class Exit:
    """A value that ends the process that receives it."""

    def __reduce__(self) -> tuple[Callable[[int], None], tuple[int]]:
        return os._exit, (1,)


def test_a_killed_measurement_is_said():
    plan = replace(QUICK, clip=Exit())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^coop: the process that measured it was killed, .* --batch-size"):
        next(measure_apart([plan]))


BRIEF = """
import os, sys, tempfile, threading, time
from pathlib import Path
from foveate.costs.apart import measure_apart
from foveate.costs.measuring import CostPlan

plan = CostPlan("coop", clip="tiny", classes=3, batch_size=2, pictures=4, windows=10_000, seconds=1.0)
threading.Thread(target=lambda: next(measure_apart([plan])), daemon=True).start()
while not any(Path(tempfile.gettempdir()).glob("*/*.jpg")):
    time.sleep(0.05)
print("measuring", flush=True)
os._exit(0)
"""


def test_a_measurement_ends_with_whoever_asked(tmp_path: Path):
    """Its process holds the output of the first one, which ends in the midst of hours of measuring."""
    words, environment = [sys.executable, "-c", BRIEF], {**os.environ, "TMPDIR": str(tmp_path)}
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=1800)
    assert ended.stdout == "measuring\n"


@pytest.mark.parametrize(
    ("method", "name"),
    [("mmrl", "MMRL"), ("fvgpt+mmrl", "MMRL + FVG-PT"), ("fvgpt+dapt+maple", "MaPLe + DAPT + FVG-PT")],
)
def test_titles(method: str, name: str):
    assert title(method) == name


def test_the_default_is_the_papers_backbones_each_with_fvgpt():
    assert [title(method) for method in METHODS] == [
        row for name in ("CoOp", "KgCoOp", "PromptSRC", "MMRL") for row in (name, f"{name} + FVG-PT")
    ]


def test_the_command_prints_and_writes(foveate: Callable[..., Any], tmp_path: Path):
    out = tmp_path / "new" / "cost.json"
    words = (
        "--clip",
        "tiny",
        "--classes",
        3,
        "--batch-size",
        2,
        "--windows",
        1,
        "--seconds",
        0,
        "--pictures",
        4,
    )
    said = foveate("cost", "--methods", "mmrl", *words, "--out", out)
    assert said.code == 0, said.err
    table = [line.split("\t") for line in said.out.splitlines()]
    assert [line[0] for line in table] == ["row", "MMRL", "MMRL, published: ViT-B/16 on another machine"]
    assert table[2][1:] == ["4.99 M", "", "87.52", "", "", "610.6", "", "2010"]
    assert "not to be compared" in said.err
    assert "note: tuning on a bank /s: the same steps" in said.err  # by the column's name, not the file's
    written = json.loads(out.read_text(encoding="utf-8"))
    assert written["schema"] == 1
    assert written["settings"]["classes"] == 3
    (row,) = written["rows"]
    assert table[1][1] == f"{row['learned_numbers']:,}" == "544,256"
    assert row["banked_pictures_per_second"] > 0
    assert set(written["counted"]) > {"peak_memory_mb", "tuning_pictures_per_second"}


@pytest.mark.parametrize("there", ["clip: tiny\n", "{}", "[1]", "\udcff"])
def test_the_command_writes_over_no_file_of_others(foveate: Callable[..., Any], tmp_path: Path, there: str):
    file = tmp_path / "mine.json"
    file.write_bytes(there.encode(errors="surrogateescape"))
    answer = foveate("cost", "--clip", "tiny", "--methods", "coop", "--out", file)
    assert answer.code == 2
    assert "foveate cost did not write it: choose another --out" in answer.err
    assert file.read_bytes() == there.encode(errors="surrogateescape")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--methods", "coop,mmlr"), "did you mean 'mmrl'"),
        (("--out", "."), "is a folder: give a file"),
        (("--batch-size", "0"), "batch_size is 0"),
        (("--classes", "0"), "classes is 0"),
        (("mmrl",), "too many words"),
    ],
)
def test_the_command_refuses_before_it_measures(
    foveate: Callable[..., Any], words: tuple[str, ...], said: str
):
    answer = foveate("cost", "--clip", "tiny", *words)
    assert answer.code == 2
    assert said in answer.err
    assert not answer.out
