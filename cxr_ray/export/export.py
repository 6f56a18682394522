"""A finished trial as a folder that others can load."""

import shutil
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from cxr_ray.config.identity import DataKeys
from cxr_ray.data.arm import open_arm
from cxr_ray.data.prepared import is_prepared
from cxr_ray.errors import InputError
from cxr_ray.export.card import write_card
from cxr_ray.export.onnx_graph import CHECKED, OnnxCheck, check_onnx, require_onnx, write_onnx
from cxr_ray.report.trial_folder import has_test, read_result
from cxr_ray.storage import Storage, move_whole
from cxr_ray.training.prediction import Predictor
from cxr_ray.training.trained_model import (
    TOKENIZER_FOLDER,
    TrainedModel,
    open_exported,
    open_trial,
)

TOKENIZER_WARNING = (
    "The vocabulary of the tokenizer was trained on the reports: it is report text, names that "
    "slipped through de-identification included. Whoever may not read the reports may not have "
    "model/ or mlflow/."
)


@dataclass(frozen=True)
class Exported:
    """What was exported: how ONNX was checked, and what has to be said of the folder."""

    onnx: OnnxCheck | None
    warnings: tuple[str, ...]


def export_trial(
    storage: Storage,
    trial: Path,
    out: Path,
    *,
    onnx: bool = True,
    progress: Callable[[str], None] = lambda what: None,
) -> Exported:
    """Write ``model/``, ``mlflow/``, ``onnx/`` and ``README.md`` of a finished trial.

    Parameters
    ----------
    storage
        That holds the trial, and its tokenizer and packs in ``prepared/``.
    trial
        Its folder.
    out
        Must not exist, or be an empty folder; it gets its name when it is whole.
    onnx
        Whether a graph is written and checked on prepared records.
    progress
        Called with each step.

    Raises
    ------
    InputError
        If ``out`` is taken, the trial cannot be exported, or what ONNX needs is not there.
    TrialError
        If the graph differs from the model.
    """
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise InputError(f"{out} is there already: give a folder that does not exist, or is empty")
    if onnx:
        require_onnx()
    trained = open_trial(storage, trial)
    warning = None
    if trained.words is not None and trained.config.text.encoder == "scratch":
        warning = TOKENIZER_WARNING
    target = out.absolute()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        aside.mkdir(mode=0o700)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror}") from error
    try:
        progress("writing the weights")
        trained.save(aside / "model")
        if warning is not None:
            (aside / "model" / TOKENIZER_FOLDER / "WARNING.txt").write_text(f"{warning}\n")
        predictor = Predictor(open_exported(aside / "model"), torch.device("cpu"))
        found, part = None, None
        if onnx:
            progress("writing the ONNX graph and checking it")
            (aside / "onnx").mkdir()
            part = "test" if has_test(trial) else "val"
            found = _export_onnx(
                storage, trial, trained, predictor, part, aside / "onnx" / "model.onnx"
            )
        progress("writing the MLflow model")
        from cxr_ray.tracking.mlflow_model import save_mlflow_model

        reads = trained.config.fusion.modalities
        save_mlflow_model(aside / "model", aside / "mlflow", reads, predictor.columns)
        progress("writing the model card")
        write_card(
            storage,
            trial,
            trained.config,
            aside / "README.md",
            onnx=found,
            onnx_part=part,
            tokenizer_warning=warning,
        )
        if not move_whole(aside, target):
            raise InputError(f"{out} is there already: another process wrote it meanwhile")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return Exported(found, () if warning is None else (warning,))


def _export_onnx(
    storage: Storage,
    trial: Path,
    trained: TrainedModel,
    predictor: Predictor,
    part: str,
    path: Path,
) -> OnnxCheck:
    """Write the graph, and hold it against torch on prepared records."""
    keys = DataKeys(**read_result(trial)["keys"])
    if not is_prepared(storage, keys):
        raise InputError(
            f"{storage.prepared / keys.cohort}: the prepared records that ONNX is checked on are "
            "not there; repeat the sweep's command, or leave the graph out with --no-onnx"
        )
    # The graph is in float32, whatever the model was trained in.
    model = predictor.model.float().eval()
    write_onnx(model, trained.config.image.size, trained.config.text.max_tokens, path)
    arm = open_arm(storage, trained.config, keys)
    records = arm.indices(part, own=False)
    chosen = records[np.linspace(0, len(records) - 1, min(CHECKED, len(records))).astype(int)]
    return check_onnx(path, model, arm, chosen)
