"""Models that earlier versions saved are still read, and answer what they answered.

`saved/VERSION` holds such a model (FVG-PT over CoOp on the embedded CLIP), three pictures, and what it said
of them among its two names and "green heart". A folder is added with each version, and never changed.
"""

import json
from pathlib import Path

import pytest

from foveate.classifier import Classifier

SAVED = sorted((Path(__file__).parent / "saved").iterdir())


@pytest.mark.parametrize("folder", SAVED, ids=lambda folder: folder.name)
def test_a_saved_model_answers_as_it_did(folder: Path):
    wanted = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    answers = Classifier.from_pretrained(folder).predict(sorted(folder.glob("*.png")), ["green heart"])
    assert [one.label for one in answers] == [one["label"] for one in wanted]
    for one, was in zip(answers, wanted, strict=True):
        assert one.scores == pytest.approx(was["scores"], abs=1e-4)
        assert one.trust == pytest.approx(was["trust"], abs=1e-4)
