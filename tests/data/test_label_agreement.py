import json

import pytest
from prepared_phantom import quiet
from small_sets import MimicTables, configured

from cxr_ray.config.identity import DataKeys, cohort_key
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.label_agreement import describe_agreement, label_agreement
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import read_agreement
from cxr_ray.data.sources.external import ExternalSource
from cxr_ray.data.sources.mimic import open_mimic
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage


class TwoLabellers(MimicTables):
    """Tables whose NegBio says of some studies another thing than CheXpert."""

    def __init__(self, negbio=None, dropped=()):
        super().__init__()
        self.negbio, self.dropped = negbio or {}, set(dropped)

    def tables(self):
        tables = super().tables()
        other = tables["negbio"].copy()
        for study, value in self.negbio.items():
            other.loc[other["study_id"] == study, "Pneumonia"] = value
        tables["negbio"] = other[~other["study_id"].isin(self.dropped)]
        return tables


def small_mimic(folder, **changed):
    """Twenty studies: 55000000, 55000002, … positive, the others without finding."""
    made = TwoLabellers(**changed)
    made.add_background(20)
    return open_mimic(str(made.write(folder)))


STUDIES = [str(55000000 + i) for i in range(20)]


def test_every_study_is_counted_by_what_both_labellers_say(tmp_path):
    changed = {55000000: -1.0, 55000002: 0.0, 55000001: 1.0, 55000003: -1.0}
    source = small_mimic(tmp_path, negbio=changed)
    found = label_agreement(source, configured().cohort, STUDIES)
    assert found["categories"] == ["positive", "negative", "uncertain", "absent"]
    assert found["counts"] == [[8, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 1, 8]]
    # observed .8; by chance (.5 * .45 + .5 * .4) = .425
    assert found["kappa"]["categories"]["kappa"] == pytest.approx((0.8 - 0.425) / 0.575)
    # positive or not: observed .85; by chance .5 * .45 + .5 * .55 = .5
    assert found["kappa"]["positive_or_not"]["kappa"] == pytest.approx(0.7)
    assert found["without_row"] == 0


def test_only_the_cohorts_studies_are_counted_and_missing_rows_are_told(tmp_path):
    source = small_mimic(tmp_path, dropped=[55000001])
    found = label_agreement(source, configured().cohort, STUDIES[:4])
    assert sum(map(sum, found["counts"])) == 3
    assert found["without_row"] == 1
    assert "without a row in one of the tables: 1" in describe_agreement(found)


def test_folders_without_a_readable_table_and_other_sources_have_none(tmp_path, phantom):
    source = small_mimic(tmp_path)
    assert label_agreement(ExternalSource(source), configured().cohort, STUDIES) is not None
    table = next(tmp_path.glob("*negbio*"))
    table.write_bytes(b"cut off")
    assert label_agreement(source, configured().cohort, STUDIES) is None
    table.unlink()
    assert label_agreement(source, configured().cohort, STUDIES) is None
    config = configured()
    assert label_agreement(phantom.source(config), config.cohort, []) is None


def test_a_prepared_cohort_keeps_the_counts_beside_it(tmp_path):
    source = small_mimic(tmp_path / "mimic", negbio={55000000: 0.0})
    storage = Storage.open(str(tmp_path / "storage"))
    config = configured(data={"require": []})
    key = cohort_key(source.fingerprint(), source.rules(config.cohort), (), config)
    prepare(
        storage,
        source,
        [(config, DataKeys(key, None, None, None))],
        fan_out=run_here,
        progress=quiet,
        driver="test",
        cohort_only=True,
    )
    found = read_agreement(storage.prepared / key)
    assert found["counts"][0] == [9, 1, 0, 0]
    assert json.dumps(found)  # no NaN
    assert "Cohen's kappa, positive or not: 0.9" in describe_agreement(found)


class TestRadiologists:
    """Labels of radiologists: a table of another version without patients."""

    @pytest.fixture
    def folder(self, tmp_path):
        made = MimicTables()
        made.add_background(20)
        made.write(tmp_path)
        rows = [
            f"{55000000 + i},{'1.0' if i < 3 else ''},{'' if i < 3 else '1.0'}" for i in range(6)
        ]
        header = "study_id,Airspace Opacity,No Finding"
        (tmp_path / "mimic-cxr-2.1.0-test-set-labeled.csv").write_text("\n".join([header, *rows]))
        return tmp_path

    def select(self, folder, label):
        config = configured(cohort={"labels": "radiologist", "label": label})
        return ExternalSource(open_mimic(str(folder))).select(config)[0]

    @pytest.mark.parametrize("label", ["Lung Opacity", "Airspace Opacity"])
    def test_studies_that_they_labelled_are_selected_by_their_labels(self, folder, label):
        frame = self.select(folder, label).set_index("record")
        assert frame["label"].to_dict() == {str(55000000 + i): int(i < 3) for i in range(6)}
        assert set(frame["part"]) == {"test"}

    def test_the_table_may_be_of_another_version_and_changes_no_other_cohort(self, folder):
        source, config = open_mimic(str(folder)), configured()
        before = source.fingerprint(), source.rules(config.cohort)
        next(folder.glob("*test-set*")).unlink()
        without = open_mimic(str(folder))
        assert (without.fingerprint(), without.rules(config.cohort)) == before

    def test_its_content_is_part_of_the_rules_of_its_own_cohorts(self, folder):
        rules = configured(cohort={"labels": "radiologist"}).cohort
        before = open_mimic(str(folder)).rules(rules)
        path = next(folder.glob("*test-set*"))
        path.write_text(path.read_text().replace("55000005,,1.0", "55000005,1.0,"))
        assert open_mimic(str(folder)).rules(rules) != before

    def test_a_folder_without_it_is_refused_by_its_name(self, folder):
        next(folder.glob("*test-set*")).unlink()
        with pytest.raises(InputError, match="test-set-labeled.csv"):
            self.select(folder, "Lung Opacity")

    def test_a_label_that_they_did_not_give_is_refused(self, folder):
        with pytest.raises(InputError, match="'Pneumonia' is not a label of mimic-cxr-2.1.0-test"):
            self.select(folder, "Pneumonia")
