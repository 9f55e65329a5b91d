"""Training the embedded CLIP: its loss, its steps, its resume; and the model that ships."""

import math
import re
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.errors import InputError
from foveate.seeds import stream
from foveate.world import train as training
from foveate.world.photos import caption, key, random_scene
from foveate.world.scenes import COLOURS, PLACES, SHAPES, TEXTURES, render
from foveate.world.species import caption_values, find_species, find_variant, pretraining_scene
from foveate.world.train import (
    Painter,
    PretrainConfig,
    PretrainState,
    card,
    climb,
    contrast,
    draw,
    finish,
    learn,
    learning_rate,
    load_training,
    make_optimiser,
    make_tokenizer,
    normalise,
    recipe_of,
    save_training,
    train,
    zero_shot_accuracy,
)

TINY = Path(str(resources.files("foveate.clip") / "tiny"))


# --- the loss ---


def by_hand(image, text, rows: list[int], scale: float) -> tuple[float, float]:
    cosines = [[float(F.cosine_similarity(i, t, dim=0)) * scale for t in text] for i in image]
    to_text, hits = [], 0
    for i, row in enumerate(rows):
        to_text.append(math.log(sum(math.exp(z) for z in cosines[i])) - cosines[i][row])
        hits += max(range(len(text)), key=lambda c, i=i: cosines[i][c]) == row
    to_image = []
    for c in range(len(text)):
        total = math.log(sum(math.exp(line[c]) for line in cosines))
        own = [total - cosines[i][c] for i in range(len(rows)) if rows[i] == c]
        to_image.append(sum(own) / len(own))
    return (sum(to_text) / len(rows) + sum(to_image) / len(text)) / 2, hits / len(rows)


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1, 0, 2], [0, 1, 0, 2, 2, 2, 3], [0, 0, 0]])
def test_the_loss_by_hand(rows: list[int]):
    g = stream(0, "contrast")
    image = torch.randn(len(rows), 8, generator=g, dtype=torch.float64)
    text = torch.randn(max(rows) + 1, 8, generator=g, dtype=torch.float64)
    rows_, scale = torch.tensor(rows), torch.tensor(5.0, dtype=torch.float64)
    loss, accuracy = contrast(image, text, rows_, scale)
    expected = by_hand(image, text, rows, 5.0)
    assert (loss.item(), accuracy.item()) == pytest.approx(expected, rel=1e-6)


def test_without_duplicates_it_is_clips_loss():
    g = stream(1, "contrast")
    image, text = torch.randn(6, 8, generator=g), torch.randn(6, 8, generator=g)
    logits = 7.0 * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    own = torch.arange(6)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    torch.testing.assert_close(contrast(image, text, own, torch.tensor(7.0))[0], expected)


def test_pictures_of_one_caption_are_positives_of_each_other():
    corners = torch.eye(3)
    rows = torch.tensor([0, 1, 2, 2])
    loss, accuracy = contrast(corners[rows], corners, rows, torch.tensor(50.0))
    # All alike is as good as it gets: a caption with two pictures cannot choose between them.
    assert loss.item() == pytest.approx(math.log(2) / 3 / 2, abs=1e-6)
    assert accuracy.item() == 1.0
    image = corners[rows].clone().requires_grad_()
    contrast(image, corners, rows, torch.tensor(50.0))[0].backward()
    assert image.grad.abs().max() < 1e-5  # so nothing pulls the two apart


# --- batches ---


def test_a_batch_depends_on_seed_step_and_difficulty_only():
    first, again = (
        draw(PretrainConfig(seed=1, batch=12), 5, 0.6),
        draw(PretrainConfig(seed=1, batch=12), 5, 0.6),
    )
    assert (first.pictures == again.pictures).all()
    assert (first.captions, first.rows, first.mentions) == (again.captions, again.rows, again.mentions)
    for other in (
        draw(PretrainConfig(seed=2, batch=12), 5, 0.6),
        draw(PretrainConfig(seed=1, batch=12), 6, 0.6),
        draw(PretrainConfig(seed=1, batch=12), 5, 0.1),
    ):
        assert (first.pictures != other.pictures).any()


