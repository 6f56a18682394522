"""MLflow as a projection of the trial folders: one parent run a study, one child a trial.

Runs are found by their tags, which are set inside the call that creates them, so that a driver
killed at any moment leaves no duplicate. What a child was logged from is a tag of its own: a
trial that is logged already costs one comparison.
"""

import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_ray.config.identity import digest
from cxr_ray.config.layers import flat_parameters
from cxr_ray.config.schema import EvaluationConfig
from cxr_ray.report.external import external_folders, score_external
from cxr_ray.report.scoring import FIGURES_FOLDER, score_folder, scoring_recipe
from cxr_ray.report.trial_folder import (
    PREDICTIONS_FILE,
    read_history,
    read_result,
    trained_config,
)

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run

EPOCH_METRICS = {
    "train_loss": "train/loss",
    "lr": "train/lr",
    "val_loss": "val/loss",
    "val_auroc": "val/auroc",
    "val_accuracy": "val/accuracy",
    "val_full_auroc": "val_full/auroc",
    "val_average_precision": "val_full/average_precision",
}
_TEST_PREFIX = {"own": "test", "full": "test_full"}
# A call takes 1,000 entries in all, and 100 parameters of them.
_BATCH = 800
_PARAMETERS_BATCH = 100


def import_mlflow() -> None:
    """Import mlflow whole, before another thread (Ray Tune's start) meets half of it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("alembic", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import mlflow.tracking  # noqa: F401


def make_tables(uri: str) -> None:
    """Make MLflow's tables in a new database."""
    import_mlflow()
    from mlflow.tracking import MlflowClient

    MlflowClient(uri).search_experiments(max_results=1)


