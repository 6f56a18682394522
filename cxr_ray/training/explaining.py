"""Explaining the records of the test part that a trial is shown on, and keeping what was found."""

import io
from pathlib import Path

import torch
from PIL import Image

from cxr_ray.data.new_records import NewRecord
from cxr_ray.data.prepared_record import read_records
from cxr_ray.report.saliency import ExplainedRecord, chosen_records, write_arrays
from cxr_ray.report.trial_folder import read_predictions, read_result
from cxr_ray.storage import Storage
from cxr_ray.training.prediction import Predictor
from cxr_ray.training.trained_model import open_trial


def explain_trial(storage: Storage, trial: Path, device: torch.device | None = None) -> None:
    """Explain the chosen records of a multimodal trial and keep it in the trial's folder.

    Parameters
    ----------
    device
        Where the model runs; by default a GPU, if there is one.

    Raises
    ------
    InputError
        If the weights, the tokenizer or the prepared data are no longer there.
    RuntimeError
        Torch's own, of a full device among others.
    """
    predictor = Predictor(open_trial(storage, trial), device)
    predictions = read_predictions(trial)
    label = dict(zip(predictions.record_id, predictions.label, strict=True))
    chosen = chosen_records(predictions)
    read = read_records(storage, read_result(trial)["keys"], [name for _, name in chosen])
    records = []
    for (kind, name), (pixels, text) in zip(chosen, read, strict=True):
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        found = predictor.explain(NewRecord(name, encoded.getvalue, text))
        found.answer["label"] = label[name]
        records.append(ExplainedRecord(name, kind, found))
    write_arrays(trial, records)