@pytest.mark.parametrize("step", range(6))
def test_each_picture_points_to_the_one_caption_that_is_true_of_it(step: int):
    drawn = draw(PretrainConfig(seed=1, batch=40), step, 1.0)
    rng = np.random.default_rng([1, step])
    scenes = [random_scene(rng, 1.0) for _ in range(40)]
    assert (drawn.pictures == render(scenes)[0]).all()
    keys = [key(scene, drawn.mentions) for scene in scenes]
    assert len(drawn.captions) == len(set(drawn.captions)) == len(set(keys))
    for i, scene in enumerate(scenes):
        words = drawn.captions[drawn.rows[i]]
        assert all(v in words for v in keys[i] if v != "plain"), (words, scene)
        for j in range(i):
            assert (drawn.rows[i] == drawn.rows[j]) == (keys[i] == keys[j])


def test_another_process_draws_the_same_ahead():
    recipe = PretrainConfig(batch=3, seed=2)
    painter = Painter(recipe)
    try:
        found = [painter.batch(step, difficulty=0.1 * step) for step in range(7)]
    finally:
        painter.close()
    for step, drawn in enumerate(found):
        known = 0.1 * max(0, step - Painter.AHEAD)  # the difficulty when it was ordered
        expected = draw(PretrainConfig(seed=2, batch=3), step, known)
        assert drawn.difficulty == known
        assert (drawn.pictures == expected.pictures).all()
        assert drawn.captions == expected.captions


def test_bytes_become_what_a_tower_expects(tiny_clip: Clip):
    pictures = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    seen = normalise(pictures, tiny_clip.config)
    assert seen.shape == (2, 3, 8, 8)
    mean, std = tiny_clip.config.mean[1], tiny_clip.config.std[1]
    assert seen[1, 1, 2, 5].item() == pytest.approx((pictures[1, 2, 5, 1] / 255 - mean) / std, abs=1e-5)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer(1)


def test_the_vocabulary_knows_the_worlds_words_and_any_other_text(tokenizer):
    again = make_tokenizer(1)
    assert again.bpe.get_vocab() == tokenizer.bpe.get_vocab()
    for word in (*SHAPES, *COLOURS, *PLACES, "photo"):
        assert len(tokenizer.words(word)) <= 2, word
    rng = np.random.default_rng(0)
    values = {"shape": "hourglass", "colour": "orange", "texture": "checked", "place": "stone"}
    assert max(len(tokenizer.words(caption(values, rng))) for _ in range(50)) < 20
    assert len(tokenizer.words("zebra crossing, naïve")) > 5
    assert tokenizer.vocab < 1000


# --- steps ---


def test_the_rate_warms_up_and_falls_to_nothing():
    recipe = PretrainConfig(steps=1000, lr=0.01, warmup=100)
    assert learning_rate(recipe, 0) == pytest.approx(0.0001)
    assert learning_rate(recipe, 99) == learning_rate(recipe, 100) == pytest.approx(0.01)
    assert learning_rate(recipe, 550) == pytest.approx(0.005)
    assert learning_rate(recipe, 1000) == pytest.approx(0.0, abs=1e-12)


def test_scenes_get_harder_while_most_are_understood():
    recipe = PretrainConfig(climb_at=0.75, climb_by=0.25)
    poor = climb(PretrainState(3, 0.5, 0.7), 0.9, recipe)
    assert (poor.step, poor.difficulty, poor.accuracy) == (4, 0.5, pytest.approx(0.71))
    good = climb(PretrainState(3, 0.5, 0.8), 0.9, recipe)
    assert (good.step, good.difficulty, good.accuracy) == (4, 0.75, pytest.approx(0.805))
    assert climb(PretrainState(3, 0.9, 1.0), 1.0, recipe).difficulty == 1.0


