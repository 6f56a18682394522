import pickle

import pytest
from small_sets import configured

from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.reports import parse_report
from cxr_ray.data.sources import open_source
from cxr_ray.errors import InputError


def write(folder, problems, images=(), projections=None):
    """A report per entry of ``problems``; a frontal projection each unless told otherwise."""
    header = "uid,MeSH,Problems,image,indication,comparison,findings,impression\n"
    rows = [f'{uid},x,"{terms}",x,Cough,None,Seen.,' for uid, terms in problems.items()]
    (folder / "indiana_reports.csv").write_text(header + "\n".join(rows) + "\n")
    if projections is None:
        projections = [(uid, f"{uid}_a.png", "Frontal") for uid in problems]
    lines = [",".join(map(str, row)) for row in projections]
    (folder / "indiana_projections.csv").write_text(
        "uid,filename,projection\n" + "\n".join(lines) + "\n"
    )
    (folder / "images").mkdir(exist_ok=True)
    for name in images:
        (folder / "images" / name).write_bytes(b"png")
    return folder


def problems(number=12):
    return {uid: "normal" if uid % 2 else "Pneumonia;Opacity" for uid in range(1, number + 1)}


def labels(folder, **cohort):
    config = configured(cohort=cohort)
    frame, steps = open_source(f"openi:{folder}", config, folder).select(config)
    return dict(zip(frame["record"], frame["label"], strict=True)), steps


def test_a_term_must_be_equal_and_normal_must_stand_alone(tmp_path):
    folder = write(
        tmp_path,
        {
            1: "Pneumonia",
            2: "Opacity; Pneumonia ",
            3: "Pneumonectomy",
            4: "normal",
            5: "normal;Opacity",
            6: "No Indexing",
            7: "Airspace Disease",
            8: "Infiltrate;Consolidation",
            9: "pneumonia",
        },
    )
    found, steps = labels(folder)
    assert found == {"1": 1, "2": 1, "4": 0}
    assert [(s.rule, s.dropped) for s in steps][1] == ("neither positive nor exactly normal", 6)
    assert labels(folder, positive="relaxed")[0] == {"1": 1, "2": 1, "4": 0, "7": 1, "8": 1}


def test_the_word_none_is_text_and_sections_parse(tmp_path):
    config = configured()
    source = open_source(f"openi:{write(tmp_path, problems())}", config, tmp_path)
    report = parse_report(pickle.loads(pickle.dumps(source)).read_report("3"))
    assert report.sections == {"indication": "Cough", "comparison": "None", "findings": "Seen."}


def test_a_report_of_any_length_is_read(tmp_path):
    write(tmp_path, problems())
    path = tmp_path / "indiana_reports.csv"
    path.write_text(path.read_text() + f"99,x,normal,x,Cough,None,{'seen ' * 30_000},\n")
    source = open_source(f"openi:{tmp_path}", configured(), tmp_path)
    assert len(source.read_report("99")) > 150_000


def test_images_are_declared_only_when_half_of_the_records_have_one(tmp_path):
    few = write(tmp_path, problems(), [f"{uid}_a.png" for uid in range(1, 6)])
    cohort = select_cohort(open_source(f"openi:{few}", configured(), few), configured())
    assert cohort.modalities == cohort.required == ("text",)
    assert "5 of 12 records" in " ".join(step.note for step in cohort.flow)
    (few / "images" / "6_a.png").write_bytes(b"png")
    cohort = select_cohort(open_source(f"openi:{few}", configured(), few), configured())
    assert cohort.modalities == ("image", "text")
    assert len(cohort.frame) == 6


def test_the_first_frontal_projection_is_the_image(tmp_path):
    rows = [(1, "l.png", "Lateral"), (1, "f1.png", "Frontal"), (1, "f2.png", "Frontal")]
    folder = write(tmp_path, problems(), projections=[*rows, (2, "../f.png", "Frontal")])
    config = configured()
    frame, _ = open_source(f"openi:{folder}", config, folder).select(config)
    images = dict(zip(frame["record"], frame["image"], strict=True))
    assert images["1"] == "images/f1.png"
    assert images["2"] is None and images["3"] is None


def test_missing_tables_columns_and_repeated_uids_are_named(tmp_path):
    with pytest.raises(InputError, match=r"indiana_projections\.csv|indiana_reports\.csv"):
        open_source(f"openi:{tmp_path}", configured(), tmp_path)
    write(tmp_path, problems())
    path = tmp_path / "indiana_reports.csv"
    path.write_text(path.read_text() + "1,x,normal,x,a,b,c,d\n")
    with pytest.raises(InputError, match=r"uid of data row \d+ is blank or occurs before"):
        open_source(f"openi:{tmp_path}", configured(), tmp_path)


@pytest.mark.real_data
def test_the_real_collection_has_its_published_counts(real_data):
    folder = real_data / "indiana-openi"
    for rule, positive in (("strict", 26), ("relaxed", 140)):
        config = configured(cohort={"positive": rule})
        cohort = select_cohort(open_source(f"openi:{folder}", config, folder), config)
        assert cohort.modalities == ("text",)
        assert (cohort.flow[1].positive, cohort.flow[1].negative) == (positive, 917)
        assert len(cohort.frame) == positive + 917
        assert "0 positive and 18 negative" in cohort.flow[3].note
