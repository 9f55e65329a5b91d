"""Trained and new names together: which rule joins FVG-PT's two branches best, without more to learn?

    python benchmarks/world_mixed.py --seeds 5

Every scene of trained and new classes is told apart among all names ("generalised"): base, new, their HM.
"""

import argparse
import sys
from collections.abc import Callable

import torch
from torch import Tensor

from foveate.demo import RADIUS, make_task
from foveate.methods.fvgpt import FvgPt
from on_world import encode, generalised, learn, plugged, table, tuned, world_recipe

Answers = dict[str, Tensor]
"""Logits over all names: `backbone`, `class_token`, `clip`, `fdc`, `pc`, and `fdc_in_pc`: Eq. 12 with FDC as
the backbone."""


def split(within: Tensor, beside: Tensor, gate: Tensor, bases: int) -> Tensor:
    """Return log p(c): the side from `gate`, a trained name from `within`, a new one from `beside`."""
    sides = torch.stack([gate[:, :bases].logsumexp(-1), gate[:, bases:].logsumexp(-1)], -1).log_softmax(-1)
    trained = within[:, :bases].log_softmax(-1) + sides[:, :1]
    new = beside[:, bases:].log_softmax(-1) + sides[:, 1:]
    return torch.cat([trained, new], -1)


def pooled(within: Tensor, whole: Tensor, bases: int, weight: float) -> Tensor:
    """Return `whole` with trained names pooled geometrically with `within`, which abstains on new ones."""
    other, own = within[:, :bases].log_softmax(-1), whole[:, :bases].log_softmax(-1)
    trained = weight * other + (1 - weight) * own + whole[:, :bases].logsumexp(-1, keepdim=True)
    return torch.cat([trained, whole[:, bases:]], -1)


def least_change(within: Tensor, whole: Tensor, bases: int) -> Tensor:
    """Return the r nearest to softmax(whole) in KL(r ‖ ·) whose trained names follow `within`."""
    q, p = within[:, :bases].log_softmax(-1), whole[:, :bases].log_softmax(-1)
    apart = (q.exp() * (q - p)).sum(-1, keepdim=True)
    return torch.cat([q + whole[:, :bases].logsumexp(-1, keepdim=True) - apart, whole[:, bases:]], -1)


def concatenated(trained: Tensor, new: Tensor, bases: int) -> Tensor:
    """Return the columns of either branch as they are."""
    return torch.cat([trained[:, :bases], new[:, bases:]], -1)


RULES: dict[str, Callable[[Answers, int], Tensor]] = {
    "CLIP alone": lambda z, n: z["clip"],
    "backbone alone": lambda z, n: z["backbone"],
    "PC alone": lambda z, n: z["pc"],
    "FDC alone": lambda z, n: z["fdc"],
    "concatenation": lambda z, n: concatenated(z["fdc"], z["pc"], n),
    "side from PC": lambda z, n: split(z["fdc"], z["pc"], z["pc"], n),
    "side from CLIP": lambda z, n: split(z["fdc"], z["pc"], z["clip"], n),
    "side from FDC": lambda z, n: split(z["fdc"], z["pc"], z["fdc"], n),
    "side from PC + FDC": lambda z, n: split(z["fdc"], z["pc"], (z["pc"] + z["fdc"]) / 2, n),
    "side from CLIP + FDC": lambda z, n: split(z["fdc"], z["pc"], (z["clip"] + z["fdc"]) / 2, n),
    "side from all": lambda z, n: split(z["fdc"], z["pc"], (z["clip"] + z["fdc"] + z["backbone"]) / 3, n),
    "side from PC, trained from both": lambda z, n: split((z["fdc"] + z["pc"]) / 2, z["pc"], z["pc"], n),
    "pooled, 1/2": lambda z, n: pooled(z["fdc"], z["pc"], n, 0.5),
    "pooled, 3/4": lambda z, n: pooled(z["fdc"], z["pc"], n, 0.75),
    "least change": lambda z, n: least_change(z["fdc"], z["pc"], n),
    "FDC in PC": lambda z, n: concatenated(z["fdc_in_pc"], z["pc"], n),
    "side from PC, trained from FDC in PC": lambda z, n: split(z["fdc_in_pc"], z["pc"], z["pc"], n),
    "mean of PC and FDC": lambda z, n: (z["pc"] + z["fdc"]) / 2,
    "mean of CLIP and FDC": lambda z, n: (z["clip"] + z["fdc"]) / 2,
}


@torch.no_grad()
def answers(method: FvgPt, features) -> Answers:
    """Return what each part says of all scenes over all names."""
    new, clip = method._new_and_clip(features)
    plain = type(features)(features.image, features.text)
    fdc, b = method.logits(features, "base"), method.guidance.prior_trust(new, clip)[:, None]
    return {
        "fdc_in_pc": (1 - b) * fdc + b * clip,
        "backbone": method.backbone.logits(plain, "base"),
        "class_token": new,
        "clip": clip,
        "fdc": fdc,
        "pc": method.logits(features, "new"),
    }


def main() -> None:
    """Run all seeds and print a table a backbone."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--backbones", nargs="+", default=["coop", "kgcoop", "promptsrc", "mmrl"])
    parser.add_argument("--radius", type=float, nargs=2, default=RADIUS, help="of objects; smaller is harder")
    args = parser.parse_args()
    for backbone in args.backbones:
        rows: dict[str, list[dict[str, float]]] = {name: [] for name in RULES}
        for seed in range(1, args.seeds + 1):
            task, recipe = make_task(seed, radius=tuple(args.radius)), world_recipe(backbone)
            method = plugged(tuned(backbone, task, seed, recipe), task, seed)
            learn(method, task, recipe, seed)
            names = task.base + tuple(name for name in task.test.names if name not in task.base)
            asked = encode(method, task.test, names, task.base)
            found = answers(method, asked.features)
            for name, rule in RULES.items():
                rows[name].append(generalised(rule(found, len(task.base)), asked.labels, len(task.base)))
            print(f"{backbone}, seed {seed} done", file=sys.stderr)
        print(f"\n{backbone}\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()
