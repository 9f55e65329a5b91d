"""Tables of runs: the configs that come with the package, and rows from the command line."""

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foveate.commands import fit as command
from foveate.commands import learning
from foveate.commands.rows import RowRuns, slug
from foveate.methods.guidance import Guidance
from foveate.methods.registry import stages
from foveate.train import run as run_module
from foveate.train.config import RunConfig

Call = Callable[..., object]
ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    path.stem for path in (ROOT / "configs").glob("*.yaml") if "foveate sweep" not in path.read_text()
)
"""Those of `foveate fit`; a sweep's are tested with sweeps."""
ONE_PER_DATA_SET = {"mmrl-published"}  # whose rows may agree


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> Callable[..., RowRuns]:
    """What `foveate fit WORDS` is about to train."""
    monkeypatch.chdir(ROOT)

    def call(*words: object) -> RowRuns:
        caught: list[RowRuns] = []
        monkeypatch.setattr(learning, "fit_rows", caught.append)
        command.run([str(word) for word in words])
        return caught[0]

    return call


@pytest.fixture
def table(planned: Callable[..., RowRuns]) -> Callable[..., dict[str, RunConfig]]:
    """The run of each row of a config that comes with the package."""

    def call(name: str, *words: object) -> dict[str, RunConfig]:
        found = planned("photos", "--config", f"configs/{name}.yaml", "--out", "out", *words)
        return {row: found.runs[folder].config for row, folder in found.rows.items()}

    return call


def _guidance(config: RunConfig) -> Guidance:
    return Guidance(512, config.configured["fvgpt"], torch.Generator().manual_seed(0))


# --- the configs that come with the package ---


@pytest.mark.parametrize("name", CONFIGS)
def test_every_row_of_a_config_is_a_run_of_its_own(table: Call, name: str):
    rows = table(name)
    assert len(rows) > 1
    outcomes = {row: json.dumps(config.identity()) for row, config in rows.items()}
    if name not in ONE_PER_DATA_SET:
        assert len(set(outcomes.values())) == len(rows), outcomes
    for row, config in rows.items():
        assert config.classes == "base", row
        assert config.shots == 16 or name == "data-efficiency", row


@pytest.mark.parametrize("name", CONFIGS)
def test_the_command_in_a_config_runs_it(planned: Callable[..., RowRuns], foveate: Call, name: str):
    lines = (ROOT / f"configs/{name}.yaml").read_text().splitlines()
    comment = "\n".join(line[1:] for line in lines[: lines.index("")])
    (words,) = re.findall(r"^ {3}foveate fit ((?:.*\\\n)*.*)$", comment, re.MULTILINE)
    words = shlex.split(words.replace("\\\n", ""))
    assert f"configs/{name}.yaml" in words
    folder = words[words.index("--out") + 1]
    assert f"foveate evaluate {folder}/*" in comment or "--row" in words
    found = planned(*words)
    runs = found.runs
    assert all(Path(folder).name == slug(row) for row, folder in found.rows.items())
    assert all(Path(run.folder).parent == Path(folder) for run in runs.values())


@pytest.mark.parametrize("name", CONFIGS)
def test_a_backbone_is_tuned_once_and_before_what_stands_on_it(planned: Callable[..., RowRuns], name: str):
    runs = planned("photos", "--config", f"configs/{name}.yaml", "--out", "out").runs
    trained: list[str] = []
    for run in runs.values():
        inner = stages(run.config.method)[:-1]
        assert (run.config.backbone in trained) == bool(inner)
        trained.append(run.folder)
    backbones = [run for run in runs.values() if len(stages(run.config.method)) == 1]
    if name not in ONE_PER_DATA_SET:
        assert len({json.dumps(run.config.identity()) for run in backbones}) == len(backbones)


def test_the_page_lists_every_config():
    page = (ROOT / "docs/experiments.md").read_text()
    assert set(re.findall(r"\| \[([\w-]+)\.yaml\]", page)) == set(CONFIGS)


