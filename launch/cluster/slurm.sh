#!/bin/bash
# One sweep on the nodes of one Slurm allocation: a Ray head on the first node, a worker on each other one.
#
#   sbatch --nodes=2 --gpus-per-node=4 launch/cluster/slurm.sh \
#       --grid paper12 --profile paper --data mimic:/data/mimic-cxr-jpg --storage /shared/runs --gpus-per-worker 1
#
# Everything after the script's name goes to launch/sweep.py. The storage folder and the environment that is
# active when you submit must be visible on every node. The same command again continues what the time limit cut.
#SBATCH --job-name=cxr_ray
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --output=%x-%j.log
# Two minutes before the end trials are asked to stop, which keeps their last epoch.
#SBATCH --signal=B:INT@120
set -euo pipefail

checkout=${CXR_RAY_CHECKOUT:-$SLURM_SUBMIT_DIR}
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
address=$(srun --nodes=1 --ntasks=1 -w "$head" hostname -I | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet

# Whoever reaches the port but lacks this allocation's token is refused.
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_AUTH_TOKEN RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0

resources=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}")
trap 'jobs -p | xargs --no-run-if-empty kill 2>/dev/null || true' EXIT
srun --nodes=1 --ntasks=1 --overlap -w "$head" \
    ray start --head --block --node-ip-address="$address" --port="$port" \
    --include-dashboard=false "${resources[@]}" &
ray_head=$!
# Its port is open before the head has joined itself; a node that starts in between gives up.
until python -c "import ray; ray.init('$address:$port', log_to_driver=False)" 2>/dev/null; do
    kill -0 "$ray_head" 2>/dev/null || { echo "Ray's head on $head ended before it was up" >&2; exit 1; }
    sleep 1
done
for node in "${nodes[@]:1}"; do
    srun --nodes=1 --ntasks=1 --overlap -w "$node" \
        ray start --block --address="$address:$port" "${resources[@]}" &
done

# Until every node has joined, or for two minutes.
python - "$address:$port" "${#nodes[@]}" <<'PYTHON'
import sys
import time

import ray

ray.init(address=sys.argv[1], log_to_driver=False)
deadline = time.monotonic() + 120
while len([n for n in ray.nodes() if n["Alive"]]) < int(sys.argv[2]):
    if time.monotonic() > deadline:
        sys.exit("not every node of the allocation joined Ray in two minutes")
    time.sleep(1)
PYTHON

python "$checkout/launch/sweep.py" --address "$address:$port" "$@" &
sweep=$!
trap 'kill -INT "$sweep"' INT TERM
code=0
wait "$sweep" || code=$?
while kill -0 "$sweep" 2>/dev/null; do # a signal ended the first wait, not the sweep
    code=0
    wait "$sweep" || code=$?
done
trap - INT TERM
exit "$code"
