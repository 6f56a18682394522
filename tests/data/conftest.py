"""Fixtures of the data layer's tests."""

import os
from pathlib import Path

import pytest
from small_sets import MimicTables


@pytest.fixture
def mimic_tables():
    return MimicTables()


@pytest.fixture(scope="session")
def real_data():
    """The folder with the openly licensed data sets, or a skip."""
    default = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("CXR_RAY_DATA", default))
    if not folder.is_dir():
        pytest.skip("the openly licensed data sets are not here; set CXR_RAY_DATA to their folder")
    return folder
