"""One job: what its result says, and what becomes of finished, half-written and damaged ones."""

import json
import os
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest

from foveate.classifier import Classifier
from foveate.datasets.draws import make_draw, read_draw, take_draw, write_draw
from foveate.errors import InputError
from foveate.explain.measure import LookConfig, look
from foveate.sweep import running, sets
from foveate.sweep.jobs import Job, Question
from foveate.sweep.plan import plan, standing
from foveate.sweep.results import RESULT, alone_in, check_same, read_result, unpacked
from foveate.sweep.running import SweepContext, WorkerState, missing, run_job
from foveate.sweep.sets import keep_draw

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def jobs(config, request):
    return {
        (job.row.split(" ")[0] if "backbone" in job.row else job.row, job.dataset): job
        for job in plan(config()).jobs
    }


@pytest.fixture
def desk(root: Path, tmp_path: Path) -> WorkerState:
    return WorkerState(SweepContext(root, tmp_path / "out"))


def test_a_result_says_all(jobs: dict[tuple[str, str], Job], desk: WorkerState, clip_folder: Path):
    job = jobs["CoOp", "eurosat"]
    said: list[str] = []
    assert not run_job(job, desk, lambda what, done, total: said.append(what)).before
    result = read_result(desk.context.out / job.key)
    assert result is not None
    assert (result.key, result.row, result.method, result.seed) == (job.key, "CoOp", "coop", 1)
    assert (result.shots, result.pictures, result.learned_numbers) == (2, 6, 4 * 64)
    assert result.recipe == "released-code"
    assert result.config["training"]["epochs"] == 3
    assert result.config["training"]["augment"] == "squash"
    assert result.config["settings"]["coop"]["tokens"] == 4
    assert set(result.hashes) == {"weights", "split", "draw", "shots", "names", "masks"}
    assert all(len(value) == 16 for value in result.hashes.values())
    assert set(result.versions) >= {"foveate", "torch", "python"}
    assert result.seconds["train"] > 0
    assert result.seconds["test"] > 0
    assert 20 < result.peak_memory_mb < 20_000
    assert {"training coop", "asking about eurosat, base"} <= set(said)
    assert [(one.split, one.pictures, one.classes) for one in result.measured] == [
        ("base", 6, 3),
        ("new", 6, 3),
        ("all", 12, 6),
    ]
    for one in result.measured:
        right = unpacked(one.right, one.pictures)
        assert one.accuracy == pytest.approx(100 * right.float().mean().item())
        assert sum(right for right, _ in one.per_class.values()) == int(right.sum())
        assert sum(of for _, of in one.per_class.values()) == one.pictures
    both = result.of("eurosat", "all")
    assert both is not None
    assert (both.trained + both.others) / 2 == pytest.approx(both.accuracy)
    assert not (desk.context.out / job.key / "run" / "stages").exists()


def test_draws_are_kept(jobs: dict[tuple[str, str], Job], desk: WorkerState, root: Path):
    job = jobs["CoOp", "eurosat"]
    run_job(job, desk)
    path = desk.context.out / "draws" / "eurosat" / "shot_2-seed_1.json"
    kept, photos = read_draw(path), sets.photos_of(root, "eurosat")
    assert kept == make_draw(photos, "eurosat", 2, 1)
    assert read_result(desk.context.out / job.key).hashes["shots"] == kept.hash[:16]
    learned = take_draw(photos, kept).train.only([0, 1, 2])  # of the base classes
    assert read_result(desk.context.out / job.key).hashes["draw"] == learned.digest()[:16]

    same = path.stat().st_mtime_ns
    run_job(jobs["CoOp + FVG-PT", "eurosat"], desk)
    assert path.stat().st_mtime_ns == same
    run_job(jobs["CLIP", "dtd"], desk)
    assert not (desk.context.out / "draws" / "dtd").exists()  # nothing is learned


