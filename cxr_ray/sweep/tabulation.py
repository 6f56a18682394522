"""A study's tables: gathered, or read again where nothing that they rest on has changed."""

import contextlib
from typing import TYPE_CHECKING

from cxr_ray.config.identity import EVALUATION_VERSION, digest
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.errors import InputError
from cxr_ray.storage import Storage, write_whole
from cxr_ray.sweep.study import Study

if TYPE_CHECKING:
    from cxr_ray.report.leaderboard import StudyTables

TABLES_KEY_FILE = ".tables_key"


def tabulate(storage: Storage, study: Study) -> "StudyTables":
    """Gather the study's tables, or read them where they lie and are of these very trials."""
    from cxr_ray.report.external import external_tests
    from cxr_ray.report.leaderboard import LEADERBOARD_FILE, collect_tables, read_tables
    from cxr_ray.report.trial_folder import read_result

    done = study.done(storage)
    external = external_tests(storage.trials, done)
    key = digest(
        {
            "members": study.record["members"],
            "left_out": study.record["left_out"],
            "axes": study.record["axes"],
            "compare": study.record["compare"],
            "done": [read_result(storage.trials / identity)["attempt"] for identity in done],
            "untested": [identity for identity in done if not storage.is_finished(identity)],
            "ended": study.ended(),
            "version": EVALUATION_VERSION,
            "evaluation": study.record["evaluation"],
            **({"external": external} if external else {}),
        }
    )
    path = study.folder / TABLES_KEY_FILE
    if path.exists() and path.read_text() == key and (study.folder / LEADERBOARD_FILE).exists():
        with contextlib.suppress(InputError):  # damaged ones are gathered again
            return read_tables(study.folder)
    config = EvaluationConfig.model_validate(study.record["evaluation"])
    tables = collect_tables(storage.trials, study.record, study.ended(), config)
    path.unlink(missing_ok=True)  # of other tables, which may be half replaced from here on
    tables.write(study.folder)
    write_whole(path, key)
    return tables
