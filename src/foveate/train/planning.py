"""Plan of several runs, in which equal runs are done once.

A plug-in has a backbone. If several runs have the same backbone, it is tuned once: as the run of this
backbone, if there is one, or else as an additional run.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Planned(Generic[T]):
    """A run with its dependencies.

    Attributes:
        run: The run.
        needs: Name of the run with the tuned backbone; None trains all stages.
        copies: Name of an equal run before it, if there is one.
    """

    run: T
    needs: str | None = None
    copies: str | None = None


def share(
    runs: Mapping[str, T],
    key: Callable[[T], str],
    inner: Callable[[str, T], tuple[str, T] | None],
    only: Iterable[str] | None = None,
) -> dict[str, Planned[T]]:
    """Add the backbones that runs need; return all runs by name, each after what it needs.

    Args:
        runs: Runs by name.
        key: Returns the same text for equal runs.
        inner: Takes a name and its run; returns the run of the backbone and a name for it as an
            additional run. Returns None for a run without a backbone.
        only: Names of the runs to plan; None takes all. The others serve as backbones of equal runs.
    """
    name_of_key: dict[str, str] = {}
    for name, run in runs.items():
        name_of_key.setdefault(key(run), name)
    planned: dict[str, Planned[T]] = {}

    def add(name: str, run: T) -> None:
        if name in planned:
            return
        original, needs, backbone = name_of_key[key(run)], None, inner(name, run)
        if backbone is not None:
            needs = name_of_key.setdefault(key(backbone[1]), backbone[0])
            add(needs, runs.get(needs, backbone[1]))
        planned[name] = Planned(run, needs, None if original == name else original)

    for name in runs if only is None else only:
        add(name, runs[name])
    return planned
