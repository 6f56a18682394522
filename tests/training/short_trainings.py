"""Models trained for a few epochs, and comparing two of them."""

import json

import torch

from cxr_ray.training.checkpoint import COMPUTE_FILE
from cxr_ray.training.loop import fit
from cxr_ray.training.trial import build_classifier
from cxr_ray.training.world import World

COMPUTE = {"device": "cpu", "precision": "float32", "workers": 1}
ALL_OF_FUSION = {
    "fusion__kind": "mlp",
    "fusion__hidden": 8,
    "fusion__modality_dropout": 0.4,
    "fusion__auxiliary": 0.5,
    "fusion__modulation": 0.6,
}


def trained(phantom, config, folder, *, report=lambda row: None, should_stop=lambda: False):
    """Fit a model as a trial does; the history, the model and its arm."""
    arm = phantom.arm(config)
    model = build_classifier(config, arm, World())
    folder.mkdir(exist_ok=True)
    (folder / COMPUTE_FILE).write_text(json.dumps(COMPUTE))
    history = fit(config, arm, model, folder, world=World(), report=report, should_stop=should_stop)
    return history, model, arm


def without_seconds(history):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in history]


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same_weights(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)
