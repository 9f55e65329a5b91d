"""Try every reader of files with bad input: none may end in a traceback, hang, or say more than one line.

    python tools/fuzz.py                        # some 100,000 mutations, and every JSON field spoilt
    python tools/fuzz.py --mutations 5000000    # a night's work
    python tools/fuzz.py --only 'mask|coco' --seed 7 --keep out/fuzz

Each reader has a good file. It gets inputs, which are the file with one field of its JSON replaced by each of
`ODD`, and a good many mutations: bytes changed, cut, doubled, or words put in. What it does with them is
counted: read, refused (`InputError`), traceback, too slow. The same seed makes the same files.
"""

import argparse
import copy
import json
import pickle
import random
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from foveate.clip.checkpoints import read_weights
from foveate.clip.config import ClipConfig, TowerConfig
from foveate.clip.layouts import HUGGING_FACE, OPENAI, to_layout
from foveate.clip.model import Clip
from foveate.clip.tokenizer import ClipTokenizer
from foveate.clip.weights import load_clip, save_clip
from foveate.commands.fit import declared
from foveate.commands.rows import read_files
from foveate.data.feature_store import Index as FeatureIndex
from foveate.data.feature_store import ShardNote, UnfitFile, open_shard, read_index, write_index, write_shard
from foveate.data.samples import Photos, Sample
from foveate.data.sources import load_photos
from foveate.datasets.draws import StoredDraw, read_draw, read_foreign, write_draw
from foveate.datasets.listing import read_names
from foveate.datasets.splits import read_split, read_variants
from foveate.errors import InputError
from foveate.foreground.annotations import coco_masks
from foveate.foreground.matching import find_masks
from foveate.foreground.pictures import open_picture
from foveate.foreground.records import MaskRecord
from foveate.foreground.store import MaskStore, pack, stored_masks
from foveate.foreground.values import read_mask
from foveate.methods.registry import build, configure
from foveate.official.files import read_checkpoint
from foveate.official.names import check_forms
from foveate.readers import read_yaml
from foveate.sweep.config import read_sweep
from foveate.sweep.results import Damaged, Measured, Result, packed, read_result, write_result
from foveate.train.checkpoint import ModelConfig, load_model, save_model
from foveate.train.config import RunConfig
from foveate.train.folder import read_answered, read_run
from foveate.train.journal import Journal
from foveate.train.optimiser import State, load_state, make_optimiser, save_state
from foveate.train.recipe import Recipe
from foveate.train.run import load

SECONDS = 20
"""What one input may take; most take a thousandth."""

ODD: tuple[object, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, 10**400, float("inf"), float("nan"), "", "x", "\ud800", "a\0b"),
    *("{}", "../x", "/x", [], [1], ["x"], [[]], {}, {"x": 1}, {"x": {}}, [None] * 3, "word " * 5000),
)
WORDS = (
    *(b"NaN", b"-Infinity", b"1e400", b"9" * 5000, b"-1", b"0", b"null", b"true", b'""', b"\\ud800"),
    *(b"[" * 3000, b"{" * 3000, b'{"a":' * 2000, b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"\n", b"\r"),
    *(b"\x1b[2J", b",", b"\t", b'"', b"'", b"../", b"&a *a", b"!!python/object:os.x", b"<<: *a", b"\x85"),
    *("\u2028".encode(), b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"(lp0", b"%s{}"),
    b"\x8c\x02os\x8c\x06system\x93",
)
READ, REFUSED, SLOW, CRASHED = "read", "refused", "too slow", "traceback"


@dataclass(frozen=True)
class Target:
    """A reader and the file it is given.

    Attributes:
        name: For the table.
        file: What is spoilt, of the folder that `good` fills.
        read: Reads it.
    """

    name: str
    file: Path
    read: Callable[[], object]


