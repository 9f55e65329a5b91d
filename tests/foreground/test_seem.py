"""SEEM in a checkout of its own: the real worker script, in a checkout that only looks like SEEM's."""

import ast
import importlib.util
import io
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image

from foveate.errors import InputError
from foveate.foreground.proposers.base import Request
from foveate.foreground.proposers.registry import open_proposer
from foveate.foreground.proposers.seem import SCRIPT, Seem, mask_of_runs, proposal_of
from foveate.foreground.proposers.worker import BadAnswer, Worker

FAKE = Path(__file__).with_name("fake_seem.py")


def load_script():
    spec = importlib.util.spec_from_file_location("seem_worker_of_tests", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


script = load_script()

# What SEEM's code does to its surroundings, and the parts of its model that are used. Its queries are 0 for
# dark and 1 for bright.
CHECKOUT = {
    "utils/__init__.py": "print('noise of utils')\n",
    "utils/arguments.py": """
import json

def load_opt_from_config_files(files):
    return json.load(open(files[0]))
""",
    "modeling/__init__.py": """
import os
from distutils import log
import torch
from mpi4py import MPI
from PIL import Image
import utils.arguments
print("noise of modeling", Image.LINEAR, Image.CUBIC)
os.system("echo noise of a child")

class Language:
    def get_text_embeddings(self, names, is_eval=False, prompt=True):
        self.names = torch.zeros(len(names)).cuda()

class Model(torch.nn.Module):
    def __init__(self, side):
        super().__init__()
        self.table = torch.nn.Parameter(torch.zeros(side, 2))
        self.register_buffer("kernel", torch.ones(1, device=torch.cuda.current_device()))
        self.task_switch = dict(spatial=True, visual=True, grounding=False, audio=False, mask=True)
        self.sem_seg_head = type("Head", (), {})()
        self.sem_seg_head.predictor = type("Predictor", (), {})()
        self.sem_seg_head.predictor.lang_encoder = Language()

    def evaluate_demo(self, batch):
        assert self.task_switch == dict(spatial=False, visual=False, grounding=True, audio=False, mask=True)
        assert len(batch) == 1 and not self.training and not torch.is_grad_enabled()
        assert len(self.sem_seg_head.predictor.lang_encoder.names) == 2
        image = batch[0]["image"].float().mean(0)
        assert image.shape == (batch[0]["height"], batch[0]["width"]) and min(image.shape) == 512
        padded = torch.zeros([-(-side // 32) * 32 for side in image.shape])
        padded[: image.shape[0], : image.shape[1]] = image
        bright = torch.nn.functional.avg_pool2d(padded[None], 4)[0] - 128
        (text,) = batch[0]["text"]
        text = torch.tensor([[0.6, 0.8] if "bright" in text else [1.0, -1.0]]).cuda()
        results = {"pred_masks": torch.stack([-bright, bright])[None], "pred_captions": self.table[None]}
        return results, (1, 3, *padded.shape), {"grounding_class": text}

def build_model(settings):
    assert settings["MODEL"]["TEXT"].get("PRETRAINED_TOKENIZER", "/tokenizer").endswith("tokenizer")
    return Model(settings["SIDE"])
""",
    "configs/seem/focalt_unicl_lang_demo.yaml": json.dumps({"MODEL": {"TEXT": {}}, "SIDE": 20}),
    "configs/seem/large.yaml": json.dumps({"MODEL": {"TEXT": {}}, "SIDE": 200}),
}


@pytest.fixture
def checkout(tmp_path):
    """Settings of a `Seem` on a checkout whose model has two queries that have learned something."""
    root = tmp_path / "seem checkout"
    for name, text in CHECKOUT.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    weights = tmp_path / "seem_focalt_v0.pt"
    table = torch.zeros(20, 2)
    table[0, 0], table[1, 1] = 2, 3
    torch.save({"table": table, "more": torch.ones(3)}, weights)  # lacks the kernel, as such files may
    return {"root": root, "weights": weights, "device": "cpu"}


@pytest.fixture
def opened():
    """`Seem` of these settings, closed after the test."""
    made = []

    def make(**settings):
        made.append(open_proposer("seem", **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def faked(opened, checkout, tmp_path):
    """`Seem` with the fake worker, which misbehaves as told."""

    def make(how):
        seem = opened(**checkout)
        command = [sys.executable, str(FAKE), how, str(tmp_path / "lives")]
        seem._worker = Worker(command, checkout["root"], "SEEM's worker", 60.0)
        return seem

    return make


def half_bright(width=90, height=60, split=30):
    pixels = np.full((height, width, 3), 20, np.uint8)
    pixels[:, :split] = 230
    return Image.fromarray(pixels)


def asked(text, picture=None, name="dogs/1.jpg"):
    return Request(name, picture or half_bright(), "dog", text)


def test_the_query_that_fits_the_text_becomes_the_mask(opened, checkout):
    seem = opened(**checkout)
    requests = [asked("the bright part"), asked("the dark part"), asked("", half_bright(600, 700, 200))]
    bright, dark, large = seem.propose(requests)
    expected = np.zeros((60, 90), bool)
    expected[:, :30] = True
    assert (bright.mask ^ expected).sum(axis=1).max() <= 1  # the edge itself lies between two pixels
    assert (dark.mask ^ ~expected).sum(axis=1).max() <= 1
    assert bright.score == pytest.approx(0.8)
    assert bright.meta == {"cosine": 0.8, "queries": [1]}
    assert dark.meta["queries"] == [0]
    assert large.mask.shape == (700, 600)
    assert large.mask[:690, 203:].all()
    assert not large.mask[:690, :197].any()  # the padding below is dark


def test_the_tokenizer_is_handed_on(opened, checkout, tmp_path):
    seem = opened(**checkout, tokenizer=tmp_path)  # whose name the checkout refuses
    with pytest.raises(InputError, match=r"does not start: .* AssertionError"):
        seem.propose([asked("the bright part")])


def test_pictures_are_handed_over_and_taken_away_again(faked, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    (proposal,) = faked("well").propose([asked("the dog in the middle", half_bright(7, 5))])
    assert proposal.mask.tolist() == [[False] * 3 + [True] * 4] * 5
    assert set(tmp_path.iterdir()) - before == {tmp_path / "lives"}


def test_the_label_is_the_text_where_there_is_no_prompt(faked):
    said = []
    seem = faked("well")
    ask = seem._worker.ask
    seem._worker.ask = lambda question, *rest: said.append(question["texts"]) or ask(question, *rest)
    seem.propose([Request("1.jpg", half_bright(), "tree_frog"), asked("a cat"), asked(" ")])
    assert said == [["tree frog"], ["a cat"], ["dog"]]
    with pytest.raises(InputError, match=r"2\.jpg: seem must be told what to look for"):
        seem.propose([Request("2.jpg", half_bright())])


@pytest.mark.parametrize(
    ("how", "what"),
    [
        ("short", r"run lengths for 5355 pixels of 5400"),
        ("negative", "no whole numbers"),
        ("fractions", "no whole numbers"),
        ("no-mask", "no whole numbers"),
        ("turned", r"a mask of size \[90, 60\], not \[60, 90\]"),
        ("unsure", "the score nan"),
        ("no-score", "the score None"),
        ("dies", r"ended with code 3, twice, for dogs/1.jpg; the last it wrote: first \| it is"),
    ],
)
def test_rubbish_is_refused_after_a_second_try(faked, tmp_path, how, what):
    seem = faked(how)
    seem.propose([asked("a dog")])
    with pytest.raises(InputError, match=what) as caught:
        seem.propose([asked("trouble")])
    assert "dogs/1.jpg" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "lives").read_text().split()) == 2


def test_rubbish_said_once_costs_a_restart_only(faked):
    (proposal,) = faked("turned-once").propose([asked("trouble")])
    assert proposal.mask.mean() == 0.5


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"root": "/nowhere"}, "SEEM's checkout /nowhere is not there"),
        ({"weights": "/nowhere/seem_focalt_v0.pt"}, "SEEM's weights /nowhere/seem_focalt_v0.pt is not there"),
        ({"python": "python-nowhere"}, "there is no interpreter 'python-nowhere'"),
        ({"python": ""}, "there is no interpreter ''"),
        ({"tokenizer": "/nowhere"}, "SEEM's tokenizer /nowhere is not there"),
        ({"config": "configs/none.yaml"}, "has no configuration configs/none.yaml"),
        ({"timeout": 0.0}, "timeout must be a positive number of seconds, not 0.0"),
        ({"timeout": float("nan")}, "timeout must be a positive number of seconds, not nan"),
    ],
)
def test_what_is_missing_is_named_before_anything_starts(checkout, change, what):
    with pytest.raises(InputError, match=what) as caught:
        Seem(**(checkout | change))
    assert "\n" not in str(caught.value)


