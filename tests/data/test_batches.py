import numpy as np
import torch
from prepared_phantom import tiny_config

from cxr_ray.data.batches import GRAY_MEAN, GRAY_STD, collate


def test_a_batch_is_standardised_pixels_and_tokens_padded_to_its_longest(phantom):
    arm = phantom.arm(tiny_config())
    records = np.array([5, 0, 9])
    batch = collate(arm, records, torch.device("cpu"), torch.float64)
    rows = arm.row[records]
    pixels = (arm.images[rows].astype(float) / 255 - GRAY_MEAN) / GRAY_STD
    assert np.allclose(batch.image.numpy()[:, 0], pixels)
    assert batch.image.dtype == torch.float64
    assert batch.tokens.shape == (3, arm.lengths[records].max())
    assert batch.attention.sum(1).tolist() == arm.lengths[records].tolist()
    for at, row in enumerate(rows):
        ids = arm.text.tokens[arm.text.offsets[row] : arm.text.offsets[row + 1]]
        assert batch.tokens[at, : len(ids)].tolist() == ids.tolist()
        assert not batch.tokens[at, len(ids) :].any()
    assert batch.label.tolist() == arm.label[records].tolist()


def test_an_arm_of_one_modality_reads_the_other_ones_pack_not_at_all(phantom):
    image = phantom.arm(tiny_config(fusion__modalities="image"))
    batch = collate(image, np.array([0, 1]), torch.device("cpu"), torch.float32)
    assert batch.tokens is None and batch.attention is None and image.text is None
    text = phantom.arm(tiny_config(fusion__modalities="text"))
    assert collate(text, np.array([0, 1]), torch.device("cpu"), torch.float32).image is None
