import shutil

import numpy as np
import pytest
import torch
from prepared_phantom import tiny_config
from short_trainings import ALL_OF_FUSION, same_weights, trained, weights, without_seconds
from torch._dynamo.utils import counters
from torch.optim.optimizer import register_optimizer_step_pre_hook

from cxr_ray.data import order
from cxr_ray.errors import TrialError
from cxr_ray.training import loop
from cxr_ray.training.checkpoint import (
    LAST_FILE,
    load_state,
)
from cxr_ray.training.loop import fit, score
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

pytestmark = pytest.mark.usefixtures("one_thread")
EXACT = {
    "compute__precision": "float64",
    "image__batch_norm": "frozen",
    "text__dropout": 0.0,
    "train__max_epochs": 1,
}


def scripted(monkeypatch, losses):
    """Let the validation say what is wanted of each epoch."""
    values = iter(losses)
    figures = dict.fromkeys(
        ("val_auroc", "val_full_auroc", "val_average_precision", "val_accuracy"), 0.5
    )
    monkeypatch.setattr(loop, "_validate", lambda *_: {"val_loss": next(values), **figures})


def test_training_ends_after_patience_epochs_without_a_better_one_and_keeps_the_best_weights(
    phantom, tmp_path, monkeypatch
):
    scripted(monkeypatch, [0.5, 0.4, 0.45, 0.4, 0.41, 0.1])
    config = tiny_config(train__max_epochs=9, train__patience=3)
    seen = []

    def keep(row):
        seen.append((row, load_state(tmp_path / LAST_FILE)["model"]))

    history, model, _ = trained(phantom, config, tmp_path, report=keep)
    assert [row["val_loss"] for row in history] == [0.5, 0.4, 0.45, 0.4, 0.41]
    assert [row["best_epoch"] for row, _ in seen] == [0, 1, 1, 1, 1]
    assert same_weights(weights(model), seen[1][1])
    assert not same_weights(weights(model), seen[4][1])


def test_training_ends_at_max_epochs_while_it_still_improves(phantom, tmp_path, monkeypatch):
    scripted(monkeypatch, [0.5, 0.4, 0.3, 0.2])
    history, model, _ = trained(phantom, tiny_config(train__max_epochs=3), tmp_path)
    assert len(history) == 3
    assert same_weights(weights(model), load_state(tmp_path / LAST_FILE)["model"])


def test_a_monitor_that_is_no_loss_is_better_when_it_is_higher(phantom, tmp_path, monkeypatch):
    values = iter([0.2, 0.6, 0.5])
    monkeypatch.setattr(
        loop, "_validate", lambda *_: {"val_loss": 1.0, "val_average_precision": next(values)}
    )
    config = tiny_config(
        train__monitor="val_average_precision", train__patience=1, train__max_epochs=9
    )
    rows = []
    trained(phantom, config, tmp_path, report=rows.append)
    assert [row["best_epoch"] for row in rows] == [0, 1, 1]


def test_the_report_gets_one_plain_row_an_epoch(phantom, tmp_path):
    rows = []
    config = tiny_config(fusion__modalities="text", train__max_epochs=2)
    history, _, _ = trained(phantom, config, tmp_path, report=rows.append)
    assert [row["epoch"] for row in rows] == [0, 1]
    assert rows[0].keys() == history[0].keys() | {"best_epoch"}
    assert {"lr", "train_loss", "val_loss", "val_auroc", "seconds"} <= rows[0].keys()
    assert all(type(value) in (int, float) for row in rows for value in row.values())
    assert [row["lr"] for row in rows] == pytest.approx([1e-3 / 3, 2e-3 / 3])


def test_a_loss_that_is_not_finite_fails_the_trial_with_its_place(phantom, tmp_path, monkeypatch):
    config = tiny_config(fusion__modalities="text", train__batch=16, train__max_epochs=1)
    arm = phantom.arm(config)
    model = build_classifier(config, arm, World())
    model.head.linear.bias.data.fill_(float("nan"))
    whole = trained(phantom, config, tmp_path / "whole")[0]
    # Where a device should not be waited for, losses are looked at some steps later.
    monkeypatch.setitem(loop.LOOK_STEPS, "cpu", 3)
    assert without_seconds(trained(phantom, config, tmp_path / "late")[0]) == without_seconds(whole)
    with pytest.raises(TrialError, match="training loss is nan in epoch 0, step 0"):
        fit(
            config,
            arm,
            model,
            tmp_path,
            world=World(),
            report=lambda row: None,
            should_stop=lambda: False,
        )


def test_validation_logits_that_are_not_finite_fail_the_trial(phantom, tmp_path, monkeypatch):
    def poison(config, arm, train, task, *_):
        task.model.head.linear.weight.data.fill_(float("nan"))
        return 0.5

    monkeypatch.setattr(loop, "train_epoch", poison)
    with pytest.raises(TrialError, match="validation logits are not finite"):
        trained(phantom, tiny_config(fusion__modalities="text"), tmp_path)


def first_gradients(phantom, config, folder):
    """The gradients that the first step is taken with."""
    found = []

    def keep(optimizer, *_):
        if not found:
            found.extend(p.grad.clone() for g in optimizer.param_groups for p in g["params"])

    handle = register_optimizer_step_pre_hook(keep)
    try:
        history, _, _ = trained(phantom, config, folder)
    finally:
        handle.remove()
    return history, found


