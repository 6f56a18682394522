"""What the demo's test set can show of twelve models that use what its phantom holds."""

import hashlib
from itertools import product

import numpy as np
import pytest

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.ranking import auroc
from cxr_ray.report.comparisons import compare_trials
from cxr_ray.report.trial_folder import write_predictions

AXES = {
    "modality": ["multimodal", "image", "text"],
    "dataset": ["full", "sub75"],
    "loss": ["bce", "focal"],
}
SIGNAL = 1.4  # d' of each modality, as in the demo: ideal AUROC .84 alone and .92 together
TRAINING_NOISE = 0.4  # of each model, what a training of its own adds to its scores


def draw_study(folder, rng, positives, negatives):
    """Twelve models' predictions of as many validation as test records."""
    label = np.tile(np.repeat([1, 0], [positives, negatives]), 2)
    image, text = SIGNAL * label + rng.normal(size=(2, len(label)))
    evidence = {"image": image, "text": text, "multimodal": (image + text) / np.sqrt(2)}
    ids = np.array([f"record{place}" for place in range(len(label))])
    members, areas = [], {}
    for arm in product(*AXES.values()):
        name = "-".join(arm)
        identity = hashlib.sha256(name.encode()).hexdigest()[:16]
        levels = dict(zip(AXES, arm, strict=True))
        members.append({"experiment_id": identity, "name": name, "seed": 0, "further": {}} | levels)
        logit = evidence[arm[0]] + TRAINING_NOISE * rng.normal(size=len(label))
        (folder / identity).mkdir(parents=True)
        (folder / identity / "result.json").write_text("{}")
        write_predictions(
            folder / identity,
            record_id=ids,
            group=ids,
            part=np.repeat(["val", "test"], positives + negatives),
            in_own=np.ones(len(label), bool),
            label=label.astype(np.int8),
            logit=logit,
        )
        areas.setdefault(arm[0], []).append(auroc(label, logit))
    compare = {"modality": "multimodal", "dataset": "full", "loss": "bce"}
    return {"axes": AXES, "compare": compare, "members": members, "left_out": []}, areas


@pytest.mark.slow
@pytest.mark.parametrize(("positives", "negatives"), [(40, 360), (20, 180)])
def test_the_demo_mostly_answers_that_its_figures_do_not_separate(tmp_path, positives, negatives):
    apart, areas = [], {"image": [], "multimodal": []}
    for number in range(20):
        rng = np.random.default_rng([number, positives])
        folder = tmp_path / f"{number}"
        study, found = draw_study(folder, rng, positives, negatives)
        table = compare_trials(folder, study, {}, EvaluationConfig(bootstrap=100))
        primary = table[table["family"] == "primary"]
        assert len(primary) == 20
        separate = primary["verdict"].isin(["a higher", "b higher"])
        assert (primary["p_holm"] <= 0.05).equals(separate)
        apart.append(int(separate.sum()))
        for modality, drawn in areas.items():
            drawn += found[modality]
    # the models are as good as the demo's data allow, so that it is not for want of a signal
    assert 0.8 < np.mean(areas["image"]) < 0.84 < 0.88 < np.mean(areas["multimodal"]) < 0.92
    assert np.median(apart) <= 5
    assert np.mean([number > 10 for number in apart]) <= 0.1
