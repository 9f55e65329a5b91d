"""Measures a cost plan and prints the cost, both as JSON: `python -m foveate.costs PLAN PID`.

PID is the calling process; without it, nobody waits for the answer.
"""

import json
import os
import sys
import time
from dataclasses import asdict
from threading import Thread

from foveate.costs.measuring import CostPlan, measure
from foveate.errors import InputError


def main(words: list[str]) -> int:
    """Return the exit code: 2 after an error of the user."""
    import torch

    Thread(target=_end_with_parent, args=(int(words[1]),), daemon=True).start()
    try:
        cost = measure(CostPlan(**json.loads(words[0])))
    except InputError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    except torch.OutOfMemoryError:
        sys.stderr.write("the GPU's memory is full: take a smaller --batch-size, or --device cpu\n")
        return 2
    sys.stdout.write(json.dumps(asdict(cost)) + "\n")
    return 0


def _end_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
