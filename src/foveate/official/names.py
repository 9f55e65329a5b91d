"""Examines the tensors of a checkpoint of the authors' code: method, CLIP, shapes, and class names."""

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from tokenizers import decoders
from torch import Tensor

from foveate.clip.layouts import OPENAI, to_layout
from foveate.clip.model import Clip
from foveate.clip.templates import DATASET_TEMPLATES, KGCOOP_TEMPLATES, fill
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.methods.registry import parts
from foveate.official import METHODS

# Detects the method of a checkpoint from the names of its tensors.
#
# - CoOp and CoCoOp: https://github.com/KaiyangZhou/CoOp, KgCoOp: https://github.com/htyao89/KgCoOp,
#   ProGrad: https://github.com/BeierZhu/Prompt-align
# - MaPLe, IVLP and VPT: https://github.com/muzairkhattak/multimodal-prompt-learning,
#   PromptSRC: https://github.com/muzairkhattak/PromptSRC
# - MMRL: https://github.com/yunncheng/MMRL
# - HiCroPL: https://github.com/zzeoZheng/HiCroPL


_CLIP = ("visual.", "vision_model.", "text_model.", "vision.blocks.", "token_embedding.")
_TOWERS = ("image_encoder.", "text_encoder.")

Tensors = Mapping[str, Tensor]


def choose_method(tensors: Tensors, requested: str | None = None) -> str:
    """Return the method of a checkpoint.

    Args:
        tensors: Tensors by name; see `Checkpoint.tensors`.
        requested: The method that the user gave, if any; see `importable`.

    Raises:
        InputError: The method is unknown, differs from the given one, or is ambiguous.
    """
    matches = candidates(tensors)
    if not matches:
        raise InputError(_foreign(tensors))
    if requested in matches:
        return requested
    if requested is not None:
        raise InputError(
            f"looks like a checkpoint of {' or '.join(matches)}, not of {requested}: give --method"
            f" {matches[0]}"
        )
    if len(matches) > 1:
        raise InputError(
            f"could be of {', '.join(matches[:-1])} or {matches[-1]}, which save the same tensors: say which"
            f" with --method {matches[0]} or another"
        )
    return matches[0]


def candidates(tensors: Tensors) -> list[str]:
    """Return the methods that save tensors with these names."""
    if any(name.endswith("compound_rep_tokens") for name in tensors):
        # MMRL++ has projections that blocks share.
        return ["mmrl"] if any(name.endswith("r2vproj.0.weight") for name in tensors) else []
    if "ctx" in tensors:
        return _with_context(tensors)
    return ["vpt"] if "image_encoder.VPT" in tensors else []


def _with_context(tensors: Tensors) -> list[str]:
    if "text2visual_net.linear_q.weight" in tensors:
        return ["hicropl"]
    if "proj.weight" in tensors or any("compound_prompt" in name for name in tensors):
        return ["maple"]
    if "meta_net.linear2.weight" in tensors:
        # TCP also has such a network, but its output is several vectors.
        fits = len(tensors["meta_net.linear2.weight"]) == tensors["ctx"].shape[-1]
        return ["cocoop"] if fits else []
    if "bias_vectors" in tensors or "meta_net.linear1.weight" in tensors:
        return ["kgcoop"]
    if any("ZS_image_encoder." in name for name in tensors):
        return ["promptsrc"]
    if any(name.startswith(_TOWERS) for name in tensors):
        frozen = any(name.startswith(_TOWERS) and "VPT" not in name for name in tensors)
        return ["ivlp"] if frozen else ["ivlp", "promptsrc"]  # both methods learn the same tensors
    if tensors["ctx"].ndim == 3:  # one set for each class
        return ["coop"]
    return ["coop", "prograd", "kgcoop"]


def importable(method: str) -> str:
    """Return the method that the user gave.

    Raises:
        InputError: The method does not exist, or its checkpoints cannot be imported.
    """
    *plugins, backbone = parts(method)
    if plugins:
        raise InputError(
            f"{method} is a plug-in over a backbone: import the backbone, with --method {backbone}"
        )
    if backbone not in METHODS:
        raise InputError(f"there are no checkpoints of {backbone} to import; there are {', '.join(METHODS)}")
    return backbone