@dataclass
class Counts:
    """What a reader has done.

    Attributes:
        inputs: How many inputs were made by hand: fields of JSON.
        mutations: How many at random.
        ends: How often it ended how.
        faults: Where tracebacks came from, and how often.
    """

    inputs: int = 0
    mutations: int = 0
    ends: Counter[str] = field(default_factory=Counter[str])
    faults: Counter[str] = field(default_factory=Counter[str])

    def line(self, name: str) -> str:
        """Return the numbers as a line of a table."""
        ends = (self.ends[one] for one in (READ, REFUSED, SLOW, CRASHED))
        return "\t".join(map(str, (name, self.inputs, self.mutations, *ends)))


class _Slow(BaseException):
    """An input has taken too long. No reader's `except Exception` hears it."""


def targets(room: Path) -> list[Target]:
    """Write a good file for each reader into `room`, and return the readers."""
    clip = _clip()
    made: list[Target] = []
    for part in (_texts, _tables, _clips, _checkpoints, _models, _pictures, _masks, _features):
        (room / part.__name__).mkdir()
        made += part(room / part.__name__, clip)
    return made


def _clip() -> Clip:
    tokenizer = ClipTokenizer.from_merges([("o", "f</w>"), ("c", "a"), ("ca", "t</w>")])
    sizes = ClipConfig(
        TowerConfig(64, 1, 1), TowerConfig(64, 1, 1), 16, 8, vocab=tokenizer.vocab, embed=8, context=20
    )
    return Clip(sizes, tokenizer).initialise(torch.Generator().manual_seed(0)).eval().requires_grad_(False)


def _picture(seed: int = 0, size: tuple[int, int] = (16, 12)) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(noise)


