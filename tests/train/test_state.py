"""A run killed at any point goes on, and ends with the bits and the log of one that was not."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from foveate.clip.model import Clip
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.frozen import training_losses
from foveate.methods.registry import build
from foveate.train import optimiser as state_file
from foveate.train.context import Context
from foveate.train.folder import alone_in, first_change
from foveate.train.journal import Journal, Reporter, Step
from foveate.train.loop import Diverged, fit
from foveate.train.optimiser import State, load_state, make_optimiser, save_state
from foveate.train.recipe import Recipe
from foveate.train.run import run_stages
from foveate.types import Batch

NAMES = ["cat", "dog", "phone"]
RECIPES = {
    "sgd": Recipe(epochs=3, lr=0.05, warmup_epochs=0),
    "adamw": Recipe(epochs=3, lr=0.01, warmup_epochs=1, optimiser="adamw"),
    "no momentum": Recipe(epochs=3, lr=0.05, warmup_epochs=0, momentum=0.0),
}
Batches = Callable[[int], Iterator[Batch]]


class KilledError(Exception):
    """Stands for the power going out."""


class Fitting:
    """One method's fit into one folder, as often as it takes."""

    def __init__(self, folder: Path, clip: Clip, method: str, recipe: Recipe):
        folder.mkdir()
        self.state, self.log = folder / "state.safetensors", folder / "log.jsonl"
        self.clip, self.method, self.recipe = clip, method, recipe

    def go(self, batches: Batches, on_step: Callable[[Step], None] | None = None) -> dict[str, Tensor]:
        """Start the process anew: an untrained method, and whatever the folder holds."""
        method = build(self.method, self.clip, seed=3)
        method.set_classes(NAMES)
        journal = Journal(self.log, self.method)
        fit(method, batches, self.recipe, state=self.state, journal=journal, on_step=on_step)
        return {name: tensor.detach().clone() for name, tensor in method.learned().items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(params=RECIPES)
def recipe(request: pytest.FixtureRequest) -> Recipe:
    return RECIPES[request.param]


@pytest.fixture(params=["coop", "fvgpt+coop"])
def fitting(request: pytest.FixtureRequest, tiny_clip: Clip, recipe: Recipe, tmp_path: Path):
    """Makes fits of one kind, each in its own folder."""
    return lambda name: Fitting(tmp_path / name, tiny_clip, request.param, recipe)


def test_a_run_killed_between_or_within_epochs_ends_with_the_same_bits(fitting, batches: Batches):
    whole = fitting("whole")
    expected = whole.go(batches)
    for epoch in range(3):
        for after in range(3):  # so many batches of that epoch, then the end

            def dying(at: int, epoch: int = epoch, after: int = after) -> Iterator[Batch]:
                for index, batch in enumerate(batches(at)):
                    if (at, index) == (epoch, after):
                        raise KilledError
                    yield batch

            killed = fitting(f"killed {epoch} {after}")
            with pytest.raises(KilledError):
                killed.go(dying)
            assert same(killed.go(batches), expected), (epoch, after)
            assert killed.log.read_text() == whole.log.read_text()


def test_a_run_killed_while_it_saves_ends_with_the_same_bits(
    fitting, batches: Batches, monkeypatch: pytest.MonkeyPatch
):
    whole = fitting("whole")
    expected = whole.go(batches)
    write = state_file.write_atomically
    for epoch in range(3):
        saves = []

        def dying(path: Path, content: bytes, epoch: int = epoch, saves: list[int] = saves) -> None:
            saves.append(1)
            if len(saves) == epoch + 1:
                path.with_name(f".{path.name}.half").write_bytes(content[: len(content) // 2])
                raise KilledError
            write(path, content)

        killed = fitting(f"killed {epoch}")
        monkeypatch.setattr(state_file, "write_atomically", dying)
        with pytest.raises(KilledError):
            killed.go(batches)
        monkeypatch.setattr(state_file, "write_atomically", write)
        assert same(killed.go(batches), expected), epoch
        assert killed.log.read_text() == whole.log.read_text()


def test_a_run_killed_while_it_logs_ends_with_the_same_log(
    fitting, batches: Batches, monkeypatch: pytest.MonkeyPatch
):
    whole, flush = fitting("whole"), Journal.flush
    expected = whole.go(batches)
    for epoch in range(3):
        flushed = []

        def dying(journal: Journal, epoch: int = epoch, flushed: list[int] = flushed) -> None:
            flushed.append(1)
            if len(flushed) == epoch + 1:
                with journal.path.open("a") as file:
                    file.write(journal._lines[0] + journal._lines[1][:20])
                raise KilledError
            flush(journal)

        killed = fitting(f"killed {epoch}")
        monkeypatch.setattr(Journal, "flush", dying)
        with pytest.raises(KilledError):
            killed.go(batches)
        monkeypatch.setattr(Journal, "flush", flush)
        assert same(killed.go(batches), expected), epoch
        assert killed.log.read_text() == whole.log.read_text()


def test_a_resumed_fit_knows_where_its_loss_began(toy, batches: Batches, tmp_path: Path):
    def fitted() -> None:
        fit(toy, batches, Recipe(epochs=3, lr=0.01), state=tmp_path / "state")

    def blow_up(step: int, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        if step == 5:
            raise KilledError
        return losses if step < 5 else {name: loss * 0 + 1e6 for name, loss in losses.items()}

    toy.spoil = blow_up
    with pytest.raises(KilledError):
        fitted()
    with pytest.raises(Diverged, match=r"step 3: the loss has exploded to 2e\+06"):
        fitted()


def test_a_resume_does_only_what_is_left(fitting, batches: Batches):
    done: list[int] = []

    def dying(at: int) -> Iterator[Batch]:
        if at == 2:
            raise KilledError
        return batches(at)

    killed = fitting("killed")
    with pytest.raises(KilledError):
        killed.go(dying)
    killed.go(batches, lambda step: done.append(step.step))
    assert done == [6, 7, 8]


def test_a_finished_fit_started_again_takes_no_step(fitting, batches: Batches):
    once = fitting("once")
    expected = once.go(batches)
    log = once.log.read_text()

    def never(_epoch: int) -> Iterator[Batch]:
        raise AssertionError("the fit is over")

    assert same(once.go(never), expected)
    assert once.log.read_text() == log


# --- whole runs, stage after stage ---


@pytest.fixture
def photos() -> Photos:
    rng = np.random.default_rng(0)
    samples = []
    for index in range(6):
        pixels = rng.integers(0, 256, (40, 48, 3), dtype=np.uint8)
        mask = np.zeros((40, 48), np.uint8)
        mask[8:32, 10 : 20 + 4 * index] = 255
        picture, shape = (MemoryPicture(Image.fromarray(a), f"{index}") for a in (pixels, mask))
        samples.append(Sample(picture, index % 3, shape))
    return Photos(tuple(NAMES), tuple(samples), "binary255")


def test_a_run_of_two_stages_killed_anywhere_ends_with_the_same_bits(
    tiny_clip: Clip, photos: Photos, tmp_path: Path
):
    recipe = Recipe(epochs=2, batch_size=2, lr=0.05, warmup_epochs=0)

    def run(name: str, until: tuple[str, int] | None = None) -> dict[str, Tensor]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)

        def dying(stage: str, total: int, step: Step) -> None:
            assert total == 6
            if until == (stage, step.step):
                raise KilledError

        reporter = Reporter()
        reporter.step = dying
        own = {"seed": 5, "folder": folder, "context": Context(reporter)}
        method = run_stages("fvgpt+coop", tiny_clip, photos, recipe, **own)
        return {name: tensor.detach().clone() for name, tensor in method.learned().items()}

    expected = run("whole")
    assert any("ctx" in name for name in expected)
    for stage in ("coop", "fvgpt+coop"):
        for step in range(6):
            name = f"{stage} {step}"
            with pytest.raises(KilledError):
                run(name, until=(stage, step))
            assert same(run(name), expected), name
            log = (tmp_path / name / "log.jsonl").read_text()
            assert log == (tmp_path / "whole" / "log.jsonl").read_text(), name


# --- the file ---


def trained(clip: Clip, batches: Batches, name: str = "coop", recipe: Recipe = RECIPES["sgd"]):
    """A method and its optimiser after one step."""
    method: Method = build(name, clip, seed=1)
    method.set_classes(NAMES)
    optimiser = make_optimiser(recipe, method.trainable())
    torch.stack(list(training_losses(method, next(iter(batches(0)))).values())).sum().backward()
    optimiser.step()
    return method, optimiser


@pytest.mark.parametrize("kind", RECIPES)
def test_the_file_brings_back_everything(kind: str, tiny_clip: Clip, batches: Batches, tmp_path: Path):
    path = tmp_path / "state"
    method, optimiser = trained(tiny_clip, batches, recipe=RECIPES[kind])
    save_state(path, method, optimiser, State(4, 17, 2.5))
    other = build("coop", tiny_clip, seed=2)
    fresh = make_optimiser(RECIPES[kind], other.trainable())
    assert load_state(path, other, fresh) == State(4, 17, 2.5)
    assert torch.equal(other.learned()["ctx"], method.learned()["ctx"])
    held, given = fresh.moments, optimiser.moments
    assert held.keys() == given.keys()
    for index in given:
        for name, value in given[index].items():
            assert (value is None and held[index].get(name) is None) or torch.equal(held[index][name], value)


def test_equal_states_are_equal_files(tiny_clip: Clip, batches: Batches, tmp_path: Path):
    for name in "abcdef":
        save_state(tmp_path / name, *trained(tiny_clip, batches, "fvgpt+coop"), State(1, 3, 1.0))
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_no_path_and_no_file_are_a_fresh_start(tiny_clip: Clip, batches: Batches, tmp_path: Path):
    method, optimiser = trained(tiny_clip, batches)
    save_state(None, method, optimiser, State(1, 1, 1.0))
    assert load_state(None, method, optimiser) == State(0, 0, 0.0)
    assert load_state(tmp_path / "none", method, optimiser) == State(0, 0, 0.0)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"\0" * len(content),
        lambda content: content.replace(b'\\"epoch\\"', b'\\"epoxy\\"'),
        lambda content: content.replace(b'"state":', b'"stale":'),
    ],
    ids=["empty", "half", "zeros", "other fields", "no fields"],
)
def test_a_damaged_file_is_refused(
    damage: Callable[[bytes], bytes], tiny_clip: Clip, batches: Batches, tmp_path: Path
):
    path = tmp_path / "state.safetensors"
    method, optimiser = trained(tiny_clip, batches)
    save_state(path, method, optimiser, State(1, 3, 1.0))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert path.read_bytes() != whole
    with pytest.raises(InputError, match=r"state.safetensors is damaged.*delete it"):
        load_state(path, method, optimiser)


@pytest.mark.parametrize(
    ("tensors", "state"),
    [
        (lambda name, t: (name, t * float("nan")), {}),
        (lambda name, t: (name, t.long()), {}),
        (lambda name, t: (name, t[:1] if name.startswith("optimiser") else t), {}),
        (lambda name, t: (name.replace("optimiser.0", "optimiser.x"), t), {}),
        (lambda name, t: (name.replace("optimiser.0", "optimiser.7"), t), {}),
        (lambda name, t: (name.replace("momentum_buffer", "exp_max"), t), {}),
        (lambda name, t: (name, t), {"epoch": -5}),
        (lambda name, t: (name, t), {"epoch": "1"}),
        (lambda name, t: (name, t), {"step": True}),
        (lambda name, t: (name, t), {"step": 1.5}),
        (lambda name, t: (name, t), {"first_loss": None}),
    ],
)
def test_a_state_that_no_run_leaves_is_refused(
    tensors: Callable[..., tuple[str, torch.Tensor]],
    state: dict[str, object],
    tiny_clip: Clip,
    batches: Batches,
    tmp_path: Path,
):
    path = tmp_path / "state.safetensors"
    method, optimiser = trained(tiny_clip, batches)
    save_state(path, method, optimiser, State(1, 3, 1.0))
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["state"]) | state
    changed = dict(tensors(*pair) for pair in load_file(path).items())
    save_file({name: t.contiguous() for name, t in changed.items()}, path, {"state": json.dumps(said)})
    before = method.learned()["ctx"].clone()
    with pytest.raises(InputError, match=r"state.safetensors is damaged.*delete it"):
        load_state(path, method, optimiser)
    assert torch.equal(method.learned()["ctx"], before)