def test_table_3_switches_the_published_components(table: Call):
    rows = list(table("table3").values())[1:]  # behind CoOp alone
    switched = []
    for row in rows:
        config = row.configured["fvgpt"]
        switched.append((config.foreground_gate, config.adapters != "none", config.prior_branch))
    # FRG, FDC, PC as in the paper's rows
    assert switched == [(0, 1, 0), (0, 0, 1), (1, 1, 0), (0, 1, 1), (1, 1, 1)]


def test_tables_4_and_5_have_the_parameters_that_their_sizes_give(table: Call):
    def counts(name: str, *parts: str) -> set[int]:
        built = [_guidance(config) for config in table(name).values()]
        return {sum(p.numel() for part in parts for p in getattr(one, part).parameters()) for one in built}

    # both adapters D -> h -> D and a gate 3 -> h -> 1, with biases: 2 (2 D h + h + D) and 5 h + 1
    assert counts("table4", "image_adapter", "text_adapter") == {33_824, 66_624, 132_224, 263_424}
    assert counts("table4", "foreground_gate") == counts("table4", "prior_gate") == {81, 161, 321, 641}
    assert counts("table5", "prior_gate") == {4, 161, 1_217}


@pytest.mark.parametrize(("name", "left"), [("table6", "indicators"), ("table12", "terms")])
def test_tables_6_and_12_leave_each_out_once(table: Call, name: str, left: str):
    rows = [config.configured["fvgpt"] for config in table(name).values()]
    whole = rows[0]
    names = [key for key in vars(whole) if key.endswith(left)]
    gone = sorted(
        "+".join(sorted(set(getattr(whole, key)) - set(getattr(row, key))))
        for row in rows[1:]
        for key in names
        if getattr(row, key) != getattr(whole, key)
    )
    expected = {
        "indicators": ["area", "cosine", "cosine", "entropy", "entropy+prior_entropy"],
        "terms": ["base", "distill", "gate", "prior", "prior_kl"],
    }
    assert gone == expected[left]
    assert all(row.foreground_gate for row in rows) == (left == "indicators")  # no L_FRG, no gate


def test_table_1_has_four_backbones_each_under_its_plug_in(planned: Callable[..., RowRuns]):
    runs = planned("photos", "--config", "configs/backbones.yaml", "--out", "out").runs
    assert [run.config.method for run in runs.values()] == [
        *("coop", "fvgpt+coop", "kgcoop", "fvgpt+kgcoop"),
        *("promptsrc", "fvgpt+promptsrc", "mmrl", "fvgpt+mmrl"),
    ]
    pairs = {Path(f).name: run.config.backbone for f, run in runs.items() if run.config.backbone}
    assert pairs == {f"{name}-fvg-pt": f"out/{name}" for name in ("coop", "kgcoop", "promptsrc", "mmrl")}
    weights = [run.config.settings for run in runs.values()]
    assert [own for own in weights if own] == [{"fvgpt": {"lambda_distill": 5}}]  # MMRL's


# --- which backbones rows share ---

TWO = """
photos: mine/
method: fvgpt+coop
shots: 2
epochs: 1
rows:
  one: {}
  two: {%s}
"""


@pytest.mark.parametrize(
    ("differs", "backbones"),
    [
        ("fvgpt: {tau: 1}", 1),
        ("mask_values: binary255", 1),
        ("lr: 0.0035", 1),  # that of the recipe
        ("coop: {tokens: 4}", 1),  # the default
        ("coop: {tokens: 5}", 2),
        ("lr: 0.1", 2),
        ("epochs: 2", 2),
        ("seed: 2", 2),
        ("shots: 1", 2),
        ("classes: base", 2),
        ("photos: other/", 2),
        ("template: 'a {} here.'", 2),
        ("dtype: bfloat16", 2),
        ("clip: other/", 2),
        ("method: fvgpt+kgcoop", 2),
    ],
)
def test_rows_share_a_backbone_where_it_is_the_same(
    planned: Callable[..., RowRuns], tmp_path: Path, differs: str, backbones: int
):
    (tmp_path / "two.yaml").write_text(TWO % differs)
    words = ("--masks", "masks", "--config", tmp_path / "two.yaml", "--out", "out")
    runs = planned(*words).runs
    assert len({run.config.backbone for run in runs.values()} - {None}) == backbones
    assert len(runs) == 2 + backbones
    # one row alone has its backbone where it is for all of them
    alone = planned(*words, "--row", "two").runs
    assert [run.config.backbone for run in alone.values()][-1] == runs["out/two"].config.backbone


