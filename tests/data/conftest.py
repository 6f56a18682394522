"""Fixtures of the data layer's tests."""

import pytest
from small_sets import MimicTables


@pytest.fixture
def mimic_tables():
    return MimicTables()