def test_folders_that_are_something_else_are_refused(checkout, tmp_path):
    with pytest.raises(InputError, match="no checkout of SEEM"):
        Seem(tmp_path, checkout["weights"])
    with pytest.raises(InputError, match="are no file"):
        Seem(checkout["root"], tmp_path)
    with pytest.raises(
        InputError, match=r"which model mine\.pt is of cannot be told by its name; set config"
    ):
        Seem(checkout["root"], checkout["weights"].rename(tmp_path / "mine.pt"))


def test_an_interpreter_that_is_a_link_stays_one(checkout, tmp_path):
    link = tmp_path / "python"
    link.symlink_to(sys.executable)
    assert Seem(**checkout, python=str(link)).command[0] == str(link)


def test_weights_of_another_size_are_refused(opened, checkout):
    seem = opened(**checkout, config="configs/seem/large.yaml")
    with pytest.raises(
        InputError, match=r"does not start: .* fills 0% of the model of configs/seem/large.yaml"
    ):
        seem.propose([asked("a dog")])


class Evil:
    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_weights_that_are_a_program_do_not_run(opened, checkout, tmp_path):
    checkout["weights"].write_bytes(pickle.dumps({"table": Evil(tmp_path / "ran")}))
    with pytest.raises(InputError, match="does not start"):
        opened(**checkout).propose([asked("a dog")])
    assert not (tmp_path / "ran").exists()