def _foreign(tensors: Tensors) -> str:
    if any(name.startswith(_CLIP) for name in tensors):
        return "holds CLIP's own weights and nothing tuned: give it with --clip"
    first = ", ".join(list(tensors)[:3])
    return f"is of no method that foveate can import ({', '.join(METHODS)}): it holds {first}"


# Checks that a checkpoint was tuned on the given CLIP.


TOLERANCE = 0.02
"""Maximum relative difference of frozen tensors that count as equal.

PromptSRC's average over epochs rounds frozen half-precision weights by about 0.1 %. The weights of two
different CLIPs differ much more."""

_LEARNED = ("VPT", "proj_rep")
_HOMES = {"image_encoder.": "visual.", "text_encoder.": ""}


def check_clip(tensors: Tensors, clip: Clip) -> None:
    """Refuse a checkpoint of another CLIP: by sizes, by the start token, by its frozen tensors.

    Args:
        tensors: Tensors by name; see `Checkpoint.tensors`.
        clip: The towers of the checkpoint.

    Raises:
        InputError: The message gives the difference.
    """
    for size, theirs, ours in _sizes(tensors, clip):
        if theirs != ours:
            raise InputError(
                f"was tuned on a CLIP with {size} {theirs}, this one has {ours}: give that one with --clip"
            )
    for name, theirs, ours in _frozen(tensors, clip):
        if ours is None or theirs.shape != ours.shape or not difference(theirs, ours) <= TOLERANCE:
            raise InputError(
                f"was tuned on another CLIP than this one: its {name} differs; give that one with --clip"
            )


def difference(theirs: Tensor, ours: Tensor) -> float:
    """Return |theirs − ours| / |ours|, with ours rounded to their precision; 0 if both are 0."""
    ours = ours.detach().cpu().to(theirs.dtype).float()
    distance = (theirs.detach().cpu().float() - ours).norm()
    return float(distance / ours.norm().clamp_min(torch.finfo(torch.float32).tiny))


def _sizes(tensors: Tensors, clip: Clip) -> Iterator[tuple[str, int, int]]:
    """Yield the sizes that learned tensors require, and those of this CLIP."""
    sizes = clip.config
    requirements = (
        ("ctx", -1, "text width", sizes.text.width),
        ("image_encoder.VPT", -1, "image width", sizes.vision.width),
        ("representation_learner.compound_rep_tokens_r2tproj.0.weight", 0, "text width", sizes.text.width),
        ("representation_learner.compound_rep_tokens_r2vproj.0.weight", 0, "image width", sizes.vision.width),
        ("image_encoder.proj_rep", -1, "feature width", sizes.embed),
        ("proj.weight", 0, "image width", sizes.vision.width),
        ("prompt_embeddings", 1, "texts of tokens up to", sizes.context),
    )
    for name, axis, quantity, ours in requirements:
        if name in tensors:
            yield quantity, int(tensors[name].shape[axis]), ours
    if "meta_net.linear2.weight" in tensors:  # CoCoOp's network; KgCoOp's is always 512 wide
        yield "feature width", int(tensors["meta_net.linear1.weight"].shape[-1]), sizes.embed
    if "token_suffix" in tensors and "ctx" in tensors:  # SOT, the vectors, and the remaining tokens
        length = 1 + tensors["ctx"].shape[-2] + tensors["token_suffix"].shape[1]
        yield "texts of tokens up to", int(length), sizes.context


def _frozen(tensors: Tensors, clip: Clip) -> Iterator[tuple[str, Tensor, Tensor | None]]:
    """Yield frozen tensors of the checkpoint, with ours; None if we have no such tensor."""
    start = clip.text.token.weight[clip.tokenizer.sot]
    for name in ("token_prefix", "prompt_embeddings"):
        if name in tensors and tensors[name].numel():
            yield f"start token ({name})", tensors[name][0, 0], start
    openai_tensors = to_layout(clip.state_dict(), OPENAI)
    for name, tensor in tensors.items():
        prefix = next((prefix for prefix in _HOMES if name.startswith(prefix)), None)
        if prefix is None or any(part in name for part in _LEARNED):
            continue
        ours = openai_tensors.get(_HOMES[prefix] + name.removeprefix(prefix))
        if ours is not None or "resblocks." in name:  # other code may store other tensors here
            yield name, tensor, ours


