"""Work in pieces that shrink, on a device whose memory ends at some size: a function that refuses more."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from foveate.clip import rows as rows_module
from foveate.clip.model import Clip, Vision
from foveate.clip.rows import encode_rows, text_rows
from foveate.data.loader import PictureSet
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.evaluate.answers import Answers, ask
from foveate.memory import Pieces, TowerTurns, in_passing, release_pages, sent
from foveate.methods.registry import build

NAMES = ("cat", "dog", "phone")


def full() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize(
    ("size", "room", "tried"),
    [(64, 100, [64]), (64, 16, [64, 32, 16]), (100, 10, [100, 50, 25, 12, 6]), (3, 1, [3, 1])],
)
def test_pieces_are_halved_until_they_fit_and_stay_so(size: int, room: int, tried: list[int]):
    sizes: list[int] = []

    def work(most: int) -> int:
        sizes.append(most)
        if most > room:
            raise full()
        return most

    pieces = Pieces(size)
    assert pieces.run(work) == tried[-1]
    assert sizes == tried
    assert pieces.run(work) == tried[-1]
    assert sizes == [*tried, tried[-1]]


def test_what_does_not_fit_at_all_is_an_error():
    sizes: list[int] = []

    def work(most: int) -> None:
        sizes.append(most)
        raise full()

    with pytest.raises(torch.OutOfMemoryError, match="Tried to allocate"):
        Pieces(8).run(work)
    assert sizes == [8, 4, 2, 1]


def test_other_errors_pass():
    def work(most: int) -> None:
        raise RuntimeError(f"not about memory: {most}")

    with pytest.raises(RuntimeError, match="memory: 8"):
        Pieces(8).run(work)


def test_nothing_of_a_failed_try_is_alive_in_the_next():
    alive: list[int] = []

    class Large:
        def __init__(self) -> None:
            alive.append(1)

        def __del__(self) -> None:
            alive.pop()

    def work(most: int) -> int:
        assert not alive
        large = Large()
        if most > 1:
            raise full()
        return len(alive) if large else 0

    assert Pieces(4).run(work) == 1


def pictures(number: int) -> PictureSet:
    rng = np.random.default_rng(0)

    def one(channels: int) -> MemoryPicture:
        shape = (32, 32, channels) if channels == 3 else (32, 32)
        pixels = rng.integers(0, 256, shape, dtype=np.uint8)
        return MemoryPicture(
            Image.fromarray(pixels if channels == 3 else (pixels > 128).astype(np.uint8) * 255)
        )

    samples = tuple(Sample(one(3), place % 3, one(1)) for place in range(number))
    return PictureSet(Photos(NAMES, samples, "binary255"), 32)


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Let the image tower refuse more pictures than fit; return how many it was asked about, by pass."""

    def limited(most: int) -> list[int]:
        passes: list[int] = []
        tokens = Vision.tokens

        def refusing(tower: Vision, given: torch.Tensor) -> torch.Tensor:
            passes.append(len(given))
            if len(given) > most:
                raise full()
            return tokens(tower, given)

        monkeypatch.setattr(Vision, "tokens", refusing)
        return passes

    return limited


def same(some: Answers, others: Answers) -> None:
    for name in ("logits", "labels", "foreground", "trust"):
        torch.testing.assert_close(getattr(some, name), getattr(others, name), rtol=1e-5, atol=1e-5)


def test_an_evaluation_goes_on_with_fewer_pictures_at_once(tiny_clip: Clip, room: Callable[[int], list[int]]):
    method = build("fvgpt+coop", tiny_clip)
    method.set_classes(NAMES)
    whole = ask(method, pictures(11), "new", batch_size=6, with_foreground=True)
    passes = room(2)
    told: list[int] = []
    few = ask(
        method,
        pictures(11),
        "new",
        batch_size=6,
        with_foreground=True,
        watch=lambda done, _: told.append(done),
    )
    same(few, whole)
    assert few.logits.shape == (11, 3)
    assert told == [6, 11]
    assert passes[:3] == [6, 3, 1]
    assert sum(size for size in passes if size <= 2) == 22  # each picture once, and its foreground once


