"""Checkpoints of an unfinished trial: the last epoch's whole state, and the best weights."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch

from cxr_ray.storage import write_whole

LAST_FILE = "last.pt"
BEST_FILE = "best.pt"
COMPUTE_FILE = "compute.json"


def save_state(path: Path, state: Any) -> None:
    """Write tensors and plain values aside, then rename, so that no half file is ever read."""
    aside = path.with_name(f".{path.name}")
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; nothing but tensors and plain values is ever unpickled."""
    return torch.load(path, map_location="cpu", weights_only=True)


def adopt_checkpoint(running: Path, attempt: Path, compute: dict[str, Any]) -> bool:
    """Copy the furthest checkpoint of earlier attempts into a new one, unless it has its own.

    Copied, not moved: a worker of the earlier attempt may still be writing for some seconds. The
    last state is copied before the best weights, which may then be newer than it; the epoch that
    made them is done again, with the same numbers. The reverse order could pair a last state with
    the weights of an earlier best.

    Parameters
    ----------
    running
        The experiment's folder, with a folder for each attempt.
    attempt
        The new attempt's folder, made here.
    compute
        How the attempt computes. A checkpoint of another device, precision, or number of threads
        or workers is not continued: half a trial each would be neither's numbers.
    """
    attempt.mkdir(mode=0o700, exist_ok=True)
    if (attempt / LAST_FILE).exists():
        return True
    write_whole(attempt / COMPUTE_FILE, json.dumps(compute))
    furthest, epochs = None, -1
    for folder in running.iterdir():
        if (folder / LAST_FILE).exists() and (folder / BEST_FILE).exists():
            done = int(load_state(folder / LAST_FILE)["epoch"])
            if done > epochs and _was_computed(folder, compute):
                furthest, epochs = folder, done
    if furthest is not None:
        for name in (LAST_FILE, BEST_FILE):
            shutil.copyfile(furthest / name, attempt / f".{name}")
        for name in (BEST_FILE, LAST_FILE):
            (attempt / f".{name}").replace(attempt / name)
    return furthest is not None


def _was_computed(folder: Path, compute: dict[str, Any]) -> bool:
    path = folder / COMPUTE_FILE
    return path.exists() and json.loads(path.read_text()) == compute
