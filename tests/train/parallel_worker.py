"""One of two processes that train together; a test starts both: `python parallel_worker.py JOBS OUT`.

The first then trains alone what both have trained, for comparison.
"""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from foveate.classifier import Classifier
from foveate.clip.model import Clip
from foveate.clip.weights import load_clip
from foveate.commands.learning import launched
from foveate.data.loader import PictureSet
from foveate.data.sources import load_photos
from foveate.errors import InputError
from foveate.memory import digest_of
from foveate.methods.base import Method
from foveate.methods.coop import CoOp
from foveate.train.banking import BankPlan
from foveate.train.context import Context
from foveate.train.journal import Reporter, Step
from foveate.train.parallel import ProcessGroup
from foveate.train.recipe import recipe_for
from foveate.train.run import run_stages
from foveate.types import Batch, Features

READ: list[int] = []
"""The pictures that were decoded."""


def train(
    job: dict[str, Any], data: Path, clip: Clip, process_group: ProcessGroup | None, out: Path
) -> dict[str, Any]:
    """Train a job's method, save what it learned, and return its steps."""
    photos = load_photos(data / "photos", masks=data / "masks")
    first, *others = photos.samples  # without a mask it has no foreground, and teaches some terms nothing
    photos = photos.with_samples([replace(first, mask=None), *others])
    steps: list[Step] = []
    reporter = Reporter()
    reporter.step = lambda stage, total, step: steps.append(step)
    (out / "run").mkdir(parents=True)
    READ.clear()
    built = run_stages(
        job["method"],
        clip,
        photos,
        recipe_for(job["method"], {"epochs": 1, "warmup_epochs": 0, "lr": 0.01, **job["recipe"]}),
        settings=job.get("settings"),
        template="a photo of a {}.",
        seed=3,
        folder=out / "run",
        bank=None if job.get("bank") == "off" else BankPlan(out / "bank"),
        context=Context(reporter, process_group),
    )
    save_file({name: t.detach().clone() for name, t in built.learned().items()}, out / "learned.safetensors")
    return {
        "losses": [step.losses for step in steps],
        "norms": [step.grad_norm for step in steps],
        "read": len(READ),
        "wrote": sorted({path.name for path in out.rglob("*") if path.is_file()} - {"learned.safetensors"}),
    }


def spoiled(method: CoOp, batch: Batch) -> Features:
    """Learn something that no gradient says."""
    method.ctx.data.add_(1)
    return Method.forward(method, batch)


def train_all(jobs: dict[str, Any], out: Path, process_group: ProcessGroup) -> dict[str, Any]:
    """Train what all jobs ask for; return what there is to say of each."""
    # In float32, rounding grows with the steps until it hides mistakes.
    clip = load_clip(jobs["clip"], dtype=torch.float64)
    said: dict[str, Any] = {}
    for name, job in jobs["jobs"].items():
        own = out / name / str(process_group.share.rank)
        if job.get("spoil") and not process_group.first:
            CoOp.forward = spoiled
        try:
            said[name] = {"together": train(job, Path(jobs["data"]), clip, process_group, own)}
            if process_group.first:
                said[name]["alone"] = train(job, Path(jobs["data"]), clip, None, out / name / "alone")
        except InputError as error:
            said[name] = {"error": str(error)}
        CoOp.forward = Method.forward
    return said


def fit_twice(jobs: dict[str, Any], out: Path, process_group: ProcessGroup) -> list[str]:
    """Fit as the command would, and again, when the run has finished; return what was learned."""
    run = {key.replace("-", "_"): value for key, value in jobs["run"].items()}
    words = {"masks": f"{jobs['data']}/masks", "shots": run.pop("shots"), "recipe": run, "log_answers": True}
    where = (
        out / "whole" if process_group.first else out / "nowhere"
    )  # another computer has not this one's folders
    learned: list[str] = []
    for _ in range(2):
        classifier = Classifier("coop", jobs["clip"])
        classifier.fit(f"{jobs['data']}/photos", out=where, process_group=process_group, **words)
        learned.append(digest_of(classifier.method.learned()))
    return learned


def main() -> None:
    jobs, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    warnings.simplefilter("ignore")
    read = PictureSet.item
    PictureSet.item = lambda self, index, *more: READ.append(index) or read(self, index, *more)
    with launched() as process_group:
        said = train_all(jobs, out, process_group)
        said["fitted"] = fit_twice(jobs, out, process_group)
        (out / f"said-{process_group.share.rank}.json").write_text(json.dumps(said))
        process_group.demand_same(
            {"seed": process_group.share.rank}, "a run"
        )  # which the second finds wrong, alone


main()
