"""Checkpoints of an unfinished trial: the last epoch's whole state, and the best weights."""

import errno
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cxr_ray.storage import sync, write_whole
from cxr_ray.training.job import FEWEST_WORKERS

LAST_FILE = "last.pt"
BEST_FILE = "best.pt"
COMPUTE_FILE = "compute.json"
# What torch raises for a file that is not there, empty, cut off, or holds something else.
DAMAGED = (EOFError, RuntimeError, pickle.UnpicklingError, KeyError)
DAMAGED_ERRNO = (errno.ENOENT, errno.ENOTDIR, errno.EINVAL)


def save_state(path: Path, state: Any) -> None:
    """Write tensors and plain values aside, then rename, so that no half file is ever read."""
    aside = path.with_name(f".{path.name}")
    # Checksums that torch never reads would be more than half of the work.
    torch.serialization.set_crc32_options(False)
    with aside.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)


def load_state(path: Path) -> Any:
    """Read what `save_state` wrote; nothing but tensors and plain values is ever unpickled."""
    return torch.load(path, map_location="cpu", weights_only=True)


def trained_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's state but for its frozen parameters, which whoever builds it has.

    A whole frozen encoder would be most of what every epoch writes.
    """
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    return {name: value for name, value in model.state_dict().items() if name not in frozen}


def load_trained(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Put what `trained_state` returned back into a model that was built alike."""
    model.load_state_dict({**model.state_dict(), **state})


def adopt_checkpoint(running: Path, attempt: Path, compute: dict[str, Any]) -> bool:
    """Copy the furthest checkpoint of earlier attempts into a new one, unless it has its own.

    A checkpoint that cannot be read is none: an earlier one is continued, or the trial begins anew.

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
        or workers is not continued: half a trial each would be neither's numbers. Only where
        workers were lost (``fewest_workers``) do others go on; the fewest that ever worked on the
        checkpoint are kept in the attempt's own record.
    """
    attempt.mkdir(mode=0o700, exist_ok=True)
    if _count_epochs(attempt):
        _record(attempt, compute, attempt)
        return True
    (attempt / LAST_FILE).unlink(missing_ok=True)
    furthest, epochs = None, 0
    for folder in running.iterdir():
        done = _count_epochs(folder)
        if done > epochs and _was_computed(folder, compute):
            furthest, epochs = folder, done
    _record(attempt, compute, furthest)
    if furthest is not None:
        for name in (LAST_FILE, BEST_FILE):
            shutil.copyfile(furthest / name, attempt / f".{name}")
            sync(attempt / f".{name}")
        for name in (BEST_FILE, LAST_FILE):
            (attempt / f".{name}").replace(attempt / name)
    return furthest is not None


def _count_epochs(folder: Path) -> int:
    """Count the epochs in an attempt's checkpoint; none where it is not there or damaged."""
    try:
        load_state(folder / BEST_FILE)
        return int(load_state(folder / LAST_FILE)["epoch"])
    except DAMAGED:
        return 0
    except OSError as error:
        if error.errno not in DAMAGED_ERRNO:
            raise
        return 0


def read_compute(attempt: Path) -> dict[str, Any]:
    """Read how an attempt and those that it continued computed; empty where nothing says so."""
    path = attempt / COMPUTE_FILE
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def _record(attempt: Path, compute: dict[str, Any], continued: Path | None) -> None:
    earlier = {} if continued is None else read_compute(continued)
    fewest = [how[FEWEST_WORKERS] for how in (compute, earlier) if FEWEST_WORKERS in how]
    recorded = {**compute, FEWEST_WORKERS: min(fewest)} if fewest else compute
    write_whole(attempt / COMPUTE_FILE, json.dumps(recorded))


def _was_computed(folder: Path, compute: dict[str, Any]) -> bool:
    ways = [dict(how) for how in (read_compute(folder), compute)]
    for how in ways:
        how.pop(FEWEST_WORKERS, None)
    return ways[0] == ways[1]
