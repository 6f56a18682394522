"""Train, sweep and compare multimodal pneumonia classifiers on chest X-rays and reports.

What is named in ``__all__`` is the public interface; ``docs/api.md`` lists it. Everything is
imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cxr_ray.errors import InputError as InputError
    from cxr_ray.errors import TrialError as TrialError
    from cxr_ray.evaluation.calibration import fit_recalibration as fit_recalibration
    from cxr_ray.evaluation.contribution import verdict as verdict
    from cxr_ray.evaluation.delong import (
        auroc_interval as auroc_interval,
    )
    from cxr_ray.evaluation.delong import (
        delong_test as delong_test,
    )
    from cxr_ray.evaluation.heads import (
        additive_parts as additive_parts,
    )
    from cxr_ray.evaluation.heads import (
        fusion_head as fusion_head,
    )
    from cxr_ray.evaluation.intervals import metric_intervals as metric_intervals
    from cxr_ray.evaluation.metrics import score_predictions as score_predictions
    from cxr_ray.evaluation.multiplicity import holm as holm
    from cxr_ray.evaluation.paired import paired_bootstrap as paired_bootstrap
    from cxr_ray.evaluation.sensitivity import (
        permutation_test as permutation_test,
    )
    from cxr_ray.evaluation.sensitivity import (
        permutation_test_of_head as permutation_test_of_head,
    )
    from cxr_ray.evaluation.thresholds import f1_operating_point as f1_operating_point
    from cxr_ray.one_model import train_model as train_model
    from cxr_ray.report.trial_folder import (
        read_features as read_features,
    )
    from cxr_ray.report.trial_folder import (
        read_predictions as read_predictions,
    )

__version__ = "0.1.0"

_HOMES = {
    "InputError": "errors",
    "TrialError": "errors",
    "additive_parts": "evaluation.heads",
    "auroc_interval": "evaluation.delong",
    "delong_test": "evaluation.delong",
    "f1_operating_point": "evaluation.thresholds",
    "fit_recalibration": "evaluation.calibration",
    "fusion_head": "evaluation.heads",
    "holm": "evaluation.multiplicity",
    "metric_intervals": "evaluation.intervals",
    "paired_bootstrap": "evaluation.paired",
    "permutation_test": "evaluation.sensitivity",
    "permutation_test_of_head": "evaluation.sensitivity",
    "read_features": "report.trial_folder",
    "read_predictions": "report.trial_folder",
    "score_predictions": "evaluation.metrics",
    "train_model": "one_model",
    "verdict": "evaluation.contribution",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'cxr_ray' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cxr_ray.{_HOMES[name]}"), name)
