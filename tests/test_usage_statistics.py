"""What the libraries would send home is off, each in a process of its own as a user starts it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import cxr_ray

SENDERS = ("RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
RAY = """
import ray
ray.init = lambda **_: None
from cxr_ray.sweep.runner import WORKER_ENVIRONMENT, start_ray
start_ray(None)
from ray._common.usage.usage_lib import usage_stats_enabled
print(usage_stats_enabled() or WORKER_ENVIRONMENT["RAY_USAGE_STATS_ENABLED"] != "0")
"""
MLFLOW = """
from cxr_ray.tracking.mlflow_tracker import import_mlflow
import_mlflow()
from mlflow.telemetry.utils import is_telemetry_disabled
print(not is_telemetry_disabled())
"""
HUB = """
from cxr_ray.data.tokenization import send_nothing_home
send_nothing_home()
from huggingface_hub.constants import HF_HUB_DISABLE_TELEMETRY
print(not HF_HUB_DISABLE_TELEMETRY)
"""


@pytest.mark.parametrize("code", [RAY, MLFLOW, HUB], ids=["ray", "mlflow", "hub"])
def test_usage_statistics_are_off(code):
    # A variable that CI sets by itself switches MLflow's off, and would hide that ours does not.
    kept = {k: v for k, v in os.environ.items() if k not in (*SENDERS, "CI", "PYTEST_CURRENT_TEST")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**kept, "PYTHONPATH": str(Path(cxr_ray.__file__).parents[1])},
    )
    assert done.stdout == "False\n", done.stderr
