"""The phantom's latent truth, its tables in MIMIC-CXR-JPG's form, and its reports."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.sources.phantom_images import HEIGHT, WIDTH
from cxr_ray.data.sources.phantom_people import draw_people, people_tables
from cxr_ray.data.split import assign_parts

if TYPE_CHECKING:
    import pandas as pd

STREAM = 109  # of those tried, the default phantom comes closest to .84, .84 and .92 together
REDUNDANT_CORRELATION = 0.8
# decoy studies, and further images of kept studies, as shares of the kept records
STUDY_DECOYS = {
    "ap": 0.04,
    "portable": 0.04,
    "recumbent": 0.02,
    "no_orientation": 0.02,
    "unlabelled": 0.01,
    "uncertain": 0.03,
    "other_finding": 0.03,
    "later": 0.04,
}
IMAGE_DECOYS = {"lateral": 0.08, "second_image": 0.02}
PORTABLE_NAMES = ("CHEST (PORTABLE AP)", "CHEST (PA AND LAT) PORT", "CHEST PORT. LINE PLACEMENT")
CHEXPERT = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
# default data.max_bad_share: a corrupt image among fewer records than this would stop a run
FEWEST_WITH_CORRUPT = 102
SYMPTOMS = ("fever", "cough", "chills", "sputum", "dyspnea", "malaise", "rigors", "wheezing")
REASONS = (
    "preoperative",
    "routine",
    "screening",
    "employment",
    "baseline",
    "checkup",
    "immigration",
    "insurance",
)
COMPARISONS = ("None.", "Radiograph from ___.", "___.", "None available.")
FINDINGS = (
    "Frontal and lateral views of the chest were obtained. The patient is slightly rotated.",
    "Two views of the chest are provided. Inspiration is adequate and exposure is good.",
    "PA and lateral views are submitted. The bony thorax is imaged in full.",
    "Upright views of the chest were acquired. The study is technically adequate.",
)
IMPRESSIONS = (
    "Study reviewed; please see the body of this report.",
    "Described as above; correlate with clinical course.",
    "Examination as described; attending has reviewed images.",
    "As described above; images archived for comparison.",
)


@dataclass(frozen=True)
class PhantomTables:
    """Everything about a phantom but its pixels.

    Attributes
    ----------
    tables : dict
        ``metadata``, ``chexpert``, ``negbio``, ``split`` to their CSV bytes.
    images, reports : tuple of str
        References, one an image and one a study.
    study : (images,) array of int
        Each image's row among the studies.
    lateral : (images,) array of bool
        Lateral views.
    truth : (studies,) array of int
        The latent class.
    image_signal, text_signal : (studies,) array of float
        Latent signals, centred between the classes.
    corrupt_image, missing_report : str
        The reference that is truncated, and the one that is not written.
    demographics : dict
        ``patients`` and ``admissions`` to their CSV bytes; empty unless they are asked for.
    """

    tables: dict[str, bytes]
    images: tuple[str, ...]
    reports: tuple[str, ...]
    study: np.ndarray
    lateral: np.ndarray
    truth: np.ndarray
    image_signal: np.ndarray
    text_signal: np.ndarray
    corrupt_image: str
    missing_report: str
    demographics: dict[str, bytes]


def draw_signals(
    truth: np.ndarray,
    config: PhantomConfig,
    rng: np.random.Generator,
    weaker: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the two latent signals of each study, centred between the classes.

    ``complementary``: independent given the class. ``redundant``: correlated .8 within a class.
    ``xor``: the class is the exclusive or of two hidden signs, each of which moves one modality,
    so that neither tells anything alone. The images of studies that are ``weaker``, (N,) bool,
    lose ``config.gap`` of their signal.

    Returns
    -------
    image, text : (N,) arrays of float
    """
    image_noise, text_noise = rng.standard_normal((2, len(truth)))
    image_sign = text_sign = truth
    if config.relation == "redundant":
        rho = REDUNDANT_CORRELATION
        text_noise = rho * image_noise + np.sqrt(1 - rho**2) * text_noise
    if config.relation == "xor":
        image_sign = rng.integers(2, size=len(truth))
        text_sign = image_sign ^ truth
    strength = config.image_signal - config.gap * (0 if weaker is None else weaker)
    image = strength * (image_sign - 0.5) + image_noise
    text = config.text_signal * (text_sign - 0.5) + text_noise
    return image, text


