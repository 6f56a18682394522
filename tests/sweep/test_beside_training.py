"""What a sweep leaves until its first trial has begun, and then does beside the training."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import pytest

import cxr_ray
from cxr_ray.errors import TrialError, store_errors
from cxr_ray.sweep.course import IMPORTS
from cxr_ray.sweep.execution import Execution
from cxr_ray.sweep.handout import TrialEvent
from cxr_ray.sweep.resources import TrialResources
from cxr_ray.sweep.search_course import END_IMPORTS

LEFT = ("pandas", "scipy.stats", "sklearn", "matplotlib", "mlflow", "ray", "torch", "transformers")


def test_what_is_imported_to_plan_a_search_makes_no_table_picture_or_model():
    modules = "cxr_ray.sweep.sweep, cxr_ray.sweep.search_course, cxr_ray.evaluation.leakage"
    code = f"import sys, {modules}; print([m for m in {LEFT} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(cxr_ray.__file__).parents[1])},
    )
    assert done.stdout == "[]\n", done.stderr


def test_every_module_that_is_imported_beside_the_training_exists():
    for name in (*IMPORTS, *END_IMPORTS):
        assert find_spec(name) is not None, name


@pytest.mark.parametrize("name", ["aiohttp", "botocore.exceptions"])
def test_a_store_whose_module_another_thread_imports_has_no_error_yet(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert OSError in store_errors()


def test_a_run_of_trials_ends_after_what_is_imported_beside_it(monkeypatch, tmp_path):
    slow = "import time\ntime.sleep(0.5)\nwhole = True\n"
    (tmp_path / "slow_to_import.py").write_text(slow)
    monkeypatch.syspath_prepend(str(tmp_path))

    def run_trials(*_, on_event, **__):
        on_event(TrialEvent("epoch", None, {}))
        raise TrialError("lost")

    monkeypatch.setattr("cxr_ray.sweep.runner.run_trials", run_trials)
    ray, given = MagicMock(joins=False), MagicMock()
    execution = Execution(
        given, given, ray, given, given, given, cohorts=(), need=TrialResources(), driver="d",
        max_concurrent=None, git_commit=None, imports=["slow_to_import"],
    )  # fmt: skip
    with pytest.raises(TrialError):
        execution.run(given, ())
    assert sys.modules["slow_to_import"].whole