def test_another_split_than_that_of_the_kept_draw_is_refused(
    jobs: dict[tuple[str, str], Job], desk: WorkerState
):
    job = jobs["CoOp", "eurosat"]
    run_job(job, desk)
    path = desk.context.out / "draws" / "eurosat" / "shot_2-seed_1.json"
    kept = read_draw(path)
    write_draw(path, replace(kept, train=kept.train[::-1]))
    with pytest.raises(InputError, match=r"shot_2-seed_1.json: now other pictures of eurosat would be drawn"):
        run_job(jobs["MMRL + FVG-PT", "eurosat"], desk)


def test_a_damaged_draw_is_set_aside(jobs: dict[tuple[str, str], Job], desk: WorkerState, root: Path):
    job = jobs["CoOp", "eurosat"]
    path = desk.context.out / "draws" / "eurosat" / "shot_2-seed_1.json"
    path.parent.mkdir(parents=True)
    path.write_text('{"schema": 1')
    drawn, (note,) = keep_draw(desk.context.out, job, sets.photos_of(root, "eurosat"))
    assert note.startswith(f"{path}: is no few-shot draw")
    assert note.endswith("set aside as shot_2-seed_1.json.damaged, and made anew")
    assert path.with_name(f"{path.name}.damaged").read_text() == '{"schema": 1'
    assert read_draw(path).hash[:16] == drawn


def test_answers_are_those_of_evaluate(jobs: dict[tuple[str, str], Job], desk: WorkerState, root: Path):
    """Features kept from question to question change nothing."""
    for job in (jobs["backbone", "eurosat"], jobs["MMRL + FVG-PT", "eurosat"]):
        run_job(replace(job, shift=True, gaze=True), desk)
    folder = desk.context.out / job.key
    result, model = read_result(folder), Classifier.from_pretrained(folder / "run")
    test = sets.photos_of(root, "eurosat").split("test")
    for split in ("base", "new", "all"):
        one, plain = result.of("eurosat", split), model.evaluate(test, split, shift=True)
        assert (
            unpacked(one.right, one.pictures).tolist() == (plain.logits.argmax(-1) == plain.labels).tolist()
        )
        assert one.shift == pytest.approx(plain.shift, rel=1e-3)
        pictures, branch = model.ask_split(test, split)
        looks = look(model.method, pictures, branch, LookConfig(about="label", steps=0))
        assert one.gaze == pytest.approx(looks.means()["energy"], abs=1e-5)


def test_a_metric_that_is_asked_for_later_is_measured_then(
    jobs: dict[tuple[str, str], Job], desk: WorkerState
):
    job = jobs["backbone", "eurosat"]
    run_job(job, desk)
    before = read_result(desk.context.out / job.key)
    asked = replace(job, gaze=True)
    assert missing(asked, before) == job.questions
    run_job(asked, desk)
    after = read_result(desk.context.out / job.key)
    assert not missing(asked, after)
    assert after.seconds["train"] == before.seconds["train"]
    for was, now in zip(before.measured, after.measured, strict=True):
        assert (was.gaze, was.of_masks) == (None, ())
        assert now == replace(was, gaze=now.gaze, of_masks=("gaze",))
        assert now.gaze is not None


def test_a_finished_job_is_skipped_and_a_half_written_one_goes_on(
    jobs: dict[tuple[str, str], Job], desk: WorkerState, monkeypatch: pytest.MonkeyPatch
):
    job = jobs["CoOp", "eurosat"]
    run_job(job, desk)
    folder = desk.context.out / job.key
    text = (folder / RESULT).read_bytes()
    assert run_job(job, desk).before
    assert (folder / RESULT).read_bytes() == text
    log = (folder / "run" / "log.jsonl").read_text()
    (folder / RESULT).unlink()
    assert not run_job(job, desk).before
    assert (folder / "run" / "log.jsonl").read_text() == log  # what was trained is not trained again
    first, again = json.loads(text), json.loads((folder / RESULT).read_text())
    assert first["measured"] == again["measured"]


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"schema": 1}', b"[]", b'{"schema": 1, "key": "x", "measured": 3}']
)
def test_a_damaged_result_is_named_and_set_aside(
    jobs: dict[tuple[str, str], Job], desk: WorkerState, content: bytes
):
    job = jobs["CLIP", "eurosat"]
    run_job(job, desk)
    folder = desk.context.out / job.key
    (folder / RESULT).write_bytes(content)
    done = run_job(job, desk)
    assert [note.count(str(folder / RESULT)) for note in done.notes] == [1]
    assert (folder / f"{RESULT}.damaged").read_bytes() == content
    assert read_result(folder) is not None