@lru_cache(maxsize=4)
def phantom_tables(config: PhantomConfig) -> PhantomTables:
    """Draw the tables: ``config.patients`` records pass the paper's rules, decoys come on top.

    A missing report is always among the kept records; the corrupt image only where it stays under
    the default ``data.max_bad_share``, and otherwise among the decoys.
    """
    rng = np.random.default_rng([config.seed, STREAM])
    kept = config.patients
    kind, patient = _studies(kept)
    truth = (rng.random(len(kind)) < config.positive_share).astype(int)
    positive = min(max(int(np.floor(config.positive_share * kept + 0.5)), 1), kept - 1)
    truth[:kept] = rng.permutation(np.arange(kept) < positive)
    truth[kind == "other_finding"] = 0
    people = draw_people(config, int(patient.max()) + 1) if config.has_demographics else None
    weaker = None if people is None else people.female[patient]
    image_signal, text_signal = draw_signals(truth, config, rng, weaker)

    subjects = 10_000_000 + rng.choice(9_999_999, patient.max() + 1, replace=False)
    subject = subjects[patient]
    study_id = 50_000_000 + rng.choice(9_999_999, len(kind), replace=False)
    date, time = _dates(kind, patient, rng)

    common = np.flatnonzero(truth[:kept] == int(2 * positive > kept))
    corrupt, missing = rng.choice(common, 2, replace=False)
    if kept < FEWEST_WITH_CORRUPT:
        corrupt = int(np.flatnonzero(kind == "ap")[0])
    rows = _image_rows(kept, len(kind), int(corrupt), rng)
    dicom = _dicom_ids(len(rows[0]), rng)
    order = np.lexsort((dicom, study_id[rows[0]], subject[rows[0]]))
    study, lateral, dicom = rows[0][order], rows[1][order], dicom[order]

    stem = [f"files/p{str(p)[:2]}/p{p}/s{s}" for p, s in zip(subject, study_id, strict=True)]
    images = tuple(f"{stem[s]}/{d}.jpg" for s, d in zip(study, dicom, strict=True))
    reports = tuple(f"{s}.txt" for s in stem)
    part = assign_parts(subject.astype(str), truth, (0.7, 0.1, 0.2), config.seed)
    tables = {
        "metadata": _metadata(kind, study, lateral, dicom, subject, study_id, date, time),
        "chexpert": _labels(kind, truth, subject, study_id, rng),
        "split": _split(part, study, dicom, subject, study_id),
    }
    content = {name: frame.to_csv(index=False).encode() for name, frame in tables.items()}
    return PhantomTables(
        tables=content | {"negbio": content["chexpert"]},
        images=images,
        reports=reports,
        study=study,
        lateral=lateral,
        truth=truth,
        image_signal=image_signal,
        text_signal=text_signal,
        corrupt_image=images[int(np.flatnonzero(study == corrupt)[0])],
        missing_report=reports[int(missing)],
        demographics={} if people is None else people_tables(people, subjects),
    )


def report_texts(config: PhantomConfig, drawn: PhantomTables) -> list[str]:
    """Write each study's report; the signal is how many of 8 indication words are symptoms."""
    rng = np.random.default_rng([config.seed, 3])
    number = len(drawn.reports)
    level = np.clip(np.rint(4 + 1.5 * drawn.text_signal), 0, len(SYMPTOMS)).astype(int)
    slots = np.tile(np.arange(len(SYMPTOMS)), (number, 1))
    rank, shown = rng.permuted(slots, axis=1), rng.permuted(slots, axis=1)
    variant = rng.integers(4, size=(number, 3))
    texts = []
    for i in range(number):
        words = (SYMPTOMS[j] if rank[i, j] < level[i] else REASONS[j] for j in shown[i])
        impression = IMPRESSIONS[variant[i, 2]]
        if config.leaky:
            impression = "Pneumonia is present." if drawn.truth[i] else "No pneumonia is present."
        texts.append(
            f"{'FINAL REPORT':>45}\n EXAMINATION:  CHEST (PA AND LAT)\n\n"
            f" INDICATION:  ___ year old patient. Notes: {', '.join(words)}.\n\n"
            f" COMPARISON:  {COMPARISONS[variant[i, 0]]}\n\n"
            f" FINDINGS:\n\n {FINDINGS[variant[i, 1]]}\n\n IMPRESSION:\n\n {impression}\n"
        )
    return texts


def _studies(kept: int) -> tuple[np.ndarray, np.ndarray]:
    """Kind and patient of each study: the kept ones first."""
    kinds, patients, following = [np.full(kept, "kept")], [np.arange(kept)], kept
    for name, share in STUDY_DECOYS.items():
        number = max(int(share * kept), 3 if name == "portable" else 1)
        kinds.append(np.full(number, name))
        if name == "later":
            patients.append(np.arange(number))
        else:
            patients.append(np.arange(following, following + number))
            following += number
    return np.concatenate(kinds).astype(object), np.concatenate(patients)


