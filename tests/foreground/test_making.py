"""Many masks: made in batches, kept as they come, gone on with after any stop, in one process or several."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from foveate.errors import InputError
from foveate.files import sha256_of, write_atomically
from foveate.foreground import store as store_module
from foveate.foreground.cleanup import TidyConfig
from foveate.foreground.cutting import Cut, Cutter, MaskJob, Missed, failure
from foveate.foreground.making import in_batches, make_masks, mask_key, opening_of
from foveate.foreground.opening import BadPicture
from foveate.foreground.proposers.base import Proposal, Proposer, Request
from foveate.foreground.store import MaskStore, read_manifest

SCRIPT = """
import os, sys, time
from pathlib import Path
import numpy as np
from foveate.errors import InputError
from foveate.foreground.making import MaskJob, make_masks
from foveate.foreground.opening import BadPicture
from foveate.foreground.proposers.base import Proposal, Proposer
from foveate.foreground.store import MaskStore

class Bright(Proposer):
    name, batch = "bright", 2
    def propose(self, requests):
        return [self.one(request) for request in requests]
    def one(self, request):
        time.sleep(float(os.environ.get("WAIT", "0")))
        if request.name == os.environ.get("DIE"):
            os._exit(9)
        if request.name == os.environ.get("REFUSE"):
            raise InputError("the model is broken: get it again")
        grey = np.asarray(request.picture.convert("L"))
        return Proposal(grey > 128, float(grey.mean()) / 255, meta={"grey": int(grey.sum())})

if __name__ == "__main__":
    photos, out, workers = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
    files = sorted(photos.rglob("*.png"))
    jobs = [MaskJob(file.relative_to(photos).as_posix(), file) for file in files]
    with MaskStore.open(out, {"by": "bright"}) as store:
        try:
            made = make_masks(jobs, Bright(), store, workers=workers, opening=Bright)
        except InputError as error:
            sys.exit(str(error))
    print(made.made, made.kept)