def test_a_result_of_a_newer_foveate_is_refused(jobs: dict[tuple[str, str], Job], desk: WorkerState):
    job = jobs["CLIP", "eurosat"]
    run_job(job, desk)
    path = desk.context.out / job.key / RESULT
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema": 2, "unknown": 1}))
    for again in (lambda: run_job(job, desk), lambda: standing([job], desk.context.out)):
        with pytest.raises(InputError, match=r"result.json was written by a newer foveate: upgrade"):
            again()
    assert path.is_file()


def test_a_damaged_run_is_set_aside(jobs: dict[tuple[str, str], Job], desk: WorkerState):
    job = jobs["CoOp", "eurosat"]
    run_job(job, desk)
    folder = desk.context.out / job.key
    (folder / RESULT).unlink()
    (folder / "run" / "model.safetensors").write_bytes(b"cut off")
    (note,) = run_job(job, desk).notes
    assert "model.safetensors is damaged" in note
    assert (folder / "run.damaged" / "model.safetensors").read_bytes() == b"cut off"
    assert read_result(folder) is not None


def test_a_question_that_is_added_trains_nothing(jobs: dict[tuple[str, str], Job], desk: WorkerState):
    job = jobs["CoOp", "eurosat"]
    few = replace(job, questions=job.questions[:1])
    run_job(few, desk)
    folder = desk.context.out / job.key
    before = read_result(folder)
    log = (folder / "run" / "log.jsonl").stat().st_mtime_ns
    assert standing([job], desk.context.out).left == (job,)
    run_job(job, desk)
    after = read_result(folder)
    assert after.measured[0] == before.measured[0]
    assert [one.split for one in after.measured] == ["base", "new", "all"]
    assert after.seconds["train"] == before.seconds["train"]
    assert (folder / "run" / "log.jsonl").stat().st_mtime_ns == log


def test_all_of_another_sets_classes_are_new(jobs: dict[tuple[str, str], Job], desk: WorkerState):
    """Two sets share names here, and still each is asked about all of them."""
    job = replace(jobs["CoOp", "eurosat"], questions=(Question("eurosat", "base"), Question("dtd", "new")))
    run_job(job, desk)
    other = read_result(desk.context.out / job.key).of("dtd", "new")
    assert (other.pictures, other.classes) == (8, 4)


def test_a_copy_takes_the_result_over(jobs: dict[tuple[str, str], Job], desk: WorkerState):
    job = jobs["CoOp", "eurosat"]
    twin = replace(job, row="all terms", copies=job.key, questions=job.questions[:2])
    with pytest.raises(InputError, match="which it is a copy of, has no result"):
        run_job(twin, desk)
    run_job(job, desk)
    run_job(twin, desk)
    first, second = (read_result(desk.context.out / one.key) for one in (job, twin))
    assert (second.row, second.key) == ("all terms", twin.key)
    assert second.measured == first.measured[:2]
    assert not (desk.context.out / twin.key / "run").exists()


def test_warnings_are_notes(
    jobs: dict[tuple[str, str], Job], desk: WorkerState, monkeypatch: pytest.MonkeyPatch, capsys
):
    def warn(*_: object) -> None:
        warnings.warn("the disk is\nnearly full", UserWarning, stacklevel=1)

    monkeypatch.setattr(running, "begin", warn)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        done = run_job(jobs["CLIP", "eurosat"], desk)
    assert done.notes == ("the disk is nearly full",)
    assert capsys.readouterr().err == ""


def test_no_masks_is_said_before_training(jobs: dict[tuple[str, str], Job], root: Path, tmp_path: Path):
    shutil.copytree(root / "eurosat", tmp_path / "bare" / "eurosat", ignore=shutil.ignore_patterns("mask"))
    desk = WorkerState(SweepContext(tmp_path / "bare", tmp_path / "out"))
    with pytest.raises(InputError, match=r"eurosat has no masks, and fvgpt\+coop learns from them"):
        run_job(jobs["CoOp + FVG-PT", "eurosat"], desk)