def _put(path: Path, content: str | bytes | object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not isinstance(content, str | bytes):
        content = json.dumps(content)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _texts(room: Path, clip: Clip) -> list[Target]:
    options = _put(room / "a.yaml", "lr: 1e-3\nrows:\n  CoOp: &c {epochs: 5}\n  b: *c\n")
    command = declared("fvgpt+coop")
    sweep = _put(
        room / "sweep.yaml",
        "clip: tiny\nrecipe: paper\nseeds: [1, 2]\nprotocol: base-to-new\nsets: [dtd]\n"
        "rows:\n  CoOp: {method: coop, coop: {tokens: 4}}\n  b: {method: fvgpt+coop, epochs: 3}\n",
    )
    draw = room / "draw.json"
    write_draw(draw, StoredDraw("dtd", 1, 1, ("a", "b"), (("a/1.jpg", 0), ("b/2.jpg", 1))))
    lines = [{"_impath": "a/1.jpg", "_label": 0, "_classname": "a"}] * 2
    jsonl = _put(room / "shot_1-seed_1_train.jsonl", "\n".join(map(json.dumps, lines)))
    pkl = _put(room / "shot_1-seed_1.pkl", pickle.dumps({"train": lines, "val": lines}, 2))
    lists = {"train": [["a/1.jpg", 0, "a"]], "val": [], "test": [["b/2.jpg", 1, "b"]]}
    split = _put(room / "split.json", lists)
    _put(room / "air" / "variants.txt", "a\nb\n")
    for name in ("train", "val", "test"):
        lists = _put(room / "air" / f"images_variant_{name}.txt", f"{name}1 a\n{name}2 b\n")
    names = _put(room / "classnames.txt", "n01440764 tench\nn01443537 goldfish\n")
    for name in ("cat", "dog"):
        (room / "photos" / name).mkdir(parents=True)
        _picture().save(room / "photos" / name / f"{name}.png")
    config = RunConfig(photos=str(room / "photos"), method="coop", shots=2).as_dict()
    run = _put(
        room / "run.json",
        {"hash": "0", "identity": {"a": 1}, "run": config, "chosen": ["a"], "left_out": []},
    )
    log = room / "log.jsonl"
    journal = Journal(log, "coop", lambda: {"a": True})
    journal.epoch(0, 1, {"b": 0.5})
    journal.flush()
    measured = Measured("dtd", "base", 50.0, 2, 2, {"a": (1, 2)}, packed(torch.tensor([True, False])), "0")
    result = Result(
        *("base-to-new/dtd/coop/seed-1", "base-to-new", "CoOp", "dtd", "", 1, "coop", "paper", 16),
        *(None, None, "tiny", {"bank": "epochs"}, {"weights": "0"}, {"foveate": "0"}, "cpu"),
        *({"train": 1.5}, 10.0, 5, 3, (measured,)),
    )
    write_result(room, result)
    return [
        Target("yaml", options, lambda: read_yaml(options)),
        Target("yaml options", options, lambda: read_files(command, [str(options)])),
        Target("yaml sweep", sweep, lambda: read_sweep(sweep)),
        Target("draw", draw, lambda: read_draw(draw)),
        Target("draw jsonl", jsonl, lambda: read_foreign(jsonl)),
        Target("draw pickle", pkl, lambda: read_foreign(pkl)),
        Target("split of a set", split, lambda: read_split(split)),
        Target("lists of a set", lists, lambda: read_variants(room / "air")),
        Target("ImageNet's names", names, lambda: read_names(names)),
        Target("run.json", run, lambda: _reads_of_run(room)),
        Target("log answers", log, lambda: read_answered(log, ["a"])),
        Target("log rewind", log, lambda: Journal(log, "coop").rewind(1)),
        Target("result.json", room / "result.json", lambda: read_result(room)),
    ]


def _reads_of_run(room: Path) -> object:
    return load(read_run(room).config)


def _tables(room: Path, clip: Clip) -> list[Target]:
    for name in ("cat", "dog"):
        for number in range(2):
            (room / "pics" / name).mkdir(parents=True, exist_ok=True)
            _picture(number).save(room / "pics" / name / f"{number}.png")
    rows = [(f"pics/{name}/{number}.png", name) for name in ("cat", "dog") for number in range(2)]
    written = "".join(f"{path},{name},train\n" for path, name in rows)
    table = _put(room / "a.csv", "image,label,split\n" + written)
    lines = _put(room / "a.jsonl", "".join(json.dumps({"image": p, "label": n}) + "\n" for p, n in rows))
    split = _put(room / "split.json", {"train": [[p, i // 2, n] for i, (p, n) in enumerate(rows)], "val": []})
    names = _put(room / "pics" / "classnames.txt", "cat a cat\ndog a dog\n")
    return [
        Target("list csv", table, lambda: load_photos(table)),
        Target("list jsonl", lines, lambda: load_photos(lines)),
        Target("split json", split, lambda: load_photos(split)),
        Target("classnames.txt", names, lambda: load_photos(room / "pics")),
    ]


def _clips(room: Path, clip: Clip) -> list[Target]:
    save_clip(clip, room / "ours")
    for name, layout, file in (
        ("face", HUGGING_FACE, "model.safetensors"),
        ("open", OPENAI, "open_clip_model.safetensors"),
    ):
        _put(room / name / file, save(to_layout(clip.state_dict(), layout)))
        clip.tokenizer.save(room / name / "tokenizer.json")
    towers = {"hidden_act": "gelu", "num_attention_heads": 1, "hidden_size": 64}
    _put(room / "face/config.json", {"model_type": "clip", "vision_config": towers, "text_config": towers})
    _put(room / "face/preprocessor_config.json", {"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    tower = {"width": 64, "layers": 1, "head_width": 64, "heads": 1}
    model = {"embed_dim": 8, "quick_gelu": True, "vision_cfg": tower, "text_cfg": tower}
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3}
    _put(room / "open/open_clip_config.json", {"model_cfg": model, "preprocess_cfg": preprocess})
    vocabulary = json.loads((room / "ours/tokenizer.json").read_text())["model"]
    save_clip(clip, room / "old")
    (room / "old/tokenizer.json").unlink()
    _put(room / "old/vocab.json", vocabulary["vocab"])
    merges = [one if isinstance(one, str) else " ".join(one) for one in vocabulary["merges"]]
    _put(room / "old/merges.txt", "\n".join(["#version: 0.2", *merges]))
    tensors = to_layout(clip.state_dict(), HUGGING_FACE)
    save_clip(clip, room / "parts")
    _put(room / "parts/model.safetensors.index.json", {"weight_map": dict.fromkeys(tensors, "a.safetensors")})
    _put(room / "parts/a.safetensors", save(dict(clip.state_dict())))
    (room / "parts/model.safetensors").unlink()
    return [
        Target(f"CLIP {folder}/{file}", room / folder / file, lambda folder=folder: load_clip(room / folder))
        for folder, file in (
            *(("ours", name) for name in ("config.json", "model.safetensors", "tokenizer.json")),
            *(("face", name) for name in ("config.json", "preprocessor_config.json", "model.safetensors")),
            *(("open", name) for name in ("open_clip_config.json", "open_clip_model.safetensors")),
            *(("old", name) for name in ("vocab.json", "merges.txt")),
            ("parts", "model.safetensors.index.json"),
        )
    ]


class _Note:
    """Beside the weights in a checkpoint."""


def _checkpoints(room: Path, clip: Clip) -> list[Target]:
    found: list[Target] = []
    tensors = to_layout(clip.state_dict(), OPENAI)
    for name, zipped in (("zip", True), ("legacy", False)):
        weights, tuned = room / f"{name}.pt", room / f"{name}.pth.tar-5"
        kept = {"state_dict": tensors, "epoch": 3, "note": np.float64(1)}
        torch.save({"state_dict": tensors, "epoch": 3}, weights, _use_new_zipfile_serialization=zipped)
        kept["state_dict"] = {"ctx": torch.ones(2, 64), "token_prefix": torch.ones(2, 1, 64)}
        torch.save(kept, tuned, _use_new_zipfile_serialization=zipped)
        found += [
            Target(f"weights {name}", weights, lambda weights=weights: load_clip(weights)),
            Target(f"import {name}", tuned, lambda tuned=tuned: check_forms(read_checkpoint(tuned).tensors)),
        ]
    archive = room / "archive.pt"
    scripted = torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2), check_trace=False)
    torch.jit.save(scripted, str(archive))
    return [*found, Target("weights archive", archive, lambda: read_weights(archive))]


def _models(room: Path, clip: Clip) -> list[Target]:
    settings = {"coop": {"tokens": 2, "init": None}}
    method = build("coop", clip, settings)
    method.set_classes(["a", "b"])
    config = ModelConfig("coop", settings, "tiny", "0", ["a", "b"], template="a {}.", recipe={"epochs": 1})
    save_model(room / "model", config, method.learned())
    found = [
        Target(f"model {file}", room / "model" / file, lambda: _reads_of_model(room / "model", clip))
        for file in ("config.json", "model.safetensors")
    ]
    for name in ("sgd", "adamw"):
        path = room / f"{name}.safetensors"
        recipe = Recipe(optimiser=name)
        optimiser = make_optimiser(recipe, method.trainable())
        for tensor in method.trainable().values():
            tensor.grad = torch.ones_like(tensor)
        optimiser.step()
        save_state(path, method, optimiser, State(1, 2, 0.5))

        def take(path: Path = path, recipe: Recipe = recipe) -> object:
            other = build("coop", clip, settings)
            other.set_classes(["a", "b"])
            return load_state(path, other, make_optimiser(recipe, other.trainable()))

        found.append(Target(f"state {name}", path, take))
    return found


def _reads_of_model(folder: Path, clip: Clip) -> None:
    config, tensors = load_model(folder)
    getattr(torch, config.precision)
    configure(config.method, config.settings)
    method = build(config.method, clip, config.settings, config.seed)
    method.load_learned(tensors)
    method.set_classes(config.names, config.template)


def _pictures(room: Path, clip: Clip) -> list[Target]:
    found: list[Target] = []
    for kind in ("jpg", "png", "gif", "webp", "tiff", "bmp", "ppm"):
        path = room / f"a.{kind}"
        exif = Image.Exif()
        exif[0x0112] = 6
        more = {"exif": exif} if kind in ("jpg", "png", "webp") else {}
        _picture().save(path, **more)
        found.append(Target(f"picture {kind}", path, lambda path=path: open_picture(path)))
    return found


def _masks(room: Path, clip: Clip) -> list[Target]:
    mask = np.zeros((12, 16), np.uint8)
    mask[3:9, 4:12] = 255
    photos = [room / "photos" / f"{number}.png" for number in range(2)]
    store = MaskStore.open(room / "tree", {"proposer": "x"})
    for photo in photos:
        photo.parent.mkdir(exist_ok=True)
        _picture().save(photo)
        store.put(MaskRecord(photo.name, "0" * 64, 16, 12, 0.25, 1.0), mask > 0)
    store.close()
    pack(room / "tree", room / "packed")
    Image.fromarray(mask).save(room / "mask.png")
    np.save(room / "mask.npy", mask)
    np.savez_compressed(room / "mask.npz", mask=mask)
    images = [{"id": n, "file_name": p.name, "height": 12, "width": 16} for n, p in enumerate(photos)]
    runs = {"size": [12, 16], "counts": [50, 30, 112]}
    notes = [{"image_id": n, "segmentation": runs} for n in range(2)]
    coco = _put(room / "coco.json", {"images": images, "annotations": notes})
    boxes = _put(room / "boxes.csv", "image,left,top,right,bottom\n0.png,1,2,9,8\n1.png,1,2,9,8\n")
    shard = room / "packed" / "masks-00000.tar"
    found = [
        Target(f"mask {kind}", room / f"mask.{kind}", lambda kind=kind: read_mask(room / f"mask.{kind}"))
        for kind in ("png", "npy", "npz")
    ]
    pairs = [(photo, Path(photo.name)) for photo in photos]

    def matched(place: Path) -> list[object]:
        return [read_mask(one) for one in find_masks(pairs, place) if one is not None]

    return [
        *found,
        Target("masks coco", coco, lambda: [coco_masks(coco), matched(coco)]),
        Target("masks boxes", boxes, lambda: matched(boxes)),
        Target("masks manifest", room / "tree/manifest.jsonl", lambda: _stored(room / "tree")),
        Target("masks head", room / "tree/proposer.json", lambda: _stored(room / "tree")),
        Target("masks packed", shard, lambda: _stored(shard)),
        Target("masks index", room / "packed/masks-index.npz", lambda: _stored(room / "packed")),
    ]


def _stored(place: Path) -> list[object]:
    return [read_mask(mask) for mask in (stored_masks(place) or {}).values()]


def _features(room: Path, clip: Clip) -> list[Target]:
    path = room / "shard-00000.safetensors"
    write_shard(path, {"image": torch.ones(2, 8), "labels": torch.tensor([0, 1])}, ShardNote("x", ("a", "b")))
    write_index(room, FeatureIndex({"clip": "x"}, ("a", "b"), 1, (2,)))
    photos = Photos(("a",), (Sample(_put(room / "x.txt", "x"), 0),))
    return [
        Target("features shard", path, lambda: open_shard(path)),
        Target("features index", room / "index.json", lambda: [read_index(room), photos.digest()]),
    ]


def spoilt(content: bytes) -> Iterator[bytes]:
    """Yield a JSON text with each of its fields, one at a time, taken out or replaced by each of `ODD`."""
    try:
        value = json.loads(content)
    except ValueError:
        return
    for place in _places(value):
        if not place or len(place) > 4:
            continue
        for odd in (KeyError, *ODD):
            changed = copy.deepcopy(value)
            inner = changed
            for step in place[:-1]:
                inner = inner[step]
            if odd is KeyError:
                del inner[place[-1]]
            else:
                inner[place[-1]] = odd
            yield json.dumps(changed).encode()


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield above
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in list(inside)[:12]:
        yield from _places(one, (*above, key))


def mutated(content: bytes, chance: random.Random) -> bytes:
    """Return the content with one to four changes at random."""
    raw = bytearray(content)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        start = chance.randrange(len(raw) + 1)
        if chance.random() < 0.3:
            start = chance.randrange(min(len(raw), 512) + 1)  # heads are at the beginning
        end = min(len(raw), start + chance.choice((1, 1, 2, 4, 16, 200)))
        match chance.randrange(6):
            case 0:
                raw[start:end] = bytes(chance.randrange(256) for _ in range(end - start))
            case 1:
                del raw[start:end]
            case 2:
                raw[start:start] = raw[start:end] * chance.choice((1, 1, 2, 50))
            case 3:
                raw[start:end] = chance.choice(WORDS)
            case 4:
                raw[start:start] = chance.choice(WORDS)
            case _:
                del raw[start:]
    return bytes(raw)


def tried(target: Target, content: bytes, counts: Counts, keep: Path | None) -> None:
    """Give a reader one file, and count what it does."""
    target.file.write_bytes(content)
    try:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            target.read()
            end, fault = READ, ""
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (InputError, Damaged, UnfitFile) as error:
        line = str(error)
        end, fault = (REFUSED, "") if "\n" not in line and line else (CRASHED, f"{line!r} is not one line")
    except _Slow:
        end, fault = SLOW, f"more than {SECONDS} s"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = next((one for one in reversed(frames) if "foveate/" in one.filename), frames[-1])
        end, fault = CRASHED, f"{type(error).__name__} in {Path(ours.filename).name}:{ours.lineno}"
    counts.ends[end] += 1
    if fault:
        counts.faults[fault] += 1
        if keep is not None and counts.faults[fault] == 1:
            name = re.sub(r"\W+", "-", f"{target.name} {fault}")[:100]
            _put(keep / f"{name}{target.file.suffix}", content)


def run(
    mutations: int, seed: int = 1, only: str = "", keep: Path | None = None, inputs: int | None = None
) -> dict[str, Counts]:
    """Try the readers; return what each has done.

    Args:
        mutations: How many, all readers together.
        seed: Of what is mutated, and how.
        only: A regular expression that a reader's name must match.
        keep: Folder for the first file of each fault.
        inputs: Spoilt fields tried of each reader, evenly spread; None tries them all.
    """
    warnings.simplefilter("ignore")
    before = signal.signal(signal.SIGALRM, _too_slow)
    try:
        with tempfile.TemporaryDirectory() as room:
            made = [one for one in targets(Path(room)) if re.search(only, one.name)]
            return {one.name: _all_of(one, -(-mutations // len(made)), seed, keep, inputs) for one in made}
    finally:
        signal.signal(signal.SIGALRM, before)


def _all_of(target: Target, mutations: int, seed: int, keep: Path | None, inputs: int | None) -> Counts:
    good, counts, chance = target.file.read_bytes(), Counts(), random.Random(f"{seed} {target.name}")
    target.read()  # whoever cannot read the good file is no reader of it
    odd = list(spoilt(good))
    for content in odd[:: max(1, len(odd) // inputs)] if inputs else odd:
        tried(target, content, counts, keep)
        counts.inputs += 1
    for _ in range(mutations):
        tried(target, mutated(good, chance), counts, keep)
        counts.mutations += 1
    target.file.write_bytes(good)
    return counts


def _too_slow(*_: object) -> None:
    raise _Slow


def main(words: Sequence[str] | None = None) -> int:
    """Try all readers and print a table; return 1 where one failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--mutations", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", metavar="REGEX")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for the first file of each fault")
    given = parser.parse_args(words)
    start = time.perf_counter()
    done = run(given.mutations, given.seed, given.only, given.keep)
    print("\t".join(("reader", "inputs", "mutations", READ, REFUSED, SLOW, CRASHED)))
    for name, counts in done.items():
        print(counts.line(name))
        for fault, number in counts.faults.most_common():
            print(f"  {number} x {fault}")
    total = Counts(
        sum(counts.inputs for counts in done.values()),
        sum(counts.mutations for counts in done.values()),
        sum((counts.ends for counts in done.values()), Counter[str]()),
    )
    print(total.line("all"))
    print(f"{time.perf_counter() - start:.0f} s", file=sys.stderr)
    return int(total.ends[SLOW] + total.ends[CRASHED] > 0)


if __name__ == "__main__":
    sys.exit(main())