# Checks the shapes of checkpoint tensors against those of the authors' code.


_AXES = {
    "ctx": (2, 3),
    "image_encoder.VPT": (2,),
    "token_prefix": (3,),
    "token_suffix": (3,),
    "prompt_embeddings": (3,),
    "proj.weight": (2,),
    "meta_net.linear1.weight": (2,),
    "meta_net.linear2.weight": (2,),
    "image_encoder.proj_rep": (2,),
    "representation_learner.compound_rep_tokens": (2,),
    "representation_learner.compound_rep_tokens_r2tproj.0.weight": (2,),
    "representation_learner.compound_rep_tokens_r2vproj.0.weight": (2,),
}
"""Number of dimensions of a tensor, by name."""

_STACKED = (
    "VPT_shallow",
    "compound_prompts_text",
    "cross_prompts_text",
    "cross_prompts_visual",
    "proxy_token",
)
"""Name parts of tensors that have the same shape in all blocks."""


def check_forms(tensors: Tensors) -> None:
    """Refuse tensors of wrong shape early, with a clear message.

    Args:
        tensors: Tensors by name; see `Checkpoint.tensors`.

    Raises:
        InputError: The message gives the tensor and its shape.
    """
    first_shapes: dict[str, tuple[int, ...]] = {}
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        stacked = any(part in name for part in _STACKED)
        expected = first_shapes.setdefault(re.sub(r"\d+", "", name), shape) if stacked else shape
        axes = (2,) if stacked else _AXES.get(name, (tensor.ndim,))
        if tensor.ndim not in axes or shape != expected or (name in _AXES and not tensor.numel()):
            raise InputError(f"has {name} of shape {list(shape)}: damaged, or of other code?")


# Recovers class names from the embedded prompts.
#
# A prompt is saved as rows of CLIP's token embedding. Each row is looked up, which gives the token ids of
# the prompt. Only the case of letters is lost, which CLIP ignores.


Sentences = list[list[int]]
"""Token ids of each class, up to EOT, without it."""

_CHUNK_ROWS = 256  # rows that are looked up at once, to bound the memory


def read_sentences(tensors: Tensors, clip: Clip) -> Sentences | None:
    """Return the prompts of a checkpoint after the learned vectors or after SOT; None if it has none.

    Raises:
        InputError: The tokens are not from this CLIP.
    """
    if "prompt_embeddings" in tensors:
        embedded = tensors["prompt_embeddings"][:, 1:]
    elif "token_suffix" in tensors:
        embedded = tensors["token_suffix"]
    else:
        return None
    ids = look_up(embedded, clip.text.token.weight).tolist()
    eot = clip.tokenizer.eot
    if not all(eot in row for row in ids):
        raise InputError("has sentences without an end: give the class names with --classes")
    return [row[: row.index(eot)] for row in ids]


def look_up(
    embedded: Float[Tensor, "classes tokens width"], table: Float[Tensor, "vocab width"]
) -> Int[Tensor, "classes tokens"]:
    """Return the ids of embedded tokens: the matching row of the embedding for each.

    Raises:
        InputError: A token matches no row.
    """
    classes, tokens, width = embedded.shape
    table = table.detach().cpu().to(embedded.dtype).float()
    unique, inverse = torch.unique(embedded.reshape(-1, width).float(), dim=0, return_inverse=True)
    # The nearest row: |r − t|² without |r|², which is equal for all t.
    norms = table.square().sum(dim=1)
    chunks = [(norms - 2 * chunk @ table.T).argmin(dim=1) for chunk in unique.split(_CHUNK_ROWS)]
    nearest = torch.cat(chunks) if chunks else torch.empty(0, dtype=torch.long)
    distances = (unique - table[nearest]).norm(dim=1)
    if not (distances <= TOLERANCE * norms[nearest].sqrt()).all():  # also false for NaN
        raise InputError(
            "has class names in tokens that this CLIP has not: was it tuned on another? Else give --classes"
        )
    return nearest[inverse].view(classes, tokens)


