"""What somebody who follows the pages has in a folder: small data under the pages' names."""

import re
import shutil

import numpy as np
import pandas as pd
import yaml
from page_blocks import ROOT
from planted_data import picture

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.sources.phantom import write_phantom

OF_THE_CHECKOUT = ("launch", "search_spaces", "docs", "examples")
QUICK = {
    "phantom.patients": 100,
    "image.freeze": "conv1,layer1",
    "train.max_epochs": 1,
    "data.split.folds": 3,
    "data.split.repeats": 1,
    "evaluation.permutations": 19,
    "evaluation.bootstrap": 100,
}
"""The profile ``tiny``, and quicker still."""


def furnish(folder):
    """Lay out a checkout's folders, a profile, and data under the names that the pages use."""
    for name in OF_THE_CHECKOUT:
        (folder / name).symlink_to(ROOT / name)
    tiny = yaml.safe_load((ROOT / "cxr_ray" / "config" / "profiles" / "tiny.yaml").read_text())
    for field, value in QUICK.items():
        *sections, name = field.split(".")
        place = tiny
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    (folder / "small.yaml").write_text(yaml.safe_dump(tiny))
    write_clinic(folder / "clinic")
    _write_dir(folder)
    _write_open_data(folder / "DATA")
    _write_predictions(folder)


def write_recipe(folder):
    """Write FILE.yaml as a page means it that shows no YAML: a table's recipe."""
    recipe = (folder / "clinic" / "visits.yaml").read_text()
    (folder / "FILE.yaml").write_text(f"{recipe}root: clinic\n")


def write_clinic(folder):
    """Write the YAML of docs/your-own-data.md, and a table that starts with the page's rows."""
    page = (ROOT / "docs" / "your-own-data.md").read_text()
    shown = {
        language: re.search(rf"```{language}\n(.*?)```", page, re.DOTALL)[1]
        for language in ("yaml", "csv")
    }
    folder.mkdir(parents=True)
    (folder / "visits.yaml").write_text(shown["yaml"])
    rows = [
        f"w{i:03},q{i % 50},b{i}.png,2020{i:04},AP,Cough,,{'pneumonia' if i % 5 else 'normal'}"
        for i in range(60)
    ]
    (folder / "visits.csv").write_text(shown["csv"] + "\n".join(rows) + "\n")
    rng = np.random.default_rng(0)
    for name in ("a17", "a18", "a19", *(f"b{i}" for i in range(60))):
        picture(folder / "films" / f"{name}.png", rng)


def _write_dir(folder):
    """Write DIR, which is MIMIC, Open-i and a text encoder in one, and a record of it."""
    from local_checkpoints import write_bert

    where = folder / "DIR"
    write_phantom(PhantomConfig(patients=100, positive_share=0.2, seed=5), where)
    for name in ("reports", "mimic-cxr-reports"):
        shutil.make_archive(str(folder / name), "zip", where / "reports")
    labels = pd.read_csv(where / "mimic-cxr-2.0.0-chexpert.csv.gz")
    labels.to_csv(where / "mimic-cxr-2.1.0-test-set-labeled.csv", index=False)
    _write_indiana(where, images=True)
    write_bert(where)
    report = sorted((where / "reports").rglob("*.txt"))[0]
    study = where / report.relative_to(where / "reports").with_suffix("")
    shutil.copy(sorted(study.glob("*.jpg"))[0], folder / "film.jpg")
    shutil.copy(report, folder / "report.txt")
    text = report.read_text()
    records = {"record": ["a", "b", "c"], "image": ["film.jpg", "", "film.jpg"]}
    pd.DataFrame(records | {"text": [text, text, ""]}).to_csv(folder / "records.csv", index=False)


def _write_indiana(folder, *, images=False):
    terms = ["Pneumonia", "Infiltrate", *["normal"] * 4]
    number = range(90)
    reports = pd.DataFrame({"uid": number, "Problems": [terms[i % 6] for i in number]})
    reports["indication"] = [("Fever.", "Check.", "Cough.")[i % 3] for i in number]
    reports["comparison"] = "None."
    reports["findings"] = [f"Seen {'opacity' if i % 6 < 2 else 'clear'} {i}." for i in number]
    reports["impression"] = [f"Said {i % 7}." for i in number]
    films = [f"{i}.png" for i in number]
    projections = pd.DataFrame({"uid": number, "filename": films, "projection": "Frontal"})
    folder.mkdir(parents=True, exist_ok=True)
    reports.to_csv(folder / "indiana_reports.csv", index=False)
    projections.to_csv(folder / "indiana_projections.csv", index=False)
    rng = np.random.default_rng(1)
    for film in films if images else ():
        picture(folder / "images" / film, rng)


def _write_open_data(folder):
    """Write the three sets of docs/real-data.md in small."""
    _write_indiana(folder / "indiana-openi")
    rng = np.random.default_rng(2)
    number = range(80)
    covid = pd.DataFrame({"patientid": number, "offset": number})
    covid["finding"] = [("COVID-19", "COVID-19", "Pneumonia", "No Finding")[i % 4] for i in number]
    covid["filename"] = [f"{i}.png" for i in number]
    covid["clinical_notes"] = [f"Note {i % 9}" for i in number]
    covid = covid.assign(modality="X-ray", view="PA", sex="F", age=50)
    (folder / "covid-chestxray-dataset").mkdir()
    covid.to_csv(folder / "covid-chestxray-dataset" / "metadata.csv", index=False)
    kermany = pd.DataFrame({"patient": number})
    kermany["label"] = ["NORMAL" if i % 6 == 0 else "PNEUMONIA" for i in number]
    kermany["path"] = [f"chest_xray/{i}.png" for i in number]
    (folder / "kermany-chest-xray").mkdir()
    kermany.to_csv(folder / "kermany-chest-xray" / "manifest.csv", index=False)
    for i in number:
        picture(folder / "covid-chestxray-dataset" / "images" / f"{i}.png", rng)
        picture(folder / "kermany-chest-xray" / "chest_xray" / f"{i}.png", rng)


def _write_predictions(folder):
    rng = np.random.default_rng(3)
    label = np.repeat([0, 1], [60, 40])
    for name in ("FIRST.csv", "SECOND.csv"):
        table = pd.DataFrame({"record": range(100), "patient": range(100), "label": label})
        probability = 1 / (1 + np.exp(-label - rng.normal(size=100)))
        table.assign(probability=probability).to_csv(folder / name, index=False)
