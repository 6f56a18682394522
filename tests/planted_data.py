"""A table and a MIMIC-shaped folder with planted strings wherever a patient may be named."""

import numpy as np
import yaml
from planted_strings import MARK, NUMBERED, STUDIES, SUBJECTS

RECIPE = {
    "csv": "visits.csv",
    "id": "visit",
    "patient": "who",
    "image": "film",
    "text": {"indication": "asked", "findings": "seen"},
    "label": {"column": "said", "positive": ["ill"], "negative": ["well"]},
    "metadata": ["ward"],
}
CORRUPT = 7
"""The record whose image file holds none."""


def picture(path, rng):
    """An image of noise, so that no two are alike."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (48, 48), np.uint8)).save(path, comment=f"{MARK}pixels")


def write_table(folder, number=90):
    """Write a CSV whose ids, texts, files and folders are planted; returns its recipe's file."""
    rng = np.random.default_rng(0)
    lines = ["visit,who,film,asked,seen,said,ward"]
    for i in range(number):
        film = f"{MARK}folder{i % 3}/{MARK}film{i}.png"
        picture(folder / film, rng)
        # words that give the label away are what an audit would be tempted to show
        ill = i % 3 == 0
        text = f"{MARK}sick cough" if ill else f"{MARK}sound check"
        lines.append(
            f"{MARK}visit{i},{MARK}patient{i},{film},{text} {MARK}asked{i % 7},"
            f"{MARK}seen of {MARK}name{i}.,{'ill' if ill else 'well'},{MARK}ward{i % 5}"
        )
    (folder / f"{MARK}folder{CORRUPT % 3}" / f"{MARK}film{CORRUPT}.png").write_text(f"{MARK}none")
    (folder / "visits.csv").write_text("\n".join(lines) + "\n")
    (folder / "clinic.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder / "clinic.yaml"


def write_mimic(folder):
    """Write tables, images and reports as PhysioNet ships them; returns the folder."""
    from data.small_sets import MimicTables

    rng, tables = np.random.default_rng(1), MimicTables()
    for i in range(NUMBERED):
        subject, study, dicom = SUBJECTS + i, STUDIES + i, f"{MARK}dicom{i}"
        ill = i % 3 == 0
        tables.add(subject, study, dicom, positive=ill)
        place = f"files/p{str(subject)[:2]}/p{subject}"
        picture(folder / place / f"s{study}" / f"{dicom}.jpg", rng)
        report = folder / "reports" / place / f"s{study}.txt"
        report.parent.mkdir(parents=True)
        report.write_text(
            f"INDICATION: {MARK}asked {'fever' if ill else 'visit'}.\n\n"
            f"FINDINGS: {MARK}seen in p{subject}.\n\nIMPRESSION: {MARK}said.\n"
        )
    broken = f"files/p18/p{SUBJECTS + CORRUPT}/s{STUDIES + CORRUPT}/{MARK}dicom{CORRUPT}.jpg"
    (folder / broken).write_text(f"{MARK}none")
    return tables.write(folder)