class Tracker:
    """Logs one study; every call is idempotent and may be repeated by a later run."""

    def __init__(self, uri: str, artifacts: Path | None) -> None:
        """Connect to the tracking server or database at ``uri``.

        Parameters
        ----------
        artifacts
            Where a new MLflow experiment puts its artifacts, in the storage, or None for the
            server's own place. Predictions are logged in the former case only.
        """
        import_mlflow()
        from mlflow.tracking import MlflowClient

        self._client: MlflowClient = MlflowClient(uri)
        self._artifacts = artifacts
        self._children: dict[str, Run] = {}
        # What each child that is whole was logged from, its tag as it is now.
        self._logged: dict[str, str] = {}
        self._experiment = self._parent = ""
        self._study: Mapping[str, Any] = {}

    def start(self, study: Mapping[str, Any]) -> None:
        """Find or create the study's parent run and read its children.

        Parameters
        ----------
        study
            The content of ``study.json``.
        """
        from mlflow.entities import ViewType

        self._study, name = study, study["name"]
        experiment = self._client.get_experiment_by_name(name)
        if self._artifacts is not None:
            # Predictions lie in here, as in the trials' folders.
            self._artifacts.mkdir(mode=0o700, exist_ok=True)
        if experiment is None:
            place = None if self._artifacts is None else (self._artifacts / name).as_uri()
            self._experiment = self._client.create_experiment(name, artifact_location=place)
        else:
            self._experiment = experiment.experiment_id
        found: list[Run] = []
        token = None
        while True:
            page = self._client.search_runs(
                [self._experiment],
                f"tags.study_uuid = '{study['uuid']}'",
                ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            found += page
            token = page.token
            if not token:
                break
        parents = [run for run in found if "experiment_id" not in run.data.tags]
        self._children = {
            run.data.tags["experiment_id"]: run for run in found if "experiment_id" in run.data.tags
        }
        self._logged = {
            identity: run.data.tags["logged"]
            for identity, run in self._children.items()
            if "logged" in run.data.tags and run.info.status != "RUNNING"
        }
        tags = {
            "study": name,
            "study_uuid": study["uuid"],
            "data_key": study["data_key"],
            "git_commit": study["git_commit"] or "unknown",
            "profile": study["profile"],
            "data": study["data"].partition(":")[0],
        }
        if parents:
            # Its commit stays the first one's; each child has the commit that trained it.
            self._parent = parents[0].info.run_id
        else:
            self._parent = self._client.create_run(
                self._experiment, tags=tags, run_name=name
            ).info.run_id
        self._client.update_run(self._parent, status="RUNNING")

    def log_trial(self, member: Mapping[str, Any], folder: Path) -> None:
        """Log a finished trial as a child: parameters, curves, test figures and pictures."""
        from mlflow.entities import Metric

        result = read_result(folder)
        evaluation = EvaluationConfig.model_validate(self._study["evaluation"])
        tests = external_folders(folder)
        # A trial trained again, scored by another recipe or tested elsewhere is logged anew.
        names = sorted(test.name for test in tests)
        made_by = [result["attempt"], scoring_recipe(folder, evaluation), *names]
        recipe = json.dumps(made_by, sort_keys=True)
        identity = member["experiment_id"]
        if self._logged.get(identity) == recipe:
            return
        ended = int(1000 * result["finished_at"])
        began = ended - int(1000 * result["wall_seconds"])
        tags = {
            "attempt": result["attempt"],
            "git_commit": result["versions"]["git_commit"] or "unknown",
            "logged": recipe,
        }
        run = self._child(member, tags, began)
        if run.data.tags.get("attempt", result["attempt"]) != result["attempt"]:
            # Its parameters cannot be changed, and its curves are another training's.
            self._client.delete_run(run.info.run_id)
            del self._children[identity]
            run = self._child(member, tags, began)
        config = trained_config(folder)
        final = _final(score_folder(folder, evaluation), result)
        final |= _external({test.name: score_external(test, evaluation) for test in tests})
        run_id, when = run.info.run_id, run.info.start_time
        for figure in sorted((folder / FIGURES_FOLDER).glob("*.png")):
            self._client.log_artifact(run_id, str(figure), FIGURES_FOLDER)
        self._client.log_artifact(run_id, str(folder / "config.yaml"))
        if self._artifacts is not None:
            self._client.log_artifact(run_id, str(folder / PREDICTIONS_FILE))
        for tag in {"reason", "status"} & set(run.data.tags):
            self._client.delete_tag(run_id, tag)
            del run.data.tags[tag]
        history = read_history(folder)
        if "fits" not in result:
            final |= _at_best_epoch(history, config.train.monitor)
        metrics = _curves(history, when)
        metrics += [Metric(key, value, when, 0) for key, value in final.items()]
        self._log(run, flat_parameters(config), metrics, tags)
        self._client.set_terminated(run_id, "FINISHED", end_time=ended)
        self._logged[identity] = recipe

    def log_ended(self, member: Mapping[str, Any], how: Mapping[str, Any]) -> None:
        """Log a trial that failed or was pruned: its reason, and what it had come to.

        Parameters
        ----------
        how
            ``status``, ``reason`` and, where they are known, ``parameters`` and ``history``.
        """
        from mlflow.entities import Metric

        identity, recipe = member["experiment_id"], digest(json.dumps(how, sort_keys=True))
        if self._logged.get(identity) == recipe:
            return
        tags = {"status": how["status"], "reason": how["reason"], "logged": recipe}
        run = self._child(member, tags)
        parameters, history = how.get("parameters", {}), how.get("history", ())
        when, best = run.info.start_time, _at_best_epoch(history, parameters.get("train.monitor"))
        metrics = _curves(history, when)
        metrics += [Metric(key, value, when, 0) for key, value in best.items()]
        self._log(run, parameters, metrics, tags)
        status = "KILLED" if how["status"] == "pruned" else "FAILED"
        self._client.set_terminated(run.info.run_id, status)
        self._logged[identity] = recipe

    def _log(
        self,
        run: "Run",
        parameters: Mapping[str, Any],
        metrics: "list[Metric]",
        tags: Mapping[str, str],
    ) -> None:
        """Log what a run has come to, the tags last; in one call where that many go into one.

        What the run has is left out: parameters cannot be changed, and a new run was made with its
        tags. It is not taken for whole before it is terminated.
        """
        from mlflow.entities import Param, RunTag

        run_id = run.info.run_id
        params = [Param(k, str(v)) for k, v in parameters.items() if k not in run.data.params]
        for start in range(_PARAMETERS_BATCH, len(params), _PARAMETERS_BATCH):
            self._client.log_batch(run_id, params=params[start : start + _PARAMETERS_BATCH])
        for start in range(_BATCH, len(metrics), _BATCH):
            self._client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
        told = [RunTag(k, v) for k, v in tags.items() if run.data.tags.get(k) != v]
        self._client.log_batch(run_id, metrics[:_BATCH], params[:_PARAMETERS_BATCH], told)
        run.data.tags.update(tags)

    def finish(self, study: Mapping[str, Any], artifacts: list[Path], *, complete: bool) -> None:
        """Log the study's tables on the parent and close it.

        Children that an edited grid no longer holds are tagged ``member=false``.
        """
        held = {member["experiment_id"] for member in study["members"]}
        for identity, run in self._children.items():
            value = str(identity in held).lower()
            if run.data.tags.get("member") != value:
                self._client.set_tag(run.info.run_id, "member", value)
        for path in artifacts:
            self._client.log_artifact(self._parent, str(path))
        note = f"{study['title']} The answer is in the artifact report.html."
        self._client.set_tag(self._parent, "mlflow.note.content", note)
        self._client.set_terminated(self._parent, "FINISHED" if complete else "FAILED")

    def _child(
        self,
        member: Mapping[str, Any],
        told: Mapping[str, str],
        began: int | None = None,
    ) -> "Run":
        """Return a member's run; a new one is made with what is ``told`` of its end."""
        identity = member["experiment_id"]
        if identity not in self._children:
            tags = {
                **told,
                "mlflow.parentRunId": self._parent,
                "study": self._study["name"],
                "study_uuid": self._study["uuid"],
                "experiment_id": identity,
                "member": "true",
            }
            tags |= {name: str(member[name]) for name in ("modality", "dataset", "loss", "seed")}
            tags |= {axis: str(level) for axis, level in member["further"].items()}
            self._children[identity] = self._client.create_run(
                self._experiment, start_time=began, tags=tags, run_name=member["name"]
            )
        return self._children[identity]


def _curves(history: Sequence[Mapping[str, Any]], when: int) -> "list[Metric]":
    from mlflow.entities import Metric

    return [
        Metric(EPOCH_METRICS[key], value, when, int(row["epoch"]))
        for row in history
        for key, value in row.items()
        if key in EPOCH_METRICS
    ]


def _at_best_epoch(history: Sequence[Mapping[str, Any]], monitor: str | None) -> dict[str, float]:
    """Name the figures of the epoch that a trial would deliver: ``best/…``.

    MLflow's list of runs shows the last value of a curve, by which trials are not ranked.
    """
    if not history or monitor is None or monitor not in history[0]:
        return {}
    best = (min if monitor == "val_loss" else max)(history, key=lambda row: float(row[monitor]))
    return {
        f"best/{EPOCH_METRICS[key]}": value
        for key, value in best.items()
        if key in EPOCH_METRICS and key.startswith("val_")
    }


def _final(scores: Mapping[str, Any], result: Mapping[str, Any]) -> dict[str, float]:
    """Name a trial's final figures: ``test/…``, ``test_full/…`` and ``sensitivity/…``.

    Of the intervals only AUROC's is logged; the others are in the leaderboard.
    """
    found = {
        f"{_TEST_PREFIX[test_set]}/{name}": value
        for test_set, figures in scores["test_sets"].items()
        for name, value in _logged(figures).items()
    }
    for row in scores["sensitivity"]:
        name = f"sensitivity/{row['perturbation']}/{row['metric']}"
        found[name] = row["perturbed"]
        found[f"{name}_drop"] = row["drop"]
        if row["p_value"] is not None:
            found[f"{name}_p_value"] = row["p_value"]
    for name in ("train_accuracy", "best_epoch", "epochs", "train_seconds"):
        found[name] = result[name]
    found["val_accuracy"] = scores["val_accuracy"]
    return found


def _external(scores: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Name the figures of external tests: ``external_<name>/…``."""
    return {
        f"external_{test}/{name}": value
        for test, found in scores.items()
        for name, value in _logged(found["figures"]).items()
    }


def _logged(figures: Mapping[str, Any]) -> dict[str, float]:
    """Leave out what is no number, and all intervals but AUROC's."""
    return {
        name: value
        for name, value in figures.items()
        if isinstance(value, int | float)
        and (not name.endswith(("_low", "_high")) or name in {"auroc_low", "auroc_high"})
    }