def test_the_key_changes_with_weights_code_and_configuration(checkout):
    keys = [Seem(**checkout).key]
    assert keys[0] == Seem(**checkout, timeout=5.0).key
    for name in ("modeling/__init__.py", "configs/seem/focalt_unicl_lang_demo.yaml"):
        path = checkout["root"] / name
        path.write_text(path.read_text() + " ")
        keys.append(Seem(**checkout).key)
    torch.save({}, checkout["weights"])
    keys.append(Seem(**checkout).key)
    assert len({json.dumps(key) for key in keys}) == 4


@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_run_lengths_are_read_as_they_were_written(mask):
    runs = json.loads(json.dumps(script.runs_of(mask)))
    assert (mask_of_runs(runs, mask.shape) == mask).all()
    assert all(run > 0 for run in runs[1:])


def test_run_lengths_begin_with_the_background():
    assert script.runs_of([[0, 1, 1], [1, 0, 0]]) == [1, 3, 2]
    assert script.runs_of([[1, 1], [0, 0]]) == [0, 2, 2]


@given(st.one_of(st.none(), st.text(), st.lists(st.one_of(st.integers(-3, 9), st.floats(), st.booleans()))))
def test_other_run_lengths_are_refused(runs):
    whole = isinstance(runs, list) and all(type(run) is int and run >= 0 for run in runs)
    if whole and sum(runs) == 6:
        assert mask_of_runs(runs, (2, 3)).shape == (2, 3)
    else:
        with pytest.raises(BadAnswer):
            mask_of_runs(runs, (2, 3))