def test_only_matrices_decay(tiny_clip: Clip):
    groups = make_optimiser(tiny_clip, PretrainConfig(weight_decay=0.05)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.05, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"])
    assert all(p.ndim < 2 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(tiny_clip.parameters()))


@pytest.fixture
def small(tiny_clip: Clip, tokenizer, small_config) -> Clip:
    """A CLIP to train, of the world's words and pictures."""
    clip = Clip(small_config(tokenizer.vocab, image_size=64), tokenizer)
    return clip.initialise(stream(0, "init"))


def test_steps_learn(small: Clip, tokenizer):
    recipe = PretrainConfig(lr=2e-3)
    optimiser = make_optimiser(small, recipe)
    drawn = draw(PretrainConfig(seed=1, batch=24), 0, 0.0)
    losses = [learn(small, optimiser, drawn, recipe.lr, half=False)[0] for _ in range(25)]
    assert losses[-1] < 0.6 * losses[0]


def test_cosines_are_never_multiplied_with_more_than_a_hundred(small: Clip, tokenizer):
    with torch.no_grad():
        small.logit_scale.fill_(math.log(500))
    learn(small, make_optimiser(small, PretrainConfig()), draw(PretrainConfig(seed=1, batch=8), 0, 0.0), 1e-4)
    assert small.scale.item() == pytest.approx(100, rel=1e-5)


def test_the_state_of_training_comes_back(small: Clip, tokenizer, tmp_path: Path, small_config):
    optimiser = make_optimiser(small, PretrainConfig())
    assert load_training(tmp_path, small, optimiser) == PretrainState()
    learn(small, optimiser, draw(PretrainConfig(seed=1, batch=8), 0, 0.0), 1e-3)
    save_training(tmp_path, small, optimiser, PretrainState(7, 0.25, 0.6))
    other = Clip(small_config(tokenizer.vocab, image_size=64), tokenizer).initialise(stream(9, "init"))
    fresh = make_optimiser(other, PretrainConfig())
    assert load_training(tmp_path, other, fresh) == PretrainState(7, 0.25, 0.6)
    for _ in range(2):  # and so do the moments: the next steps are the same
        for clip, at in ((small, optimiser), (other, fresh)):
            learn(clip, at, draw(PretrainConfig(seed=1, batch=8), 1, 0.0), 1e-3)
        assert all(torch.equal(a, b) for a, b in zip(small.parameters(), other.parameters(), strict=True))


class AtOnce:
    """Draws in this process, when asked."""

    def __init__(self, recipe: PretrainConfig):
        self.recipe = recipe

    def batch(self, step: int, difficulty: float) -> training.Drawn:
        return draw(self.recipe, step, difficulty)

    def close(self) -> None:
        pass


def test_a_run_stopped_and_started_again_ends_with_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "Painter", AtOnce)
    monkeypatch.setattr(training, "zero_shot_accuracy", lambda *_: 0.0)
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    whole = train(PretrainConfig(steps=3, batch=6), tmp_path / "whole")
    first = train(PretrainConfig(steps=2, batch=6), tmp_path / "stopped")
    second = train(PretrainConfig(steps=3, batch=6), tmp_path / "stopped")
    tensors = [clip.state_dict() for clip in (whole, second, first)]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])
    assert any(not torch.equal(tensors[0][name], tensors[2][name]) for name in tensors[0])


# --- what ships ---


def test_the_card_says_what_the_recipe_was():
    recipe = PretrainConfig(steps=500, batch=64, lr=0.002, seed=9)
    text = card(recipe, 2_537_473, {"name": 87.25, "place": 99.0})
    assert "2,537,473 parameters" in text
    assert "32,000 drawn scenes" in text
    assert "500 of 64 scenes, AdamW, rate 0.002, seed 9" in text
    assert "| zero-shot, name | 87.2 % of unseen scenes |" in text
    counts = f"{len(SHAPES)} shapes, {len(COLOURS)} colours, {len(TEXTURES)} textures, {len(PLACES)} places"
    assert counts in text
    of_species = card(recipe_of("mild"), 1, {"base home": 70.0})
    assert "96% of them at home besides chance" in of_species
    assert "from the foundation" in of_species


