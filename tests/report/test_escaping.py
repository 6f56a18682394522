"""Whatever a name, a level, a cell or a reason holds is text on the pages."""

import json

import pandas as pd
import pytest
from small_page import REASON, Page, make_study

from cxr_ray.report.checklist import CHECKLIST_FILE
from cxr_ray.report.page import PAGE_FILE, rebuild_page
from cxr_ray.report.subgroups import COLUMNS, SUBGROUPS_FILE

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)></td>&quot;"
LOSS, RULE, LABELLER, SENTENCE = "focal", "view < PA", "chexpert", "Words give it away."
COMMAND = "launch/sweep.py --grid small"
GROUP, LEVEL = "ward", "north"
STUDY = "mine<script>alert(2)<img src=x onerror=alert(2)>"
HELD = (LOSS, RULE, LABELLER, SENTENCE, REASON, GROUP, LEVEL, COMMAND)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A study with markup in every kind of text that comes from outside."""
    root = tmp_path_factory.mktemp("hostile")
    folder = make_study(root)
    folder = folder.rename(folder.with_name(STUDY))
    study = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**study, "name": STUDY}))
    row = {name: study["members"][0].get(name) for name in COLUMNS}
    row |= {"test_set": "full", "group": GROUP, "level": LEVEL, "n": 150, "n_positive": 50}
    figures = dict.fromkeys(("value", "low", "high"), 0.75)
    rows = [row | figures | {"metric": "auroc", "reference": False, "method": "DeLong"}]
    pd.DataFrame(rows, columns=COLUMNS).to_csv(folder / SUBGROUPS_FILE, index=False)
    texts = [path for path in folder.iterdir() if path.suffix in (".csv", ".json")]
    for path in (*texts, *root.glob("prepared/*/*.json")):
        content = path.read_text()
        for word in HELD:
            content = content.replace(word, word + HOSTILE)
        path.write_text(content)
    rebuild_page(folder)
    return folder


@pytest.mark.parametrize("name", [PAGE_FILE, CHECKLIST_FILE])
def test_no_text_becomes_an_element_or_attribute_of_a_page(folder, name):
    page = Page(folder / name)
    assert page.all("script") == []
    assert not [each for _, each in page.elements if set(each) & {"onerror", "onload", "onclick"}]
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert HOSTILE not in page.source


@pytest.mark.parametrize("word", HELD)
def test_what_was_written_is_shown_as_it_was_written(folder, word):
    shown = " ".join(Page(folder / PAGE_FILE).text.split())
    assert word + HOSTILE in shown
