"""A worker that answers with the right half of a picture, and misbehaves as its first argument says.

It does so when a text is "trouble". Its second argument is a file with one line for each life so far.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

how, lives = sys.argv[1], Path(sys.argv[2])
with lives.open("a") as file:
    print(os.getpid(), file=file)
once = how.endswith("-once")
well = once and len(lives.read_text().splitlines()) > 1
if how == "noisy":
    print("hello\n[1, 2]\n{}\n\xff", flush=True)
    sys.stderr.write("much ado\n" * 100_000)
if how == "fails-to-start":
    sys.exit("no such library")
if how == "never-ready":
    time.sleep(600)
print(json.dumps({"ready": True}), flush=True)

for line in sys.stdin:
    question = json.loads(line)
    data = Path(question["image"]).read_bytes()
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))  # of a PNG
    said = {"id": question["id"], "rle": [width // 2, width - width // 2] * height, "pid": os.getpid()}
    said |= {"size": [height, width], "score": 0.5, "queries": [3], "texts": question["texts"]}
    fault = "" if well or "trouble" not in question["texts"] else how.removesuffix("-once")
    if fault == "dies":
        sys.stderr.write("first\n\n  it is \x1b[31mall\n too much\n")
        os._exit(3)
    if fault == "is-killed":
        os.kill(os.getpid(), 9)
    if fault == "hangs":
        child = subprocess.Popen(["sleep", "600"])
        with lives.open("a") as file:
            print(child.pid, file=file)
        time.sleep(600)
    said |= {
        "answers-another": {"id": 0},
        "short": {"rle": said["rle"][:-1]},
        "negative": {"rle": [-1, 1, *said["rle"]]},
        "fractions": {"rle": [0.5, 0.5]},
        "no-mask": {"rle": None},
        "turned": {"size": [width, height]},
        "unsure": {"score": float("nan")},
        "no-score": {"score": None},
    }.get(fault, {})
    text = {"babbles": "RuntimeWarning: hm", "nests": "[" * 100_000, "lists": "[]"}.get(
        fault, json.dumps(said)
    )
    print(text, end="" if fault == "endless" else "\n", flush=True)
    if fault == "endless":
        time.sleep(600)
