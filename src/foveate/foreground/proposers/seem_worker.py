"""Segments objects by text with SEEM; runs inside a SEEM checkout and does not import foveate.

seem.py starts it in the checkout's folder, with an interpreter that has SEEM's requirements (Python 3.8
or later). Requests arrive on standard input, one JSON line each:

    {"id": 7, "image": "/tmp/picture.png", "texts": ["the dog in the middle"]}

Answers are written to the original standard output, which no other code can use:

    {"id": 7, "rle": [105, 8, 92, ...], "size": [480, 640], "score": 0.31, "queries": [17]}

`rle` counts pixels, row after row: background, foreground, background, ... (`runs_of`). The first line
is `{"ready": true}`. Any failure ends this process, with the reason on standard error.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import sys
import types
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, Callable  # noqa: UP035 (SEEM's own Python may be 3.8)

SIDE = 512  # pixels of the shorter side, as SEEM's demo resizes
LEAST_LOADED = 0.95  # the towers of Focal-T and Focal-L differ in a fifth of the parameters


def main() -> None:
    """Load the model, then answer requests until the input ends."""
    parser = argparse.ArgumentParser()
    for name in ("--config", "--weights", "--device"):
        parser.add_argument(name, required=True)
    parser.add_argument("--tokenizer")
    options = parser.parse_args()
    questions, answers = take_channel()
    sys.path[0] = str(Path.cwd())  # the checkout, instead of this script's folder
    device = choose_device(options.device)
    mend(device)
    model = build(options.config, options.weights, device, options.tokenizer)
    tell(answers, {"ready": True})
    serve(lambda question: answer(model, question, device), questions, answers)


def take_channel() -> tuple[IO[str], IO[str]]:
    """Return the original standard input and output; redirect them for all other code.

    SEEM prints while it is imported, and so do C libraries.
    """
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    os.dup2(2, 1)
    return questions, answers


def serve(answer: Callable[[Any], dict[str, Any]], questions: IO[str], answers: IO[str]) -> None:
    """Answer each line with a line that has the same id."""
    for line in questions:
        question = json.loads(line)
        tell(answers, {"id": question["id"], **answer(question)})


def tell(answers: IO[str], said: dict[str, Any]) -> None:
    """Write one line and flush it."""
    answers.write(json.dumps(said) + "\n")
    answers.flush()


def answer(model: Any, question: dict[str, Any], device: str) -> dict[str, Any]:
    """Return mask, score and queries for one request; several texts are processed one by one, and united.

    Each text has its own pass: in one pass, SEEM's texts attend to each other.
    """
    picture = read_picture(question["image"])
    results = [ground(model, picture, text, device) for text in question["texts"]]
    mask = results[0][0]
    for other_mask, _, _ in results[1:]:
        mask = mask | other_mask
    return {
        "rle": runs_of(mask.cpu().numpy()),
        "size": list(mask.shape),
        "score": min(score for _, score, _ in results),
        "queries": [query for _, _, query in results],
    }


def ground(model: Any, picture: Any, text: str, device: str) -> tuple[Any, float, int]:
    """Return the object for a text: bool mask [height, width], cosine, and index of the query."""
    import torch

    model.task_switch.update(spatial=False, visual=False, grounding=True, audio=False)
    pixels = pixels_of(picture)
    input_size = tuple(pixels.shape[-2:])
    sample = {"image": pixels.to(device), "height": input_size[0], "width": input_size[1], "text": [text]}
    autocast = torch.autocast("cuda", torch.float16) if device.startswith("cuda") else nullcontext()
    with torch.no_grad(), autocast:
        results, padded, extra = model.evaluate_demo([sample])
    query, cosine = best_query(results["pred_captions"][0], extra["grounding_class"][0])
    logits = results["pred_masks"][0][query]
    return enlarge(logits, tuple(padded[-2:]), input_size, picture.size[::-1]) > 0, cosine, query


def best_query(queries: Any, text: Any) -> tuple[int, float]:
    """Return the index of the query [n, d] that is nearest to a text [d], and their cosine.

    SEEM multiplies by a temperature first, which does not change the nearest query.
    """
    from torch.nn.functional import normalize

    cosines = normalize(queries.float(), dim=-1) @ normalize(text.float(), dim=-1)
    query = int(cosines.argmax())
    return query, float(cosines[query])


def enlarge(logits: Any, padded: tuple[int, int], inside: tuple[int, int], size: tuple[int, int]) -> Any:
    """Resize a query's logits [h, w] to the picture's size, as SEEM's `evaluate_grounding` does.

    Args:
        logits: Logits for the padded input, at a fourth of its size.
        padded: Height and width of the padded input.
        inside: Height and width of the resized picture, at the upper left of the padded input.
        size: Height and width of the original picture.
    """
    from torch.nn.functional import interpolate

    full = interpolate(logits.float()[None, None], padded, mode="bilinear", align_corners=False)
    part = full[..., : inside[0], : inside[1]]
    return interpolate(part, size, mode="bicubic", align_corners=False, antialias=True)[0, 0]


def runs_of(mask: Any) -> list[int]:
    """Return run lengths, row after row: background, foreground, background, ...; the first may be 0."""
    import numpy as np

    flat = np.asarray(mask, dtype=bool).ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *runs] if flat[0] else runs


def read_picture(path: str) -> Any:
    """Return a picture as RGB."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None  # the parent process has already checked the picture
    with Image.open(path) as picture:
        return picture.convert("RGB")


