"""Recovers class names from the embedded prompts in checkpoints of the authors' code.

A prompt is saved as rows of CLIP's token embedding. Each row is looked up, which gives the token ids of
the prompt. Only the case of letters is lost, which CLIP ignores.
"""

import re
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from tokenizers import decoders
from torch import Tensor

from foveate.clip.model import Clip
from foveate.clip.templates import DATASET_TEMPLATES, KGCOOP_TEMPLATES, fill
from foveate.clip.tokenizer import ClipTokenizer
from foveate.errors import InputError
from foveate.official.recognise import Tensors
from foveate.official.towers import TOLERANCE

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
