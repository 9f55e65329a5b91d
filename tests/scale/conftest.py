"""What tests of large jobs look at: files as they are, and pictures that are broken."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture
def one_thread():
    """Serial work in one thread, as each process and each actor does it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder, by its path in it."""
    return lambda folder: {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
