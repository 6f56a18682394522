"""In which order a grid's trials are handed out."""

from types import SimpleNamespace
from typing import get_args

from cxr_ray.config.layers import Layer, load_profile, resolve
from cxr_ray.config.schema import ImageConfig
from cxr_ray.sweep.queue import IMAGE_COST, GridQueue


def order(*models, **fields):
    """Give the names of models in the order in which they are handed out."""
    members = []
    for modalities, share in models:
        own = {"fusion.modalities": modalities, "data.majority_share": share, **fields}
        config = resolve([load_profile("paper"), Layer("test", own)])
        members.append(SimpleNamespace(config=config, name=(modalities, share)))
    queue = GridQueue(members)
    return [queue.next().name for _ in members]


def test_the_longest_trials_start_first():
    models = [("text", None), ("image", 0.75), ("image,text", 0.75), ("image", None)]
    models += [("image,text", None), ("image", 0.85)]
    light_text = {"text.encoder": "scratch", "text.layers": 2, "text.width": 128}
    assert order(*models, **light_text) == [
        ("image,text", None),
        ("image", None),
        ("image", 0.85),
        ("image,text", 0.75),
        ("image", 0.75),
        ("text", None),
    ]


def test_a_large_text_encoder_takes_longer_than_a_small_image():
    assert order(("image", None), ("text", None), **{"image.size": 64})[0] == ("text", None)


def test_with_early_stopping_a_sub_sample_takes_more_epochs_and_starts_earlier():
    models = [("text", None), ("image,text", 0.75)]
    alike = {"image.encoder": "resnet18", "image.size": 224}
    alike |= {"text.encoder": "scratch", "text.layers": 6, "text.width": 500, "text.heads": 5}
    assert order(*models, **alike)[0] == ("image,text", 0.75)
    assert order(*models, **alike, **{"train.patience": 15})[0] == ("text", None)


def test_every_image_encoder_has_a_cost():
    assert set(IMAGE_COST) == set(get_args(ImageConfig.model_fields["encoder"].annotation))