def test_two_runs_do_not_share_a_folder(tmp_path: Path):
    with alone_in(tmp_path / "out"):
        again = alone_in(tmp_path / "out")
        with pytest.raises(InputError, match=r"another run is at work in .*out: wait for it"), again:
            pass
        (tmp_path / "out" / "run.json").touch()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["run.json"]
    with alone_in(tmp_path / "other"):
        pass
    assert not (tmp_path / "other").exists()


def test_the_state_of_another_method_is_refused(tiny_clip: Clip, batches: Batches, tmp_path: Path):
    path = tmp_path / "state"
    save_state(path, *trained(tiny_clip, batches, "fvgpt+coop"), State(1, 3, 1.0))
    method, optimiser = trained(tiny_clip, batches)
    before = method.learned()["ctx"].clone()
    with pytest.raises(InputError, match="another run"):
        load_state(path, method, optimiser)
    assert torch.equal(method.learned()["ctx"], before)


def test_the_state_of_other_shapes_is_refused(tiny_clip: Clip, batches: Batches, tmp_path: Path):
    path = tmp_path / "state"
    save_state(path, *trained(tiny_clip, batches), State(1, 3, 1.0))
    method = build("coop", tiny_clip, {"coop": {"tokens": 7}})
    with pytest.raises(InputError, match="another run"):
        load_state(path, method, make_optimiser(RECIPES["sgd"], method.trainable()))


def test_the_state_of_another_optimiser_is_refused(tiny_clip: Clip, batches: Batches, tmp_path: Path):
    path = tmp_path / "state"
    method, optimiser = trained(tiny_clip, batches)
    save_state(path, method, optimiser, State(1, 3, 1.0))
    with pytest.raises(InputError, match="of a run with SGD, not AdamW"):
        load_state(path, method, make_optimiser(RECIPES["adamw"], method.trainable()))


def test_the_first_difference_is_that_of_the_first_entry():
    """Of several, the same one in each process: the order of a set of names is another each time."""
    old, new = ({"run": {f"name {number}": value for number in range(20)}} for value in (1, 2))
    assert first_change(old, new) == "run.name 0 was 1, now 2"
    assert first_change({"seed": 1}, {"seed": 1, "shots": 4}) == "shots was null, now 4"
