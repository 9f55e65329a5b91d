"""What of a method becomes a graph: its image tower, its text tower, and how it compares the two.

Class texts are inputs of the graphs, so any number of names can follow. Nothing of a method is written anew
but how texts are laid out: there rows are padded, where the package packs them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from foveate.clip.model import Edit, Text
from foveate.errors import InputError
from foveate.methods.base import Method, SentenceMethod, Wrapper, encode_pictures
from foveate.methods.capabilities import capability, walk
from foveate.methods.clip_lora import ClipLora
from foveate.methods.cocoop import CoCoOp
from foveate.methods.coop import CoOp
from foveate.methods.fvgpt import FvgPt
from foveate.methods.known import KnownClasses
from foveate.methods.mma import Mma
from foveate.methods.mmrl import Mmrl, growing
from foveate.methods.proda import Proda
from foveate.methods.prompts import DeepPromptMethod, PromptMethod, replacing
from foveate.methods.tcp import Tcp
from foveate.run.folder import Kind, Texts
from foveate.types import Branch, Features

_LOGITS = (Method.logits, Wrapper.logits, KnownClasses.logits, FvgPt.logits)
"""What is known of how methods answer in each label space."""


class Graph(nn.Module):
    """A function of tensors as a module, for whoever traces modules.

    Args:
        function: Called with the inputs in their order.
        inputs: Names of the inputs, each with those of its axes that are free.
        outputs: Names of the outputs, likewise.
    """

    def __init__(
        self,
        function: Callable[..., Tensor | tuple[Tensor, ...]],
        inputs: dict[str, dict[int, str]],
        outputs: dict[str, dict[int, str]],
    ):
        super().__init__()
        self.function, self.inputs, self.outputs = function, inputs, outputs

    def forward(self, *given: Tensor) -> Tensor | tuple[Tensor, ...]:
        # With gradients on, though nothing learns, pictures go through the towers in one piece, and no tensor
        # is changed in place.
        with torch.enable_grad():
            return self.function(*given)


@dataclass(frozen=True)
class Plan:
    """A method as graphs, and what its answers depend on besides.

    Attributes:
        graphs: By name; see `foveate.run.model`.
        examples: Inputs to trace each with.
        texts: How class texts are made.
        text: `[C, D]` class texts of the names that are set.
        prior: Those of CLIP's prior; `[C, 0]` where nobody asks it.
        vectors: `[P, M, W]` learned vectors of each prompt.
        closed: See `foveate.run.folder.Manifest`.
        new: Likewise.
        mixed: Likewise.
        route_weight: Likewise.
    """

    graphs: dict[str, Graph]
    examples: dict[str, tuple[Tensor, ...]]
    texts: Texts
    text: Tensor
    prior: Tensor
    vectors: Tensor
    closed: bool
    new: Literal["base", "new"]
    mixed: Literal["base", "new", "route"]
    route_weight: float


def plan(method: Method) -> Plan:
    """Return a method as graphs.

    Args:
        method: Tuned, with the trained classes set; nothing of it learns.

    Raises:
        InputError: A part of it is of a kind that has not been taught to export; the message names it.
    """
    core, guide = demand_exportable(method), capability(method, FvgPt)
    asks = guide if guide is not None and guide.config.prior_branch else None
    texts = _texts(core, asks)
    graphs = {"image": _graph_of(method.encode_images, "images", "image")}
    if asks and not method.sees_as_clip:
        graphs["prior"] = _graph_of(partial(encode_pictures, method.clip), "images", "clip")
    if asks or texts.kind in ("plain", "known"):
        graphs["plain"] = _reading(method.clip.text)
    if texts.kind not in ("fixed", "plain"):
        graphs["text"] = _tuned_reading(core)
    if isinstance(core, CoCoOp):
        graphs["shift"] = _graph_of(core.shifted, "image", "vectors")
    graphs |= _heads(method, core, asks)
    nothing = core.clip.text.proj.new_zeros(len(method.names), 0)
    new = "new" if "new" in graphs else "base"
    return Plan(
        graphs=graphs,
        examples=_examples(method, core, graphs),
        texts=texts,
        text=nothing if isinstance(core, CoCoOp) else method.text_features(),
        prior=asks.plain.features() if asks else nothing,
        vectors=_vectors(core),
        closed=isinstance(core, KnownClasses),
        new=new,
        mixed="route" if asks else new,
        route_weight=asks.config.mixed_weight if asks else 1.0,
    )


def demand_exportable(method: Method) -> Method:
    """Return a method's backbone, if all parts of it can be exported.

    Raises:
        InputError: One cannot; it is named, and what is not known of it.
    """
    *_, core = walk(method)
    for part in walk(method):
        own = type(part)
        if own.logits not in _LOGITS:
            raise InputError(
                f"{part.name} cannot be exported: it answers in a way of its own ({own.__name__}.logits),"
                " which foveate.export.graphs does not know"
            )
    if isinstance(core, PromptMethod | Proda | Mmrl | Mma | ClipLora):
        return core
    if type(core).encode_text is not SentenceMethod.encode_text:
        raise InputError(
            f"{core.name} cannot be exported: it makes class texts in a way of its own"
            f" ({type(core).__name__}.encode_text), which foveate.export.graphs does not know"
        )
    return core


# --- texts ---


def _texts(core: Method, asks: FvgPt | None) -> Texts:
    sentence = core.plain.sentence if isinstance(core, SentenceMethod) else ""
    prior = asks.plain.sentence if asks else None
    if isinstance(core, Mmrl | Mma | ClipLora):
        return Texts("sentence", sentence, prior)
    if isinstance(core, Proda):
        return Texts("mean", "", prior, list(core.positions), core.config.tokens)
    if isinstance(core, CoOp) and core.config.class_specific:
        return Texts("fixed", "", prior)
    if isinstance(core, PromptMethod):
        position = core.config.position if isinstance(core, CoOp) else "end"
        kinds: dict[type[Method], Kind] = {Tcp: "known", CoCoOp: "shifted"}
        kind = kinds.get(type(core), "prompt")
        said = sentence if kind == "known" else ""
        return Texts(kind, said, prior, [position], core.ctx.shape[-2], list(core.words))
    return Texts("plain", sentence, prior)


def _vectors(core: Method) -> Tensor:
    if isinstance(core, Proda):
        return core.ctx
    if isinstance(core, PromptMethod) and core.ctx.ndim == 2:
        return core.ctx[None]
    return core.clip.text.proj.new_zeros(0, 0, 0)


def _tuned_reading(core: Method) -> Graph:
    """Return a tuned text tower as a graph: the tower, what is put between its blocks, and where EOT goes."""
    tower = core.clip.text
    if isinstance(core, Mmrl):
        edit = growing([tokens(core.tokens) for tokens in core.text_maps], core.first_block)
        return _reading(tower, edit, grown=len(core.tokens))
    if isinstance(core, Mma | ClipLora):
        return _reading(core.text_tower())
    if isinstance(core, Tcp):
        return _knowing(core)
    deep = core.deep_text if isinstance(core, DeepPromptMethod) else None
    return _reading(tower, replacing(deep, 1), prompted=True)


def _reading(tower: Text, edit: Edit | None = None, *, grown: int = 0, prompted: bool = False) -> Graph:
    def read(ids: Tensor, ends: Tensor, slots: Tensor | None = None, vectors: Tensor | None = None) -> Tensor:
        tokens = tower.token(ids)
        if slots is not None and vectors is not None:
            placed = vectors[slots.clamp_min(0)]
            tokens = torch.where((slots >= 0)[..., None], placed, tokens)
        return tower.pool(tower.encode(tokens, edit), ends + grown)

    return _text_graph(read, ["slots", "vectors"] if prompted else [])


def _knowing(core: Tcp) -> Graph:
    """Return TCP's text tower: from a block on, tokens made of plain class texts take the vectors' places."""
    tower, number = core.clip.text, core.config.tokens

    def read(ids: Tensor, ends: Tensor, slots: Tensor, vectors: Tensor, known: Tensor) -> Tensor:
        own = core.meta_net(F.normalize(known, dim=-1)).unflatten(-1, (number, -1))

        def edit(layer: int, x: Tensor) -> Tensor:
            return torch.cat([x[:, :1], own, x[:, 1 + number :]], dim=1) if layer == core.layer else x

        placed = vectors[slots.clamp_min(0)]
        tokens = torch.where((slots >= 0)[..., None], placed, tower.token(ids))
        return tower.pool(tower.encode(tokens, edit), ends)

    return _text_graph(read, ["slots", "vectors", "known"])


def _text_graph(read: Callable[..., Tensor], more: list[str]) -> Graph:
    rows, places = {0: "rows"}, {0: "rows", 1: "places"}
    axes = {"ids": places, "ends": rows, "slots": places, "vectors": dict[int, str](), "known": rows}
    return Graph(read, {name: axes[name] for name in ["ids", "ends", *more]}, {"text": rows})


# --- pictures and heads ---

_AXES = {
    "images": {0: "batch"},
    "image": {1: "batch"},
    "clip": {1: "batch"},
    "text": {0: "classes"},
    "texts": {0: "batch", 1: "classes"},
    "prior": {0: "classes"},
    "vectors": {0: "batch"},
    "logits": {0: "batch", 1: "classes"},
    "trust": {0: "batch"},
}


def _graph_of(function: Callable[..., Tensor], given: str, found: str) -> Graph:
    return Graph(function, {given: _AXES[given]}, {found: _AXES[found]})


def _heads(method: Method, core: Method, asks: FvgPt | None) -> dict[str, Graph]:
    """Return how features become logits: "base", and "new" where that is another way."""
    inputs = {"image": _AXES["image"], "text": _AXES["texts" if isinstance(core, CoCoOp) else "text"]}
    logits = {"logits": _AXES["logits"]}

    def answer(branch: Branch) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda image, text: method.logits(Features(image, text), branch)

    def clip(image: Tensor, text: Tensor) -> Tensor:
        return Method.logits(core, Features(image, text))

    def calibrated(image: Tensor, text: Tensor, clip: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
        assert asks is not None
        features = Features(image, text, Features(clip, prior))
        trust = asks.trust(features)
        assert trust is not None
        return method.logits(features, "new"), trust

    heads = {"base": Graph(answer("base"), inputs, logits)}
    if isinstance(core, KnownClasses):
        heads["new"] = Graph(clip, inputs, logits)
    elif asks:
        inputs = inputs | {"clip": _AXES["clip"], "prior": _AXES["prior"]}
        heads["new"] = Graph(calibrated, inputs, logits | {"trust": _AXES["trust"]})
    elif len(method.head_weights) > 1 and capability(method, FvgPt) is None:
        heads["new"] = Graph(answer("new"), inputs, logits)
    return heads


def _examples(method: Method, core: Method, graphs: dict[str, Graph]) -> dict[str, tuple[Tensor, ...]]:
    """Return inputs of each graph; no free axis has length 1."""
    size, drawn = method.clip.config, torch.Generator().manual_seed(0)
    batch, places, vectors = 2, min(8, size.context), _vectors(core)
    classes = len(method.names) if isinstance(core, KnownClasses) else 3

    def some(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn)

    made = {
        "images": some(batch, 3, size.image_size, size.image_size),
        "image": some(len(method.head_weights), batch, size.embed),
        "clip": some(1, batch, size.embed),
        "text": some(*([batch] if isinstance(core, CoCoOp) else []), classes, size.embed),
        "prior": some(classes, size.embed),
        "ids": torch.ones(classes, places, dtype=torch.long),
        "ends": torch.full((classes,), places - 1),
        "slots": torch.full((classes, places), -1),
        "vectors": vectors[0] if len(vectors) else vectors,
        "known": some(classes, size.embed),
    }
    return {name: tuple(made[one] for one in graph.inputs) for name, graph in graphs.items()}
