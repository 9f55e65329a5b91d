"""YAML written by hand: what is wrong with it is said in one line."""

from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.written import read_yaml


def test_numbers_are_numbers(tmp_path: Path):
    (tmp_path / "a.yaml").write_text("lr: 1e-3\nrows: {CoOp: {epochs: 5}, CoOp 2: {epochs: 5}}\n")
    assert read_yaml(tmp_path / "a.yaml") == {
        "lr": 1e-3,
        "rows": {"CoOp": {"epochs": 5}, "CoOp 2": {"epochs": 5}},
    }


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "rows:\n  CoOp: {epochs: 5}\n  CoOp: {epochs: 9}\n",
            "a.yaml, line 3: 'CoOp' stands there twice: rename",
        ),
        ("- {a: 1}\n- {a: 1, b: {c: 1, c: 2}}\n", "a.yaml, line 2: 'c' stands there twice: rename"),
        ("epochs:\t5\n\tlr: 1\n", "a.yaml is no YAML: "),
        (b"name: \xff\n", "a.yaml is no YAML: "),
    ],
    ids=["twice", "deep", "tab", "another encoding"],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str | bytes, said: str):
    (tmp_path / "a.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        read_yaml(tmp_path / "a.yaml")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