def test_an_evaluation_that_cannot_go_on_says_so(tiny_clip: Clip, room: Callable[[int], list[int]]):
    method = build("zeroshot", tiny_clip)
    method.set_classes(NAMES)
    room(0)
    with pytest.raises(torch.OutOfMemoryError):
        ask(method, pictures(3), "base", batch_size=2)


@pytest.mark.parametrize("gradient", [False, True])
def test_texts_are_read_in_smaller_chunks(tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch, gradient: bool):
    rows = text_rows(tiny_clip, ["a cat", "a phone on a photo", "dog", "a photo of a cat of a dog"])
    weight = tiny_clip.text.token.weight
    weight.requires_grad_(gradient)
    expected = encode_rows(tiny_clip.text, rows)
    read, room = rows_module._read_rows, max(rows.lengths)
    largest: list[int] = []

    def refusing(text, piece, lengths, *rest):
        largest.append(len(piece[0]))
        if largest[-1] > room:
            raise full()
        return read(text, piece, lengths, *rest)

    monkeypatch.setattr(rows_module, "_read_rows", refusing)
    found = encode_rows(tiny_clip.text, rows)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert largest[0] == sum(rows.lengths) > room >= largest[-1]
    assert found.requires_grad == gradient
    if gradient:
        own, others = (torch.autograd.grad(one.square().sum(), weight)[0] for one in (found, expected))
        torch.testing.assert_close(own, others, rtol=1e-4, atol=1e-4)


def test_on_the_cpu_nothing_is_copied():
    tensor = torch.ones(3)
    assert sent(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_the_way_to_a_gpu_nothing_changes():
    tensor = torch.arange(1000.0)
    there = sent(tensor, torch.device("cuda"))
    assert there.is_cuda
    assert torch.equal(there.cpu(), tensor)


@pytest.fixture
def mapped(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Two tensors of 32 MB that are mapped from a file, and not read yet."""
    path = tmp_path / "weights.safetensors"
    save_file({name: torch.arange(8_000_000.0) + row for row, name in enumerate(("a", "b"))}, path)
    return load_file(path)


def in_memory() -> int:
    """Return the megabytes of files that this process has in memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssFile")) // 1024


only_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux can release pages")


@only_linux
def test_released_weights_leave_the_memory_and_are_read_again(mapped: dict[str, torch.Tensor]):
    before = in_memory()
    wanted = {name: tensor.clone() for name, tensor in mapped.items()}
    assert in_memory() - before >= 55
    assert release_pages([mapped["a"]]) >= 31_990_000
    assert 25 <= in_memory() - before <= 40
    assert all(torch.equal(mapped[name], tensor) for name, tensor in wanted.items())


@only_linux
def test_weights_that_were_changed_stay(mapped: dict[str, torch.Tensor]):
    mapped["b"][5] = -1.0
    assert release_pages(mapped.values()) == 0
    assert mapped["b"][5] == -1.0


def test_weights_of_no_file_stay():
    assert release_pages([torch.ones(1_000_000)]) == 0


@only_linux
def test_weights_are_released_in_passing(mapped: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foveate.memory._PART", 1)
    before, most = in_memory(), 0
    for name, tensor in in_passing(mapped.items()):
        assert tensor.sum() > 0, name
        most = max(most, in_memory() - before)
    assert 25 <= most <= 40
    assert in_memory() - before <= 5


@only_linux
def test_of_two_towers_one_is_in_memory(mapped: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foveate.memory._PART", 1)
    before = in_memory()
    text, vision = (
        torch.nn.ParameterList([torch.nn.Parameter(mapped[name], requires_grad=False)]) for name in "ab"
    )
    turns = TowerTurns(text, vision)
    text[0].sum()
    turns.encoding()
    vision[0].sum()
    turns.encoding()  # says nothing new, and releases nothing
    assert 25 <= in_memory() - before <= 40
    turns.encoded()
    assert in_memory() - before <= 5


def test_small_towers_stay(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("foveate.memory.release_pages", lambda _: pytest.fail("released"))
    turns = TowerTurns(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    turns.encoding()
    turns.encoded()
