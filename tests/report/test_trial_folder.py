import pytest

from cxr_ray.errors import InputError
from cxr_ray.report.trial_folder import trained_config


def test_a_trial_of_another_version_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "config.yaml").write_text("train: {lr: 1.0e-3}\n")
    assert trained_config(tmp_path).train.lr == 1e-3
    (tmp_path / "config.yaml").write_text("train: {momentum: 0.9}\n")
    with pytest.raises(InputError, match=r"config.yaml: train.momentum: .*another version"):
        trained_config(tmp_path)
    (tmp_path / "config.yaml").write_text("[")
    with pytest.raises(InputError, match=r"config.yaml"):
        trained_config(tmp_path)
