"""Small data sets made in code."""

import gzip
import io
from pathlib import Path

import pandas as pd

from cxr_ray.config.schema import ExperimentConfig

ORIENTATION = "PatientOrientationCodeSequence_CodeMeaning"
CHEXPERT = [
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
]


def configured(**sections):
    """An experiment config with some sections' fields changed."""
    return ExperimentConfig.model_validate(sections)


class MimicTables:
    """Rows of a MIMIC-CXR-JPG folder, added one by one."""

    def __init__(self):
        self.metadata, self.labels, self.split = [], [], []

    def add(self, subject, study, dicom=None, *, positive=None, labels=None, **changed):
        """One image; ``positive`` or ``labels`` also add the study's row in the label table."""
        dicom = f"{study}-a" if dicom is None else dicom
        row = {
            "dicom_id": dicom,
            "subject_id": subject,
            "study_id": study,
            "PerformedProcedureStepDescription": "CHEST (PA AND LAT)",
            "ViewPosition": "PA",
            "Rows": 3056,
            "Columns": 2544,
            "StudyDate": 21800506,
            "StudyTime": "213014.531",
            "ProcedureCodeSequence_CodeMeaning": "CHEST (PA AND LAT)",
            "ViewCodeSequence_CodeMeaning": "postero-anterior",
            ORIENTATION: "Erect",
        }
        self.metadata.append(row | changed)
        self.split.append((dicom, study, subject, "train"))
        if positive is not None:
            labels = {"Pneumonia": 1.0} if positive else {"No Finding": 1.0}
        if labels is not None:
            self.labels.append({"subject_id": subject, "study_id": study} | labels)

    def add_background(self, number=20, first=15000000):
        """Plain records of both classes, enough for every part."""
        for i in range(number):
            self.add(first + i, 55000000 + i, positive=i % 2 == 0)

    def tables(self):
        """The four tables as frames."""
        labels = pd.DataFrame(self.labels, columns=["subject_id", "study_id", *CHEXPERT])
        split = pd.DataFrame(self.split, columns=["dicom_id", "study_id", "subject_id", "split"])
        metadata = pd.DataFrame(self.metadata)
        return {"metadata": metadata, "chexpert": labels, "negbio": labels, "split": split}

    def contents(self, version="2.0.0", zipped=True):
        """File name to bytes."""
        files = {}
        for table, frame in self.tables().items():
            raw = frame.to_csv(index=False).encode()
            name = f"mimic-cxr-{version}-{table}.csv" + (".gz" if zipped else "")
            files[name] = gzip.compress(raw, mtime=0) if zipped else raw
        return files

    def write(self, directory, **options):
        """Write the tables and return the folder."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, raw in self.contents(**options).items():
            (directory / name).write_bytes(raw)
        return directory


def jpeg_bytes(size=(16, 16), value=128):
    """A small gray JPEG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "JPEG")
    return buffer.getvalue()
