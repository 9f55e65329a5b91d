"""How far a classifier's word can be trusted, on drawn sets: coverage, calibration, refusals, labels.

    python benchmarks/trust.py                  # 200 draws of shots; the pictures are encoded once
    python benchmarks/trust.py --keep out/trust # and kept for another time

Methods that are solved on features stand for those that are: shots are drawn anew 200 times, folds and all.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from foveate.check.labels import held_out, suspects
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.evaluate.calibration import auroc, ece
from foveate.methods.base import encode_pictures
from foveate.methods.linear_probe import Problem
from foveate.methods.registry import build
from foveate.train.banking import seen_as_asked
from foveate.trust.novelty import Support
from foveate.trust.trust import Trust
from foveate.world.photos import scene_photos, species_photos
from foveate.world.species import BASE, NEW

SHOTS, FOLDS = 16, 4
KNOWN = [
    f"{colour} {shape}"
    for colour in ("red", "blue", "green", "yellow")
    for shape in ("star", "ring", "cross")
]
NEAR = [
    f"{colour} {shape}"
    for colour in ("red", "blue", "green", "yellow")
    for shape in ("heart", "moon", "triangle")
]
PHOTOS = ("astronaut", "coffee", "chelsea", "rocket", "colorwheel", "retina", "immunohistochemistry",
          "hubble_deep_field", "logo")  # fmt: skip


def unlabelled(pictures: list[Image.Image]) -> Photos:
    """Return pictures of nothing that has a name here."""
    return Photos(("one", "other"), tuple(Sample(MemoryPicture(one), 0) for one in pictures))


def noise(number: int, rng: np.random.Generator) -> Photos:
    """Draw pictures of noise."""
    return unlabelled(
        [Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)) for _ in range(number)]
    )


def photographs(crops: int, rng: np.random.Generator) -> Photos:
    """Cut squares out of the photographs that scikit-image brings."""
    found: list[Image.Image] = []
    for name in PHOTOS:
        picture = Image.fromarray(np.asarray(getattr(skimage.data, name)())[..., :3])
        for _ in range(crops):
            side = int(min(picture.size) * rng.uniform(0.5, 1))
            left, top = (int(rng.integers(0, edge - side + 1)) for edge in picture.size)
            found.append(picture.crop((left, top, left + side, top + side)))
    return unlabelled(found)


def encoded(clip: Clip, photos: Photos) -> tuple[Tensor, Tensor]:
    """Return raw features and labels."""
    with torch.no_grad():
        batches = [
            (encode_pictures(clip, one.images)[0], one.labels)
            for one in seen_as_asked(photos, clip.config).batches(None, 64)
        ]
    return torch.cat([one for one, _ in batches]), torch.cat([labels for _, labels in batches])


def features(world: str) -> dict[str, object]:
    """Draw and encode the pictures of a world: colours and shapes, or species at their homes."""
    rng = np.random.default_rng(0)
    if world == "tiny":
        names, new = KNOWN, NEAR
        sets = {
            "pool": scene_photos(names, 50, 5),
            "test": scene_photos(names, 20, 999),
            "near": scene_photos(new, 20, 7),
        }
    else:
        names, new = list(BASE), list(NEW)
        sets = {
            "pool": species_photos(names, 40, 5, at_home=0.96),
            "test": species_photos(names, 15, 999, condition="home"),
            "near": species_photos(new, 10, 7, condition="home"),
        }
    clip = load_clip("tiny" if world == "tiny" else f"tiny-{world}")
    sets |= {"noise": noise(40, rng), "photo": photographs(8, rng)}
    reference = build("zeroshot", clip)
    reference.set_classes([*names, *new])
    with torch.no_grad():
        texts = reference.text_features()
    return {"names": names, "new": new, "scale": float(clip.scale), "T": texts} | {
        kind: encoded(clip, photos) for kind, photos in sets.items()
    }


def drawn(labels: Tensor, seed: int) -> Tensor:
    """Return the rows of a draw of shots."""
    generator = torch.Generator().manual_seed(seed)
    own = [(labels == label).nonzero()[:, 0] for label in range(int(labels.max()) + 1)]
    return torch.cat([rows[torch.randperm(len(rows), generator=generator)[:SHOTS]] for rows in own])


Learned = Callable[[Tensor], Tensor]
"""Unit features to logits."""


def zero_shot(shots: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Learned:
    """CLIP as it is."""
    return lambda x: scale * x @ texts.T


def tip_adapter(shots: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Learned:
    """Tip-Adapter with alpha 1 and beta 5.5."""
    owners = F.one_hot(labels, len(texts)).to(shots.dtype)
    return lambda x: scale * x @ texts.T + (5.5 * (x @ shots.T - 1)).exp() @ owners


def linear_probe(shots: Tensor, labels: Tensor, texts: Tensor, scale: float) -> Learned:
    """Logistic regression with C 10."""
    weight, bias = Problem(shots.double(), labels, len(texts)).solve(10.0)
    return lambda x: (x.double() @ weight.T + bias).float()


METHODS = {kind.__name__: kind for kind in (zero_shot, tip_adapter, linear_probe)}


def trusted(kind: Callable[..., Learned], data: dict, seed: int, risk: float = 0.1) -> list[float]:
    """Return accuracy, coverage, mean size of the sets and calibration error, before and after."""
    pool, labels = F.normalize(data["pool"][0], dim=-1), data["pool"][1]
    texts, scale = F.normalize(data["T"][: len(data["names"])], dim=-1), data["scale"]
    rows = drawn(labels, seed)
    shots, own = pool[rows], labels[rows]
    turns = torch.arange(len(rows)) % SHOTS % FOLDS
    held = torch.zeros(len(rows), len(texts))
    for turn in range(FOLDS):
        out = turns == turn
        held[out] = kind(shots[~out], own[~out], texts, scale)(shots[out])
    support = Support.of(shots, own, texts)
    trust = Trust.of(support, scale * shots @ texts.T, held, own)
    test, truth = F.normalize(data["test"][0], dim=-1), data["test"][1]
    logits = kind(shots, own, texts, scale)(test)
    raw, p = logits.softmax(dim=1), (logits / trust.temperature).softmax(dim=1)
    sets, right = trust.sets(p, risk), p.argmax(dim=1) == truth
    covered = sets.gather(1, truth[:, None]).float().mean()
    sizes = sets.sum(dim=1).float().mean()
    errors = [ece(one.max(dim=1).values, right) for one in (raw, p)]
    return [100 * float(right.float().mean()), 100 * float(covered), float(sizes), *errors]


def refused(data: dict, seed: int) -> list[float]:
    """Return which percent of each kind of picture is refused, and AUROC of near unknowns."""
    rows = drawn(data["pool"][1], seed)
    support = Support.of(data["pool"][0][rows], data["pool"][1][rows], data["T"][: len(data["names"])])
    known = torch.arange(len(data["names"]))
    novelty = {kind: support.novelty(data[kind][0], known) for kind in ("test", "near", "noise", "photo")}
    shares = [100 * float((one >= 0.95 - 1e-6).float().mean()) for one in novelty.values()]
    return [*shares, auroc(novelty["near"], novelty["test"])]


def swapped(data: dict, share: float, seed: int) -> list[float]:
    """Return precision and recall of planted wrong labels, in percent."""
    features, labels = data["pool"]
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    given, number = labels.clone(), len(data["names"])
    given[wrong] = (labels[wrong] + torch.randint(1, number, (len(wrong),), generator=generator)) % number
    found = {one.picture for one in suspects(held_out(features, given), given)}
    hits = len(found & set(wrong.tolist()))
    return [100 * hits / max(1, len(found)), 100 * hits / len(wrong)]


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in cells) + " |"


def main() -> None:
    """Measure, and print Markdown."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--seeds", type=int, default=200)
    reader.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    reader.add_argument("--keep", type=Path, help="folder of encoded pictures")
    given = reader.parse_args()
    for world in ("tiny", "mild"):
        file = given.keep and given.keep / f"{world}.pt"
        data = torch.load(file, weights_only=True) if file and file.exists() else features(world)
        if file and not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            torch.save(data, file)
        print(f"\n{world}, {len(data['names'])} classes, {SHOTS} shots, {given.seeds} draws\n")
        print(row("method", "right", "coverage at 90 %", "names a set", "ECE before", "ECE after"))
        for kind in (METHODS[name] for name in given.methods):
            found = torch.tensor([trusted(kind, data, seed) for seed in range(given.seeds)])
            print(row(kind.__name__, *found.mean(dim=0).tolist()), flush=True)
        print(row("refused, known", "near", "noise", "photographs", "AUROC"))
        found = torch.tensor([refused(data, seed) for seed in range(given.seeds)])
        print(row(*found.mean(dim=0).tolist()[:4], f"{found[:, 4].mean():.3f}"))
        print(row("labels swapped", "precision", "recall"))
        for share in (0.05, 0.1, 0.2):
            found = torch.tensor([swapped(data, share, seed) for seed in range(20)])
            print(row(f"{100 * share:.0f} %", *found.mean(dim=0).tolist()), flush=True)


if __name__ == "__main__":
    main()