def pixels_of(picture: Any) -> Any:
    """Return a picture as a tensor of bytes [3, height, width], with SIDE as its shorter side."""
    import numpy as np
    import torch

    short = min(picture.size)
    size = tuple(SIDE if side == short else int(SIDE * side / short) for side in picture.size)
    resized = picture.resize(size, 3)  # bicubic; this number works in every Pillow version
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def choose_device(wanted: str) -> str:
    """Return "cpu" or "cuda:0", and make this device the default of `.cuda()`."""
    import torch

    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if not wanted.startswith("cuda"):
        return wanted
    if not torch.cuda.is_available():
        sys.exit(f"device {wanted}: torch {torch.__version__} of {sys.executable} sees no CUDA device")
    device = torch.device(wanted if ":" in wanted else "cuda:0")
    torch.cuda.set_device(device)
    return str(device)


def mend(device: str) -> None:
    """Supply what SEEM's code of 2023 needs and this environment lacks; nothing else is changed."""
    from PIL import Image

    for old, new in (("LINEAR", "BILINEAR"), ("CUBIC", "BICUBIC")):  # not in Pillow 10, used by detectron2
        if not hasattr(Image, old):
            setattr(Image, old, getattr(Image, new))
    stand_in("mpi4py", "MPI")  # for runs on several machines
    stand_in("distutils", "log")  # removed in Python 3.12; imported and not used
    if importlib.util.find_spec("nltk"):
        nltk: Any = importlib.import_module("nltk")
        nltk.download = do_nothing  # called at import; only training needs its data
    if device == "cpu":
        move_nothing()


def stand_in(name: str, member: str) -> None:
    """Create a stand-in for a missing module, so that imports from it work."""
    if importlib.util.find_spec(name) is None:
        module: Any = types.ModuleType(name)
        setattr(module, member, types.ModuleType(name + "." + member))
        sys.modules[name] = module


def move_nothing() -> None:
    """Make `.cuda()` and `torch.cuda.current_device()` in SEEM use the CPU."""
    import torch

    torch_module: Any = torch
    torch_module.Tensor.cuda = stay
    torch_module.cuda.current_device = lambda: "cpu"


def stay(tensor: Any, *_: Any, **__: Any) -> Any:
    """Return the tensor unchanged."""
    return tensor


def do_nothing(*_: Any, **__: Any) -> bool:
    """Return True."""
    return True


def build(config: str, weights: str, device: str, tokenizer: str | None) -> Any:
    """Return SEEM with its weights, ready for requests."""
    import torch

    settings = importlib.import_module("utils.arguments").load_opt_from_config_files([config])
    settings.update(CUDA=device != "cpu", device=torch.device(device), rank=0, local_rank=0, world_size=1)
    if tokenizer:
        settings["MODEL"]["TEXT"]["PRETRAINED_TOKENIZER"] = tokenizer
    model = importlib.import_module("modeling").build_model(settings)
    load(model, torch.load(weights, map_location="cpu", weights_only=True), weights, config)
    model = model.eval().to(device)
    with torch.no_grad():  # the decoder compares with these names in every layer; no mask depends on them
        language = model.sem_seg_head.predictor.lang_encoder
        language.get_text_embeddings(["background", "background"], is_eval=True, prompt=False)
    return model


def load(model: Any, state: dict[str, Any], weights: str, config: str) -> None:
    """Load tensors that match by name and shape, as SEEM does; exit if too much of the model is missing."""
    expected = model.state_dict()
    matching = {
        key: value for key, value in state.items() if key in expected and expected[key].shape == value.shape
    }
    share = sum(expected[key].numel() for key in matching) / sum(value.numel() for value in expected.values())
    if share < LEAST_LOADED:
        missing = sorted(set(expected) - set(matching))[:3]
        sys.exit(f"{weights} fills {share:.0%} of the model of {config}, not {', '.join(missing)} and others")
    model.load_state_dict(matching, strict=False)


if __name__ == "__main__":
    main()