def test_what_is_typed_wins_for_all_rows(planned: Callable[..., RowRuns], tmp_path: Path):
    (tmp_path / "two.yaml").write_text(TWO % "epochs: 3, fvgpt: {tau: 1, margin: 0.5}")
    words = ("photos", "--config", tmp_path / "two.yaml", "--out", "out", "--epochs", 5, "--fvgpt.tau", 3)
    table = planned(*words)
    one, two = (table.runs[f"out/{name}"].config for name in ("one", "two"))
    assert one.recipe["epochs"] == two.recipe["epochs"] == 5
    assert (one.settings, two.settings) == (
        {"fvgpt": {"tau": 3.0}},
        {"fvgpt": {"tau": 3.0, "margin": 0.5}},
    )


def test_files_of_options_add_up(planned: Callable[..., RowRuns], tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("photos: mine/\nout: out/mine\nfvgpt: {margin: 0.25}\nepochs: 7\n")
    (tmp_path / "two.yaml").write_text(TWO % "fvgpt.tau: 1, batch-size: 3")
    runs = planned("--config", tmp_path / "two.yaml", "--config", tmp_path / "mine.yaml").runs
    config = runs["out/mine/two"].config
    assert (config.photos, config.recipe) == ("mine/", {"epochs": 7, "batch_size": 3})
    assert config.settings == {"fvgpt": {"margin": 0.25, "tau": 1.0}}


# --- from end to end ---

SMALL = """
method: fvgpt+coop
classes: base
shots: 2
epochs: 2
warmup_epochs: 0
lr: 0.1
rows:
  FDC: {fvgpt: {foreground_gate: false, prior_branch: false}}
  PC: {fvgpt: {foreground_gate: false, adapters: none}}
  FRG + FDC + PC:
  CoOp: {method: coop}
  CoOp 2: {coop: {tokens: 2}}
"""


@pytest.fixture
def fit(foveate: Call, shapes: Callable[..., Path], tmp_path: Path, clip_folder: Path) -> Call:
    """`foveate fit` with the small table, into `out`, on two of four classes."""
    data = shapes("blue box", "blue disc", "red box", "red disc", pictures=4)
    (tmp_path / "small.yaml").write_text(SMALL)
    common = (data / "photos", "--masks", data / "masks", "--clip", clip_folder)

    def call(*words: object, out: str = "out", config: str | None = "small.yaml"):
        file = ("--config", tmp_path / config) if config else ()
        return foveate("fit", *common, "--out", tmp_path / out, *file, *words)

    return call


def _state(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def _stages(folder: Path) -> set[str]:
    return {json.loads(line)["stage"] for line in (folder / "log.jsonl").read_text().splitlines()}


def test_a_table_from_end_to_end(fit: Call, foveate: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    out = tmp_path / "out"
    said = fit()
    assert said.code == 0, said.err
    (other,) = out.glob("backbone-*")
    assert re.fullmatch("backbone-coop-[0-9a-f]{6}", other.name)
    assert {path.name for path in out.glob("[!.]*")} == {
        *("fdc", "pc", "frg-fdc-pc", "coop", "coop-2"),
        other.name,
    }
    assert _stages(out / "coop") == _stages(other) == {"coop"}
    for name in ("fdc", "pc", "frg-fdc-pc", "coop-2"):
        assert _stages(out / name) == {"fvgpt+coop"}
    header, *lines = (line.split("\t") for line in said.out.splitlines())
    assert header == ["row", "method", "learned numbers", ""]
    assert [(line[0], line[2], line[3]) for line in lines] == [
        ("FDC", "8,962", f"saved in {out}/fdc"),
        ("PC", "8,962", f"saved in {out}/pc"),
        ("FRG + FDC + PC", "8,962", f"saved in {out}/frg-fdc-pc"),
        ("CoOp", "256", f"saved in {out}/coop"),
        ("CoOp 2", "8,834", f"saved in {out}/coop-2"),
    ]
    notes = [line for line in said.err.splitlines() if line.startswith("note: run ")]
    assert notes[0] == f"note: run 1 of 6: row 'CoOp', in {out}/coop"
    assert notes[-1] == f"note: run 6 of 6: row 'CoOp 2', in {out}/coop-2"

    # The prior branch learns apart from the rest, so all rows that have it have the same one (A22).
    learned = {name: load_file(out / name / "model.safetensors") for name in ("fdc", "pc", "frg-fdc-pc")}
    gates = [name for name in learned["pc"] if "prior_gate" in name]
    assert len(gates) == 4
    for name in gates:
        assert torch.equal(learned["pc"][name], learned["frg-fdc-pc"][name])
        assert not torch.equal(learned["pc"][name], learned["fdc"][name])

    # A row is what the same options make in one run.
    options = ("--classes", "base", "--shots", 2, "--epochs", 2, "--warmup-epochs", 0, "--lr", 0.1)
    assert fit(*options, out="whole", config=None).code == 0
    whole = (tmp_path / "whole/model.safetensors").read_bytes()
    assert (out / "frg-fdc-pc/model.safetensors").read_bytes() == whole

    before = _state(out)
    monkeypatch.setattr(run_module, "fit", None)  # nothing is trained again
    again = fit()
    assert again.code == 0
    assert again.out == said.out.replace("saved in", "had finished before, in")
    assert _state(out) == before

    # and one table of their accuracies
    header, *lines = (
        line.split("\t") for line in foveate("evaluate", *sorted(out.glob("[!.]*"))).out.splitlines()
    )
    assert header == ["model", "method", "base", "new", "all", "HM"]
    for line, folder in zip(lines, sorted(out.glob("[!.]*")), strict=True):
        alone = foveate("evaluate", folder).out.splitlines()[1].split("\t")
        assert line == [str(folder), *alone]
    both = json.loads(foveate("evaluate", out / "fdc", out / "coop", "--compare", "--json").out)
    assert {Path(model).name: list(rows) for model, rows in both.items()} == {
        "fdc": ["zeroshot", "coop", "fvgpt+coop"],
        "coop": ["zeroshot", "coop"],
    }
    inner, own = both[str(out / "fdc")]["coop"], both[str(out / "coop")]["coop"]
    assert all(own[split].pop("judged") for split in own)  # of the model itself alone
    assert inner == own


def test_one_row_and_then_the_others(fit: Call, tmp_path: Path):
    out = tmp_path / "out"
    said = fit("--row", "frg + fdc + pc")  # however its folder's name is written
    assert said.code == 0, said.err
    assert {path.name for path in out.glob("[!.]*")} == {"coop", "frg-fdc-pc"}
    assert [line.split("\t")[0] for line in said.out.splitlines()] == ["row", "FRG + FDC + PC"]
    before = _state(out)
    assert fit().code == 0
    assert before.items() <= _state(out).items()


def test_a_stopped_table_goes_on(fit: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert fit(out="whole").code == 0
    whole, out, trained = tmp_path / "whole", tmp_path / "out", []
    train = run_module.fit

    def stop(*given: object, **more: object) -> None:
        trained.append(1)
        if len(trained) == 3:  # in the second row, once its first epoch is saved
            told = more["on_step"]

            def stopping(step: object) -> None:
                told(step)
                if step.epoch == 1:
                    raise KeyboardInterrupt

            more["on_step"] = stopping
        train(*given, **more)

    monkeypatch.setattr(run_module, "fit", stop)
    said = fit()
    assert (said.code, said.out) == (130, "")
    assert said.err.endswith("foveate: stopped; the same command goes on where it was\n")
    assert {path.name for path in out.glob("[!.]*")} == {"coop", "fdc", "pc"}
    assert not (out / "pc/config.json").exists()
    before = _state(out / "fdc") | _state(out / "coop")
    said = fit()
    assert said.code == 0
    assert len(trained) == 3 + 4  # PC, FRG + FDC + PC, CoOp 2 and its backbone
    assert _state(out / "fdc") | _state(out / "coop") == before
    for folder in whole.glob("[!.]*"):
        for name in ("model.safetensors", "config.json", "log.jsonl"):
            assert (out / folder.name / name).read_bytes() == (folder / name).read_bytes(), (folder, name)


def test_a_row_that_diverges_does_not_stop_the_others(fit: Call, tmp_path: Path):
    (tmp_path / "wild.yaml").write_text(
        SMALL.split("rows:")[0]
        + "rows:\n  wild: {lr: 1.0e+30, coop: {tokens: 2}}\n  tame: {}\n  coop: {method: coop}\n"
    )
    said = fit(config="wild.yaml")
    assert said.code == 2
    assert said.err.splitlines()[-1].startswith("foveate: the backbone of row 'wild': coop, step ")
    lines = [line.split("\t") for line in said.out.splitlines()]
    assert [(line[0], line[-1].split()[0]) for line in lines[1:]] == [
        ("wild", "diverged"),
        ("tame", "saved"),
        ("coop", "saved"),
    ]
    assert not (tmp_path / "out/wild").exists()


# --- mistakes ---


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ("a: {epoch: 3}", "row 'a': there is no option 'epoch'; did you mean --epochs?"),
        ("a: {fvgpt: {lambda_distil: 3}}", "row 'a': there is no option 'fvgpt.lambda_distil'; did you mean"),
        ("a: {tau: 3}", "row 'a': there is no option 'tau'; did you mean --fvgpt.tau?"),
        ("a: {fvgt: {tau: 3}}", "row 'a': there is no option 'fvgt.tau'; did you mean --fvgpt.tau?"),
        ("a: {fvgpt: 3}", "row 'a': fvgpt is 3: give its settings, as in `fvgpt: {name: value}`"),
        ("a: {epochs: many}", "row 'a': --epochs is 'many': give a whole number"),
        ("a: {fvgpt: {fill: red}}", "row 'a': --fvgpt.fill is 'red': give one of mean, black"),
        ("a: {epochs: 0}", "row 'a': epochs is 0: give a number above zero"),
        ("a: {method: fvgpt+cop}", "row 'a': there is no method 'cop'; did you mean 'coop'?"),
        (
            "a: {method: kgcoop, coop: {tokens: 3}}",
            "row 'a': settings for 'coop', but the method is 'kgcoop'",
        ),
        ("a: {out: here}", "row 'a': 'out' is the same for all rows: write it above 'rows'"),
        ("a: {rows: {}}", "row 'a': there is no option 'rows'"),
        ("a: 3", "row 'a' has no options: write them as `fvgpt: {tau: 1}`, or nothing at all"),
        ("{}", "rows has no rows: give at least one"),
        ("[a, b]", "rows are no rows: write a name and its options"),
        ("a b: {}\n  A-B: {}", "rows 'a b' and 'A-B' have one folder, a-b: rename one"),
        ("'+': {}", "row '+' makes no name of a folder"),
    ],
)
def test_a_wrong_row_is_named_before_anything_is_trained(fit: Call, tmp_path: Path, rows: str, says: str):
    (tmp_path / "wrong.yaml").write_text(
        f"rows:\n  fine: {{}}\n  {rows}\n" if ": " in rows else f"rows: {rows}\n"
    )
    said = fit(config="wrong.yaml")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(f"foveate: {tmp_path}/wrong.yaml")
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epoch: 3", "there is no option 'epoch'; did you mean --epochs?"),
        (
            "fvgpt: {lambda_distil: 3}",
            "there is no option 'fvgpt.lambda_distil'; did you mean --fvgpt.lambda-",
        ),
        ("fvgpt.lambda_distil: 3", "there is no option 'fvgpt.lambda_distil'; did you mean --fvgpt.lambda-"),
        ("row_s: {a: {}}", "there is no option 'row_s.a'; did you mean --row?"),
        ("config: other.yaml", "there is no option 'config'"),
        ("- 3", "holds no options"),
        ("epochs: [", "is no YAML: while parsing"),
    ],
)
def test_a_wrong_file_is_one_line(fit: Call, tmp_path: Path, text: str, says: str):
    (tmp_path / "wrong.yaml").write_text(text)
    said = fit("--config", tmp_path / "wrong.yaml")
    assert (said.code, said.out) == (2, "")
    assert f"{tmp_path}/wrong.yaml" in said.err
    assert says in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--row", "FDCC"), "small.yaml has no row 'FDCC'; did you mean 'FDC'?"),
        (("--row", "xyz"), "small.yaml has no row 'xyz'; there are 'FDC', 'PC', 'FRG + FDC + PC', 'CoOp', "),
        (("--print-config",), "--print-config prints the options of one run: choose it with --row"),
        (("--kgcoop.weight", 8), "settings for 'kgcoop', but no row has it in its method"),
        (("--fvgpt.gate-depth", 9), "row 'FDC': fvgpt: gate_depth is 9: give 1, 2 or 3"),
        (("--backbone", "nowhere", "--row", "FDC"), "row 'FDC': nowhere: no such folder"),
        (("--lr", "-1"), "row 'FDC': lr is -1.0: give a number above zero"),
    ],
)
def test_a_wrong_word_over_a_table(fit: Call, tmp_path: Path, words: tuple[object, ...], says: str):
    said = fit(*words)
    assert (said.code, said.out) == (2, "")
    assert says in said.err.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_a_row_without_a_table(fit: Call):
    said = fit("--row", "FDC", config=None)
    assert said.code == 2
    assert (
        said.err
        == "foveate: --row chooses a row of a file of options: give one that has rows, with --config\n"
    )


