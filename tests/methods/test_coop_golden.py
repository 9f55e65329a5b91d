"""CoOp against the authors' code: logits, loss, gradient, three optimiser steps."""

import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from foveate.clip.model import Clip
from foveate.methods.coop import CoOp, CoOpConfig
from foveate.types import Batch


class Official:
    """The golden file, the CLIP it was computed on, and its pictures."""

    def __init__(self, folder: Path):
        with safe_open(folder / "official.safetensors", "pt") as file:
            self.numbers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            self.settings = file.metadata()
        spec = importlib.util.spec_from_file_location("tiny_clip", folder / "tiny_clip.py")
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        seed = int(self.settings["seed"])
        self.clip = Clip.from_state_dict(module.tiny_clip_state_dict(seed))
        self.names = [name.replace("_", " ") for name in json.loads(self.settings["classnames"])]
        count = len(self.numbers["clip/image_features"])
        side = module.IMAGE
        noise = np.random.RandomState(seed + 1000).standard_normal((count, 3, side, side))
        labels = torch.arange(count) % len(self.names)
        self.batch = Batch(torch.from_numpy(noise.astype(np.float32)), labels)


@pytest.fixture(scope="module")
def official(golden_dir: Path) -> Official:
    return Official(golden_dir)


@pytest.fixture
def coop(official: Official) -> CoOp:
    method = CoOp(official.clip, CoOpConfig(tokens=int(official.settings["coop_tokens"])))
    method.load_learned({"ctx": official.numbers["coop/ctx"]})
    method.set_classes(official.names)
    return method


def test_golden_logits_loss_gradient(official: Official, coop: CoOp):
    n = official.numbers
    logits = coop.logits(coop.features(official.batch.images))
    torch.testing.assert_close(logits, n["coop/logits"], rtol=1e-4, atol=1e-4)
    loss = coop.losses(official.batch)["ce"]
    torch.testing.assert_close(loss, n["coop/loss"], rtol=1e-4, atol=1e-5)
    loss.backward()
    scale = n["coop/grad_ctx"].abs().max()
    torch.testing.assert_close(coop.ctx.grad / scale, n["coop/grad_ctx"] / scale, rtol=1e-3, atol=1e-4)


def test_golden_three_steps(official: Official, coop: CoOp):
    numbers = re.findall(r"[\d.]+", official.settings["sgd"])
    lr, momentum, decay = float(numbers[0]), float(numbers[-2]), float(numbers[-1])
    optimiser = torch.optim.SGD([coop.ctx], lr=lr, momentum=momentum, weight_decay=decay)
    losses = []
    for _ in range(len(official.numbers["coop/sgd3_losses"])):
        loss = coop.losses(official.batch)["ce"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.detach())
    torch.testing.assert_close(
        torch.stack(losses), official.numbers["coop/sgd3_losses"], rtol=1e-3, atol=1e-3
    )
    torch.testing.assert_close(coop.ctx.detach(), official.numbers["coop/sgd3_ctx"], rtol=1e-3, atol=1e-3)
