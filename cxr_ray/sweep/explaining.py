"""The saliency of a study's chosen records: a table for the page, from what its trial holds."""

from cxr_ray.config.schema import ReportConfig
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.study import Study


def explain_study(storage: Storage, study: Study) -> list[str]:
    """Explain the records that the study's best multimodal model was chosen to be shown on.

    A trial explains itself at its end. Where that failed, or it was trained by an earlier version,
    it is done here, and only then torch is imported.

    Returns
    -------
    Sentences for the user: why there is nothing, or what the page will hold.
    """
    from cxr_ray.report.saliency import (
        TABLE_FILE,
        choose_model,
        chosen_records,
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
    chosen = chosen_records(read_predictions(trial))
    records = read_arrays(trial)
    if records is None or [(each.kind, each.record_id) for each in records] != chosen:
        from cxr_ray.training.explaining import explain_trial

        try:
            explain_trial(storage, trial)
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
