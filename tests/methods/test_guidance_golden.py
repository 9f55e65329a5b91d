"""FVG-PT's arithmetic against the equations in float64: values and gradients."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from foveate.methods.base import align
from foveate.methods.guidance import FvgPtConfig, Guidance, Views
from foveate.types import Features

FILES = ("fvgpt", "fvgpt_two_heads")


class Golden:
    """One golden file as the frozen models' views and a guidance with its weights."""

    def __init__(self, path: Path):
        with safe_open(path, "pt") as file:
            self.numbers = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            settings = file.metadata()
        n = self.numbers
        self.scale = torch.tensor(float(settings["logit_scale"]), dtype=torch.float64)
        self.config = FvgPtConfig(
            tau=float(settings["temperature"]),
            lambda_distill=float(settings["distill_weight"]),
            adapter_hidden=int(settings["adapter_dim"]),
            gate_hidden=int(settings["gate_dim"]),
            min_area=float(settings["min_area"]),
        )
        heads = tuple(n["head_weights"].tolist())
        self.align = lambda features: align(features, self.scale, heads)
        whole = Features(n["image"].transpose(0, 1), n["text"])
        foreground = Features(n["foreground"].transpose(0, 1), n["text"])
        clip = Features(n["clip_image"][None], n["clip_text"])
        self.views = Views(
            features=whole,
            full=self.align(whole),
            foreground=self.align(foreground),
            new=align(whole, self.scale),
            clip=align(clip, self.scale),
            area=n["area"],
            gate_area=n["area"],
        )
        dim = n["text"].shape[-1]
        self.guidance = Guidance(dim, self.config, torch.Generator().manual_seed(0), heads).double()
        weights = {k.removeprefix("weight/"): v for k, v in n.items() if k.startswith("weight/")}
        self.guidance.load_state_dict(weights)


@pytest.fixture(params=FILES)
def golden(request: pytest.FixtureRequest, golden_dir: Path) -> Golden:
    return Golden(golden_dir / f"{request.param}.safetensors")


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_golden_logits_and_indicators(golden: Golden):
    g, v, expected = golden.guidance, golden.views, golden.numbers
    close(v.full, expected["expected/logits"])
    close(v.foreground, expected["expected/foreground_logits"])
    close(v.clip, expected["expected/clip_logits"])
    close(g.indicators(v), expected["expected/foreground_indicators"])
    close(g.foreground_gate(g.indicators(v)).squeeze(-1).sigmoid(), expected["expected/trust"])
    close(g.trust_target(v, expected["labels"]), expected["expected/trust_target"])
    close(g.base_logits(v.features, golden.align), expected["expected/base_logits"])
    close(g.prior_indicator_values(v.new, v.clip), expected["expected/prior_indicators"])
    close(g.prior_trust(v.new, v.clip), expected["expected/prior_weight"])
    close(g.new_logits(v.new, v.clip), expected["expected/new_logits"])


def test_golden_losses(golden: Golden):
    losses = golden.guidance.losses(golden.views, golden.numbers["labels"], golden.align)
    weights = {"distill": golden.config.lambda_distill}
    for name, loss in losses.items():
        close(loss / weights.get(name, 1.0), golden.numbers[f"expected/loss.{name}"])
    close(torch.stack(list(losses.values())).sum(), golden.numbers["expected/loss.total"])


def test_golden_gradients(golden: Golden):
    losses = golden.guidance.losses(golden.views, golden.numbers["labels"], golden.align)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in golden.guidance.named_parameters():
        assert parameter.grad is not None
        close(parameter.grad, golden.numbers[f"grad/{name}"])
