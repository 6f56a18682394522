"""What a sweep does with folders that an earlier one left."""

from small_searches import FakeStudy

from cxr_ray.lease import acquire_lease
from cxr_ray.sweep.course import drop_leftovers


def test_what_a_kill_left_of_finished_trials_goes_and_the_checkpoints_of_others_stay(tmp_path):
    study = FakeStudy(tmp_path)
    search = study.search(trials=3)
    done, held, begun = (search.next() for _ in range(3))
    for member in (done, held):
        study.finish(member, [0.5])
    folders = [study.storage.running / member.trained_id for member in (done, held, begun)]
    for folder in folders:
        (folder / "attempt").mkdir(parents=True)
        (folder / "attempt" / "last.pt").write_bytes(b"")
    acquire_lease(folders[1], "another")  # adds the test part
    drop_leftovers(study.storage, "this")
    assert [folder.exists() for folder in folders] == [False, True, True]