def _dates(
    kind: np.ndarray, patient: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """YYYYMMDD and HHMMSS.fff as numbers: shifted years, and leading zeros lost."""
    number = len(kind)
    date = rng.integers(2110, 2180, number) * 10_000
    date += rng.integers(1, 13, number) * 100 + rng.integers(1, 29, number)
    hour, minute, second = (rng.integers(top, size=number) for top in (24, 60, 60))
    time = hour * 10_000 + minute * 100 + second + rng.integers(1000, size=number) / 1000
    later = np.flatnonzero(kind == "later")
    date[later] = date[patient[later]] + 10_000 * rng.integers(1, 4, len(later))
    # on one day half past eight comes before a quarter past ten only as a number
    first = later[0]
    date[first] = date[patient[first]]
    time[patient[first]], time[first] = 83013.296, 101500
    return date, time


def _image_rows(
    kept: int, studies: int, corrupt: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Study and view of each image: one a study, then further images of kept studies."""
    candidates = np.setdiff1d(np.arange(kept), [corrupt])
    lateral = rng.choice(candidates, max(int(IMAGE_DECOYS["lateral"] * kept), 1), replace=False)
    second = rng.choice(candidates, max(int(IMAGE_DECOYS["second_image"] * kept), 1), replace=False)
    study = np.concatenate([np.arange(studies), lateral, second])
    is_lateral = np.repeat([False, True, False], [studies, len(lateral), len(second)])
    return study, is_lateral


def _dicom_ids(number: int, rng: np.random.Generator) -> np.ndarray:
    digits = rng.bytes(20 * number).hex()
    names = (digits[40 * i : 40 * i + 40] for i in range(number))
    return np.array(["-".join(n[j : j + 8] for j in range(0, 40, 8)) for n in names], object)


def _metadata(
    kind: np.ndarray,
    study: np.ndarray,
    lateral: np.ndarray,
    dicom: np.ndarray,
    subject: np.ndarray,
    study_id: np.ndarray,
    date: np.ndarray,
    time: np.ndarray,
) -> pd.DataFrame:
    import pandas as pd

    procedure = np.full(len(kind), "CHEST (PA AND LAT)", object)
    portable = np.flatnonzero(kind == "portable")
    procedure[portable] = np.resize(np.array(PORTABLE_NAMES, object), len(portable))
    view = np.where(kind == "ap", "AP", "PA")[study]
    orientation = np.select(
        [kind == "recumbent", kind == "no_orientation"], ["Recumbent", ""], "Erect"
    )
    named = {"PA": "postero-anterior", "AP": "antero-posterior", "LATERAL": "lateral"}
    view = np.where(lateral, "LATERAL", view)
    return pd.DataFrame(
        {
            "dicom_id": dicom,
            "subject_id": subject[study],
            "study_id": study_id[study],
            "PerformedProcedureStepDescription": procedure[study],
            "ViewPosition": view,
            "Rows": HEIGHT,
            "Columns": WIDTH,
            "StudyDate": date[study],
            "StudyTime": [f"{t:.3f}".rstrip("0").rstrip(".") for t in time[study]],
            "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
            "ViewCodeSequence_CodeMeaning": [named[name] for name in view],
            "PatientOrientationCodeSequence_CodeMeaning": orientation[study],
        }
    )


def _labels(
    kind: np.ndarray,
    truth: np.ndarray,
    subject: np.ndarray,
    study_id: np.ndarray,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """Make the label table; blank means not mentioned, as CheXpert leaves it."""
    import pandas as pd

    number = len(kind)
    values = pd.DataFrame(np.full((number, len(CHEXPERT)), np.nan), columns=list(CHEXPERT))
    negated, opaque, devices = rng.random((3, number))
    positive = truth == 1
    values.loc[positive, "Pneumonia"] = 1.0
    values.loc[positive & (opaque < 0.6), "Lung Opacity"] = 1.0
    values.loc[~positive, "No Finding"] = 1.0
    values.loc[~positive & (negated < 0.3), "Pneumonia"] = 0.0
    values.loc[devices < 0.1, "Support Devices"] = 1.0
    values.loc[np.isin(kind, ["uncertain", "other_finding"]), ["No Finding", "Pneumonia"]] = np.nan
    values.loc[kind == "uncertain", "Pneumonia"] = -1.0
    values.loc[kind == "other_finding", "Cardiomegaly"] = 1.0
    values.insert(0, "subject_id", subject)
    values.insert(1, "study_id", study_id)
    values = values[kind != "unlabelled"]
    return values.sort_values(["subject_id", "study_id"])


def _split(
    part: np.ndarray,
    study: np.ndarray,
    dicom: np.ndarray,
    subject: np.ndarray,
    study_id: np.ndarray,
) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(
        {
            "dicom_id": dicom,
            "study_id": study_id[study],
            "subject_id": subject[study],
            "split": np.where(part == "val", "validate", part)[study],
        }
    )
