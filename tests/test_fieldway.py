"""The field's way of the benchmark gives foveate's numbers: what is compared is time, and nothing else."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Clip
from foveate.methods.frozen import training_losses
from foveate.train.together import backward
from foveate.types import Batch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
BACKBONES = ["coop", "kgcoop", "promptsrc", "mmrl"]


@pytest.fixture(scope="module", autouse=True)
def scripts() -> Iterator[None]:
    """Scripts of the benchmark import one another by their bare names."""
    sys.path.insert(0, str(BENCHMARKS))
    yield
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def setup(scripts: None) -> ModuleType:
    import speed_setup

    return speed_setup


@pytest.fixture(scope="module")
def bench(setup: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    """The quick sizes, over a CLIP whose every tensor matters."""
    bench = setup.Bench(setup.QUICK, tmp_path_factory.mktemp("photos"))
    config = ClipConfig(TowerConfig(64, 4, 2), TowerConfig(32, 4, 2), 32, 8, embed=16)
    clip, g = Clip(config).initialise(torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    for parameter in clip.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=g)
    bench.clip = clip.eval().requires_grad_(False)
    return bench


def assert_close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    scale = expected.detach().abs().max().clamp_min(1e-6)
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_answer_alike(bench, name: str):
    ours, field = bench.both(name, 7)
    images, masks, _ = bench.field_batch(5)
    batch = bench.batch(5)
    assert torch.equal(batch.masks, masks)
    torch.testing.assert_close(batch.images, images)
    with torch.no_grad():
        expected = ours.logits(ours.features(batch.images))
        assert expected.std() > 0.1  # answers that are all alike would agree whatever was wrong
        torch.testing.assert_close(field.logits(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_learn_alike(bench, name: str):
    ours, field = bench.both(name, 7)
    batch = bench.batch(5)
    losses = training_losses(ours, batch)
    backward(ours, losses)
    loss = field.step(batch.images, batch.labels)
    assert loss == pytest.approx(sum(term.item() for term in losses.values()), rel=1e-4)
    assert field.learned.keys() == ours.learned().keys()
    for tensor, parameter in ours.learned().items():
        assert_close(field.learned[tensor].grad, parameter.grad, 1e-3)


@pytest.mark.parametrize("own_clip", [True, False])
@pytest.mark.parametrize("name", BACKBONES)
def test_stages_learn_alike(bench, name: str, own_clip: bool):
    ours, field = bench.both_stages(name, 7, bench.field_clip if own_clip else None)
    images, masks, labels = bench.field_batch(5)
    batch = bench.batch(5)
    views, field_views = ours.views(batch), field.views(images, masks)
    for logits in ("full", "foreground", "new", "clip"):
        torch.testing.assert_close(getattr(field_views, logits), getattr(views, logits), rtol=1e-4, atol=1e-4)
    losses = training_losses(ours, batch)
    backward(ours, losses)
    loss = field.step(images, masks, labels)
    assert loss == pytest.approx(sum(term.item() for term in losses.values()), rel=1e-4)
    for found, expected in zip(field.guidance.parameters(), ours.guidance.parameters(), strict=True):
        assert_close(found.grad, expected.grad, 1e-3)


def test_evaluation_answers_alike(bench):
    from fieldway import evaluate

    ours, field = bench.both("coop", 7)
    images = bench.batch(6).images
    with ours.constant_text():
        expected = ours.logits(ours.features(images))
    torch.testing.assert_close(evaluate(field, images.split(2)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ideas", range(5))
def test_each_idea_for_texts_leaves_the_numbers(bench, ideas: int):
    from speed_ideas import read_texts

    ours, field = bench.both("coop", 7)
    assert len(set(ours.rows.lengths)) > 1  # names of one length would need no padding
    found = read_texts(ours.clip.text, ours.rows, ours.ctx, ideas)
    torch.testing.assert_close(found, field.texts(), rtol=1e-4, atol=1e-4)
    weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    gradient, expected = (
        torch.autograd.grad((f * weight).sum(), vectors)[0]
        for f, vectors in ((found, ours.ctx), (field.texts(), field.learned["ctx"]))
    )
    assert_close(gradient, expected)


@pytest.mark.parametrize("name", BACKBONES)
def test_operations_are_those_that_run(bench, products_counted: None, name: str):
    from speed_flops import tuning
    from speed_setup import tune

    ours, field = bench.both(name, 7)
    images, _, labels = bench.field_batch(4)
    held = next(bench.banked(ours, 4))
    tune(ours, held)  # constant texts are encoded once
    counted = tuning(ours, bench.clip.config)
    ways = (
        (counted.field(4), lambda: field.step(images, labels)),
        (counted.ours(4), lambda: tune(ours, held)),
        (counted.ours(4, bank=False), lambda: tune(ours, Batch(images, labels))),
    )
    for expected, run in ways:
        # Only this kernel's operations are counted on a CPU.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            run()
        assert expected == pytest.approx(counter.get_total_flops(), rel=0.05)


def test_operations_of_published_sizes():
    from speed_flops import picture, whole_texts

    config = ClipConfig()
    linear = 12 * 24 * 77 * 512**2  # per block, 4 + 8 products of width² a token, two operations each
    attention = 12 * 4 * 77**2 * 512
    assert whole_texts(config, 3).forward == 3 * (linear + attention + 2 * 512 * 512)
    assert picture(config).forward == pytest.approx(35.1e9, rel=0.01)  # 17.6 G multiply-adds, as published


@pytest.mark.slow
def test_the_benchmark_runs(scripts: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import speed

    out, threads = tmp_path / "figures.json", torch.get_num_threads()
    rows = [
        *("coop", "promptsrc", "mmrl-no-bank", "stage-own-clip", "fixed-view", "second-run", "evaluation"),
        *("idea-cut", "idea-chunks", "idea-one-pass", "idea-bank", "memory-chunks"),
    ]
    try:
        speed.main(["--quick", "--pairs", "1", "--rows", *rows, "--out", str(out)])
    finally:
        torch.set_num_threads(threads)
    figures = json.loads(out.read_text())["rows"]
    assert list(figures) == speed.chosen(rows)
    assert all(figures[name]["ratio"] > 0 for name in rows[:-1])
    assert (
        figures["memory-chunks"]["foveate"]["peak_mb"] > figures["memory-chunks"]["foveate"]["loaded_mb"] > 50
    )
    printed = capsys.readouterr().out
    assert all(figure["work"] in printed for figure in figures.values())


def test_an_unknown_row_is_named(scripts: None):
    import speed

    with pytest.raises(
        SystemExit, match="no row 'cop'; there are table, ideas, compiled, memory, scale, coop"
    ):
        speed.main(["--rows", "cop"])
