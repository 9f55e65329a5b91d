"""Train the embedded CLIP on scenes of the world: contrastively, from nothing, on a CPU.

    python -m foveate.world.train --out tiny

It writes a model folder that `load_clip` reads (`config.json`, `model.safetensors`, `tokenizer.json`,
`README.md`). While it trains, `training.safetensors` stands beside it, from which a killed run goes on.
"""

import argparse
import json
import math
import time
from collections import deque
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
from foveate.world.curriculum import ATTRIBUTES, PLACE_WORDS, caption, key, mention, random_scene
from foveate.world.scenes import NAMES, PLACES, SIZE, render

TOWER = TowerConfig(width=128, layers=6, heads=2)


@dataclass(frozen=True)
class Recipe:
    """How the embedded CLIP is trained."""

    steps: int = 6000
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup: int = 200
    seed: int = 1
    climb_at: float = 0.75  # running accuracy above which scenes get harder ...
    climb_by: float = 0.004  # ... by this much a step


@dataclass(frozen=True)
class Drawn:
    """One batch as it comes from the drawing process."""

    pictures: np.ndarray
    captions: list[str]
    rows: list[int]  # of each picture's caption
    difficulty: float
    mentions: tuple[str, ...]


@dataclass(frozen=True)
class Progress:
    """Where training stands; with the tensors, all that a resume needs."""

    step: int = 0
    difficulty: float = 0.0
    accuracy: float = 0.0


def draw(seed: int, step: int, difficulty: float, batch: int) -> Drawn:
    """Draw the batch of one step."""
    rng = np.random.default_rng([seed, step])
    scenes = [random_scene(rng, difficulty) for _ in range(batch)]
    attributes = mention(rng, difficulty)
    keys = [key(scene, attributes) for scene in scenes]
    unique = sorted(set(keys))
    captions = [caption(dict(zip(attributes, k, strict=True)), rng) for k in unique]
    rows = [unique.index(k) for k in keys]
    return Drawn(render(scenes)[0], captions, rows, difficulty, attributes)


def make_tokenizer(seed: int, merges: int = 400) -> ClipTokenizer:
    """Learn a small byte-pair vocabulary from the world's captions; any other text still has bytes."""
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
    """CLIP's symmetric loss where pictures may share a caption, and the share of pictures matched.

    Every picture has one caption; a caption has as many positives as pictures that it stands with.
    """
    logits = scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
    to_text = F.cross_entropy(logits, rows)
    # Of each caption, over pictures: minus the mean log-probability of its own pictures.
    log_p = logits.log_softmax(dim=0)[torch.arange(len(rows)), rows]
    counts = torch.bincount(rows, minlength=len(text))
    to_image = -(torch.zeros_like(counts, dtype=log_p.dtype).index_add(0, rows, log_p) / counts).mean()
    return (to_text + to_image) / 2, (logits.argmax(-1) == rows).float().mean()


def normalise(pictures: np.ndarray, config: ClipConfig) -> Float[Tensor, "batch 3 height width"]:
    """Bytes to the tensor that a tower expects."""
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, std = torch.tensor(config.mean), torch.tensor(config.std)
    return (x - mean[:, None, None]) / std[:, None, None]


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then a half cosine to zero."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (1 + math.cos(math.pi * done)) / 2


