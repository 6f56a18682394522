import numpy as np
import pytest
from prepared_phantom import tiny_config

from cxr_ray.data.order import epoch_batches
from cxr_ray.data.prepared import read_manifest
from cxr_ray.pricing.workload import NO_TEXT, assumed_workload, find_workload


def test_every_record_is_counted_at_the_length_that_its_batch_is_padded_to(phantom):
    config = tiny_config(fusion__modalities="text", train__batch=16)
    arm, keys = phantom.arm(config), phantom.keys(config)
    work = find_workload(phantom.storage, config, keys, {})
    train = arm.indices("train", own=True)
    wanted = {}
    seed = config.train.seed
    for batch in epoch_batches(train, 16, seed=seed, epoch=0, lengths=arm.lengths[train]):
        longest = max(len(np.trim_zeros(arm.text.tokens[slice(*arm.text.offsets[r : r + 2])]))
                      for r in arm.row[batch])  # fmt: skip
        wanted[longest] = wanted.get(longest, 0) + len(batch)
    assert work.train == wanted
    assert sum(work.val.values()) == len(arm.indices("val", own=False))
    evaluated = [len(arm.indices(part, own=False)) for part in ("val", "test")]
    assert sum(work.final.values()) == len(train) + sum(evaluated)


def test_a_model_without_text_has_one_length(phantom):
    config = tiny_config(fusion__modalities="image")
    work = find_workload(phantom.storage, config, phantom.keys(config), {})
    assert work.lengths == {NO_TEXT}


@pytest.mark.parametrize("share", [None, 0.75])
def test_counts_alone_give_the_sizes_that_the_prepared_parts_have(phantom, share):
    config = tiny_config(data__majority_share=share)
    keys = phantom.prepare(config)
    counted = read_manifest(phantom.storage, keys.cohort)
    assumed = assumed_workload(config, counted)
    real = find_workload(phantom.storage, config, keys, counted)
    assert assumed.counts == real.counts
    assert assumed.lengths == {config.text.max_tokens}
    assert assumed.counts.subsampled == (share is not None)
