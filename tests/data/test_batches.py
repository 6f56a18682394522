from dataclasses import replace

import numpy as np
import pytest
import torch
from prepared_phantom import tiny_config

from cxr_ray.data.batches import GRAY_MEAN, GRAY_STD, collate, reside


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


@pytest.mark.parametrize("lengths", [(), (40, 64)])
def test_packs_that_lie_on_the_device_give_the_same_batches(phantom, lengths):
    cpu = torch.device("cpu")
    arm = phantom.arm(tiny_config())
    prefix = np.random.default_rng(0).normal(size=(len(arm.images), 3, 2, 2)).astype(np.float16)
    records = np.random.default_rng(1).permutation(len(arm.label))[:20]
    for each in (arm, replace(arm, frozen={"image": prefix})):
        there = reside(each, cpu, budget=10**9)
        assert len(there.resident) == 2
        wanted, found = (
            collate(which, records, cpu, torch.float32, lengths=lengths) for which in (each, there)
        )
        assert (wanted.image is None) is (found.image is None) is bool(each.frozen)
        assert found.image is None or torch.equal(found.image, wanted.image)
        assert all(torch.equal(found.frozen[name], wanted.frozen[name]) for name in each.frozen)
        assert torch.equal(found.tokens, wanted.tokens)
        assert torch.equal(found.attention, wanted.attention)
        assert not lengths or found.tokens.shape[1] in lengths


def test_the_smallest_packs_lie_on_a_device_that_does_not_hold_all(phantom):
    arm = phantom.arm(tiny_config())
    assert arm.text.tokens.nbytes < arm.images.nbytes
    budget = arm.images.nbytes
    assert reside(arm, torch.device("cpu"), budget).resident.keys() == {"tokens"}
    assert reside(arm, torch.device("cpu"), 0).resident == {}