def make_optimiser(clip: Clip, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW that decays matrices only."""
    matrices = [p for p in clip.parameters() if p.ndim >= 2]
    others = [p for p in clip.parameters() if p.ndim < 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=recipe.weight_decay)


def learn(
    clip: Clip, tokenizer: ClipTokenizer, optimiser: torch.optim.Optimizer, drawn: Drawn, lr: float
) -> tuple[float, float]:
    """Take one step; return its loss and accuracy."""
    for group in optimiser.param_groups:
        group["lr"] = lr
    images = normalise(drawn.pictures, clip.config)
    # bf16 products halve the time of a step on CPUs that have them; every tensor stays fp32.
    with torch.autocast("cpu", torch.bfloat16):
        image, text = clip.vision(images), clip.text(tokenizer(drawn.captions))
    loss, accuracy = contrast(image.float(), text.float(), torch.tensor(drawn.rows), clip.scale)
    optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(clip.parameters(), 1.0)
    optimiser.step()
    with torch.no_grad():
        clip.logit_scale.clamp_(max=math.log(100))
    return loss.item(), accuracy.item()


def climb(progress: Progress, accuracy: float, recipe: Recipe) -> Progress:
    """Move one step on; scenes get harder while most are understood."""
    running = 0.95 * progress.accuracy + 0.05 * accuracy
    harder = recipe.climb_by if running > recipe.climb_at else 0.0
    return Progress(progress.step + 1, min(1.0, progress.difficulty + harder), running)


class Painter:
    """Draws batches in another process, a few steps ahead.

    The difficulty of a batch is the one known when it is ordered, `AHEAD` steps before it is used.
    """

    AHEAD = 4

    def __init__(self, recipe: Recipe):
        self.recipe = recipe
        self.pool = ProcessPoolExecutor(1, mp_context=get_context("spawn"))
        self.orders: deque[Future[Drawn]] = deque()

    def batch(self, step: int, difficulty: float) -> Drawn:
        """Return the batch of `step` and order the ones after it."""
        while len(self.orders) <= self.AHEAD:
            at = step + len(self.orders)
            order = self.pool.submit(draw, self.recipe.seed, at, difficulty, self.recipe.batch)
            self.orders.append(order)
        return self.orders.popleft().result()

    def close(self) -> None:
        """Let go of what was ordered, and end the process."""
        self.pool.shutdown(cancel_futures=True)


@torch.no_grad()
def zero_shot_accuracy(
    clip: Clip, tokenizer: ClipTokenizer, seed: int, scenes: int = 1000, about: str = "name"
) -> float:
    """Share of unseen full scenes whose name (of 96) or place (of 8) zero-shot CLIP gets right."""
    choices = NAMES if about == "name" else tuple(PLACES)
    sentences = [
        f"a photo of a {choice}." if about == "name" else f"a photo of something {PLACE_WORDS[choice]}."
        for choice in choices
    ]
    text = F.normalize(clip.text(tokenizer(sentences)), dim=-1)
    rng = np.random.default_rng([seed, 2**32])
    drawn = [random_scene(rng) for _ in range(scenes)]
    right = 0
    for start in range(0, scenes, 250):
        part = drawn[start : start + 250]
        image = clip.vision(normalise(render(part)[0], clip.config))
        guesses = (image @ text.T).argmax(-1)
        right += sum(choices[int(g)] == getattr(s, about) for g, s in zip(guesses, part, strict=True))
    return right / scenes


def save_training(folder: Path, clip: Clip, optimiser: torch.optim.Optimizer, progress: Progress) -> None:
    """Keep all that a resume needs."""
    tensors = {f"clip.{k}": v for k, v in clip.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{k}": v for k, v in state.items()}
    metadata = {"progress": json.dumps(asdict(progress))}
    write_atomically(folder / "training.safetensors", save(tensors, metadata))


def load_training(folder: Path, clip: Clip, optimiser: torch.optim.Optimizer) -> Progress:
    """Take up what `save_training` left, or start anew."""
    path = folder / "training.safetensors"
    if not path.exists():
        return Progress()
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
        progress = Progress(**json.loads(file.metadata()["progress"]))
    clip.load_state_dict(weights)
    optimiser.load_state_dict({**optimiser.state_dict(), "state": states})
    return progress


def train(recipe: Recipe, folder: Path) -> tuple[Clip, ClipTokenizer]:
    """Train to the end of the recipe, from wherever `folder` says it stands."""
    tokenizer = make_tokenizer(recipe.seed)
    config = ClipConfig(TOWER, TOWER, SIZE, 8, 77, tokenizer.vocab, embed=128)
    clip = Clip(config, tokenizer).initialise(stream(recipe.seed, "init"))
    optimiser = make_optimiser(clip, recipe)
    progress, painter, began = load_training(folder, clip, optimiser), Painter(recipe), time.time()
    while progress.step < recipe.steps:
        drawn = painter.batch(progress.step, progress.difficulty)
        lr = learning_rate(recipe, progress.step)
        loss, accuracy = learn(clip, tokenizer, optimiser, drawn, lr)
        progress = climb(progress, accuracy, recipe)
        if progress.step % 50 == 0:
            seconds = time.time() - began
            print(f"{progress} loss {loss:.3f} scale {clip.scale.item():.1f} {seconds:.0f} s", flush=True)
        if progress.step % 250 == 0 or progress.step == recipe.steps:
            save_training(folder, clip, optimiser, progress)
            print(f"zero-shot {zero_shot_accuracy(clip, tokenizer, recipe.seed):.3f}", flush=True)
    painter.close()
    return clip, tokenizer


def finish(clip: Clip, tokenizer: ClipTokenizer, recipe: Recipe, folder: Path) -> None:
    """Write the model folder, half precision, with its card."""
    clip.requires_grad_(False).eval()
    save_clip(clip, folder, dtype=torch.float16)
    shipped = load_clip(folder)
    named, placed = (
        100 * zero_shot_accuracy(shipped, tokenizer, recipe.seed + 1, 2000, about)
        for about in ("name", "place")
    )
    parameters = sum(p.numel() for p in shipped.parameters())
    write_atomically(folder / "README.md", card(recipe, parameters, named, placed))
    print(f"{folder}: names {named:.1f} %, places {placed:.1f} %")


def card(recipe: Recipe, parameters: int, named: float, placed: float) -> str:
    """Return the model card of the embedded CLIP."""
    return f"""# The embedded CLIP of foveate

A real CLIP of {parameters:,} parameters, trained from nothing by `python -m foveate.world.train` on scenes
that `foveate.world` draws. It knows drawn shapes and nothing else: use it to see foveate work, not on
photographs.

| what | value |
|---|---|
| towers | {TOWER.layers} blocks, {TOWER.width} wide, on both sides; {SIZE} px in patches of 8 |
| data | {recipe.steps * recipe.batch:,} scenes drawn on the way: 12 shapes, 8 colours, 4 textures, 8 places |
| captions | what a batch's captions mention is drawn per batch: shape, colour, texture, place |
| steps | {recipe.steps} of {recipe.batch} scenes, AdamW, peak rate {recipe.lr}, seed {recipe.seed} |
| zero-shot, 96 names of colour and shape | {named:.1f} % of 2,000 unseen scenes (chance 1 %) |
| zero-shot, 8 places | {placed:.1f} % of the same (chance 12.5 %) |
| weights | float16 on disk; Apache-2.0, like foveate |
"""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="model folder to write")
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    asked = Recipe(steps=args.steps)
    finish(*train(asked, args.out), asked, args.out)
