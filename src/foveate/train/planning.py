"""From runs that are asked for to runs that are done: what is equal among them is done once.

A plug-in stands on a backbone. Where that is the very same for several runs, it is tuned once: as the run
that is this backbone itself, or else as one that is added.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Planned(Generic[T]):
    """A run, and how it hangs together with others.

    Attributes:
        run: What it is.
        needs: Name of the run whose tuned model it stands on; None trains everything.
        copies: Name of a run before it that is the very same, if there is one.
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
    """Add the backbones that runs stand on; return all by name, each behind what it needs.

    Args:
        runs: By name.
        key: What equal runs have in common.
        inner: Told a name and its run, returns the run of its backbone, and what to call that where it is no
            run of its own; None for a run that stands on none.
        only: Names of those to plan; None takes all. The others serve as backbones where they are the same.
    """
    first: dict[str, str] = {}
    for name, run in runs.items():
        first.setdefault(key(run), name)
    found: dict[str, Planned[T]] = {}

    def add(name: str, run: T) -> None:
        if name in found:
            return
        same, needs, below = first[key(run)], None, inner(name, run)
        if below is not None:
            needs = first.setdefault(key(below[1]), below[0])
            add(needs, runs.get(needs, below[1]))
        found[name] = Planned(run, needs, None if same == name else same)

    for name in runs if only is None else only:
        add(name, runs[name])
    return found
