"""`foveate serve`: serve predictions over HTTP, with a page to try, correct and label."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from foveate.clip.precision import Precision
from foveate.commands.options import parse, settings_of
from foveate.commands.screen import Bars, note_precision
from foveate.errors import InputError
from foveate.serve.limits import Limits

EXAMPLES = """
    foveate serve out/pets                                   # then open http://127.0.0.1:8000/
    foveate serve out/pets --host 0.0.0.0 --token "$TOKEN"   # for others too, who have to know the token
    foveate serve out/pets --port 0 --limits.pixels 20000000
    foveate serve --labels labels.jsonl --photos photos/ --classes "heron,barn owl" --out out/mine
    foveate serve --labels labels.jsonl --photos photos/ --known export.json
"""
GROUPS = {"labelling": ("labels", "photos", "classes", "known", "method", "out")}


def serve(  # noqa: PLR0913  (a command's options)
    model: str | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    clip: str | None = None,
    device: str = "cpu",
    dtype: Precision | None = None,
    batch_size: int = 1,
    labels: str | None = None,
    photos: str | None = None,
    classes: str | None = None,
    known: str | None = None,
    method: Literal["lpplusplus", "linear_probe", "tip_adapter"] = "lpplusplus",
    out: str | None = None,
    settings: Mapping[str, Mapping[str, Any]],
) -> None:
    """Answer over HTTP what photos show, and let people try, correct and label on a page.

    Args:
        model: Folder that fit or export wrote, or a hub id; CLIP without training, if there is none.
        host: Address to listen on; others than this computer's own need a token.
        port: Of it; 0 takes one that is free.
        token: That each request has to bring; the environment's FOVEATE_TOKEN without.
        clip: The CLIP weights, if they are elsewhere than when the model was trained.
        device: Where the towers run, e.g. cuda.
        dtype: Precision of the towers; by default that of the training. auto: bfloat16 where the processor
            has it, float16 on CUDA.
        batch_size: Photos a pass; above 1, the last digits of an answer depend on who asks at the same time.
        labels: File for labels that people give on the page, new or of before; without, it keeps none.
        photos: Folder of photos to label; without, people label those that they bring.
        classes: More names to choose from, with commas between them, or a file with a name a line.
        known: Labels to begin with, of Label Studio, COCO, CVAT, YOLO, or a CSV.
        method: What is learned of labels.
        out: Folder for the model that the page saves; LABELS-model without.
        settings: Of `foveate.serve.limits.Limits`.
    """
    if labels is None and (photos or known or out):
        raise InputError("say with --labels in which file labels are kept")
    if batch_size < 1:
        raise InputError(f"--batch-size is {batch_size}: give 1 or more")
    from foveate.data.naming import split_names
    from foveate.foreground.proposers.registry import demand

    demand("serve", "foveate serve", "starlette", "uvicorn", "python_multipart", "prometheus_client")
    from foveate.serve.app import Service, build_app
    from foveate.serve.models import open_model
    from foveate.serve.running import bound, demand_token, url_of
    from foveate.serve.running import serve as run_server

    token = token or os.environ.get("FOVEATE_TOKEN") or None
    demand_token(host, token)
    with ExitStack() as stack:
        sock = stack.enter_context(bound(host, port))  # before a model is read, which takes long
        served = open_model(model, clip=clip, device=device, dtype=dtype, batch_size=batch_size)
        if served.classifier is not None:
            note_precision(served.classifier.precision)
        service = Service(served, Limits(**settings.get("limits", {})))
        names, handler, routes = split_names(classes, served.names), service, []
        if labels is not None:
            from foveate.serve.labelling import Labelling, open_session

            optional = [None if value is None else Path(value).expanduser() for value in (photos, known, out)]
            with Bars() as bars:
                watch = partial(bars.count, "looking at photos")
                session = open_session(
                    service, Path(labels).expanduser(), *optional, method=method, watch=watch
                )
                handler = Labelling(service, stack.enter_context(session))
            routes = handler.routes()
        handler.begin_with(names)

        def announce() -> None:
            sys.stdout.write(f"{served.title}: open {url_of(sock)}\n")
            sys.stdout.flush()

        run_server(build_app(service, token, routes), sock, announce)


def run(words: Sequence[str]) -> None:
    """Run the command."""
    limits = settings_of("limits", Limits)
    serve(**parse("serve", serve, words, settings=limits, groups=GROUPS, examples=EXAMPLES))
