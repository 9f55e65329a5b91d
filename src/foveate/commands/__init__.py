"""The commands: one file each, with one typed function."""

from keyword import iskeyword

COMMANDS = {
    "demo": "show the methods on drawn scenes, in about three minutes",
    "check": "find problems in photos before training",
    "select": "select training photos from many",
    "fit": "train a classifier on a few labelled photos",
    "predict": "classify photos",
    "serve": "serve predictions over HTTP, with a page to try, correct and label",
    "masks": "make foreground masks of photos",
    "evaluate": "measure a classifier on labelled photos",
    "explain": "draw and measure what predictions depend on",
    "features": "write frozen CLIP features of many pictures to files",
    "cost": "measure parameters, time and memory of methods",
    "sweep": "run all trainings of a table, on one machine or many",
    "report": "write tables and charts of a sweep's results",
    "export": "export a classifier to ONNX, to run without PyTorch",
    "import": "convert a checkpoint of a method's authors",
    "data": "check data sets, draw small ones, write few-shot draws",
    "doctor": "list what is installed and what is missing",
    "completion": "print a completion script for a shell",
}
"""Each command and its summary, in the order of the help."""


def python_name(command: str) -> str:
    """Return the name of a command's module and function: "import" is a Python keyword."""
    return f"{command}_" if iskeyword(command) else command
