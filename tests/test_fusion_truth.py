"""What is known of a phantom shows in the modality tests of models trained on it, end to end."""

import functools

import pytest
from prepared_phantom import PreparedPhantom, tiny_config

from cxr_ray.report.scoring import score_folder
from cxr_ray.storage import Storage
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

# 32 px, some 160 test records and strong signals: seconds a model
QUICK = {
    "phantom__patients": 800,
    "phantom__positive_share": 0.5,
    "phantom__image_signal": 2.5,
    "phantom__text_signal": 2.5,
    "image__size": 32,
    "text__max_tokens": 64,
    "train__batch": 32,
    "train__lr": 3e-3,
    "train__monitor": "val_auroc",
    "train__max_epochs": 6,
    "evaluation__permutations": 499,
    "evaluation__bootstrap": 100,
}
# Neither modality alone says anything, so that the encoders get going late.
XOR = {
    "phantom__relation": "xor",
    "phantom__image_signal": 4,
    "phantom__text_signal": 4,
    "train__patience": 16,
}
USED, SILENT = "used", "not shown to be used"


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Train a model as a trial, and give the figures on AUROC that follow from its folder."""
    place = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("storage"))))

    @functools.cache
    def train(*fields):
        config = tiny_config("demo", **QUICK | dict(fields))
        job = place.job(config)
        run_job(job, World(), lambda row: None)
        scores = score_folder(place.storage.trials / job.experiment_id, config.evaluation)
        drops = {r["perturbation"]: r for r in scores["sensitivity"] if r["metric"] == "auroc"}
        of = {(r["measure"], r["modality"]): r for r in scores["contribution"]}
        return drops, of, tuple(of["shapley", each]["verdict"] for each in ("image", "text"))

    return lambda **fields: train(*fields.items())


@pytest.mark.slow
def test_an_image_without_signal_is_not_used_and_the_text_is(measured):
    drops, of, verdicts = measured(phantom__image_signal=0)
    assert verdicts == (SILENT, USED)
    assert abs(drops["image_shuffled"]["drop"]) < 0.04
    assert drops["text_shuffled"]["drop"] == pytest.approx(
        drops["text_shuffled"]["intact"] - 0.5, abs=0.05
    )
    assert abs(of["refitted_probe", "image"]["value"] - 0.5) < 0.15
    assert of["refitted_probe", "text"]["value"] > 0.85


@pytest.mark.slow
def test_complementary_modalities_are_both_used(measured):
    drops, of, verdicts = measured()
    assert verdicts == (USED, USED)
    assert abs(drops["text_shuffled_within_class"]["drop"]) < 0.03
    assert of["refitted_probe", "both"]["value"] > 0.9


@pytest.mark.slow
def test_redundant_modalities_repeat_each_other_and_training_chooses_which_to_read(measured):
    weaker = {"phantom__image_signal": 1.4, "phantom__text_signal": 1.4}
    drops, of, verdicts = measured(**weaker, phantom__relation="redundant")
    assert drops["image_shuffled"]["intact"] == pytest.approx(0.853, abs=0.06)
    assert USED in verdicts  # one or both: what they share can be read in either
    shares = of["shapley", "image"]["value"] + of["shapley", "text"]["value"]
    assert shares == pytest.approx(drops["image_shuffled"]["intact"] - 0.5, abs=1e-9)
    within = drops["text_shuffled_within_class"]
    assert within["drop"] < 0 and within["p_value"] < 0.05


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "epochs"), [("bilinear", 8), ("mlp", 16)])
def test_an_interaction_is_learned_and_seen_where_the_head_can_hold_one(measured, kind, epochs):
    drops, of, verdicts = measured(**XOR, fusion__kind=kind, train__max_epochs=epochs)
    assert drops["image_shuffled"]["intact"] > 0.9
    assert verdicts == (USED, USED)
    for name in ("image_shuffled", "text_shuffled", "text_shuffled_within_class"):
        assert drops[name]["drop"] == pytest.approx(drops[name]["intact"] - 0.5, abs=0.08), name
    # alone or added up, neither feature tells anything: it is all in the interaction
    assert abs(of["shapley", "image"]["value"] - of["shapley", "text"]["value"]) < 0.05


@pytest.mark.slow
def test_of_an_interaction_the_papers_additive_head_uses_neither_modality(measured):
    drops, _, verdicts = measured(**XOR, fusion__kind="concat", train__max_epochs=8)
    assert drops["image_shuffled"]["intact"] < 0.62
    assert verdicts == (SILENT, SILENT)
