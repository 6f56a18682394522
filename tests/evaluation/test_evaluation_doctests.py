import doctest
import importlib
import pkgutil

import pytest

import cxr_ray.evaluation

MODULES = [
    f"cxr_ray.evaluation.{module.name}"
    for module in pkgutil.iter_modules(cxr_ray.evaluation.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_every_docstring_example_gives_what_it_says(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
