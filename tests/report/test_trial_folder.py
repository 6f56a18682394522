import pytest
import yaml

from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.errors import InputError
from cxr_ray.report.trial_folder import trained_config


def test_a_trial_of_another_version_is_refused_in_one_sentence(tmp_path):
    config = ExperimentConfig().model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert trained_config(tmp_path) == ExperimentConfig()
    config["train"]["of_later"] = 0.9
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(InputError, match=r"config.yaml: train.of_later: .*another version"):
        trained_config(tmp_path)
