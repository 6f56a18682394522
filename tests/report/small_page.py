"""A storage with a study of six models, and reading its page."""

import json
from html.parser import HTMLParser
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.evaluation.leakage import Finding
from cxr_ray.report.audit import TextAudit
from cxr_ray.report.leaderboard import collect_tables
from cxr_ray.report.study_audit import StudyAudit, TextView, write_study_audit
from cxr_ray.report.study_tables import write_study_tables
from cxr_ray.report.trial_folder import write_history, write_predictions

TITLE = "Which <script>alert(1)</script> is best?"
QUICK = EvaluationConfig(permutations=99, bootstrap=200)
MODALITIES, LOSSES = ("multimodal", "image", "text"), ("bce", "focal")
RECORD, PATIENT = "record-of-", "patient-of-"
TEST, POSITIVE = 200, 40
IDS = {arm: f"{place:016x}" for place, arm in enumerate(product(MODALITIES, LOSSES), 1)}
FAILED, PENDING = IDS["text", "focal"], IDS["image", "focal"]
REASON = "out of <b>memory</b>"


class Page(HTMLParser):
    """Every element's name and attributes, the figures with their place, and the visible text."""

    def __init__(self, path):
        super().__init__()
        self.elements, self.figures, self.text = [], [], ""
        self.cells = {}
        self._file = self._row = self._open = None
        self._line, self._in_cell = [], False
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "table":
            self._file = attributes.get("data-csv")
        elif tag == "tr":
            self._row = attributes.get("data-row")
            self._line = []
            self.cells.setdefault(self._file, []).append(self._line)
        elif tag in ("td", "th"):
            self._line.append("")
            self._in_cell = True
        if "data-column" in attributes:
            file, row = (attributes.get(f"data-{k}", v) for k, v in self._place().items())
            self._open = [file, row, attributes, ""]
            self.figures.append(self._open)

    def _place(self):
        return {"csv": self._file, "row": self._row}

    def handle_endtag(self, tag):
        if tag in ("td", "span"):
            self._open = None
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        self.text += data
        if self._in_cell:
            self._line[-1] += data
        if self._open is not None:
            self._open[-1] += data

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def make_study(root, ended=(), seeds=1):
    """Write a storage with a study of six models: one failed and one not trained yet."""
    # every arm again with further seeds, of which all have finished
    ids = [(arm, identity, 0) for arm, identity in IDS.items()]
    ids += [(a, f"{int(i, 16) + 16 * n:016x}", n) for n in range(1, seeds) for a, i in IDS.items()]
    study = {
        "name": "small",
        "title": TITLE,
        "profile": "tiny",
        "grid": "small",
        "axes": {"modality": list(MODALITIES), "dataset": ["full"], "loss": list(LOSSES)},
        "compare": {"modality": "multimodal", "loss": "bce"},
        "source": "phantom",
        "data_key": "d" * 16,
        "cohorts": ["c" * 16],
        "members": [
            {
                "experiment_id": identity,
                "name": f"{modality}-full-{loss}" + f"-seed{seed}" * (seed > 0),
                "modality": modality,
                "dataset": "full",
                "loss": loss,
                "seed": seed,
                "further": {},
            }
            for (modality, loss), identity, seed in ids
        ],
        "left_out": [],
        "version": "0.0",
        "git_commit": None,
        "command": "python launch/sweep.py --grid small",
    }
    write_cohort(root / "prepared" / ("c" * 16))
    for (modality, _), identity, _ in ids:
        if identity not in {FAILED, PENDING, *ended}:
            write_trial(root / "trials" / identity, modality, int(identity, 16))
    failed = dict.fromkeys([FAILED, *ended], {"status": "failed", "reason": REASON})
    folder = root / "studies" / "small"
    folder.mkdir(parents=True)
    (folder / "study.json").write_text(json.dumps(study))
    tables = collect_tables(root / "trials", study, failed, QUICK)
    tables.write(folder)
    write_study_tables(folder, root / "trials", study, tables)
    write_study_audit(folder, root / "trials", study, leaky_audit())
    return folder


