"""A little of `make fuzz`: no reader ends in a traceback, whatever it is given."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[1] / "tools" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    if not TOOL.is_file():
        pytest.skip("tools/ is not there")
    spec = importlib.util.spec_from_file_location("foveate_fuzz", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.filterwarnings("ignore")
def test_readers_refuse_in_one_line(fuzz: ModuleType):
    done = fuzz.run(mutations=500, seed=3, inputs=6)
    faults = {name: dict(counts.faults) for name, counts in done.items() if counts.faults}
    assert not faults
    ends = sum((counts.ends for counts in done.values()), fuzz.Counter())
    assert ends[fuzz.READ] > 50
    assert ends[fuzz.REFUSED] > 200


def test_a_traceback_is_counted(fuzz: ModuleType, tmp_path: Path):
    def read() -> None:
        if b"!" not in (tmp_path / "a.json").read_bytes():
            raise KeyError("x\ny")

    (tmp_path / "a.json").write_text('{"a": "!"}')
    counts = fuzz.Counts()
    for content in fuzz.spoilt(b'{"a": "!"}'):
        fuzz.tried(fuzz.Target("x", tmp_path / "a.json", read), content, counts, tmp_path / "kept")
    assert counts.ends[fuzz.CRASHED] == len(fuzz.ODD) + 1
    assert next(iter(counts.faults)).startswith("KeyError in test_fuzz.py")
    assert len(list((tmp_path / "kept").iterdir())) == 1


def test_the_same_seed_makes_the_same_files(fuzz: ModuleType):
    made = [[fuzz.mutated(b"some text", fuzz.random.Random(seed)) for seed in (1, 2, 3)] for _ in range(2)]
    assert made[0] == made[1]
    assert len(set(made[0])) > 1