@pytest.mark.parametrize(("accumulate", "fusion"), [(2, {}), (3, {}), (7, {}), (3, ALL_OF_FUSION)])
def test_accumulating_changes_neither_gradients_nor_losses(phantom, tmp_path, accumulate, fusion):
    whole, wanted = first_gradients(phantom, tiny_config(**EXACT, **fusion), tmp_path / "whole")
    config = tiny_config(**EXACT, **fusion, train__accumulate=accumulate)
    parts, found = first_gradients(phantom, config, tmp_path / "parts")
    assert len(found) == len(wanted) > 20
    assert max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) < 1e-12
    assert parts[0]["train_loss"] == pytest.approx(whole[0]["train_loss"], abs=1e-12)


def test_parts_of_a_single_record_train_although_batch_norm_has_no_variance_there(
    phantom, tmp_path
):
    count = len(phantom.arm(tiny_config()).indices("train", own=True))
    batch = next(b for b in range(8, count) if count % b == 3)
    config = tiny_config(
        fusion__modalities="image", train__batch=batch, train__accumulate=2, train__max_epochs=1
    )
    history, _, _ = trained(phantom, config, tmp_path)
    assert np.isfinite(history[0]["train_loss"])


def test_the_mean_loss_of_an_epoch_is_the_mean_over_its_records(phantom, tmp_path):
    config = tiny_config(**EXACT, train__lr=1e-12, fusion__modalities="text", train__batch=10)
    history, model, arm = trained(phantom, config, tmp_path)
    train = arm.indices("train", own=True)
    logits = score(config, arm, model, train, World()).logits
    label = arm.label[train]
    wanted = np.mean(np.logaddexp(0, logits) - label * logits)
    assert history[0]["train_loss"] == pytest.approx(wanted, abs=1e-9)


def test_scores_come_in_the_order_asked_for_whatever_their_lengths(phantom, monkeypatch):
    monkeypatch.setattr(loop, "SCORING_BATCH", 7)
    config = tiny_config(**EXACT)
    arm = phantom.arm(config)
    model = build_classifier(config, arm, World())
    records = np.random.default_rng(0).permutation(len(arm.label))[:40]
    scores = score(config, arm, model, records, World())
    for at in (0, 13, 39):
        alone = score(config, arm, model, records[at : at + 1], World())
        assert scores.logits[at] == pytest.approx(alone.logits[0], abs=1e-10)
        assert np.allclose(scores.features["text"][at], alone.features["text"][0], atol=1e-6)
    assert np.array_equal(scores.records, records)


def test_a_sub_sampled_model_trains_and_validates_on_its_own_records(phantom, tmp_path):
    config = tiny_config(
        data__majority_share=0.6, fusion__modalities="text", train__max_epochs=1, train__batch=16
    )
    history, model, arm = trained(phantom, config, tmp_path)
    own, full = (arm.indices("val", own=each) for each in (True, False))
    assert len(own) < len(full)
    logits = score(config, arm, model, own, World()).logits
    wanted = np.mean(np.logaddexp(0, logits) - arm.label[own] * logits)
    assert history[0]["val_loss"] == pytest.approx(wanted, abs=1e-6)


def test_half_precision_rounds_features_but_no_logit(phantom, tmp_path):
    config = tiny_config(compute__precision="bfloat16", train__max_epochs=1)
    history, model, arm = trained(phantom, config, tmp_path)
    assert np.isfinite(history[0]["train_loss"])
    scores = score(config, arm, model, arm.indices("test", own=False), World())
    joined = np.concatenate([scores.features["image"], scores.features["text"]], axis=1)
    weight, bias = (p.detach().double().numpy() for p in model.head.parameters())
    assert np.abs(joined.astype(float) @ weight[0] + bias - scores.logits).max() < 1e-5
    whole = score(tiny_config(), arm, model, scores.records, World())
    assert not np.array_equal(whole.logits, scores.logits)
    assert np.abs(whole.logits - scores.logits).max() < 0.1 * np.ptp(whole.logits)
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_compiled_model_trains_alike_with_a_graph_for_each_of_few_lengths(
    phantom, tmp_path, monkeypatch
):
    monkeypatch.setattr(order, "LENGTH_STEP", 32)
    fields = {"fusion__modalities": "text", "train__max_epochs": 1, "train__batch": 20}
    plain, model, _ = trained(phantom, tiny_config(**EXACT | fields), tmp_path / "plain")
    config = tiny_config(**EXACT | fields, compute__compile=True)
    assert order.padded_lengths(config) == (32, 64)
    counters.clear()
    compiled, again, _ = trained(phantom, config, tmp_path / "compiled")
    # Both lengths, whole batches and the last ones, in training and in scoring.
    assert 2 <= counters["stats"]["unique_graphs"] <= 8
    assert compiled[0]["train_loss"] == pytest.approx(plain[0]["train_loss"], abs=1e-9)
    assert compiled[0]["val_loss"] == pytest.approx(plain[0]["val_loss"], abs=1e-9)
    assert weights(again).keys() == weights(model).keys()
