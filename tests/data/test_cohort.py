import subprocess
import sys

import pytest
from small_sets import configured

from cxr_ray.data.cohort import COLUMNS, select_cohort
from cxr_ray.data.sources import open_source
from cxr_ray.errors import InputError


def select(folder, check_files=False, **sections):
    config = configured(**sections)
    source = open_source(f"mimic:{folder}", config, folder)
    return select_cohort(source, config, check_files=check_files)


def test_the_frame_is_sorted_by_record_with_the_agreed_columns(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    mimic_tables.metadata.reverse()
    frame = select(mimic_tables.write(tmp_path)).frame
    assert tuple(frame.columns)[: len(COLUMNS)] == COLUMNS
    assert frame["record"].is_monotonic_increasing and frame["record"].is_unique
    assert str(frame["label"].dtype) == "int8"
    assert list(frame.index) == list(range(20))


def test_the_order_of_a_tables_rows_changes_nothing(mimic_tables, tmp_path):
    mimic_tables.add_background(30)
    mimic_tables.add(15000001, 50000001, positive=True)
    first = select(mimic_tables.write(tmp_path / "a"))
    mimic_tables.metadata.reverse()
    mimic_tables.labels.reverse()
    second = select(mimic_tables.write(tmp_path / "b"))
    assert first.frame.equals(second.frame) and first.flow == second.flow


def test_an_empty_cohort_names_the_rule_that_dropped_the_last_record(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path)
    with pytest.raises(InputError, match="'view not LL' dropped the last 20"):
        select(folder, cohort={"view": "LL"})
    with pytest.raises(InputError, match="'image missing' dropped the last 20"):
        select(folder, check_files=True)


def fill(folder, frame):
    for image in frame["image"]:
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes(b"jpeg")


def test_one_class_or_a_part_without_a_class_is_refused_for_training_only(mimic_tables, tmp_path):
    for i in range(12):
        mimic_tables.add(10000001 + i, 50000001 + i, positive=False)
    folder = mimic_tables.write(tmp_path)
    cohort = select(folder)
    assert len(cohort.frame) == 12
    fill(folder, cohort.frame)
    with pytest.raises(InputError, match="all 12 records are negative"):
        select(folder, check_files=True)
    mimic_tables.add(11000000, 51000000, positive=True)
    mimic_tables.add(11000001, 51000001, positive=True)
    folder = mimic_tables.write(tmp_path)
    fill(folder, select(folder).frame)
    with pytest.raises(InputError, match="has no positive record .2 positive and 12 negative"):
        select(folder, check_files=True)


def test_requiring_what_the_source_lacks_is_refused_with_the_way_out(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    with pytest.raises(InputError, match="no text, only image; give --reports"):
        select(mimic_tables.write(tmp_path), check_files=True, data={"require": ["text"]})


def test_an_official_split_is_refused_where_there_is_none(tmp_path):
    (tmp_path / "t.csv").write_text(
        "who,note,ill\n" + "".join(f"{i},n,{i % 2}\n" for i in range(9))
    )
    (tmp_path / "t.yaml").write_text(
        "csv: t.csv\npatient: who\ntext: note\nlabel: {column: ill, positive: [1], negative: [0]}\n"
    )
    config = configured(data={"split": {"kind": "official"}})
    with pytest.raises(InputError, match="t has no official split"):
        select_cohort(open_source(f"table:{tmp_path}/t.yaml", config, tmp_path), config)


def test_opening_a_source_and_its_fingerprint_need_no_pandas(mimic_tables, tmp_path):
    mimic_tables.add_background(20)
    folder = mimic_tables.write(tmp_path)
    code = f"""
import sys
from pathlib import Path
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.sources import open_source
for spec in ("phantom", "mimic:{folder}"):
    source = open_source(spec, ExperimentConfig(), Path("unwritten"))
    source.fingerprint(), source.rules(ExperimentConfig().cohort)
heavy = {{"pandas", "pyarrow", "PIL", "scipy", "torch"}} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_each_source_says_which_rules_it_reads_with_defaults_resolved(tmp_path):
    config = configured()
    source = open_source("phantom", config, tmp_path)
    rules = source.rules(config.cohort)
    assert set(rules) == source.reads == set(type(config.cohort).model_fields) - {"positive"}
    assert rules["per_patient"] == "earliest"
    assert source.required(config.data) == ("image", "text")
    assert source.required(configured(data={"require": "image"}).data) == ("image",)
