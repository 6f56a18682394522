"""Tables are read again only where they were written whole."""

import pytest

from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.report import leaderboard
from cxr_ray.storage import Storage
from cxr_ray.sweep.study import Study
from cxr_ray.sweep.tabulation import tabulate


class Killed(Exception):
    pass


class FakeTables:
    killed = False

    def __init__(self, seen):
        self.seen = seen

    def write(self, folder):
        (folder / leaderboard.LEADERBOARD_FILE).write_text(str(self.seen))
        if self.killed:
            raise Killed


@pytest.fixture
def study(tmp_path, monkeypatch):
    storage = Storage.open(str(tmp_path))
    empty = {"members": [], "left_out": [], "axes": {}, "compare": {}}
    record = {**empty, "evaluation": EvaluationConfig().model_dump(mode="json")}
    study = Study("mine", "uuid", storage.studies, record)
    monkeypatch.setattr(
        leaderboard, "collect_tables", lambda trials, record, *_: FakeTables(record["axes"])
    )
    monkeypatch.setattr(leaderboard, "read_tables", lambda folder: "read")
    return storage, study


def test_tables_that_are_there_are_read_and_those_of_another_grid_are_gathered(study):
    storage, mine = study
    assert tabulate(storage, mine).seen == {}
    assert tabulate(storage, mine) == "read"
    mine.record["axes"] = {"loss": ["bce"]}
    assert tabulate(storage, mine).seen == {"loss": ["bce"]}


def test_tables_that_a_kill_left_half_replaced_are_not_read_as_the_former_ones(study, monkeypatch):
    storage, mine = study
    tabulate(storage, mine)
    mine.record["axes"] = {"loss": ["bce"]}
    monkeypatch.setattr(FakeTables, "killed", True)
    with pytest.raises(Killed):
        tabulate(storage, mine)
    monkeypatch.undo()
    mine.record["axes"] = {}
    monkeypatch.setattr(leaderboard, "read_tables", lambda folder: pytest.fail("read half"))
    monkeypatch.setattr(
        leaderboard, "collect_tables", lambda trials, record, *_: FakeTables(record["axes"])
    )
    assert tabulate(storage, mine).seen == {}
