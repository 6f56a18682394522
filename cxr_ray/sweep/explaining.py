"""The saliency of a study's chosen records: computed once, by the sweep, and kept."""

import io
from collections.abc import Sequence

from cxr_ray.config.schema import ReportConfig
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.plan import Plan
from cxr_ray.sweep.study import Study

_IMPORTS = ("cxr_ray.training.prediction", "transformers.models.bert.modeling_bert")


def imports_to_explain(plan: Plan) -> Sequence[str]:
    """Name the modules that `explain_study` needs where it may compute something."""
    first = plan.members[0].config
    if not first.report.saliency:
        return ()
    multimodal = any(len(m.config.fusion.modalities) > 1 for m in plan.selected)
    return _IMPORTS if multimodal else ()


def explain_study(storage: Storage, study: Study) -> list[str]:
    """Explain the records that the study's best multimodal model was chosen to be shown on.

    What is kept in the trial's folder is not computed again; then torch is not imported.

    Returns
    -------
    Sentences for the user: why there is nothing, or what the page will hold.
    """
    from cxr_ray.report.saliency import (
        TABLE_FILE,
        choose_model,
        choose_records,
        read_arrays,
        saliency_table,
    )
    from cxr_ray.report.trial_folder import read_predictions

    path = study.folder / TABLE_FILE
    config = ReportConfig.model_validate(study.record.get("report", {}))
    kinds = {m["experiment_id"]: m["modality"] for m in study.record["members"]}
    done = [each for each in study.done(storage) if kinds[each] == "multimodal"]
    best = choose_model(storage.trials, done) if config.saliency else None
    if best is None:
        path.unlink(missing_ok=True)
        return []
    trial = storage.trials / best
    predictions = read_predictions(trial)
    chosen = [(kind, str(predictions.record_id[i])) for kind, i in choose_records(predictions)]
    records = read_arrays(trial)
    if records is None or [(each.kind, each.record_id) for each in records] != chosen:
        try:
            _explain(storage, best, chosen)
        except (InputError, RuntimeError) as error:  # torch's own, a full device among them
            path.unlink(missing_ok=True)
            reason, _, _ = str(error).partition("\n")
            return [f"No saliency of single records: {reason or type(error).__name__}"]
        records = read_arrays(trial)
    assert records is not None
    write_whole(path, saliency_table(best, records).to_csv(index=False))
    if not config.show_records:
        return []
    return [
        "report.show_records: report.html holds images and words of patients, for its owner's eyes "
        "only; MLflow gets a copy without them."
    ]


def _explain(storage: Storage, identity: str, chosen: list[tuple[str, str]]) -> None:
    from PIL import Image

    from cxr_ray.data.new_records import NewRecord
    from cxr_ray.data.prepared_record import read_records
    from cxr_ray.report.saliency import ExplainedRecord, write_arrays
    from cxr_ray.report.trial_folder import read_predictions, read_result
    from cxr_ray.training.prediction import Predictor
    from cxr_ray.training.trained_model import open_trial

    trial = storage.trials / identity
    predictor = Predictor(open_trial(storage, trial))
    predictions = read_predictions(trial)
    label = dict(zip(predictions.record_id, predictions.label, strict=True))
    names = [name for _, name in chosen]
    records = []
    for (kind, name), (pixels, text) in zip(
        chosen, read_records(storage, read_result(trial)["keys"], names), strict=True
    ):
        encoded = io.BytesIO()
        Image.fromarray(pixels).save(encoded, "PNG")
        found = predictor.explain(NewRecord(name, encoded.getvalue, text))
        found.answer["label"] = label[name]
        records.append(ExplainedRecord(name, kind, found))
    write_arrays(trial, records)
