"""Sweep folders that several tests of reports look at."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # tests are no packages; what they share is beside them

from synthetic_sweeps import carried_results, paper_results, write_all

from foveate.report.model import Report
from foveate.report.sections import build


@pytest.fixture(scope="session")
def paper_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The paper's Tables 1 and 2, as a sweep would have left them: each seed has just the printed figures."""
    return write_all(tmp_path_factory.mktemp("paper"), [*paper_results(), *carried_results()])


@pytest.fixture(scope="session")
def paper_report(paper_sweep: Path) -> Report:
    return build(paper_sweep, against=True, draws=200)
