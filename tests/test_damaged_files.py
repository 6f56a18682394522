"""Files of a storage that are cut off, exchanged or of another version, and what scripts answer."""

import json
import os
import pickle
import shutil
import warnings

import numpy as np
import pytest
from answers import answer
from local_checkpoints import write_bert, write_resnet
from prepared_phantom import PreparedPhantom, quiet, tiny_config
from safetensors.numpy import load_file, save_file

from cxr_ray.damage import read_whole_table
from cxr_ray.export.export import export_trial
from cxr_ray.report.page import write_page
from cxr_ray.storage import Storage
from cxr_ray.sweep.study import Study
from cxr_ray.sweep.tabulation import tabulate
from cxr_ray.training.trial import run_job
from cxr_ray.training.world import World

QUICK = {"train__max_epochs": 1, "evaluation__permutations": 19, "evaluation__bootstrap": 100}
STUDY = "runs/studies/mine"
SWEEP = ["--grid", "paper12", "--profile", "tiny", "--dry-run"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with a storage of one study of one model, and that model exported."""
    place = PreparedPhantom(Storage.open(str(tmp_path_factory.mktemp("whole") / "runs")))
    config = tiny_config(**QUICK)
    job = place.job(config)
    run_job(job, World(), quiet)
    storage = place.storage
    trial = storage.trials / job.experiment_id
    trial.rename(storage.trials / "t")
    os.symlink("t", trial)  # the cases name it by a short name
    member = {"experiment_id": job.experiment_id, "name": "multimodal-full-bce", "seed": 0}
    member |= {"modality": "multimodal", "dataset": "full", "loss": "bce", "further": {}}
    record = {
        "name": "mine", "uuid": "u", "title": "mine", "profile": "tiny", "grid": "mine",
        "axes": {"modality": ["multimodal"]}, "compare": {"modality": "multimodal"},
        "data": "phantom", "source": "phantom", "data_key": "d", "version": "0",
        "cohorts": [job.keys["cohort"]], "members": [member], "left_out": [],
        "evaluation": config.evaluation.model_dump(mode="json"), "git_commit": None,
        "command": "python launch/sweep.py",
    }  # fmt: skip
    study = Study("mine", "u", storage.studies / "mine", record)
    study.folder.mkdir()
    (study.folder / "study.json").write_text(json.dumps(record))
    write_page(storage, study.folder, record, tabulate(storage, study))
    (storage.prepared / job.keys["cohort"]).rename(storage.prepared / "c")
    os.symlink("c", storage.prepared / job.keys["cohort"])
    export_trial(storage, storage.trials / "t", storage.root.parent / "out", onnx=False)
    return storage.root.parent


@pytest.fixture
def folder(trained, tmp_path):
    shutil.copytree(trained, tmp_path, symlinks=True, dirs_exist_ok=True)
    return tmp_path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of(text):
    return lambda path: path.write_text(text)


def longer(path):
    path.write_text(path.read_text() + "later: {new: 1}\n")


def gone(path):
    path.unlink()


def a_folder(path):
    path.unlink()
    path.mkdir()


def without(*names):
    """Take names out of a JSON mapping, or columns out of a CSV by their heads."""

    def change(path):
        if path.suffix == ".json":
            content = json.loads(path.read_text())
            path.write_text(json.dumps({k: v for k, v in content.items() if k not in names}))
        else:
            head, rest = path.read_text().split("\n", 1)
            for name in names:
                head = head.replace(name, f"other_{name}")
            path.write_text(f"{head}\n{rest}")

    return change


def lacking_arrays(path):
    np.savez(path, image=np.zeros(3))


def lacking_tensors(path):
    state = load_file(path)
    state.popitem()
    save_file(state, path)


def another_model(path):
    save_file({"conv.weight": np.zeros((3, 3), np.float32)}, path)


def other_shapes(path):
    save_file({k: np.zeros((2, 2), np.float32) for k in load_file(path)}, path)


def pickled(path):
    path.write_bytes(pickle.dumps({"weights": [1, 2, 3]}))


REPORT, PREDICT = ("report.py", [STUDY]), ("predict.py", ["runs/trials/t", "--text", "fever"])
EXPORT = ("export.py", ["runs/trials/t", "new", "--no-onnx"])
OTHER = ["--data", "phantom", "--set", "phantom.seed=1", "data.max_bad_share=.05"]
EVALUATE = ("evaluate.py", ["runs/trials/t", *OTHER])
EXPORTED = ("predict.py", ["out", "--text", "fever"])
TRIAL, COHORT, BOARD = "runs/trials/t", "runs/prepared/c", f"{STUDY}/leaderboard.csv"
RESULT, WEIGHTS = f"{TRIAL}/result.json", f"{TRIAL}/model/model.safetensors"
FLOW, PREDICTIONS = f"{COHORT}/selection_flow.json", f"{TRIAL}/predictions.parquet"
HOW = "sweep's command"
CASES = [
    (REPORT, f"{COHORT}/manifest.json", cut, f"manifest.json is damaged … {HOW} prepares"),
    (REPORT, f"{COHORT}/manifest.json", of("[]"), f"holds list … {HOW} prepares"),
    (REPORT, f"{COHORT}/manifest.json", without("parts"), "lacks parts"),
    (REPORT, f"{COHORT}/manifest.json", of('{"prepare_version": 99}'), "newer version … 99"),
    (REPORT, FLOW, cut, f"selection_flow.json is damaged … {HOW} prepares"),
    (REPORT, FLOW, of('[{"rule": 1}]'), f"selection_flow.json is damaged … {HOW}"),
    (REPORT, FLOW, gone, "selection_flow.json cannot be read (No such file"),
    (REPORT, BOARD, cut, f"leaderboard.csv is damaged … {HOW}"),
    (REPORT, BOARD, of(""), f"leaderboard.csv is damaged … {HOW}"),
    (REPORT, BOARD, of("\0\0\n"), f"leaderboard.csv is damaged … {HOW}"),
    (REPORT, BOARD, without("status"), f"leaderboard.csv is damaged … {HOW}"),
    (REPORT, BOARD, a_folder, "holds no leaderboard.csv"),
    (REPORT, f"{STUDY}/comparisons.csv", cut, f"comparisons.csv is damaged … {HOW}"),
    (REPORT, f"{STUDY}/summary.csv", of("x\n1\n"), f"summary.csv is damaged … {HOW}"),
    (REPORT, f"{STUDY}/sensitivity.csv", cut, f"sensitivity.csv is damaged … {HOW}"),
    (REPORT, f"{STUDY}/net_benefit.csv", gone, f"holds no net_benefit.csv … {HOW}"),
    (REPORT, f"{STUDY}/study.json", without("members"), "study.json … lacks members"),
    (REPORT, RESULT, cut, f"result.json is damaged … {HOW} trains it again"),
    (REPORT, RESULT, of("{}"), "result.json is damaged (it lacks"),
    (REPORT, f"{TRIAL}/history.csv", cut, f"history.csv is damaged … {HOW}"),
    (REPORT, f"{TRIAL}/history.csv", of(""), f"history.csv is damaged … {HOW}"),
    (REPORT, PREDICTIONS, cut, f"predictions.parquet is damaged … {HOW}"),
    (PREDICT, PREDICTIONS, cut, f"predictions.parquet is damaged … {HOW}"),
    (PREDICT, PREDICTIONS, gone, f"predictions.parquet is damaged … {HOW}"),
    (PREDICT, RESULT, of("[]"), f"result.json is damaged … {HOW}"),
    (PREDICT, RESULT, without("keys"), "result.json is damaged (it lacks keys)"),
    (PREDICT, f"{TRIAL}/features.npz", cut, f"features.npz is damaged … {HOW}"),
    (PREDICT, f"{TRIAL}/features.npz", of("x"), f"features.npz is damaged … {HOW}"),
    (PREDICT, f"{TRIAL}/features.npz", pickled, f"features.npz is damaged … {HOW}"),
    (PREDICT, f"{TRIAL}/features.npz", lacking_arrays, "features.npz … lacks train_mean.image"),
    (PREDICT, f"{TRIAL}/config.yaml", cut, f"config.yaml is damaged … {HOW}"),
    (PREDICT, f"{TRIAL}/config.yaml", of("a: [\n"), f"config.yaml is damaged … {HOW}"),
    (PREDICT, f"{TRIAL}/config.yaml", longer, "config.yaml: later … version"),
    (PREDICT, WEIGHTS, cut, "model.safetensors cannot be read as safetensors"),
    (PREDICT, WEIGHTS, of(""), "model.safetensors cannot be read as safetensors"),
    (PREDICT, WEIGHTS, pickled, "model.safetensors cannot be read as safetensors"),
    (PREDICT, WEIGHTS, lacking_tensors, "model.safetensors: not the weights … lacks"),
    (PREDICT, WEIGHTS, another_model, "model.safetensors: not the weights … lacks"),
    (PREDICT, WEIGHTS, other_shapes, "model.safetensors: not the weights … other shapes"),
    (PREDICT, WEIGHTS, gone, "its weights were not kept"),
    (EXPORT, WEIGHTS, cut, "model.safetensors cannot be read as safetensors"),
    (EXPORT, WEIGHTS, lacking_tensors, "not the weights … lacks"),
    (EXPORT, WEIGHTS, pickled, "cannot be read as safetensors"),
    (EXPORT, PREDICTIONS, cut, f"predictions.parquet is damaged … {HOW}"),
    (EVALUATE, WEIGHTS, cut, "model.safetensors cannot be read as safetensors"),
    (EVALUATE, WEIGHTS, another_model, "not the weights … lacks"),
    (EVALUATE, WEIGHTS, pickled, "cannot be read as safetensors"),
    (EVALUATE, f"{TRIAL}/features.npz", cut, f"features.npz is damaged … {HOW}"),
    (EVALUATE, f"{COHORT}/cohort.csv", of("a,b\n1,2\n"), f"cohort.csv is damaged … {HOW}"),
    (EXPORTED, "out/model/model.safetensors", cut, "cannot be read as safetensors"),
    (EXPORTED, "out/model/config.json", cut, "config.json is damaged … launch/export.py"),
    (EXPORTED, "out/model/judging.json", without("train_mean"), "judging.json … train_mean"),
    (EXPORTED, "out/model/judging.json", of('{"train_mean": 3}'), "judging.json is damaged"),
    (EXPORTED, "out/model/tokenizer/tokenizer.json", cut, "tokenizer.json is damaged"),
    (("sweep.py", [*SWEEP, "--measure"]), "runs/prices.json", of("{"), "prices.json is damaged"),
]
NAMES = [f"{(s[0][:-3])}-{p.rpartition('/')[2]}-{n}" for n, (s, p, _, _) in enumerate(CASES)]


@pytest.mark.parametrize(("command", "path", "damage", "words"), CASES, ids=NAMES)
def test_a_damaged_file_is_named_with_what_to_do(command, path, damage, words, folder, monkeypatch):
    damage(folder / path)
    script, options = command
    code, said = answer(script, options, folder, monkeypatch)
    assert code == 2, said
    told = [line for line in said.strip().splitlines() if not line.startswith("[")]  # its progress
    assert "Traceback" not in said and len(told) <= 3
    assert [word for word in words.split(" … ") if word not in said] == [], said
    assert not (folder / "new").exists()


def test_a_repeated_sweep_gathers_damaged_tables_again(folder):
    storage = Storage.open(str(folder / "runs"))
    study = Study.read(folder / STUDY)
    before = (folder / BOARD).read_bytes()
    cut(folder / BOARD)
    tabulate(storage, study)
    assert (folder / BOARD).read_bytes() == before


def test_a_table_of_thousands_of_rows_is_read_without_a_warning(tmp_path):
    path, names = tmp_path / "leaderboard.csv", [f"column_{place}" for place in range(200)]
    tested, untested = (",".join([word] * len(names)) for word in ("bootstrap", ""))
    # of a search's trials few are tested: pandas reads 4,096 such rows at a time
    path.write_text("\n".join([",".join(names), *[tested] * 9, *[untested] * 9_000, ""]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = read_whole_table(path, names, skip_blank_lines=False)
    assert table["column_0"].notna().sum() == 9


def test_what_is_whole_is_answered(folder, monkeypatch):
    for script, options in (REPORT, PREDICT, EXPORTED):
        code, said = answer(script, options, folder, monkeypatch)
        assert code == 0, said


def damaged_bert(change, name="model.safetensors"):
    def build(folder):
        change(write_bert(folder / "bert") / name)
        return [*SWEEP, "--set", "text.encoder=bert"]

    return build


def damaged_resnet(change):
    def build(folder):
        change(write_resnet(folder / "r.pth", "resnet18"))
        return [*SWEEP, "--set", "image.encoder=resnet18", "image.weights=r.pth"]

    return build


ENCODERS = {
    "bert cut": (damaged_bert(cut), "text.encoder … model.safetensors: no whole safetensors"),
    "bert empty": (damaged_bert(of("")), "text.encoder … model.safetensors: no whole safetensors"),
    "bert pickle": (damaged_bert(pickled), "model.safetensors: no whole safetensors"),
    "bert gone": (damaged_bert(gone), "text.encoder"),
    "resnet cut": (damaged_resnet(cut), "image.weights … r.pth: no whole file of torch.save"),
    "resnet empty": (damaged_resnet(of("")), "image.weights … r.pth: no whole file"),
}


@pytest.mark.parametrize(("build", "words"), ENCODERS.values(), ids=ENCODERS)
def test_damaged_pretrained_weights_are_refused_before_anything_is_prepared(
    build, words, tmp_path, monkeypatch
):
    options = [each for each in build(tmp_path) if each != "--dry-run"]
    code, said = answer("sweep.py", options, tmp_path, monkeypatch)
    assert code == 2, said
    assert "Traceback" not in said
    assert [word for word in words.split(" … ") if word not in said] == [], said
    assert not list((tmp_path / "runs" / "prepared").glob("*/manifest.json"))
