"""The examples of docstrings are run, wherever there are any."""

import doctest
import importlib
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "cxr_ray"
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text()
]


@pytest.mark.parametrize("name", MODULES)
def test_every_docstring_example_gives_what_it_says(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted and not found.failed