def test_a_table_is_not_put_into_a_run(fit: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert fit("--method", "coop", "--shots", 2, "--epochs", 1, config=None).code == 0
    monkeypatch.setenv("HOME", str(tmp_path))
    for words in ((), ("--out", "~/out")):
        said = fit(*words)
        assert said.code == 2
        assert (
            said.err
            == f"foveate: {tmp_path}/out holds a single run: choose another output folder for a table\n"
        )


def test_the_printed_config_of_a_row_runs_that_row(fit: Call, foveate: Call, tmp_path: Path):
    printed = fit("--row", "CoOp 2", "--print-config")
    assert printed.code == 0
    assert not (tmp_path / "out").exists()
    (tmp_path / "row.yaml").write_text(printed.out)
    assert foveate("fit", "--config", tmp_path / "row.yaml").code == 0
    alone = (tmp_path / "out/coop-2/model.safetensors").read_bytes()
    assert fit("--row", "CoOp 2", out="rows").code == 0
    assert (tmp_path / "rows/coop-2/model.safetensors").read_bytes() == alone


def test_models_on_other_splits_share_a_table(fit: Call, foveate: Call, tmp_path: Path):
    assert fit("--row", "CoOp").code == 0
    assert fit("--row", "CoOp", "--classes", "all", out="all").code == 0
    said = foveate("evaluate", tmp_path / "out/coop", tmp_path / "all/coop")
    _, half, whole = (line.split("\t") for line in said.out.splitlines())
    assert all(half)
    assert whole[3:] == ["", "", ""]  # no new class, so neither these, nor all, nor HM
    assert whole[2]