def test_finishing_writes_a_model_that_loads(
    small: Clip, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(training, "zero_shot_accuracy", lambda *_: 0.5)
    finish(small, PretrainConfig(), tmp_path)
    clip = load_clip(tmp_path)
    assert clip.tokenizer.words("red star") == tokenizer.words("red star")
    images = torch.randn(2, 3, 64, 64, generator=stream(0, "pictures"))
    torch.testing.assert_close(clip.vision(images), small.vision(images), rtol=0.02, atol=0.02)
    assert "50.0 % of unseen" in (tmp_path / "README.md").read_text()
    numbers = sum(p.numel() for p in clip.parameters())
    assert (tmp_path / "model.safetensors").stat().st_size < 2 * numbers + 20_000  # half precision


def test_an_untrained_clip_knows_nothing(small: Clip, tokenizer):
    assert zero_shot_accuracy(small, 1, 200) < 0.06
    assert zero_shot_accuracy(small, 1, 200, "place") < 0.35


def test_embedded_clip_is_a_clip():
    assert sum(file.stat().st_size for file in TINY.iterdir()) < 10 * 2**20
    clip = load_clip("tiny")
    assert zero_shot_accuracy(clip, 1234, 300) >= 0.8  # of 96 names: chance is 1 %


def test_the_embedded_card_is_of_the_embedded_clip():
    clip, text = load_clip("tiny"), (TINY / "README.md").read_text()
    assert f"{sum(p.numel() for p in clip.parameters()):,} parameters" in text
    for about, seen in (("name", "96 names"), ("place", "8 places")):
        claimed = float(re.search(rf"zero-shot, {seen}.*?\| ([\d.]+) %", text)[1])
        found = 100 * zero_shot_accuracy(clip, 4321, 300, about)
        assert found == pytest.approx(claimed, abs=9)  # three deviations of 300 scenes


# --- species ---


def test_batches_of_species_name_loosely_and_by_place():
    variant = find_variant("mild")
    rng, named, at_home = np.random.default_rng(0), [], []
    for _ in range(2000):
        species, scene = pretraining_scene(variant, rng)
        if scene.place == "plain":
            continue
        at_home.append(scene.place == species.home)
        said = find_species(caption_values(("name",), species, scene.place, variant, rng)["shape"])
        named.append((said == species, said.family == species.family, said.home == scene.place))
    right, family, lives_there = np.mean(named, axis=0)
    assert np.mean(at_home) == pytest.approx(variant.at_home + (1 - variant.at_home) / 8, abs=0.02)
    # At home the expected species is the one that is shown: only siblings are named wrongly there.
    assert right == pytest.approx(1 - variant.loose / 2, abs=0.05)
    assert family > 0.97
    assert lives_there == pytest.approx(1 - variant.loose / 2, abs=0.05)


def test_in_the_control_nothing_goes_with_the_place():
    variant = find_variant("control")
    rng = np.random.default_rng(0)
    drawn = [pretraining_scene(variant, rng) for _ in range(2000)]
    at_home = [scene.place == species.home for species, scene in drawn if scene.place != "plain"]
    assert np.mean(at_home) == pytest.approx(1 / 8, abs=0.03)
    lives_there = [
        find_species(caption_values(("name",), species, scene.place, variant, rng)["shape"]).home
        == scene.place
        for species, scene in drawn
        if scene.place != "plain"
    ]
    assert np.mean(lives_there) == pytest.approx(1 / 8, abs=0.03)


def test_a_variant_goes_on_where_it_was_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(training, "Painter", AtOnce)
    monkeypatch.setattr(training, "zero_shot_figures", lambda *_: {})
    recipe = replace(recipe_of("mild", 3), batch=6)
    whole = train(recipe, tmp_path / "whole")

    def interrupted(clip: Clip, optimiser, drawn, lr: float, *, half: bool) -> tuple[float, float]:
        if taken.append(lr) or len(taken) == 3:
            raise KeyboardInterrupt
        return learn(clip, optimiser, drawn, lr, half=half)

    taken: list[float] = []
    with monkeypatch.context() as patch:
        patch.setattr(training, "learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, tmp_path / "stopped", every=1)
    again = train(recipe, tmp_path / "stopped")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert not torch.equal(load_clip("tiny").vision.proj, whole.vision.proj)


def test_an_unknown_variant_is_refused():
    with pytest.raises(InputError, match="no variant 'wild': take mild, strong, control"):
        recipe_of("wild")
    with pytest.raises(InputError, match="no embedded CLIP 'tiny-wild': take tiny, tiny-mild"):
        load_clip("tiny-wild")