def test_a_negative_cosine_scores_nothing_and_is_kept():
    proposal = proposal_of({"rle": [6], "size": [2, 3], "score": -0.25, "queries": [9]}, (2, 3))
    assert (proposal.score, proposal.meta["cosine"]) == (0.0, -0.25)
    assert not proposal.mask.any()


def test_the_script_needs_neither_us_nor_a_new_python():
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    imported = {
        (node.module if isinstance(node, ast.ImportFrom) else alias.name).split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert imported - set(sys.stdlib_module_names) == {"torch", "numpy", "PIL"}


def test_the_nearest_query_is_by_angle():
    queries = torch.tensor([[10.0, 10.0], [0.0, 0.1], [-5.0, 0.0]])
    assert script.best_query(queries, torch.tensor([0.1, 3.0])) == (1, pytest.approx(0.9994, abs=1e-4))


def test_logits_are_cut_to_the_picture_before_they_are_enlarged():
    logits = torch.full((8, 16), -1.0)
    logits[:, :8] = 1
    large = script.enlarge(logits, (32, 64), (30, 40), (300, 400))
    assert large.shape == (300, 400)
    right_of_edge = (large > 0).float().mean(dim=1)
    assert torch.allclose(right_of_edge, torch.tensor(0.8), atol=0.01)  # 32 of the 40 columns left by the cut


@pytest.mark.parametrize("size", [(91, 61), (61, 91), (512, 700), (1000, 1000), (333, 512)])
def test_pictures_are_resized_as_torchvision_does(size):
    transforms = pytest.importorskip("torchvision.transforms")
    resize = transforms.Resize(script.SIDE, transforms.InterpolationMode.BICUBIC)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    expected = torch.from_numpy(np.array(resize(picture))).permute(2, 0, 1)
    assert torch.equal(script.pixels_of(picture), expected)


def test_several_texts_are_united_and_score_as_the_worst(monkeypatch, tmp_path):
    half_bright().save(tmp_path / "picture.png")
    found = {"a": ([[1, 0, 0]], 0.9, 4), "b": ([[0, 0, 1]], 0.2, 7)}

    def ground(model, picture, text, device):
        mask, score, query = found[text]
        return torch.tensor(mask, dtype=torch.bool), score, query

    monkeypatch.setattr(script, "ground", ground)
    said = script.answer(None, {"image": str(tmp_path / "picture.png"), "texts": ["a", "b"]}, "cpu")
    assert said == {"rle": [0, 1, 1, 1], "size": [1, 3], "score": 0.2, "queries": [4, 7]}


def test_questions_are_answered_line_by_line_with_their_ids():
    answers = io.StringIO()
    questions = io.StringIO('{"id": 4, "image": "x"}\n{"id": 5, "image": "y"}\n')
    script.serve(lambda question: {"score": question["image"]}, questions, answers)
    said = [json.loads(line) for line in answers.getvalue().splitlines()]
    assert said == [{"id": 4, "score": "x"}, {"id": 5, "score": "y"}]


def test_a_device_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert script.choose_device("auto") == "cpu"
    with pytest.raises(SystemExit, match=r"device cuda:1: torch .* sees no CUDA device"):
        script.choose_device("cuda:1")


def test_standard_output_belongs_to_the_answers_alone():
    program = (
        f"import importlib.util, os; spec = importlib.util.spec_from_file_location('w', {str(SCRIPT)!r})\n"
        "w = importlib.util.module_from_spec(spec); spec.loader.exec_module(w)\n"
        "questions, answers = w.take_channel()\n"
        "print('noise', flush=True); os.system('echo child; cat')\n"
        "w.tell(answers, {'line': questions.readline()})\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(
        command, input="question\n", capture_output=True, text=True, timeout=1800, check=True
    )
    assert json.loads(done.stdout) == {"line": "question\n"}
    assert done.stderr == "noise\nchild\n"
