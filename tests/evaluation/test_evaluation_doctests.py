import doctest
import importlib
import pkgutil

import pytest

import cxr_ray.evaluation
import cxr_ray.report

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (cxr_ray.evaluation, cxr_ray.report)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_every_docstring_example_gives_what_it_says(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
