"""Runs that share: what is equal is done once, and nothing comes before what it stands on."""

from foveate.train.config import RunConfig
from foveate.train.planning import Planned, share


def _below(name: str, run: RunConfig) -> tuple[str, RunConfig] | None:
    return None if run.inner is None else (f"backbone of {name}", run.inner)


def _plan(runs: dict[str, RunConfig], **more: object) -> dict[str, Planned[RunConfig]]:
    planned = share(runs, lambda run: run.key, _below, **more)
    ready: set[str] = set()
    for name, one in planned.items():
        assert one.needs is None or one.needs in ready
        ready.add(name)
    return planned


def test_a_backbone_is_the_row_that_is_the_same():
    runs = {
        "guided": RunConfig(),
        "coop": RunConfig(method="coop"),
        "other": RunConfig(method="coop", seed=2),
    }
    planned = _plan(runs)
    assert list(planned) == ["coop", "guided", "other"]
    assert planned["guided"].needs == "coop"


def test_a_backbone_that_is_no_row_is_added_once():
    runs = {
        "one": RunConfig(settings={"fvgpt": {"tau": 1.0}}),
        "two": RunConfig(settings={"fvgpt": {"tau": 2.0}}),
        "wide": RunConfig(settings={"coop": {"tokens": 8}}),
    }
    planned = _plan(runs)
    assert [name for name in planned if name.startswith("backbone")] == [
        "backbone of one",
        "backbone of wide",
    ]
    assert planned["one"].needs == planned["two"].needs == "backbone of one"


def test_a_backbone_may_stand_on_another():
    planned = _plan({"all": RunConfig(method="fvgpt+dapt+maple")})
    assert list(planned) == ["backbone of all", "all"]
    assert planned["backbone of all"].run.method == "dapt+maple"


def test_equal_runs_are_told_of():
    planned = _plan({"a": RunConfig(method="coop"), "b": RunConfig(method="coop", device="cuda")})
    assert (planned["a"].copies, planned["b"].copies) == (None, "a")


def test_some_runs_alone_know_the_others():
    runs = {"coop": RunConfig(method="coop"), "guided": RunConfig(), "mmrl": RunConfig(method="mmrl")}
    assert list(_plan(runs, only=["guided"])) == ["coop", "guided"]
