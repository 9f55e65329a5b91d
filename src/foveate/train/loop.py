"""The training loop, independent of any method.

For each epoch and batch, it computes the method's named losses, sums them and takes a step. After each
epoch it writes the resume state. A killed run resumes from this state and ends with the same bits.
Learned tensors can be averaged over epochs.
"""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor, nn

from foveate.errors import InputError
from foveate.methods.base import Method
from foveate.methods.capabilities import ClosedForm, SupportSet, capability, watchers
from foveate.train.journal import Journal, Step
from foveate.train.optimiser import State, load_state, make_optimiser, save_state
from foveate.train.recipe import Recipe, average_weight, learning_rate
from foveate.train.together import SingleProcess, TrainStep
from foveate.types import Batch

LOG = logging.getLogger("foveate.train")

Batches = Callable[[int], Iterable[Batch]]
"""Function from an epoch, counted from 0, to its batches. An epoch must always give the same batches."""


class Diverged(InputError):
    """Training diverged: a loss or gradient is not finite, or the loss exploded."""


def fit(  # noqa: PLR0913  (all but the first three by name)
    method: Method,
    batches: Batches,
    recipe: Recipe,
    *,
    support: SupportSet | None = None,
    state: Path | None = None,
    journal: Journal | None = None,
    on_step: Callable[[Step], None] | None = None,
    steps: TrainStep | None = None,
) -> None:
    """Train the trainable tensors of `method`.

    Args:
        method: The method with its classes set; its learned tensors change in place.
        batches: Returns the batches of an epoch.
        recipe: The training recipe.
        support: Pictures for the closed form of a `ClosedForm` method, used before the first step; None
            takes the batches of epoch 0 for each pass.
        state: File of the resume state; it is read if it exists, and written after each epoch.
        journal: Log of the steps.
        on_step: Called after each step, for progress bars.
        steps: Computation of a step from a batch: in a single process by default, or in a process group.

    Raises:
        Diverged: A loss or gradient is not finite, or the loss exploded; the message names step and
        term.
        InputError: The resume state belongs to another run, or there is no loss to minimise.
    """
    steps = steps or SingleProcess()
    solver = capability(method, ClosedForm, trained=True)
    if solver:
        solver.fit_support(support or SupportSet(lambda _: batches(0)))
    steps.agree(method)
    if method.trainable():
        with steps.training(method):
            _take_steps(method, batches, recipe, steps, state=state, journal=journal, on_step=on_step)
    method.eval()
    if solver:
        solver.finish()
    steps.agree(method)


def _take_steps(
    method: Method,
    batches: Batches,
    recipe: Recipe,
    steps: TrainStep,
    *,
    state: Path | None,
    journal: Journal | None,
    on_step: Callable[[Step], None] | None,
) -> None:
    """Take all remaining steps."""
    learned, parts = method.trainable(), watchers(method)
    optimiser = make_optimiser(recipe, learned)
    journal = journal or Journal(None)
    average = GaussianAverage(recipe, learned)
    resumed = steps.read_state(state, lambda path: load_state(path, method, optimiser, average.tensors))
    _check_epoch(resumed, recipe, state)
    journal.rewind(resumed.step)
    method.train()
    first_loss, step = resumed.first_loss, resumed.step
    for epoch in range(resumed.epoch, recipe.epochs):
        lr = optimiser.lr = learning_rate(recipe, epoch)
        last: Batch | None = None
        losses: list[float] = []
        for part in parts:
            part.begin_epoch(epoch, recipe.epochs)
        with journal:
            for batch in batches(epoch):
                last = replace(batch, step=step)
                terms = steps.terms(method, last)
                if not any(loss.requires_grad for loss in terms.own.values()):
                    raise InputError("the method's settings leave no loss term that trains anything")
                _check_losses(terms.values, first_loss, recipe, step)
                optimiser.zero_grad()
                steps.backward(method, terms, learned)
                norm = _check_gradients(learned, recipe, step)
                optimiser.step()
                entry = Step(epoch, step, lr, terms.values, norm)
                first_loss, step = first_loss or abs(entry.loss), step + 1
                losses.append(entry.loss)
                journal.step(entry)
                if on_step:
                    on_step(entry)
            steps.end_epoch(method, learned, epoch)
            LOG.info(
                "%s: epoch %d of %d, loss %.4f, learning rate %.3g",
                method.name,
                epoch + 1,
                recipe.epochs,
                sum(losses) / len(losses) if losses else 0.0,
                lr,
            )
            metrics = [part.metrics().items() for part in reversed(parts)]
            journal.epoch(epoch, step, dict(chain.from_iterable(metrics)))
        if last is not None and epoch + 1 == recipe.epochs:
            with torch.no_grad():  # the effect of the last step is in no loss yet
                _check_losses(steps.terms(method, last).values, first_loss, recipe, step)
        average.add(epoch)
        save_state(state, method, optimiser, State(epoch + 1, step, first_loss), average.tensors)


