"""A cohort prepared for the fits of a cross-validation."""

import numpy as np
import pytest
from prepared_phantom import PreparedPhantom, quiet, tiny_config

from cxr_ray.data import packing, text_pack
from cxr_ray.data.arm import open_arm
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import (
    REPORTS_FOLDER,
    is_prepared,
    named_counts,
    read_cohort,
    read_manifest,
)
from cxr_ray.data.split import own_members
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage

KFOLD = {"data__split__kind": "kfold", "data__split__folds": 3, "data__split__repeats": 2}


@pytest.fixture(scope="module")
def folded(tmp_path_factory):
    """All six fits prepared at once: their keys, and what each tokenizer was trained on."""
    storage = Storage.open(str(tmp_path_factory.mktemp("folds")))
    phantom, config = PreparedPhantom(storage), tiny_config(**KFOLD)
    read, images = [], []

    class Source:
        def __getattr__(self, name):
            return getattr(phantom.source(config), name)

        def read_image(self, reference):
            images.append(reference)
            return phantom.source(config).read_image(reference)

    train = packing.train_wordpiece

    def watched(texts, vocabulary, folder):
        read.append(list(texts))
        train(texts, vocabulary, folder)

    wanted = [(fit, phantom.keys(fit)) for fit in config.fits]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "train_wordpiece", watched)
        prepare(storage, Source(), wanted, fan_out=run_here, progress=quiet, driver="test")
    return storage, wanted, read, images


def test_no_image_is_decoded_twice_and_each_fit_has_a_text_pack_of_its_own(folded):
    storage, wanted, _, images = folded
    assert len(images) == len(set(images)) > 0
    assert all(is_prepared(storage, keys) for _, keys in wanted)
    assert len({keys.image for _, keys in wanted}) == 1
    assert len({keys.text for _, keys in wanted}) == 6


def test_the_tokenizer_of_a_fit_is_trained_on_its_training_part_alone(folded):
    storage, wanted, read, _ = folded
    folder = storage.prepared / wanted[0][1].cohort
    texts = text_pack.read_column(folder / REPORTS_FOLDER, "text")
    assert len(read) == 6
    for (fit, keys), seen in zip(wanted, read, strict=True):
        arm = open_arm(storage, fit, keys)
        own = sorted(texts[row] or "" for row in arm.row[arm.indices("train", own=False)])
        assert sorted(seen) == own


def test_fits_test_every_record_once_a_repeat_and_share_no_patient_between_parts(folded):
    storage, wanted, _, _ = folded
    tested = []
    for fit, keys in wanted:
        arm = open_arm(storage, fit, keys)
        tested += [(fit.data.split.repeat, name) for name in arm.record_id[arm.part == "test"]]
        groups = [set(arm.group[arm.part == part]) for part in ("train", "val", "test")]
        assert not (groups[0] & groups[1] or groups[0] & groups[2] or groups[1] & groups[2])
    assert len(tested) == len(set(tested)) == 2 * len(arm.record_id)


def test_the_manifest_counts_the_folds_and_a_cohort_has_the_parts_of_the_first_fit(folded):
    storage, wanted, _, _ = folded
    fit, keys = wanted[0]
    manifest = read_manifest(storage, keys.cohort)
    cohort = read_cohort(storage.prepared / keys.cohort)
    arm = open_arm(storage, fit, keys)
    assert (cohort["part"].to_numpy() == arm.part).all()
    assert list(named_counts(manifest)) == ["fold 1", "fold 2", "fold 3"]
    assert sum(fold["n"] for fold in manifest["folds"]) == manifest["records"]
    assert sum(fold["n_positive"] for fold in manifest["folds"]) == manifest["positive"]
    assert manifest["folds"][0]["n"] == (arm.part == "test").sum()


def test_a_sub_sampled_fit_thins_out_each_of_its_parts(folded):
    storage, wanted, _, _ = folded
    fit, keys = wanted[4]
    arm = open_arm(storage, fit, keys)
    own = own_members(np.arange(len(arm.label)).astype(str), arm.label, arm.part, 0.5, 0)
    for part in ("train", "val", "test"):
        assert abs(arm.label[own & (arm.part == part)].mean() - 0.5) < 0.03


def test_a_cross_validation_as_a_whole_cannot_be_opened_as_a_model(folded):
    storage, wanted, _, _ = folded
    with pytest.raises(InputError, match="none of them is named"):
        open_arm(storage, tiny_config(**KFOLD), wanted[0][1])
