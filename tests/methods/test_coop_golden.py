"""CoOp against the authors' code: logits, loss, gradient, three optimiser steps."""

import pytest
import torch

from foveate.methods.coop import CoOp, CoOpConfig
from foveate.methods.frozen import training_losses
from foveate.types import Batch


@pytest.fixture
def whole(official) -> Batch:
    return Batch(official.images, official.labels)


@pytest.fixture
def coop(official) -> CoOp:
    method = CoOp(official.clip, CoOpConfig(tokens=int(official.settings["coop_tokens"])))
    method.load_learned({"ctx": official.tensors["coop/ctx"]})
    method.set_classes(official.names)
    return method


def test_golden_logits_loss_gradient(official, whole: Batch, coop: CoOp):
    n = official.tensors
    logits = coop.logits(coop.features(whole.images))
    torch.testing.assert_close(logits, n["coop/logits"], rtol=1e-4, atol=1e-4)
    loss = training_losses(coop, whole)["ce"]
    torch.testing.assert_close(loss, n["coop/loss"], rtol=1e-4, atol=1e-5)
    loss.backward()
    scale = n["coop/grad_ctx"].abs().max()
    torch.testing.assert_close(coop.ctx.grad / scale, n["coop/grad_ctx"] / scale, rtol=1e-3, atol=1e-4)


def test_golden_three_steps(official, whole: Batch, coop: CoOp):
    lr, _, momentum, decay = official.numbers("sgd")
    optimiser = torch.optim.SGD([coop.ctx], lr=lr, momentum=momentum, weight_decay=decay)
    losses = []
    for _ in range(len(official.tensors["coop/sgd3_losses"])):
        loss = training_losses(coop, whole)["ce"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    torch.testing.assert_close(
        torch.stack(losses), official.tensors["coop/sgd3_losses"], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(coop.ctx.detach(), official.tensors["coop/sgd3_ctx"], rtol=1e-3, atol=1e-3)
