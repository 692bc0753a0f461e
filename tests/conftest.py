"""Fixtures that every area shares: the stand-in imagery and the trunks, where they are."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Whoever works on pbvs may have set them: what is printed is broken into lines, and other data read, where a test asks.
for variable in ("COLUMNS", "PBVS_DATA", "PBVS_CACHE"):
    os.environ.pop(variable, None)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Give each test the same random numbers whichever tests ran before: a rounding bound is met or not, never both."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed(0)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--slow"):
        return
    skip = pytest.mark.skip(reason="slow; run with --slow")
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(skip)


def _found(variable: str, beside: str) -> Path:
    path = Path(os.environ.get(variable) or REPOSITORY.parent / beside)
    if not path.is_dir():
        pytest.skip(f"{variable} is not set and there is no {beside} beside the repository")
    return path


@pytest.fixture(scope="session")
def standin() -> Path:
    return _found("PBVS_STANDIN", "shared/data/standin")


@pytest.fixture(scope="session")
def weights_dir() -> Path:
    return _found("PBVS_WEIGHTS", "shared/weights")
