"""Compare two models from two CSVs of predictions on the same records.

Each CSV has the columns record, patient, label (0 or 1) and probability. Of a trial trained here,
``cxr_ray.read_predictions(TRIAL_DIR)`` holds them as record_id, group, label and probability.

python examples/compare_predictions.py FIRST.csv SECOND.csv
"""

import sys

import numpy as np
import pandas as pd

import cxr_ray


def main(first_file: str, second_file: str) -> None:
    columns = {"record": str, "patient": str}
    tables = [pd.read_csv(file, dtype=columns) for file in (first_file, second_file)]
    both = tables[0].merge(tables[1], on=["record", "patient"], suffixes=("", "_second"))
    if len(both) != len(tables[0]) or len(both) != len(tables[1]):
        raise cxr_ray.InputError(f"{first_file} and {second_file} do not hold the same records")
    if (both["label"] != both["label_second"]).any():
        raise cxr_ray.InputError(f"{first_file} and {second_file} disagree on labels")
    label, patient = both["label"], both["patient"]
    first, second = both["probability"], both["probability_second"]

    test = cxr_ray.delong_test(label, first, second, groups=patient)
    differences = cxr_ray.paired_bootstrap(
        label,
        first,
        second,
        groups=patient,
        thresholds=(0.5, 0.5),
        metrics=("average_precision", "recall", "f1"),
        rng=np.random.default_rng(0),
    )
    adjusted = cxr_ray.holm([one.p_value for one in differences.values()])
    print(f"{len(both)} records of {patient.nunique()} patients, {int(label.sum())} positive")
    print(
        f"AUROC: difference {test.difference:.4f} [{test.low:.4f}, {test.high:.4f}], "
        f"p = {test.p_value:.4f} ({test.method})"
    )
    for (name, one), p_value in zip(differences.items(), adjusted, strict=True):
        print(
            f"{name}: difference {one.difference:.4f} [{one.low:.4f}, {one.high:.4f}], "
            f"p = {p_value:.4f} after Holm (paired bootstrap)"
        )


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
