"""What a trained model says of the records: predictions and encoder outputs, as files."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.arm import ArmData
from cxr_ray.models.classifier import Classifier
from cxr_ray.report.trial_folder import FEATURES_FILE, write_predictions
from cxr_ray.training.loop import Scores


def write_outputs(
    folder: Path,
    config: ExperimentConfig,
    arm: ArmData,
    model: Classifier,
    scores: Scores,
    train: Scores,
) -> None:
    """Write the predictions and features of the scored records.

    Parameters
    ----------
    scores
        Of the validation part, or of validation and test, in the cohort's order.
    train
        Of the arm's own training part, for the features' means and the probes.
    """
    write_predictions(
        folder,
        record_id=arm.record_id[scores.records],
        group=arm.group[scores.records],
        part=arm.part[scores.records],
        in_own=arm.own[scores.records],
        label=arm.label[scores.records],
        logit=scores.logits,
    )
    head = {name: value.detach().cpu().numpy() for name, value in model.head.named_parameters()}
    # What stands in for a modality that is missing.
    means = {name: value.mean(axis=0, dtype=np.float64) for name, value in train.features.items()}
    kind = config.fusion.kind if len(scores.features) > 1 else "concat"
    # Probes are read on the test part: a search's trials have none.
    tested = (arm.part[scores.records] == "test").any()
    probes = _refit_probes(arm, scores, train) if tested and len(scores.features) > 1 else {}
    with (folder / FEATURES_FILE).open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            kind=np.array(kind),
            **scores.features,
            **{f"train_mean.{name}": value.astype(np.float32) for name, value in means.items()},
            **{f"head.{name}": value for name, value in head.items()},
            **{f"probe.{name}": logits for name, logits in probes.items()},
        )


def _refit_probes(arm: ArmData, scores: Scores, train: Scores) -> dict[str, NDArray[np.float32]]:
    """Fit a linear probe on each modality's features and on both; logits as `scores` lie."""
    from cxr_ray.evaluation.probes import fit_probe

    def joined(found: Scores, names: tuple[str, ...]) -> NDArray[np.float32]:
        return np.hstack([found.features[name] for name in names])

    val = (arm.part[scores.records] == "val") & arm.own[scores.records]
    label, reference = arm.label[train.records], arm.label[scores.records][val]
    probes = {}
    for name, read in (
        ("image", ("image",)),
        ("text", ("text",)),
        ("both", ("image", "text")),
    ):
        asked = joined(scores, read)
        probe = fit_probe(joined(train, read), label, asked[val], reference, asked)
        probes[name] = probe.logits.astype(np.float32)
    return probes
