"""The `logging` loggers below "foveate"."""

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from foveate.classifier import Classifier


def test_each_epoch_is_logged(tmp_path: Path, clip_folder: Path, caplog: pytest.LogCaptureFixture):
    for name in ("red", "blue"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (32, 32), name).save(tmp_path / name / f"{number}.png")
    with caplog.at_level(logging.INFO, logger="foveate"):
        Classifier("coop", clip_folder).fit(tmp_path, shots=2, recipe={"epochs": 2, "batch_size": 2})
    lines = [record.getMessage() for record in caplog.records if record.name == "foveate.train"]
    assert [line.partition(",")[0] for line in lines] == ["coop: epoch 1 of 2", "coop: epoch 2 of 2"]


def test_nothing_is_printed_unless_a_program_asks():
    code = "import logging, foveate; logging.getLogger('foveate.train').warning('heard by nobody')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")
