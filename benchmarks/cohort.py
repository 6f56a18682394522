"""Time from MIMIC-CXR-JPG's gzipped tables to a written cohort, at its size and at ten times it.

    python benchmarks/cohort.py

The tables are made up in the shape of the real ones: 377,110 images of 227,827 studies. Imports
are not counted.
"""

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from rows import Row, show

IMAGES, STUDIES, PATIENTS = 377_110, 227_827, 65_379
SECONDS, TIMES, GIGABYTES = 2.0, 10, 4.0
LABELS = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum"),
    *("Fracture", "Lung Lesion", "Lung Opacity", "No Finding", "Pleural Effusion"),
    *("Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices"),
)
REPEATS = 3
# In a process of its own, whose memory is nobody else's.
ONCE = """
import json, sys, tempfile, time
import cxr_ray.sweep.preparation as preparation
import pandas, pyarrow.csv, cxr_ray.data.cohort, cxr_ray.data.label_agreement
with tempfile.TemporaryDirectory() as storage:
    began = time.perf_counter()
    made = preparation.prepare_cohort(
        storage=storage, data="mimic:" + sys.argv[1], reports=None, profile="paper",
        overrides=[], cohort_only=True, progress=lambda *_: None)
    seconds = time.perf_counter() - began
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) * 1024
print(json.dumps({"seconds": seconds, "peak": peak, "records": made.manifest["records"]}))
"""


def make_tables(folder: Path, times: int) -> None:
    """Write a metadata and a CheXpert table of ``times`` the size of MIMIC-CXR-JPG's."""
    import pyarrow as pa
    from pyarrow import csv

    rng = np.random.default_rng(0)
    images, studies = IMAGES * times, STUDIES * times
    study = 50_000_000 + np.sort(rng.choice(100 * studies, studies, replace=False))
    patient = 10_000_000 + rng.integers(0, PATIENTS * times, studies)
    of = np.concatenate([np.arange(studies), rng.integers(0, studies, images - studies)])

    def drawn(levels: list[str | None], shares: list[float], count: int) -> pa.Array:
        codes = rng.choice(len(levels), count, p=shares).astype(np.int32)
        return pa.array(levels).take(pa.array(codes))

    procedure = drawn(["CHEST (PA AND LAT)", "CHEST (PORTABLE AP)"], [0.65, 0.35], images)
    raw = rng.bytes(20 * images).hex()
    words = [raw[i : i + 40] for i in range(0, len(raw), 40)]
    metadata = {
        "dicom_id": [f"{w[:8]}-{w[8:16]}-{w[16:24]}-{w[24:32]}-{w[32:]}" for w in words],
        "subject_id": patient[of],
        "study_id": study[of],
        "PerformedProcedureStepDescription": procedure,
        "ViewPosition": drawn(["PA", "AP", "LATERAL", "LL"], [0.26, 0.39, 0.2, 0.15], images),
        "Rows": np.full(images, 3056),
        "Columns": np.full(images, 2544),
        "StudyDate": rng.integers(21_000_101, 22_001_231, images),
        "StudyTime": rng.uniform(0, 235_959, images).round(3),
        "ProcedureCodeSequence_CodeMeaning": procedure,
        "ViewCodeSequence_CodeMeaning": drawn(["postero-anterior"], [1.0], images),
        "PatientOrientationCodeSequence_CodeMeaning": drawn(
            ["Erect", "Recumbent", None], [0.8, 0.1, 0.1], images
        ),
    }
    labels = {"subject_id": patient, "study_id": study} | {
        name: drawn(["1.0", "0.0", "-1.0", None], [0.1, 0.05, 0.05, 0.8], studies)
        for name in LABELS
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, columns in (("metadata", metadata), ("chexpert", labels)):
        path = folder / f"mimic-cxr-2.0.0-{name}.csv.gz"
        with gzip.open(path, "wb", compresslevel=1) as file:
            csv.write_csv(pa.table(columns), file)


def time_once(folder: Path) -> dict[str, float]:
    """Prepare a cohort in a fresh process."""
    done = subprocess.run([sys.executable, "-c", ONCE, str(folder)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure(scratch: Path) -> list[Row]:
    """Measure both sizes."""
    best = {}
    for times in (1, TIMES):
        folder = scratch / f"times-{times}"
        make_tables(folder, times)
        runs = [time_once(folder) for _ in range(REPEATS)]
        best[times] = min(runs, key=lambda run: run["seconds"])
    rows = f"{IMAGES:,} + {STUDIES:,} rows of gzipped CSV"
    one, ten = best[1], best[TIMES]
    return [
        Row(
            "cohort",
            f"{rows} to a written cohort of {one['records']:,.0f} records, after imports",
            one["seconds"],
            "s",
            at_most=SECONDS,
        ),
        Row(
            f"cohort, {TIMES} times the rows",
            f"its {ten['seconds']:.1f} s over those of one time the rows",
            ten["seconds"] / one["seconds"],
            "times",
            at_most=TIMES,
        ),
        Row(
            f"cohort, {TIMES} times the rows: memory",
            "peak of the process",
            ten["peak"] / 1e9,
            "GB",
            at_most=GIGABYTES,
        ),
    ]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(show(measure(Path(temporary))))
