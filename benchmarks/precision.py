"""Whether towers in bfloat16 answer as those in float32 do, on the world of species, over seeds.

    foveate data world world/ species
    python benchmarks/precision.py world/

Each seed trains CoOp and FVG-PT over it twice, on towers of each precision, and asks both about base and
new classes; so a difference has the training's share in it. `asked` is the model of float32, whose towers
are loaded in bfloat16 afterwards, as `foveate predict --dtype bfloat16` does.
"""

import argparse
import resource
import tempfile
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from foveate.classifier import Classifier
from foveate.data.samples import Photos
from foveate.datasets.opening import open_set
from foveate.evaluate.metrics import accuracy, harmonic_mean, mean

CLIP, SET, CONDITIONS, SPLITS = "tiny-mild", "species", ("home", "any"), ("base", "new")
SETTINGS = {"coop": {"init": "a photo of a"}}
RECIPE = {"epochs": 30, "batch_size": 32, "lr": 0.0035, "clip_grad": 1.0, "augment": "none"}
METHODS = {"zeroshot": "CLIP", "coop": "CoOp", "fvgpt+coop": "CoOp + FVG-PT"}
RUNS = ("float32", "bfloat16", "asked")

Answered = dict[tuple[str, str, str], tuple[Tensor, Tensor]]
"""`[N]` answered labels and `[N]` true ones, by method, condition and split."""


def cpu_seconds() -> float:
    """Return the processor time of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def answered(classifier: Classifier, tests: dict[str, Photos]) -> Answered:
    """Ask a model, its backbone and zero-shot CLIP about all test pictures."""
    found: Answered = {}
    for one in (classifier, *classifier.simpler()):
        for condition, photos in tests.items():
            for split in SPLITS:
                answers = one.evaluate(photos, split)
                found[one.method_name, condition, split] = answers.logits.argmax(-1), answers.labels
    return found


def one_seed(train: Photos, tests: dict[str, Photos], seed: int) -> tuple[dict[str, Answered], list[float]]:
    """Return the answers of each run, and CPU seconds of both trainings."""
    found: dict[str, Answered] = {}
    seconds: list[float] = []
    for name in ("float32", "bfloat16"):
        classifier = Classifier("fvgpt+coop", CLIP, settings=SETTINGS, dtype=getattr(torch, name))
        before = cpu_seconds()
        classifier.fit(train, shots=16, seed=seed, classes="base", recipe=RECIPE)
        seconds.append(cpu_seconds() - before)
        found[name] = answered(classifier, tests)
        if name == "float32":
            with tempfile.TemporaryDirectory() as folder:
                classifier.save_pretrained(folder)
                again = Classifier.from_pretrained(folder, dtype=torch.bfloat16)
            found["asked"] = answered(again, tests)
    return found, seconds


def table(seeds: list[dict[str, Answered]]) -> list[str]:
    """Return rows of Markdown: accuracies of each run, and labels that are not those of float32."""
    lines = ["| method | towers | base | new | HM | labels that differ |", "|---|---|---|---|---|---|"]
    for condition in CONDITIONS:
        for method, title in METHODS.items():
            for run in RUNS:
                right: dict[str, list[float]] = defaultdict(list)
                other, total = 0, 0
                for one in seeds:
                    for split in SPLITS:
                        (own, labels), (exact, _) = (
                            one[name][method, condition, split] for name in (run, "float32")
                        )
                        right[split].append(accuracy(torch.nn.functional.one_hot(own).float(), labels))
                        other, total = other + int((own != exact).sum()), total + len(own)
                base, new = mean(right["base"]), mean(right["new"])
                differ = "" if run == "float32" else f"{other} of {total}"
                cells = [
                    f"{title}, {condition}",
                    run,
                    *(f"{v:.2f}" for v in (base, new, harmonic_mean(base, new))),
                ]
                lines.append(f"| {' | '.join([*cells, differ])} |")
    return lines


def main() -> None:
    """Train, ask, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder of the data sets")
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    train = open_set(given.root, SET, splits=("train",))
    tests = {name: open_set(given.root, f"{SET}@{name}", splits=("test",)) for name in CONDITIONS}
    found: list[dict[str, Answered]] = []
    for seed in range(1, given.seeds + 1):
        answers, seconds = one_seed(train, tests, seed)
        found.append(answers)
        print(f"seed {seed}: float32 {seconds[0]:.1f} CPU s, bfloat16 {seconds[1]:.1f} CPU s", flush=True)
    print("\n".join(table(found)))


if __name__ == "__main__":
    main()