def leaky_audit():
    """An audit with a grave finding and test texts that occur in training."""
    view = TextView("c" * 16, ("full",), "none")
    leak = Finding("text_probe", "finding", "Words give it away.", 0.987654, 400)
    alike = tuple((f"{RECORD}{place}", "trained") for place in range(TEST, TEST + 60, 3))
    repeats = Finding("identical_texts", "information", "Some.", 20.0, 400, measure="texts")
    width = Finding("shortcut:image width", "information", "No.", 0.5, 400, p_value=0.25)
    return StudyAudit(
        {view.cohort: (width,)},
        {view: TextAudit((leak, repeats), alike)},
        {identity: view for (modality, _), identity in IDS.items() if modality != "image"},
    )


def write_cohort(folder):
    folder.mkdir(parents=True)
    parts = {part: {"n": TEST, "n_positive": POSITIVE} for part in ("train", "val", "test")}
    manifest = {"prepare_version": 1, "patients": 3 * TEST, "parts": parts}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    step = {"rule": "all images", "unit": "images", "before": 700, "dropped": 0, "after": 700}
    step |= {"positive": None, "negative": None, "note": ""}
    last = {**step, "rule": "view < PA", "dropped": 100, "after": 600, "positive": 120}
    (folder / "selection_flow.json").write_text(json.dumps([step, {**last, "negative": 480}]))
    kappa = {"kappa": 0.7, "low": 0.6, "high": 0.8, "method": "large sample"}
    nothing = {"kappa": None, "low": None, "high": None, "method": "none: one category"}
    agreement = {
        "label": "Pneumonia",
        "rows": "chexpert",
        "columns": "negbio",
        "categories": ["positive", "negative"],
        "counts": [[1234, 5], [6, 7]],
        "without_row": 0,
        "kappa": {"categories": kappa, "positive_or_not": nothing},
    }
    (folder / "label_agreement.json").write_text(json.dumps(agreement))
    (folder / "cohort.csv").write_text(f"record,patient\n{RECORD}1,{PATIENT}1\n")


def write_trial(folder, modality, number):
    """Write a trial whose image tells the classes apart and whose text does not."""
    (folder / "figures").mkdir(parents=True)
    rng = np.random.default_rng(number)
    label = np.tile(np.repeat([1, 0], [POSITIVE, TEST - POSITIVE]), 2).astype(np.int8)
    shared = np.random.default_rng(0).normal(size=len(label))
    image = (3 * label + shared + 0.05 * rng.normal(size=len(label))).astype(np.float32)[:, None]
    text = rng.normal(size=(len(label), 1)).astype(np.float32)
    read = {"multimodal": ("image", "text"), "image": ("image",), "text": ("text",)}[modality]
    weights = np.array([[1.0, 0.01]]) if modality == "multimodal" else np.ones((1, 1))
    features = {"image": image, "text": text}
    logit = np.hstack([features[name] for name in read]).astype(float) @ weights[0] - 2
    write_predictions(
        folder,
        record_id=np.array([f"{RECORD}{place}" for place in range(len(label))]),
        group=np.array([f"{PATIENT}{place}" for place in range(len(label))]),
        part=np.repeat(["val", "test"], TEST),
        in_own=np.ones(len(label), dtype=bool),
        label=label,
        logit=logit,
    )
    head = {"head.linear.weight": weights, "head.linear.bias": np.array([-2.0])}
    np.savez(folder / "features.npz", **{name: features[name] for name in read}, **head)
    write_history(folder, [{"epoch": n, "train_loss": 0.5, "val_loss": 0.6} for n in range(2)])
    result = {"experiment_id": folder.name, "best_epoch": 1, "epochs": 2, "train_seconds": 1.26}
    result |= {"n_train": TEST, "train_accuracy": 0.9, "parameters": 1234}
    (folder / "result.json").write_text(json.dumps({**result, "compute": {"device": "cpu"}}))
    Figure(figsize=(0.1, 0.1)).savefig(folder / "figures" / "roc.png")
