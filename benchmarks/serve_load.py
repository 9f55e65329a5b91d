"""Load a server over loopback: pictures a second and waiting times, and whether its memory stays.

python benchmarks/serve_load.py                            # a model of drawn scenes, and its export
python benchmarks/serve_load.py out/pets out/pets-onnx     # models and exports of yours
python benchmarks/serve_load.py --seconds 2 --memory 200   # does it run?

It starts `foveate serve` itself, asks with 1, 8 and 64 clients that each wait for their answer, then asks
again and looks at the memory, and ends it. Clients run in a process of their own. It asks no more after
`--minutes`. Leave the machine alone meanwhile.
"""

import argparse
import http.client
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from foveate.classifier import Classifier
from foveate.export.writing import export
from foveate.world.photos import scene_photos

CLIENTS = (1, 8, 64)
NAMES = ("red star", "blue ring", "green heart", "yellow cross")
TENTHS = 10


def pictures(number: int, side: int) -> list[bytes]:
    """Return JPEG files of smooth noise, each another one."""
    found: list[bytes] = []
    for seed in range(number):
        coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)
        kept = io.BytesIO()
        Image.fromarray(coarse).resize((side, side * 3 // 4), Image.Resampling.BICUBIC).save(kept, "JPEG")
        found.append(kept.getvalue())
    return found


class Server:
    """`foveate serve` in a process of its own, on a free port."""

    def __init__(self, model: str) -> None:
        words = [sys.executable, "-m", "foveate", "serve", model, "--port", "0"]
        words += ["--limits.requests", "1000", "--limits.seconds", "300"]
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ
        )
        assert self.process.stdout is not None
        told = re.search(r":(\d+)/", self.process.stdout.readline())
        if told is None:
            raise SystemExit("the server did not start: run `foveate serve` to see why")
        self.port = int(told[1])

    def resident(self) -> float:
        """Return megabytes that the server holds."""
        line = http.client.HTTPConnection("127.0.0.1", self.port)
        line.request("GET", "/metrics")
        text = line.getresponse().read().decode()
        line.close()
        found = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
        return float(found[1]) / 1e6 if found else float("nan")

    def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


def client(port: int, files: Sequence[bytes], until: float, most: int) -> list[float]:
    """Ask one question after another over one connection; return how long each took, in seconds."""
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    found: list[float] = []
    while len(found) < most and time.perf_counter() < until:
        start = time.perf_counter()
        line.request("POST", "/predict", files[len(found) % len(files)], {"Content-Type": "image/jpeg"})
        response = line.getresponse()
        answer = response.read()
        if response.status != 200:
            raise SystemExit(f"{response.status}: {answer.decode()}")
        found.append(time.perf_counter() - start)
    line.close()
    return found


def load(port: int, clients: int, files: Sequence[bytes], seconds: float, most: int) -> dict[str, Any]:
    """Return what so many clients saw together; no question is asked after so many seconds."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        each = -(-most // clients)
        asked = [
            pool.submit(client, port, files[i % 32 :] + files[: i % 32], start + seconds, each)
            for i in range(clients)
        ]
        waits = [wait for one in asked for wait in one.result()]
    lasted = time.perf_counter() - start
    middle, late = 1000 * np.percentile(waits, [50, 99])
    return {
        "clients": clients,
        "pictures": len(waits),
        "pictures a second": round(len(waits) / lasted, 1),
        "p50 ms": round(middle, 1),
        "p99 ms": round(late, 1),
    }


def watch_memory(server: Server, files: Sequence[bytes], requests: int, until: float) -> dict[str, Any]:
    """Return how many requests were answered, and the server's megabytes before and after each tenth."""
    done, held = 0, [round(server.resident(), 1)]
    for _ in range(TENTHS if requests else 0):
        left = until - time.perf_counter()
        if left <= 0:
            break
        done += load(server.port, 8, files, left, requests // TENTHS)["pictures"]
        held.append(round(server.resident(), 1))
    return {"requests": done, "resident MB": held}


def measure(model: str, files: Sequence[bytes], given: argparse.Namespace, until: float) -> dict[str, Any]:
    """Return the figures of a model or an export."""
    server = Server(model)
    try:
        load(server.port, 1, files, 60, 20)  # what is made at the first question is made now
        rows = [load(server.port, clients, files, given.seconds, given.most) for clients in CLIENTS]
        memory = watch_memory(server, files, given.memory, until)
    finally:
        server.stop()
    return {"model": Path(model).name, "rows": rows, "memory": memory}


def drawn_models(folder: Path) -> list[str]:
    """Fit CoOp on drawn scenes and export it; return both folders."""
    classifier = Classifier("coop", clip="tiny")
    classifier.fit(scene_photos(NAMES, 8, 1), shots=8, recipe={"epochs": 1}, out=folder / "model")
    export(classifier, folder / "export")
    return [str(folder / "model"), str(folder / "export")]


def main() -> None:
    """Print the figures as Markdown, and write them to results/serve-DATE.json."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("models", nargs="*", help="folders of models or exports; drawn ones without")
    options.add_argument("--seconds", type=float, default=15.0, help="for each number of clients")
    options.add_argument("--most", type=int, default=5000, help="pictures for each number of clients")
    options.add_argument("--memory", type=int, default=10_000, help="requests to watch the memory over")
    options.add_argument("--side", type=int, default=640, help="pixels of a picture's longer side")
    options.add_argument("--minutes", type=float, default=9.0, help="for all of it")
    given = options.parse_args()
    before = round(os.getloadavg()[0], 1)
    begin, files = time.perf_counter(), pictures(32, given.side)
    with tempfile.TemporaryDirectory() as folder:
        models = given.models or drawn_models(Path(folder))
        # Each model may use what is left of the time, in equal parts.
        begin, each = time.perf_counter(), (60 * given.minutes - (time.perf_counter() - begin)) / len(models)
        found = [measure(one, files, given, begin + each * (n + 1)) for n, one in enumerate(models)]
    print("| model | clients | pictures a second | p50, ms | p99, ms |\n|---|---|---|---|---|")
    for one in found:
        for row in one["rows"]:
            print(f"| {one['model']} | {' | '.join(str(row[key]) for key in row if key != 'pictures')} |")
    for one in found:
        held = one["memory"]["resident MB"]
        print(f"{one['model']}, MB over {one['memory']['requests']} requests: {held}")
    facts = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load of the machine before": before,
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "picture": f"JPEG, {given.side} x {given.side * 3 // 4}",
        "models": found,
    }
    name = f"serve-{datetime.now(UTC):%Y-%m-%d}.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
