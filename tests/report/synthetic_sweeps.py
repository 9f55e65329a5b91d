"""Sweep folders with invented answers, as `foveate sweep` would write them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from foveate.report.frame import class_count
from foveate.report.published import base_to_new, cross_dataset, rows, sets
from foveate.seeds import stream
from foveate.sweep.jobs import slug
from foveate.sweep.results import Measured, Result, packed, write_result

KEYS = {
    "ImageNet": "imagenet",
    "Caltech101": "caltech101",
    "Food101": "food101",
    "StanfordCars": "stanford_cars",
    "OxfordPets": "oxford_pets",
    "Flowers102": "oxford_flowers",
    "DTD": "dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc_aircraft",
    "SUN397": "sun397",
    "UCF101": "ucf101",
}
CLIP = "openai/clip-vit-base-patch16"
METHODS = {
    row: ("fvgpt+" if "FVG" in row else "") + row.partition("+")[0].strip().lower()
    for row in [name.replace("+", " + ") for name in rows()]
}


def answers(percent: float, pictures: int, *name: object) -> torch.Tensor:
    """Return `[N]` answers, of which so many percent are right; which ones is drawn."""
    right = torch.zeros(pictures, dtype=torch.bool)
    right[
        torch.randperm(pictures, generator=stream(0, *map(str, name)))[: round(percent * pictures / 100)]
    ] = True
    return right


def measured(dataset: str, split: str, right: torch.Tensor, classes: int = 2, **more: Any) -> Measured:
    digest = hashlib.sha256(f"{dataset} {split} {len(right)}".encode()).hexdigest()[:16]
    hits, pictures = int(right.sum()), len(right)
    return Measured(
        dataset,
        split,
        100 * hits / pictures,
        pictures,
        classes,
        {"all": (hits, pictures)},
        packed(right),
        digest,
        **more,
    )


def result(
    row: str,
    dataset: str,
    seed: int,
    *answered: Measured,
    protocol: str = "base-to-new",
    method: str | None = None,
    variant: str = "",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    training: Mapping[str, Any] | None = None,
    **more: Any,
) -> Result:
    words = [protocol, dataset, slug(row), variant, f"seed-{seed}"]
    made = Result(
        key="/".join(word for word in words if word),
        protocol=protocol,
        row=row,
        dataset=dataset,
        variant=variant,
        seed=seed,
        method=method or METHODS.get(row, "coop"),
        recipe="released-code",
        shots=16,
        fraction=None,
        select=None,
        clip=CLIP,
        config={
            "settings": {name: dict(own) for name, own in (settings or {}).items()},
            "training": {"epochs": 10, "lr": 0.0035, "batch_size": 4, "optimiser": "sgd", **(training or {})},
            "template": "a photo of a {}.",
            "precision": "float32",
        },
        hashes={"weights": "5806e77cd80f8b59", "split": hashlib.sha256(dataset.encode()).hexdigest()[:16]},
        versions={"foveate": "0.1.0", "torch": "2.13.0", "python": "3.12.4"},
        device="CPU, 1 thread",
        seconds={"train": 20.0, "test": 5.0},
        peak_memory_mb=1200.0,
        learned_numbers=134594 if "FVG" in row else 2048,
        pictures=160,
        measured=answered,
    )
    return replace(made, **more)


def printed(row: str, title: str) -> tuple[float, float]:
    """Return Table 1's base and new."""
    found = base_to_new(row, title)
    assert found is not None
    return found[:2]


def write_all(folder: Path, results: Iterable[Result]) -> Path:
    for one in results:
        write_result(folder / one.key, one)
    return folder


def paper_results(pictures: int = 10_000, seeds: Iterable[int] = (1, 2, 3)) -> list[Result]:
    """Return the paper's Table 1 as results: each seed has exactly the printed figures."""
    return [
        result(
            row.replace("+", " + "),
            KEYS[title],
            seed,
            *(
                measured(
                    KEYS[title],
                    split,
                    answers(percent, pictures, row, title, split, seed),
                    _classes(KEYS[title], split),
                )
                for split, percent in zip(("base", "new"), printed(row, title), strict=True)
            ),
        )
        for row in rows()
        for title in sets()
        for seed in seeds
    ]


def carried_results(pictures: int = 10_000, seeds: Iterable[int] = (1, 2, 3)) -> list[Result]:
    """Return the paper's Table 2 as results."""
    return [
        result(
            row.replace("+", " + "),
            "imagenet",
            seed,
            *(
                measured(
                    KEYS[title],
                    "base" if title == "ImageNet" else "new",
                    answers(cross_dataset(row, title) or 0.0, pictures, row, title, seed),
                    _classes(KEYS[title], "all"),
                )
                for title in sets()
            ),
            protocol="cross-dataset",
        )
        for row in rows()
        for seed in seeds
    ]