def names_behind(sentences: Sentences, words: Sequence[int], tokenizer: ClipTokenizer) -> list[str]:
    """Return the names in prompts of the form `words name .`, which end learned prompts.

    Raises:
        InputError: A prompt has another form.
    """
    return [name_of(ids[len(words) :], tokenizer) for ids in sentences]


def name_of(ids: Sequence[int], tokenizer: ClipTokenizer) -> str:
    """Return a name from the tokens of `name .`.

    Raises:
        InputError: There is no full stop, or no name before it.
    """
    text = decode(ids, tokenizer)
    bare = text.removesuffix(".").strip()
    if bare and text.endswith("."):
        for name in (tidy(bare), bare):
            if tokenizer.words(f"{name}.") == list(ids):
                return name
    raise InputError(f"has a sentence that ends in {text!r}, not in a name: give the names with --classes")


def names_within(
    sentences: Sentences, template: str | None, tokenizer: ClipTokenizer
) -> tuple[list[str], str]:
    """Return the names in complete prompts, and the template.

    Args:
        sentences: Token ids of each class.
        template: The template, if it is known; None tries the published templates, the longest first,
            and then the common start and end of all prompts.
        tokenizer: Tokenizer of the text tower.

    Raises:
        InputError: The prompts have another form.
    """
    known = {*DATASET_TEMPLATES.values(), *KGCOOP_TEMPLATES.values()}
    templates = [template] if template is not None else [*sorted(known, key=len, reverse=True)]
    if template is None and len(sentences) > 1:
        templates.append(_shared(sentences, tokenizer))
    for candidate in templates:
        names = [_within(ids, candidate, tokenizer) for ids in sentences]
        complete = [name for name in names if name is not None]
        if len(complete) == len(names):
            return complete, candidate
    example = tidy(decode(sentences[0], tokenizer))
    raise InputError(f"has sentences such as {example!r}: give its --template, or the names with --classes")


def decode(ids: Sequence[int], tokenizer: ClipTokenizer) -> str:
    """Return the text of tokens, with spaces between words, numbers and signs."""
    encoded = "".join(tokenizer.bpe.id_to_token(token) or "" for token in ids)
    byte_decode = decoders.ByteLevel().decode
    return " ".join(byte_decode([word]) for word in encoded.split("</w>") if word)


def tidy(text: str) -> str:
    """Remove unusual spaces: within numbers, around hyphens and quotes, before commas."""
    text = re.sub(r"(?<=\d) (?=\d)", "", text)
    text = re.sub(r" ?([-'/]) ?", r"\1", text)
    return re.sub(r" (?=[.,;:!?)%…])|(?<=\() ", "", text)


def _within(ids: Sequence[int], template: str, tokenizer: ClipTokenizer) -> str | None:
    """Return the name that gives these tokens in a template; None if there is none."""
    before, after = (decode(tokenizer.words(part), tokenizer) for part in template.split("{}"))
    text = decode(ids, tokenizer)
    if not (text.startswith(before) and text.endswith(after)):
        return None
    bare = text.removeprefix(before).removesuffix(after).strip()
    matches = (
        name for name in (tidy(bare), bare) if name and tokenizer.words(fill(template, name)) == list(ids)
    )
    return next(matches, None)


def _shared(sentences: Sentences, tokenizer: ClipTokenizer) -> str:
    """Return a template from the common start and end of all prompts."""
    shortest = min(map(len, sentences))

    def common_length(rows: Sentences, limit: int) -> int:
        columns = (len({row[i] for row in rows}) == 1 for i in range(limit))
        return next((i for i, equal in enumerate(columns) if not equal), limit)

    start = common_length(sentences, shortest - 1)  # a name has at least one token
    end = common_length([row[::-1] for row in sentences], shortest - 1 - start)
    ids = sentences[0]
    before, after = decode(ids[:start], tokenizer), decode(ids[len(ids) - end :], tokenizer)
    return tidy(f"{before} {{}} {after}".strip())
