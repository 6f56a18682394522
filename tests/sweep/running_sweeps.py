"""Sweeps in processes of their own, and what can be seen of them from outside."""

import json
import os
import time
from pathlib import Path

PLANTED = Path(__file__).with_name("planted")
SWEEP = Path(__file__).resolve().parents[2] / "launch" / "sweep.py"


def ended(process, timeout=600):
    out, err = process.communicate(timeout=timeout)
    return process.returncode, out, err


def wait_for(condition, what, seconds=300):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen"
        time.sleep(0.05)
    return found


def descendants(root):
    """Process ids below ``root`` with what runs there."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = stat.read_text()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(text.rpartition(")")[2].split()[1])
    found, frontier = set(), {root}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier}
        found |= frontier
    return found


def trial_processes(process, what=".train"):
    """Ray workers below a process that run a trial now."""
    workers = []
    for number in descendants(process.pid):
        try:
            command = Path(f"/proc/{number}/cmdline").read_bytes()
        except OSError:
            continue
        if command.startswith(b"ray::") and what.encode() in command:
            workers.append(number)
    return workers


def checkpoints(storage):
    return list(Path(storage).glob("running/*/*/last.pt"))


def finished(storage):
    return sorted(path.parent for path in Path(storage).glob("trials/*/result.json"))


def planted(*kills, **further):
    """The environment of a sweep with faults in its processes, as ``planted/`` describes them."""
    chosen = {"PLANTED_FAULTS": json.dumps(kills)}
    chosen |= {f"PLANTED_{name.upper()}": str(value) for name, value in further.items()}
    path = os.pathsep.join(filter(None, [str(PLANTED), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, **chosen}