def test_what_is_said_of_failures():
    mistake = running.failure_of(KeyError("x"))
    assert (mistake.line, mistake.trace.splitlines()[-1]) == ("KeyError: 'x'", "KeyError: 'x'")
    assert running.failure_of(InputError("no\nsuch set")) == running.JobFailure("no such set")
    full = OSError(28, "No space left on device", "/out/x")
    assert running.failure_of(full) == running.JobFailure("/out/x: No space left on device")


def test_reports_are_few_but_have_the_end_of_each_step():
    reports: list[tuple[str, int, int]] = []
    report = running.throttled(lambda *progress: reports.append(progress), 3600.0)
    for progress in [("training", 1, 3), ("training", 2, 3), ("training", 3, 3), ("asking", 1, 2)]:
        report(*progress)
    assert reports == [("training", 1, 3), ("training", 3, 3)]


def test_another_sweep_of_the_folder_is_refused(config, jobs: dict[tuple[str, str], Job], desk: WorkerState):
    run_job(jobs["CoOp", "eurosat"], desk)
    out = desk.context.out
    more = plan(config(("seeds: [1]", "seeds: [1, 2]"), ("  CoOp:", "  KgCoOp: {method: kgcoop}\n  CoOp:")))
    check_same(out, more.jobs)  # rows and seeds may be added
    for change, said in (
        (("epochs: 3", "epochs: 4"), r"recipe\.epochs was 3, now 4"),
        (("shots: 2", "shots: 3"), "shots was 2, now 3"),
        (("{method: coop}", "{method: coop, coop: {tokens: 2}}"), r"settings\.coop\.tokens was 4, now 2"),
    ):
        with pytest.raises(
            InputError, match=f"holds another sweep: in base-to-new/eurosat/coop/seed-1, {said}"
        ):
            check_same(out, plan(config(change)).jobs)


def test_two_sweeps_in_one_folder(tmp_path: Path):
    with (
        alone_in(tmp_path / "out"),
        pytest.raises(InputError, match=r"another sweep is at work in .*out \(process \d+ on "),
        alone_in(tmp_path / "out"),
    ):
        pass
    with alone_in(tmp_path / "out"):  # and when it has ended
        assert (tmp_path / "out" / ".sweep.json").is_file()
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file is a file: give a folder"), alone_in(tmp_path / "file"):
        pass


def test_what_a_killed_writer_has_left_is_removed(tmp_path: Path):
    job = tmp_path / "out" / "few-shot" / "dtd"
    job.mkdir(parents=True)
    left, young, other = (job / name for name in (".result.json.a1_b2c3d", ".job.json.9xy_zabc", ".lock"))
    for path in (left, young, other):
        path.write_text("{")
    for path in (left, other):
        os.utime(path, (1, 1))
    with alone_in(tmp_path / "out"):
        assert sorted(job.iterdir()) == [young, other]  # a dying worker may be at the young one


def test_no_masks_is_said_before_anything_is_done(root: Path, tmp_path: Path):
    shutil.copytree(root / "dtd", tmp_path / "dtd", ignore=shutil.ignore_patterns("mask"))
    shutil.copytree(root / "eurosat", tmp_path / "eurosat")
    sets.check_there(tmp_path, ["dtd", "eurosat"], {"eurosat": "fvgpt+coop"})
    with pytest.raises(InputError, match=r"1 of 2 data sets .* no masks: dtd; fvgpt\+coop needs them"):
        sets.check_there(tmp_path, ["dtd", "eurosat"], {"dtd": "fvgpt+coop", "eurosat": "fvgpt+coop"})


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux forgets a peak")
def test_the_peak_is_of_the_job():
    import torch

    from foveate.memory import peak_mb, reset_peak

    big = torch.ones(50_000_000)
    reset_peak()
    with_big = peak_mb()
    del big
    reset_peak()
    assert peak_mb() < with_big - 150
