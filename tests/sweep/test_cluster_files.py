"""What `launch/cluster/` ships: files that their tools accept, and sweeps that the parser knows."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

LAUNCH = Path(__file__).resolve().parents[2] / "launch"
CLUSTER = LAUNCH / "cluster"


def test_the_cloud_file_passes_rays_own_validation():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = yaml.safe_load((CLUSTER / "cloud.yaml").read_text())
    validate_config(prepare_config(config))
    assert config["available_node_types"]["gpu"]["min_workers"] >= 1


def test_the_kubernetes_job_asks_for_what_the_sweep_knows():
    job = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    script, *arguments = shlex.split(job["spec"]["entrypoint"])[1:]
    assert Path(script).name == "sweep.py"
    told = subprocess.run(
        [sys.executable, str(LAUNCH / "sweep.py"), "--help"], capture_output=True, text=True
    ).stdout
    assert all(flag in told for flag in arguments if flag.startswith("--"))


def test_the_kubernetes_job_has_the_ray_that_is_pinned():
    pins = (LAUNCH.parent / "constraints.txt").read_text().splitlines()
    job = yaml.safe_load((CLUSTER / "kuberay.yaml").read_text())
    assert f"ray=={job['spec']['rayClusterSpec']['rayVersion']}" in pins


@pytest.mark.slow
def test_the_slurm_script_runs_a_sweep_on_the_nodes_of_an_allocation(tmp_path):
    stubs = tmp_path / "bin"
    stubs.mkdir()
    (stubs / "scontrol").write_text("#!/bin/bash\necho one\necho two\n")
    (stubs / "srun").write_text(
        '#!/bin/bash\nwhile [[ $1 == -* ]]; do [[ $1 == -w ]] && shift; shift; done\nexec "$@"\n'
    )
    for stub in stubs.iterdir():
        stub.chmod(0o755)
    storage = tmp_path / "runs"
    # The folder of this interpreter holds `python` and `ray`.
    path = f"{stubs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [
            "bash", str(CLUSTER / "slurm.sh"), "--grid", "paper12", "--profile", "tiny",
            "--only", "modality=text,dataset=full,loss=bce", "--storage", str(storage),
        ],
        env={
            **os.environ, "PATH": path, "SLURM_JOB_NODELIST": "one,two", "SLURM_JOB_ID": "4711",
            "SLURM_SUBMIT_DIR": str(LAUNCH.parent), "SLURM_CPUS_PER_TASK": "1",
        },
        capture_output=True,
        text=True,
        timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(list(storage.glob("trials/*/result.json"))) == 1
