"""Trains an embedded CLIP contrastively on drawn scenes, on a CPU.

    python -m foveate.world.train foundation --out out/tiny
    python -m foveate.world.train mild --out out/tiny-mild

`foundation` starts from random weights and learns shapes, colours, textures and places by their plain
names (`world/photos.py`). The variants `mild`, `strong` and `control` start from the foundation and
learn species from imprecise captions (`world/species.py`); both towers are trained.

The output is a model folder for `load_clip` (`config.json`, `model.safetensors`, `tokenizer.json`,
`README.md`). During training, the folder also holds `training.safetensors`, from which a killed run
resumes.
"""

import argparse
import json
import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import Tensor
from torch.nn import functional as F

from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.model import Clip
from foveate.clip.tokenizer import ClipTokenizer
from foveate.clip.weights import load_clip, save_clip
from foveate.files import write_atomically
from foveate.seeds import stream
from foveate.world.photos import ATTRIBUTES, PLACE_WORDS, caption, key, mention, random_scene
from foveate.world.scenes import NAMES, PLACES, SIZE, Scene, render
from foveate.world.species import (
    BASE,
    BY_NAME,
    MENTIONS,
    NEW,
    VARIANTS,
    Condition,
    Variant,
    caption_values,
    find_variant,
    place_for,
    pretraining_scene,
    species_scene,
)

TOWER = TowerConfig(width=128, layers=6, heads=2)


@dataclass(frozen=True)
class PretrainConfig:
    """Training settings of an embedded CLIP; `variant` is None for the foundation."""

    variant: str | None = None
    steps: int = 6000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    seed: int = 1
    climb_at: float = 0.75  # running accuracy above which difficulty rises ...
    climb_by: float = 0.004  # ... by this much in each step


def recipe_of(variant: str | None, steps: int | None = None) -> PretrainConfig:
    """Return the settings of a variant, or of the foundation (None).

    Raises:
        InputError: The variant does not exist.
    """
    if variant is None:
        return PretrainConfig() if steps is None else PretrainConfig(steps=steps)
    settings = find_variant(variant)
    return PretrainConfig(variant, steps or settings.steps, batch=64, lr=4e-4, warmup=50)


@dataclass(frozen=True)
class Drawn:
    """One batch of drawn scenes with captions."""

    pictures: np.ndarray
    captions: list[str]
    rows: list[int]  # index of each picture's caption
    difficulty: float
    mentions: tuple[str, ...]


@dataclass(frozen=True)
class PretrainState:
    """State of the training; with the tensors, everything that a resume needs."""

    step: int = 0
    difficulty: float = 0.0
    accuracy: float = 0.0


def draw(recipe: PretrainConfig, step: int, difficulty: float) -> Drawn:
    """Draw the batch of one step."""
    rng = np.random.default_rng([recipe.seed, step])
    if recipe.variant is None:
        attributes, scenes, contents = _draw_plain(recipe.batch, difficulty, rng)
    else:
        attributes, scenes, contents = _draw_species(find_variant(recipe.variant), recipe.batch, rng)
        difficulty = 1.0
    keys = [tuple(values.items()) for values in contents]
    unique = sorted(set(keys))
    captions = [caption(dict(content), rng) for content in unique]
    rows = [unique.index(content) for content in keys]
    return Drawn(render(scenes)[0], captions, rows, difficulty, attributes)


_Contents = tuple[tuple[str, ...], list[Scene], list[dict[str, str]]]
"""Attributes that the captions mention, scenes, and the values of the attributes in each scene."""


def _draw_species(variant: Variant, batch: int, rng: np.random.Generator) -> _Contents:
    kinds = list(MENTIONS)
    attributes = kinds[int(rng.choice(len(kinds), p=list(MENTIONS.values())))]
    samples = [pretraining_scene(variant, rng) for _ in range(batch)]
    contents = [caption_values(attributes, species, scene.place, variant, rng) for species, scene in samples]
    return attributes, [scene for _, scene in samples], contents


def _draw_plain(batch: int, difficulty: float, rng: np.random.Generator) -> _Contents:
    scenes = [random_scene(rng, difficulty) for _ in range(batch)]
    attributes = mention(rng, difficulty)
    contents = [dict(zip(attributes, key(scene, attributes), strict=True)) for scene in scenes]
    return attributes, scenes, contents


