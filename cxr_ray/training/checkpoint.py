"""Checkpoints of an unfinished trial: the last epoch's whole state, and the best weights."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

LAST_FILE = "last.pt"
BEST_FILE = "best.pt"


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


def adopt_checkpoint(running: Path, attempt: Path) -> bool:
    """Copy the furthest checkpoint of earlier attempts into a new one, unless it has its own.

    Copied, not moved: a worker of the earlier attempt may still be writing for some seconds.
    The best weights go first, since a last state names the epoch of a best that must be there.
    """
    attempt.mkdir(mode=0o700, exist_ok=True)
    if (attempt / LAST_FILE).exists():
        return True
    earlier = [
        folder for folder in running.iterdir() if folder.is_dir() and folder.name != attempt.name
    ]
    furthest, epochs = None, -1
    for folder in earlier:
        if (folder / LAST_FILE).exists() and (folder / BEST_FILE).exists():
            done = int(load_state(folder / LAST_FILE)["epoch"])
            if done > epochs:
                furthest, epochs = folder, done
    if furthest is not None:
        for name in (BEST_FILE, LAST_FILE):
            shutil.copyfile(furthest / name, attempt / f".{name}")
            (attempt / f".{name}").replace(attempt / name)
    return furthest is not None