def lively(
    methods: Mapping[str, str],
    datasets: Iterable[str],
    seeds: Iterable[int],
    pictures: int = 400,
    **more: Any,
) -> list[Result]:
    """Return base-to-new results with differences between rows, sets and seeds, and a shift index.

    Args:
        methods: By row.
        datasets: Keys.
        seeds: Of each.
        pictures: In each half of a test split.
        **more: Of `result`.
    """
    made: list[Result] = []
    for place, (row, method) in enumerate(methods.items()):
        for at, dataset in enumerate(datasets):
            for seed in seeds:
                wobble = float(torch.randn(1, generator=stream(seed, row, dataset)))
                halves = {"base": 80 - at + 1.5 * place + wobble, "new": 66 + at + 1.5 * place - wobble}
                right = {
                    split: likely(percent, pictures, seed, row, dataset, split)
                    for split, percent in halves.items()
                }
                both = torch.cat([right["base"], right["new"]]) & answers(
                    92, 2 * pictures, row, dataset, seed, "all"
                )
                shares = [100 * float(half.double().mean()) for half in both.split(pictures)]
                shift = 1.0 - 0.2 * place + wobble / 50
                made.append(
                    result(
                        row,
                        dataset,
                        seed,
                        measured(dataset, "base", right["base"], _classes(dataset, "base"), shift=shift),
                        measured(dataset, "new", right["new"], _classes(dataset, "new"), shift=shift + 0.1),
                        measured(
                            dataset,
                            "all",
                            both,
                            _classes(dataset, "all"),
                            trained=shares[0],
                            others=shares[1],
                        ),
                        method=method,
                        **more,
                    )
                )
    return made


def likely(percent: float, pictures: int, seed: int, row: str, *where: str) -> torch.Tensor:
    """Return answers that depend on how hard each picture is, so that rows agree about most of them."""
    hard = torch.randn(pictures, generator=stream(7, *where))
    own = torch.randn(pictures, generator=stream(seed, row, *where))
    score = hard + 0.5 * own
    return score <= score.sort().values[max(0, round(percent * pictures / 100) - 1)]


def _classes(dataset: str, split: str) -> int:
    return class_count(dataset, split) or 6


def everything() -> list[Result]:
    """Return a small sweep of every protocol, photographs and drawn scenes, with something missing in it."""
    rows = {"CLIP": "zeroshot", "CoOp": "coop", "CoOp + FVG-PT": "fvgpt+coop", "MMRL + FVG-PT": "fvgpt+mmrl"}
    studies: dict[str, Mapping[str, Any]] = {
        "thin": {"gate_depth": 1},
        "usual": {},
        "no gate": {"foreground_gate": False},
        "no KL": {"terms": ["base", "gate", "distill", "prior"]},
        "narrow": {"adapter_hidden": 16},
        "blur": {"fill": "blur"},
    }
    two = {name: rows[name] for name in ("CoOp", "CoOp + FVG-PT")}
    made = lively(rows, ["dtd", "eurosat"], (1, 2, 3))
    made = [one for one in made if (one.row, one.dataset, one.seed) != ("CoOp", "dtd", 2)]
    for name, own in studies.items():
        made += lively({name: "fvgpt+coop"}, ["dtd", "eurosat"], (1, 2), settings={"fvgpt": own})
    long = lively({"long": "fvgpt+coop"}, ["eurosat"], (1, 2), training={"epochs": 20})
    made += [*long, *lively(two, ["world-1", "world-2"], (1, 2), pictures=90, clip="tiny")]
    made += lively({"CoOp": "coop"}, ["dtd"], range(1, 6), pictures=100, protocol="seed-robustness")
    large = {"clip": CLIP.replace("base-patch16", "large-patch14"), "hashes": {"weights": "1f"}}
    made += [replace(one, **large, key=f"large/{one.key}") for one in lively(two, ["dtd"], (1,), 80)]
    for place, (name, method) in enumerate(two.items()):
        for seed in (1, 2):
            halves = {"base": 24, "new": 23}
            made += [
                result(
                    name,
                    dataset,
                    seed,
                    measured(dataset, "base", likely(50 + shots + 2 * place, 80, seed, name, dataset), 47),
                    protocol="few-shot",
                    variant=f"{shots}-shots",
                    method=method,
                    shots=shots,
                )
                for dataset in ("dtd", "food101")
                for shots in (1, 16)
            ]
            made += [
                result(
                    name,
                    "dtd",
                    seed,
                    *(
                        measured("dtd", half, likely(50 + 20 * share + place, 80, seed, name, half), number)
                        for half, number in halves.items()
                    ),
                    protocol="data-efficiency",
                    variant=f"fraction-{share:g}",
                    method=method,
                    shots=int(16 * share),
                )
                for share in (0.25, 1.0)
            ]
            for protocol, targets in (
                ("cross-dataset", {"caltech101": 100, "dtd": 47}),
                ("domain-generalisation", {"imagenet_r": 200}),
            ):
                asked = {"imagenet": 1000, **targets}
                made.append(
                    result(
                        name,
                        "imagenet",
                        seed,
                        *(
                            measured(
                                key,
                                "base" if key == "imagenet" else "new",
                                likely(60 + 4 * place + len(key), 90, seed, name, key),
                                number,
                            )
                            for key, number in asked.items()
                        ),
                        protocol=protocol,
                        method=method,
                    )
                )
    return made