def _check_epoch(resumed: State, recipe: Recipe, path: Path | None) -> None:
    if resumed.epoch > recipe.epochs:
        raise InputError(
            f"{path} is of epoch {resumed.epoch} of {recipe.epochs}: delete it to start this stage again"
        )


def _check_losses(losses: dict[str, float], first: float, recipe: Recipe, step: int) -> None:
    for name, loss in losses.items():
        if not math.isfinite(loss):
            raise Diverged(
                f"step {step}: the loss term {name!r} is {loss}; try a smaller lr (now {recipe.lr}),"
                " or clip_grad=1"
            )
    total = sum(losses.values())
    if first and abs(total) > recipe.explode_at * max(1.0, first):
        largest = max(losses, key=lambda name: losses[name])
        raise Diverged(
            f"step {step}: the loss has exploded to {total:.3g}, mostly {largest!r}; it began at {first:.3g}."
            f" Try a smaller lr (now {recipe.lr}), or clip_grad=1"
        )


def _check_gradients(learned: dict[str, nn.Parameter], recipe: Recipe, step: int) -> float:
    """Return the norm of all gradients; clip them if the recipe requests it."""
    # Check before clipping, because clipping would spread a NaN to all gradients.
    gradients = [tensor.grad for tensor in learned.values() if tensor.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if not norm.isfinite():
        culprit = next(_not_finite(learned), "their norm")
        raise Diverged(
            f"step {step}: the gradient of {culprit} is not finite; try a smaller lr (now {recipe.lr})"
        )
    if recipe.clip_grad is not None:
        nn.utils.clip_grads_with_norm_(learned.values(), recipe.clip_grad, norm)
    return norm.item()


def _not_finite(learned: dict[str, nn.Parameter]) -> Iterator[str]:
    for name, tensor in learned.items():
        if tensor.grad is not None and not tensor.grad.isfinite().all():
            yield name


# Averages of learned tensors over epochs, in float32.
#
# - Gaussian prompt aggregation: PromptSRC, Khattak et al. 2023, https://arxiv.org/abs/2307.06948, Sec. 3.2.2


class GaussianAverage:
    """The weighted sum of the learned tensors; after the last epoch they are replaced by it.

    Args:
        recipe: The recipe, with the weights; without `average_mean` nothing is averaged.
        learned: The learned tensors of the method.
    """

    def __init__(self, recipe: Recipe, learned: Mapping[str, nn.Parameter]):
        self.recipe, self.learned = recipe, learned
        averaged = learned if recipe.average_mean is not None else {}
        self.tensors: dict[str, Tensor] = {
            name: torch.zeros_like(parameter.detach()) for name, parameter in averaged.items()
        }

    @torch.no_grad()
    def add(self, epoch: int) -> None:
        """Add the tensors after an epoch, counted from 0."""
        weight = average_weight(self.recipe, epoch)
        for name, total in self.tensors.items():
            total += weight * self.learned[name]
            if epoch + 1 == self.recipe.epochs:
                self.learned[name].copy_(total)
