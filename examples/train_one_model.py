"""Train one multimodal model on generated data, and print what it is worth.

python examples/train_one_model.py [STORAGE]
"""

import sys

import numpy as np

import cxr_ray


def main(storage: str = "runs") -> None:
    folder = cxr_ray.train_model(
        {"fusion.kind": "gated", "train.max_epochs": 3, "phantom.patients": 500},
        profile="tiny",
        storage=storage,
        report=lambda row: print(f"epoch {row['epoch']}: AUROC {row['val_auroc']:.3f} on val"),
    )
    predictions = cxr_ray.read_predictions(folder)
    val = predictions.rows("val", "full")
    threshold = cxr_ray.f1_operating_point(
        predictions.label[val], predictions.probability[val]
    ).threshold
    test = predictions.rows("test", "full")
    label, probability = predictions.label[test], predictions.probability[test]
    figures = cxr_ray.score_predictions(
        label, probability, score=predictions.logit[test], threshold=threshold
    )
    intervals = cxr_ray.metric_intervals(
        label,
        probability,
        score=predictions.logit[test],
        threshold=threshold,
        groups=predictions.group[test],
        rng=np.random.default_rng(0),
    )
    print(f"threshold of highest F1 on val: {threshold:.3f}")
    for name in ("auroc", "average_precision", "recall", "specificity"):
        low, high = intervals[name].low, intervals[name].high
        print(f"{name:18} {figures[name]:.3f} [{low:.3f}, {high:.3f}] {intervals[name].method}")
    print(f"trial: {folder}")


if __name__ == "__main__":
    main(*sys.argv[1:])
