"""A sweep's file: what it says, and one line for each way in which it may be wrong."""

from pathlib import Path

import pytest

from foveate.errors import InputError
from foveate.sweep.config import read_sweep

PLAIN = """
protocol: base-to-new
sets: [dtd]
rows: {CoOp: {method: coop}}
"""
TRANSFER = PLAIN.replace("base-to-new", "cross-dataset")


def _read(tmp_path: Path, text: str):
    (tmp_path / "table.yaml").write_text(text)
    return read_sweep(tmp_path / "table.yaml")


def test_one_table_needs_no_title(tmp_path: Path):
    sweep = _read(tmp_path, PLAIN)
    (table,) = sweep.tables
    assert (sweep.title, table.title) == ("table", "table")
    assert (table.seeds, table.shots, table.recipe, table.clip) == ((1, 2, 3), (16,), "released-code", "tiny")


def test_what_stands_above_tables_holds_for_all(tmp_path: Path):
    sweep = _read(
        tmp_path,
        """
root: data
seeds: [4]
epochs: 5
fvgpt: {tau: 1, lambda_distill: 3}
tables:
  A:
    protocol: base-to-new
    sets: dtd
    method: fvgpt+coop
    fvgpt: {lambda_distill: 5}
    rows:
      plain:
      narrow: {lr: 1, fvgpt: {adapter_hidden: 16}}
  B:
    protocol: few-shot
    seeds: [1, 2]
    sets: [dtd, eurosat]
    rows: {CoOp: {method: CoOp}, FVG-PT: {method: fvgpt+coop}}
""",
    )
    first, second = sweep.tables
    assert sweep.root == "data"
    assert (first.seeds, second.seeds) == ((4,), (1, 2))
    assert (first.sets, second.shots) == (("dtd",), (1, 2, 4, 8, 16))
    plain, narrow = first.rows
    assert plain.settings == {"fvgpt": {"tau": 1.0, "lambda_distill": 5.0}}
    assert narrow.settings["fvgpt"]["adapter_hidden"] == 16
    assert narrow.training == {"epochs": 5, "lr": 1.0}
    assert isinstance(narrow.training["lr"], float)
    assert second.rows[0].settings == {}
    assert second.rows[1].settings["fvgpt"]["lambda_distill"] == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "says nothing|has no rows"),
        ("- a", "says nothing: write `tables`"),
        ("a: [", "table.yaml is no YAML"),
        ("tables: {}", "`tables` has none"),
        ("tables: {A: 3}", "A: write `protocol`, `sets` and `rows`"),
        (PLAIN.replace("rows", "row"), "has no rows"),
        (PLAIN.replace("sets: [dtd]", ""), r"says no sets: give keys of data sets, as in \[dtd, eurosat\]"),
        (
            PLAIN.replace("base-to-new", "base-to-novel"),
            "protocol is 'base-to-novel'.*did you mean 'base-to-new'",
        ),
        (PLAIN + "seed: [1]", "there is no option 'seed'; did you mean 'seeds'"),
        (PLAIN + "seeds: [1, 1]", r"each once; 1 stands twice"),
        (PLAIN + "seeds: [a]", r"seeds is \['a'\]: give whole numbers"),
        (PLAIN + "seeds: []", r"seeds is \[\]: give whole numbers"),
        (PLAIN + "shots: 0", "shots is 0: give whole numbers from 1 on"),
        (PLAIN + "shots: [1, 2]", "several shots are for few-shot"),
        (PLAIN + "mixed: 3", "mixed is 3: give true or false"),
        (PLAIN + "recipe: papers", "recipe is 'papers': give one of paper, released-code, upstream"),
        (PLAIN + "fractions: [0.5]", "fractions is for data-efficiency, not for base-to-new: leave it out"),
        (PLAIN + "source: imagenet", "source is for cross-dataset and domain-generalisation"),
        (TRANSFER, "cross-dataset needs `source`"),
        (TRANSFER + "source: dtd", "'dtd' is the source: leave it out of `sets`"),
        (TRANSFER.replace("cross-dataset", "data-efficiency"), "needs `fractions`"),
        (TRANSFER.replace("cross-dataset", "data-efficiency") + "fractions: [2]", r"fractions is \[2\]"),
        (PLAIN.replace("method: coop", "method: coup"), "row 'CoOp': there is no method 'coup'"),
        (PLAIN.replace("method: coop", "shots: 3"), "row 'CoOp' says no method"),
        (
            PLAIN.replace("method: coop", "method: coop, epoch: 3"),
            "row 'CoOp': there is no option 'epoch'; did you mean 'epochs'",
        ),
        (PLAIN.replace("method: coop", "method: coop, epochs: 0"), "row 'CoOp': epochs is 0"),
        (PLAIN.replace("method: coop", "method: coop, fvgpt: {}"), "row 'CoOp': there is no option 'fvgpt'"),
        (PLAIN.replace("method: coop", "method: coop, coop: {token: 3}"), "row 'CoOp': .*token"),
        (PLAIN.replace("method: coop", "method: coop, coop: 3"), "coop is 3: give its settings"),
        (PLAIN.replace("}}", "}, coop: {method: coop}}"), "rows 'CoOp' and 'coop' have one folder"),
        (PLAIN.replace("CoOp:", "'+':"), "makes no name of a folder"),
        (PLAIN.replace("dtd", "dtt"), r"table.yaml: there is no data set 'dtt'; did you mean 'dtd'"),
        (PLAIN.replace("[dtd]", "[dtd, DescribableTextures]"), r"each once; 'dtd' stands twice"),
        (TRANSFER + "source: DescribableTextures", "'dtd' is the source: leave it out of `sets`"),
        (PLAIN + "classes: all", "classes is for data-efficiency, not for base-to-new: leave it out"),
        (
            PLAIN.replace("method: coop", "method: coop, template: a photo"),
            "row 'CoOp': template 'a photo' has 0 times {}",
        ),
        (
            PLAIN.replace("method: coop", "method: coop, coop: {class_specific: true}"),
            "row 'CoOp': class_specific has no vectors for new classes",
        ),
    ],
)
def test_a_mistake_is_one_line(tmp_path: Path, text: str, said: str):
    with pytest.raises(InputError, match=said) as caught:
        _read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_vectors_of_each_class_where_no_other_is_asked_about(tmp_path: Path):
    own = PLAIN.replace("method: coop", "method: coop, coop: {class_specific: true}")
    shares = "data-efficiency\nfractions: [0.5]\nclasses: all"
    for protocol in ("few-shot", shares):
        (table,) = _read(tmp_path, own.replace("base-to-new", protocol)).tables
        assert table.rows[0].settings == {"coop": {"class_specific": True}}


def test_some_tables_with_values_of_their_own(tmp_path: Path):
    text = """
protocol: base-to-new
sets: [dtd]
clip: tiny-mild
augment: none
tables:
  A, first: {rows: {CoOp: {method: coop}}}
  B: {clip: other, augment: , conditions: [home, same], rows: {CoOp: {method: coop}}}
"""
    first, second = _read(tmp_path, text).tables
    assert (first.clip, dict(first.rows[0].training)) == ("tiny-mild", {"augment": "none"})
    assert (second.clip, dict(second.rows[0].training)) == ("other", {})  # a key without a value
    assert second.conditions == ("home", "same")
    file = tmp_path / "table.yaml"
    assert [one.title for one in read_sweep(file, only=["B"]).tables] == ["B"]
    assert [one.clip for one in read_sweep(file, {"clip": "tiny"}).tables] == ["tiny", "tiny"]
    with pytest.raises(InputError, match=r"table.yaml has no table 'b'; did you mean 'B'"):
        read_sweep(file, only=["b"])


def test_no_file(tmp_path: Path):
    with pytest.raises(InputError, match=r"nothing\.yaml: no such file"):
        read_sweep(tmp_path / "nothing.yaml")
