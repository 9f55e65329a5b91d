"""Load a server over loopback: pictures a second and waiting times, and whether its memory stays.

python benchmarks/serve_load.py                          # zero-shot CLIP inside the package
python benchmarks/serve_load.py out/pets --memory 10000  # a model or an export of yours; and memory

It starts `foveate serve` itself, asks with 1, 8 and 64 clients that each wait for their answer, and ends it.
Clients run in a process of their own. Leave the machine alone meanwhile.
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
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
from PIL import Image

CLIENTS = (1, 8, 64)
NAMES = "red star,blue ring,green heart"


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

    def __init__(self, model: str | None) -> None:
        words = [sys.executable, "-m", "foveate", "serve", *([model] if model else []), "--port", "0"]
        words += ["--limits.requests", "1000", "--limits.seconds", "300"]
        words += [] if model else ["--classes", NAMES]
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
    """Return what so many clients saw together."""
    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        each = -(-most // clients)
        asked = [
            pool.submit(client, port, files[i:] + files[:i], start + seconds, each) for i in range(clients)
        ]
        waits = sorted(wait for one in asked for wait in one.result())
    lasted = time.perf_counter() - start
    cuts = quantiles(waits, n=100, method="inclusive")
    return {
        "clients": clients,
        "pictures": len(waits),
        "pictures a second": round(len(waits) / lasted, 2),
        "p50 ms": round(1000 * cuts[49], 1),
        "p99 ms": round(1000 * cuts[98], 1),
    }


def main() -> None:
    """Print the figures, and write them to results/serve-DATE.json."""
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("model", nargs="?", help="folder of a model or an export; CLIP inside without")
    options.add_argument("--seconds", type=float, default=20.0, help="for each number of clients")
    options.add_argument("--most", type=int, default=5000, help="pictures for each number of clients")
    options.add_argument("--memory", type=int, default=0, help="requests to watch the memory over")
    options.add_argument("--side", type=int, default=640, help="pixels of a picture's longer side")
    given = options.parse_args()
    files, server = pictures(32, given.side), Server(given.model)
    try:
        load(server.port, 1, files, 60, 20)  # what is made at the first question is made now
        rows = [load(server.port, clients, files, given.seconds, given.most) for clients in CLIENTS]
        memory: list[float] = []
        for _ in range(10 if given.memory else 0):
            load(server.port, 8, files, 3600, given.memory // 10)
            memory.append(round(server.resident(), 1))
    finally:
        server.stop()
    found = {
        "model": given.model or "zero-shot, embedded CLIP",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "picture": f"JPEG, {given.side} x {given.side * 3 // 4}",
        "rows": rows,
        "resident MB after each tenth": memory,
    }
    print(json.dumps(found, indent=2))
    name = f"serve-{datetime.now(UTC):%Y-%m-%d}.json"
    (Path(__file__).parent / "results" / name).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