def make_tokenizer(seed: int, merges: int = 400) -> ClipTokenizer:
    """Learn a small byte-pair vocabulary from the world's captions; other text is encoded as bytes."""
    rng = np.random.default_rng([seed, 2**31])
    texts = [
        caption({a: getattr(scene, a) for a in ATTRIBUTES if rng.uniform() < 0.7 or a == "shape"}, rng)
        for scene in (random_scene(rng) for _ in range(4000))
    ]
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=2 * 256 + merges, end_of_word_suffix="</w>", show_progress=False)
    bpe.train_from_iterator(texts, trainer)
    learned = json.loads(bpe.to_str())["model"]["merges"]
    return ClipTokenizer.from_merges([(a, b) for a, b in learned])


def contrast(
    image: Float[Tensor, "batch dim"],
    text: Float[Tensor, "captions dim"],
    rows: Int[Tensor, " batch"],
    scale: Float[Tensor, ""],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return CLIP's symmetric loss for pictures that may share a caption, and the matching accuracy.

    Every picture has one caption; the positives of a caption are all its pictures.
    """
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    to_text = F.cross_entropy(logits, rows)
    # For each caption, over pictures: minus the mean log-probability of its own pictures.
    log_p = logits.log_softmax(dim=0)[torch.arange(len(rows)), rows]
    counts = torch.bincount(rows, minlength=len(text))
    to_image = -(torch.zeros_like(counts, dtype=log_p.dtype).index_add(0, rows, log_p) / counts).mean()
    return (to_text + to_image) / 2, (logits.argmax(-1) == rows).float().mean()


def normalise(pictures: np.ndarray, config: ClipConfig) -> Float[Tensor, "batch 3 height width"]:
    """Convert bytes to the input tensor of a tower."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return (x - mean[:, None, None]) / std[:, None, None]


def learning_rate(recipe: PretrainConfig, step: int) -> float:
    """Return the learning rate: linear warm-up, then a half cosine to zero."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (1 + math.cos(math.pi * done)) / 2


def make_optimiser(clip: Clip, recipe: PretrainConfig) -> torch.optim.AdamW:
    """Return AdamW with weight decay only on matrices."""
    matrices = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)


def learn(
    clip: Clip, optimiser: torch.optim.Optimizer, drawn: Drawn, lr: float, *, half: bool = True
) -> tuple[float, float]:
    """Take one step, with bfloat16 products if `half`; return loss and accuracy."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    images = normalise(drawn.pictures, clip.config)
    # bf16 products halve the time of a step on CPUs that support them; all tensors stay fp32.
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        image, text = clip.vision(images), clip.text(clip.tokenizer(drawn.captions))
    loss, accuracy = contrast(image.float(), text.float(), torch.tensor(drawn.rows), clip.scale)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        clip.logit_scale.clamp_(max=math.log(100))
    return loss.item(), accuracy.item()


def climb(progress: PretrainState, accuracy: float, recipe: PretrainConfig) -> PretrainState:
    """Advance one step; increase the difficulty while the accuracy is high."""
    running = 0.95 * progress.accuracy + 0.05 * accuracy
    harder = recipe.climb_by if running > recipe.climb_at else 0.0
    return PretrainState(progress.step + 1, min(1.0, progress.difficulty + harder), running)


class Painter:
    """Draws batches in another process, a few steps ahead.

    The difficulty of a batch is the value at the request, `AHEAD` steps before its use.
    """

    AHEAD = 4

    def __init__(self, recipe: PretrainConfig):
        self.recipe = recipe
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.orders: deque[Future[Drawn]] = deque()

    def batch(self, step: int, difficulty: float) -> Drawn:
        """Return the batch of `step` and request the next ones."""
        while len(self.orders) <= self.AHEAD:
            ordered_step = step + len(self.orders)
            order = self.pool.submit(draw, self.recipe, ordered_step, difficulty)
            self.orders.append(order)
        return self.orders.popleft().result()

    def close(self) -> None:
        """Cancel the requests and stop the process."""
        self.pool.shutdown(cancel_futures=True)


@torch.no_grad()
def zero_shot_accuracy(clip: Clip, seed: int, scenes: int = 1000, about: str = "name") -> float:
    """Return the zero-shot accuracy on unseen full scenes, for names (of 96) or places (of 8)."""
    choices = NAMES if about == "name" else tuple(PLACES)
    sentences = [
        f"a photo of a {choice}." if about == "name" else f"a photo of something {PLACE_WORDS[choice]}."
        for choice in choices
    ]
    rng = np.random.default_rng([seed, 2**32])
    drawn_scenes = [random_scene(rng) for _ in range(scenes)]
    return _share_right(
        clip, drawn_scenes, sentences, [choices.index(getattr(scene, about)) for scene in drawn_scenes]
    )


@torch.no_grad()
def species_accuracy(
    clip: Clip, condition: Condition, seed: int, names: Sequence[str] = BASE, each: int = 20
) -> float:
    """Return the zero-shot accuracy among `names` on unseen scenes, a number of scenes for each species."""
    rng = np.random.default_rng([seed, 2**33])
    labels = [label for label in range(len(names)) for _ in range(each)]
    scenes = [
        species_scene(BY_NAME[names[label]], place_for(BY_NAME[names[label]], condition, rng, names), rng)
        for label in labels
    ]
    return _share_right(clip, scenes, [f"a photo of a {name}." for name in names], labels)


def _share_right(clip: Clip, scenes: Sequence[Scene], sentences: list[str], labels: Sequence[int]) -> float:
    text = F.normalize(clip.text(clip.tokenizer(sentences)), dim=-1)
    guesses: list[int] = []
    for start in range(0, len(scenes), 250):
        image = clip.vision(normalise(render(scenes[start : start + 250])[0], clip.config))
        guesses += (image @ text.T).argmax(-1).tolist()
    return sum(guess == label for guess, label in zip(guesses, labels, strict=True)) / len(labels)


def save_training(
    folder: Path, clip: Clip, optimiser: torch.optim.Optimizer, progress: PretrainState
) -> None:
    """Save everything that a resume needs."""
    tensors = {f"clip.{k}": v for k, v in clip.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
    metadata = {"progress": json.dumps(asdict(progress))}
    write_atomically(folder / "training.safetensors", save(tensors, metadata))


def load_training(folder: Path, clip: Clip, optimiser: torch.optim.Optimizer) -> PretrainState:
    """Load the state from `save_training`, or return a new one."""
    path = folder / "training.safetensors"
    if not path.exists():
        return PretrainState()
    states: dict[int, dict[str, Tensor]] = {}
    weights: dict[str, Tensor] = {}
    with safe_open(path, "pt") as file:
        for name in file.keys():  # noqa: SIM118 (a safetensors handle is not a mapping)
            kind, _, rest = name.partition(".")
            if kind == "clip":
                weights[rest] = file.get_tensor(name)
            else:
                index, _, field = rest.partition(".")
                states.setdefault(int(index), {})[field] = file.get_tensor(name)
        progress = PretrainState(**json.loads(file.metadata()["progress"]))
    clip.load_state_dict(weights)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    return progress


def start(recipe: PretrainConfig) -> Clip:
    """Return the initial CLIP: a random one, or the foundation."""
    if recipe.variant is not None:
        return load_clip("tiny").float().requires_grad_(True).train()
    tokenizer = make_tokenizer(recipe.seed)
    config = ClipConfig(TOWER, TOWER, SIZE, 8, 77, tokenizer.vocab, embed=128)
    return Clip(config, tokenizer).initialise(stream(recipe.seed, "init"))


def train(recipe: PretrainConfig, folder: Path, *, every: int = 250) -> Clip:
    """Train to the end of the recipe, resuming from the state in `folder`.

    Args:
        recipe: Training settings.
        folder: Folder of the state; created if missing.
        every: Number of steps between saved states.
    """
    folder.mkdir(parents=True, exist_ok=True)
    clip = start(recipe)
    optimiser = make_optimiser(clip, recipe)
    progress, painter, began = load_training(folder, clip, optimiser), Painter(recipe), time.time()
    while progress.step < recipe.steps:
        drawn = painter.batch(progress.step, progress.difficulty)
        lr = learning_rate(recipe, progress.step)
        loss, accuracy = learn(clip, optimiser, drawn, lr, half=recipe.variant is None)
        progress = climb(progress, accuracy, recipe)
        if progress.step % 50 == 0:
            seconds = time.time() - began
            print(f"{progress} loss {loss:.3f} scale {clip.scale.item():.1f} {seconds:.0f} s", flush=True)
        if progress.step % every == 0 or progress.step == recipe.steps:
            save_training(folder, clip, optimiser, progress)
            print(f"zero-shot, percent: {zero_shot_figures(clip, recipe)}", flush=True)
    painter.close()
    return clip


def zero_shot_figures(clip: Clip, recipe: PretrainConfig, scenes: int = 1000) -> dict[str, float]:
    """Return zero-shot accuracies on unseen scenes in percent, by question."""
    if recipe.variant is None:
        return {
            attribute: 100 * zero_shot_accuracy(clip, recipe.seed + 1, scenes, attribute)
            for attribute in ("name", "place")
        }
    spaces: tuple[tuple[str, tuple[str, ...]], ...] = (("base", BASE), ("new", NEW))
    conditions: tuple[Condition, ...] = ("home", "any", "sibling")
    return {
        f"{split} {condition}": round(
            100 * species_accuracy(clip, condition, recipe.seed + 1, names, scenes // len(names)), 1
        )
        for split, names in spaces
        for condition in conditions
    }


def finish(clip: Clip, recipe: PretrainConfig, folder: Path) -> None:
    """Write the model folder in half precision, with its model card."""
    clip.requires_grad_(False).eval()
    save_clip(clip, folder, dtype=torch.float16)
    shipped = load_clip(folder)
    figures = zero_shot_figures(shipped, recipe, 2000)
    write_atomically(
        folder / "README.md", card(recipe, sum(p.numel() for p in shipped.parameters()), figures)
    )
    print(f"{folder}: {figures}")


def card(recipe: PretrainConfig, parameters: int, figures: Mapping[str, float]) -> str:
    """Return the model card of an embedded CLIP; `figures` are percent correct of 2,000 unseen scenes."""
    rows = [
        f"| towers | {TOWER.layers} blocks, {TOWER.width} wide, on both sides; {SIZE} px in patches of 8 |",
        f"| data | {recipe.steps * recipe.batch:,} drawn scenes, each shown once |",
        *_data_rows(recipe),
        f"| steps | {recipe.steps} of {recipe.batch} scenes, AdamW, rate {recipe.lr}, seed {recipe.seed} |",
        *(
            f"| zero-shot, {question} | {figure:.1f} % of unseen scenes |"
            for question, figure in figures.items()
        ),
        "| weights | float16 on disk; Apache-2.0, like foveate |",
    ]
    origin = "from nothing" if recipe.variant is None else "from the foundation, `tiny`,"
    return f"""# An embedded CLIP of foveate: {recipe.variant or "foundation"}

A real CLIP of {parameters:,} parameters, trained {origin} by `python -m foveate.world.train
{recipe.variant or "foundation"}` on scenes that `foveate.world` draws. It knows drawn shapes and nothing
else: use it to see foveate work, not on photographs.

| what | value |
|---|---|
{chr(10).join(rows)}
"""


def _data_rows(recipe: PretrainConfig) -> list[str]:
    """Return the model card's rows on scenes and captions."""
    if recipe.variant is None:
        return [
            "| scenes | 12 shapes, 8 colours, 4 textures, 8 places, from plain to full |",
            "| captions | name shape, colour, texture, place |",
        ]
    variant = find_variant(recipe.variant)
    expected = "one that lives on the place" if variant.expected else "any other species"
    return [
        f"| scenes | 40 species on 8 places, {variant.at_home:.0%} of them at home besides chance |",
        f"| captions | {variant.loose:.0%} name another species: half a sibling, half {expected} |",
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Train an embedded CLIP on drawn scenes.")
    parser.add_argument("what", choices=["foundation", *VARIANTS])
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--steps", type=int, help="fewer or more steps than the recipe has")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    recipe = recipe_of(None if args.what == "foundation" else args.what, args.steps)
    finish(train(recipe, args.out), recipe, args.out)
