"""How far a classifier's word can be trusted, on drawn sets: coverage, calibration, refusals; a table each.

    python benchmarks/trust.py --keep out/trust                  # all of it: hours; a stopped one goes on
    python benchmarks/trust.py --keep out/trust --trainings 0    # without methods that are trained by steps

Methods that are solved on features learn from 200 draws of shots, folds and all. Methods that are trained by
steps learn from `--trainings` draws; each is calibrated on half of its held-back shots and measured on half
of the test pictures, many times, so that there are 200 draws of them too. A calibration error is not 0 on so
few pictures, however right the probabilities are: "by chance" is what it would be.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import fmean

import torch
from torch import Tensor
from torch.nn import functional as F

from foveate.evaluate.answers import calibrated
from foveate.evaluate.judgement import auroc, ece
from foveate.trust.promises import MOST_NOVEL, least_probability
from foveate.trust.trust import Support, Trust
from trust_methods import SOLVED, TRAINED, Said, Trainer, solved
from trust_worlds import World, worlds

DRAWS, RISK = 200, 0.1
UNKNOWN = ("near", "noise", "photo")
COLUMNS = (
    *("method", "right", "covered", "MAPIE covers", "names a set", "MAPIE's"),
    *("ECE as given", "ECE", "by chance", "ECE with new, as given", "ECE with new", "by chance"),
    *("unknown, named: right", "refused"),
)


@cache
def support(world: World, seed: int) -> Support:
    """Return the shots of a draw as the untouched CLIP sees them."""
    rows = world.draw(seed)
    texts = world.texts[: len(world.names)]
    return Support.of(world.features["pool"][rows], world.labels("pool")[rows], texts)


def figures(world: World, seed: int, said: Said, held: Tensor, rows: Tensor) -> list[float]:
    """Return the figures of one draw, in the order of `COLUMNS`.

    Args:
        world: The world.
        seed: Of the shots.
        said: What the method said.
        held: Which of the held-back shots to calibrate on.
        rows: Which pictures of the pool to measure on.
    """
    shots = support(world, seed)
    texts = F.normalize(world.texts[: len(world.names)], dim=-1)
    zero_shot = float(world.clip.scale) * shots.features @ texts.T
    trust = Trust.of(shots, zero_shot, said.held[held], said.owners[held])
    truth = world.labels("pool")[rows]
    logits = said.pool[rows]
    given, p = logits.softmax(dim=1), calibrated(logits, trust.calibration_for("base"))
    plain = (logits / trust.calibration.temperature).softmax(dim=1)
    right = given.argmax(dim=1) == truth
    found = [100 * float(right.float().mean())]
    sets = (
        torch.from_numpy(trust.sets(logits, "base", RISK)),
        plain >= least_probability(trust.truths.tolist(), RISK),
    )  # tests: MAPIE's are those
    found += [100 * float(one.gather(1, truth[:, None]).float().mean()) for one in sets]
    found += [float(one.sum(dim=1).float().mean()) for one in sets]
    found += [ece(one.max(dim=1).values, right) for one in (given, p)] + [chance(p)]
    return found if said.both is None else found + among_all(world, trust, said.both, rows)


def among_all(world: World, trust: Trust, logits: Tensor, rows: Tensor) -> list[float]:
    """Return calibration errors among known and new names, and what becomes of unknowns that are named."""
    number, known = len(world.labels("pool")), len(world.names)
    new = world.labels("near") + known
    near = torch.arange(number, number + len(new))
    rows, truth = torch.cat([rows, near]), torch.cat([world.labels("pool"), new])
    given, p = logits[rows].softmax(dim=1), calibrated(logits[rows], trust.calibration_for("mixed"))
    right = given.argmax(dim=1) == truth[rows]
    errors = [ece(one.max(dim=1).values, right) for one in (given, p)] + [chance(p)]
    answers, features = logits[near].argmax(dim=1), world.features["near"]
    of_shots = trust.support.novelty(features, torch.arange(known))
    of_names = trust.support.novelty_of_names(features, world.texts[answers])
    refused = torch.where(answers >= known, of_names, of_shots) >= MOST_NOVEL
    shares = ((answers == new) & ~refused, refused)
    return [*errors, *(100 * float(one.float().mean()) for one in shares)]


def chance(p: Tensor) -> float:
    """Return the calibration error that answers have on average if each is right as often as it says."""
    top, generator = p.max(dim=1).values, torch.Generator().manual_seed(0)
    return fmean(ece(top, torch.rand(len(top), generator=generator) < top) for _ in range(5))


def refused(world: World, seed: int) -> list[float]:
    """Return which percent of each kind of picture is refused, and AUROC of near unknowns."""
    known, shots = torch.arange(len(world.names)), support(world, seed)
    pictures = [world.features["pool"][world.rest(seed)], *(world.features[of] for of in UNKNOWN)]
    novelty = [shots.novelty(one, known) for one in pictures]
    return [
        *(100 * float((one >= MOST_NOVEL).float().mean()) for one in novelty),
        100 * auroc(novelty[1], novelty[0]),
    ]


def all_said(name: str, world: World, seeds: int) -> Iterator[tuple[int, Said]]:
    """Yield what a method said after each draw of shots; of trained ones, what is kept."""
    for seed in range(seeds):
        if name in SOLVED:
            yield seed, solved(name, world, seed)
        elif place(world, name, seed).exists():
            yield seed, Said(**torch.load(place(world, name, seed), weights_only=True))


def place(world: World, name: str, seed: int) -> Path:
    """Return the file of what a trained method said."""
    return world.keep / f"{world.key}-{name}-{seed}.pt"


def train(world: World, names: Sequence[str], seed: int) -> None:
    """Train methods on a draw of shots, if that is not done, and keep what they say."""
    missing = [name for name in names if not place(world, name, seed).exists()]
    trainer = Trainer(world, seed) if missing else None
    for name in missing if trainer else ():
        torch.save(asdict(trainer.said(name)), place(world, name, seed))
        print(f"trained {world.key} {name} {seed}", flush=True)


def measured(name: str, world: World, seeds: int) -> tuple[Tensor, str]:
    """Return `[draws of shots, figures]` of a method, and how many draws there are in words."""
    everything, found = list(all_said(name, world, seeds)), list[Tensor]()
    splits = -(-DRAWS // max(1, len(everything)))
    for seed, said in everything:
        rest, own = world.rest(seed), torch.arange(len(said.held))
        if name in SOLVED:
            found.append(torch.tensor(figures(world, seed, said, own, rest)))
            continue
        generator, several = torch.Generator().manual_seed(seed), list[list[float]]()
        for _ in range(splits):
            halves = [
                one[torch.randperm(len(one), generator=generator)[: len(one) // 2]] for one in (own, rest)
            ]
            several.append(figures(world, seed, said, *halves))
        found.append(torch.tensor(several).mean(dim=0))
    drawn = str(len(found)) if name in SOLVED else f"{len(found)} × {splits}"
    return torch.stack(found) if found else torch.zeros(0, 0), drawn


def row(*cells: object) -> str:
    """Return a row of a Markdown table."""
    return "| " + " | ".join(f"{one:.1f}" if isinstance(one, float) else str(one) for one in cells) + " |"


def tell(world: World, seeds: int, trainings: int) -> None:
    """Print the tables of a world."""
    print(f"\n{world.key}: {len(world.names)} classes, {len(world.new)} near unknowns\n")
    print(row(*COLUMNS, "draws"))
    print(row(*["---"] * (len(COLUMNS) + 1)))
    for name in (*SOLVED, *(TRAINED if trainings else ())):
        found, drawn = measured(name, world, seeds if name in SOLVED else trainings)
        if len(found):
            mean = found.mean(dim=0).tolist()
            numbers = mean[:3] + [f"{one:.2f}" for one in mean[3:5]] + mean[5:]
            print(row(name, *numbers, *["–"] * (len(COLUMNS) - 1 - len(numbers)), drawn), flush=True)
    print("\n" + row("refused: known", "near unknowns", "noise", "photographs", "AUROC of near unknowns"))
    print(row(*["---"] * 5))
    print(row(*torch.tensor([refused(world, seed) for seed in range(seeds)]).mean(dim=0).tolist()))


def main() -> None:
    """Measure, and print Markdown."""
    reader = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    reader.add_argument("--seeds", type=int, default=DRAWS, help="draws of shots, for solved methods")
    reader.add_argument("--trainings", type=int, default=10, help="draws of shots, for trained methods")
    reader.add_argument("--worlds", nargs="+", default=["scenes", "small", "mild"])
    reader.add_argument("--methods", nargs="+", default=list(TRAINED), choices=TRAINED)
    reader.add_argument("--keep", type=Path, required=True, help="folder of what was measured")
    given = reader.parse_args()
    given.keep.mkdir(parents=True, exist_ok=True)
    chosen = [world for world in worlds(given.keep) if world.key in given.worlds]
    quick = [name for name in given.methods if name != "mmrl"]  # it takes as long as all others
    for names in quick, [name for name in given.methods if name not in quick]:
        for seed in range(given.trainings):
            for world in chosen:
                train(world, names, seed)
    for world in chosen:
        tell(world, given.seeds, given.trainings)


if __name__ == "__main__":
    main()