"""


class Fake(Proposer):
    """Finds what is bright; fails as it is told to."""

    name, batch = "fake", 4

    def __init__(self, wrong: dict[str, Exception | str] | None = None) -> None:
        self.wrong = wrong or {}
        self.asked: list[list[str]] = []

    def propose(self, requests: Sequence[Request]) -> list[Proposal]:
        self.asked.append([request.name for request in requests])
        return [self._one(request) for request in requests]

    def _one(self, request: Request) -> Proposal:
        wrong = self.wrong.get(request.name)
        if isinstance(wrong, Exception):
            raise wrong
        grey = np.asarray(request.picture.convert("L"))
        mask = grey[:1] > 0 if wrong == "small" else grey > 128
        return Proposal(mask, float("nan") if wrong == "nan" else 0.75, meta={"said": request.prompt})


class Reader(Fake):
    name, reads_text = "reader", True


@pytest.fixture
def pictures(tmp_path: Path) -> Callable[..., list[MaskJob]]:
    """Draw so many pictures, a white box on grey each, as jobs."""

    def draw(number: int = 6, where: str = "photos") -> list[MaskJob]:
        jobs: list[MaskJob] = []
        for row in range(number):
            pixels = np.random.default_rng(row).integers(20, 90, (24, 32, 3), dtype=np.uint8)
            pixels[6:18, 8 : 20 + row % 4] = 230
            file = tmp_path / where / f"c{row % 2}" / f"{row}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            jobs.append(MaskJob(f"c{row % 2}/{row}.png", file, f"class {row % 2}", f"the class {row % 2}"))
        return jobs

    return draw


def _make(jobs: Sequence[MaskJob], proposer: Proposer, out: Path, **how: object):
    with MaskStore.open(out, mask_key(proposer, TidyConfig())) as store:
        return make_masks(jobs, proposer, store, **how)


def _tree(folder: Path) -> dict[str, bytes]:
    """Return the files there are; hidden are those that a killed process was writing."""
    files = (path for path in folder.rglob("[!.]*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# --- one picture ---


def test_a_cut_has_the_mask_and_all_that_is_known_of_it(pictures):
    job = pictures(1)[0]
    (cut,) = Cutter(Fake())([job])
    assert isinstance(cut, Cut)
    record = cut.record
    assert (record.name, record.width, record.height) == ("c0/0.png", 32, 24)
    assert (record.label, record.prompt, record.meta) == ("class 0", "the class 0", {"said": "the class 0"})
    assert record.sha256 == sha256_of(job.path)
    assert (record.score, record.fallback) == (0.75, False)
    assert record.area == pytest.approx(12 * 12 / (24 * 32), abs=0.01)
    assert cut.mask[7:17, 9:19].all()


def test_a_picture_is_decoded_upright(tmp_path):
    stored = np.full((20, 40, 3), 40, np.uint8)
    stored[:, :20] = 240  # the left half of what is stored is the top of what is looked at
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    (cut,) = Cutter(Fake())([MaskJob("a.png", tmp_path / "a.png")])
    assert cut.mask.shape == (40, 20)
    assert cut.mask[:19].all()
    assert not cut.mask[21:].any()


@pytest.mark.parametrize("wrong", [RuntimeError("out of\nluck"), BadPicture("x", "is odd"), "nan", "small"])
def test_a_proposer_that_fails_on_one_picture_costs_no_other_its_mask(pictures, wrong):
    jobs = pictures(4)
    proposer = Fake({"c1/1.png": wrong})
    cuts = Cutter(proposer)(jobs)
    why = [failure(cut.record) for cut in cuts]
    assert [reason is None for reason in why] == [True, False, True, True]
    record = cuts[1].record
    assert (record.score, record.area, record.fallback, record.refined) == (0.0, 1.0, True, False)
    assert cuts[1].mask.all()
    assert "\n" not in str(why[1])
    if isinstance(wrong, Exception):
        assert proposer.asked[1:] == [[job.name] for job in jobs]


def test_a_proposer_that_answers_about_fewer_pictures_is_asked_one_by_one(pictures):
    class Forgetful(Fake):
        def propose(self, requests: Sequence[Request]) -> list[Proposal]:
            return super().propose(requests[:1])

    cuts = Cutter(Forgetful())(pictures(3))
    assert [failure(cut.record) for cut in cuts] == [None] * 3


def test_nothing_found_is_the_full_picture_with_score_zero(tmp_path):
    Image.new("RGB", (20, 10), (30, 30, 30)).save(tmp_path / "dark.png")
    (cut,) = Cutter(Fake())([MaskJob("dark.png", tmp_path / "dark.png")])
    assert cut.mask.all()
    assert (cut.record.score, cut.record.fallback, failure(cut.record)) == (0.0, True, None)


def test_a_proposer_that_cannot_work_at_all_is_no_matter_of_one_picture(pictures):
    with pytest.raises(InputError, match="no model"):
        Cutter(Fake({"c0/2.png": InputError("no model")}))(pictures())


def test_a_picture_that_is_gone_is_missed(tmp_path):
    (missed,) = Cutter(Fake())([MaskJob("a.png", tmp_path / "a.png")])
    assert isinstance(missed, Missed)
    assert missed.reason == "does not exist"


# --- many ---


def test_masks_are_asked_for_in_batches_and_counted(pictures, tmp_path):
    counted: list[tuple[int, int]] = []
    proposer = Fake()
    made = _make(pictures(10), proposer, tmp_path / "out", on_count=lambda *two: counted.append(two))
    assert [len(names) for names in proposer.asked] == [4, 4, 2]
    assert counted == [(4, 10), (8, 10), (10, 10)]
    assert (made.made, made.kept, made.skipped, made.failed) == (10, 0, (), ())
    assert len(read_manifest(tmp_path / "out")) == 10
    assert (tmp_path / "out/c1/1.png").is_file()


def test_what_is_made_is_not_made_again(pictures, tmp_path):
    jobs = pictures(5)
    _make(jobs[:3], Fake(), tmp_path / "out")
    before = _tree(tmp_path / "out")
    proposer = Fake()
    made = _make(jobs, proposer, tmp_path / "out")
    assert proposer.asked == [[jobs[3].name, jobs[4].name]]
    assert (made.made, made.kept) == (2, 3)
    after = _tree(tmp_path / "out")
    assert all(after[name] == content for name, content in before.items() if name.endswith(".png"))
    again = _make(jobs, Fake({job.name: RuntimeError() for job in jobs}), tmp_path / "out")
    assert (again.made, again.kept) == (0, 5)
    assert _tree(tmp_path / "out") == after


def test_a_picture_that_changed_gets_a_new_mask(pictures, tmp_path):
    jobs = pictures(3)
    _make(jobs, Fake(), tmp_path / "out")
    Image.new("RGB", (50, 20), "white").save(jobs[1].path)
    assert _make(jobs, Fake(), tmp_path / "out").made == 1
    (record,) = [one for one in read_manifest(tmp_path / "out") if one.name == jobs[1].name]
    assert (record.width, record.height, record.sha256) == (50, 20, sha256_of(jobs[1].path))


def test_other_words_make_a_new_mask_where_they_are_read(pictures, tmp_path):
    jobs = pictures(2)
    other = [MaskJob(job.name, job.path, "tree frog", "the tree frog") for job in jobs]
    for proposer, made in ((Fake(), 0), (Reader(), 2)):
        out = tmp_path / proposer.name
        _make(jobs, proposer, out)
        assert _make(other, proposer, out).made == made
    assert {record.label for record in read_manifest(tmp_path / "reader")} == {"tree frog"}


def test_what_failed_is_tried_again(pictures, tmp_path):
    jobs = pictures(3)
    first = _make(jobs, Fake({jobs[1].name: RuntimeError("bad luck")}), tmp_path / "out")
    assert [(one.job.name, one.reason) for one in first.failed] == [(jobs[1].name, "RuntimeError: bad luck")]
    assert _make(jobs, Fake(), tmp_path / "out").made == 1
    assert [record.fallback for record in read_manifest(tmp_path / "out")].count(True) == 0


def test_a_proposer_that_fails_on_everything_is_stopped_early(pictures, tmp_path):
    jobs = pictures(30)
    proposer = Fake({job.name: RuntimeError("no operator nms") for job in jobs})
    with pytest.raises(InputError, match=r"fake failed on each of the first 16 pictures, .*no operator nms"):
        _make(jobs, proposer, tmp_path / "out")


def test_a_broken_picture_in_the_middle_stops_and_keeps_what_is_done(pictures, tmp_path):
    jobs = pictures(10)
    jobs[5].path.write_bytes(b"no picture at all")
    with pytest.raises(InputError) as raised:
        _make(jobs, Fake(), tmp_path / "out")
    line = str(raised.value)
    assert line.startswith(f"{jobs[5].path}: is not a picture")
    assert line.endswith("(7 of 10 masks are there, and the same command goes on)")
    assert "\n" not in line
    assert [record.name for record in read_manifest(tmp_path / "out")] == [
        job.name for job in jobs[:8] if job is not jobs[5]
    ]


def test_a_broken_picture_is_left_out_where_that_is_wanted(pictures, tmp_path):
    jobs = pictures(10)
    jobs[5].path.write_bytes(jobs[5].path.read_bytes()[:60])
    made = _make(jobs, Fake(), tmp_path / "out", on_bad="skip")
    assert (made.made, [missed.job.name for missed in made.skipped]) == (9, [jobs[5].name])


def test_no_class_name_for_a_proposer_that_reads_one(pictures, tmp_path):
    jobs = [MaskJob(job.name, job.path) for job in pictures(2)]
    with pytest.raises(InputError, match=r"0\.png: reader must be told what to look for, .*--proposer clas"):
        _make(jobs, Reader(), tmp_path / "out")
    assert _make(jobs, Fake(), tmp_path / "out2").made == 2


def test_no_pictures(tmp_path):
    with pytest.raises(InputError, match="no pictures"):
        _make([], Fake(), tmp_path / "out")


def test_batches_lose_nothing():
    assert [*in_batches([], 3)] == []
    jobs = [MaskJob(str(number), Path()) for number in range(7)]
    assert [len(few) for few in in_batches(jobs, 3)] == [3, 3, 1]
    assert [job for few in in_batches(jobs, 0) for job in few] == jobs


# --- stops ---


def test_a_full_disk_leaves_whole_masks_and_can_be_gone_on_with(pictures, tmp_path, monkeypatch):
    jobs = pictures(9)
    _make(jobs, Fake(), tmp_path / "whole")
    left = 5

    def full(path: Path, content: bytes | str) -> None:
        nonlocal left
        left -= path.suffix == ".png"
        if left < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        write_atomically(path, content)

    monkeypatch.setattr(store_module, "write_atomically", full)
    with pytest.raises(OSError, match="No space left") as raised:
        _make(jobs, Fake(), tmp_path / "out")
    assert raised.value.filename == str(tmp_path / "out" / jobs[5].name)
    assert len(read_manifest(tmp_path / "out")) == 5
    monkeypatch.undo()
    assert _make(jobs, Fake(), tmp_path / "out").kept == 5
    assert _tree(tmp_path / "out") == _tree(tmp_path / "whole")


@pytest.fixture
def script() -> dict[str, type[Proposer]]:
    """What the script defines."""
    defined: dict[str, type[Proposer]] = {"__name__": "script"}
    exec(SCRIPT, defined)
    return defined


@pytest.fixture
def started(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start making masks in another process: `started(out, workers, WAIT="0.1")`."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    def start(out: Path, workers: int = 1, **told: str) -> subprocess.Popen[str]:
        words = [sys.executable, str(script), str(tmp_path / "photos"), str(out), str(workers)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(words, env={**os.environ, **told}, start_new_session=True, **pipes)

    return start


def _wait_for(masks: int, out: Path, process: subprocess.Popen[str]) -> None:
    while len([*out.rglob("*.png")]) < masks:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_to_equal_bytes(pictures, started, script, tmp_path, workers):
    jobs = [MaskJob(job.name, job.path) for job in sorted(pictures(12), key=lambda job: job.name)]
    with MaskStore.open(tmp_path / "whole", {"by": "bright"}) as store:
        make_masks(jobs, script["Bright"](), store)
    killed = started(tmp_path / "out", workers, WAIT="0.1")
    _wait_for(3, tmp_path / "out", killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()  # returns when the workers have let go of the pipes too
    done = len(read_manifest(tmp_path / "out"))
    assert 2 <= done < 12
    again = started(tmp_path / "out", workers)
    assert again.communicate()[0] == f"{12 - done} {done}\n"
    assert _tree(tmp_path / "out") == _tree(tmp_path / "whole")


def test_a_process_that_dies_is_told_in_one_line(pictures, started, tmp_path):
    pictures(8)
    process = started(tmp_path / "out", 2, DIE="c1/7.png")
    _, said = process.communicate()
    assert process.returncode == 1
    assert "one of 2 processes died, perhaps for want of memory: take fewer --workers" in said


def test_what_a_proposer_refuses_in_another_process_is_told_as_it_is(pictures, started, tmp_path):
    pictures(8)
    process = started(tmp_path / "out", 2, REFUSE="c1/7.png")
    _, said = process.communicate()
    assert said.startswith("the model is broken: get it again (")


def test_several_workers_need_to_know_how_to_open_the_proposer(pictures, tmp_path):
    with pytest.raises(ValueError, match="give opening"):
        _make(pictures(2), Fake(), tmp_path / "out", workers=2)


def test_a_proposer_is_opened_by_name():
    with pytest.raises(InputError, match="did you mean 'classical'"):
        opening_of("classic", {})()
