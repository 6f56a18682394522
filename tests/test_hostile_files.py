"""A file that a user can supply runs no code: held against the source, and tried."""

import ast
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from cxr_ray.config.layers import read_yaml
from cxr_ray.data.sources.table_recipe import read_recipe
from cxr_ray.errors import InputError
from cxr_ray.report.trial_folder import FEATURES_FILE, read_config, read_features
from cxr_ray.training.checkpoint import load_state

CHECKOUT = Path(__file__).parents[1]
SOURCES = sorted(
    path for part in ("cxr_ray", "launch", "examples") for path in (CHECKOUT / part).rglob("*.py")
)
UNPICKLERS = {"pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve", "jsonpickle"}
RUN_CODE = {
    *("eval", "exec", "compile", "__import__", "importlib.import_module", "runpy.run_path"),
    *("pd.read_pickle", "pandas.read_pickle", "pd.read_hdf", "pd.eval", "pd.io.pickle.read_pickle"),
    *("torch.hub.load", "torch.jit.load", "torch.package.PackageImporter"),
    *("yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "yaml.unsafe_load_all"),
    *("os.system", "os.popen"),
}
# What may stand there although the rules forbid it, and why.
EXCUSED = {
    (
        "cxr_ray/__init__.py",
        "importlib.import_module",
    ): "its own modules, by a fixed list",
    ("cxr_ray/models/image.py", "import pickle"): "its exception, to name a bad file",
    ("cxr_ray/models/text.py", "import pickle"): "its exception, to name a bad file",
    ("cxr_ray/training/checkpoint.py", "import pickle"): "its exception, to name a damaged file",
    ("cxr_ray/sweep/runner.py", "import cloudpickle"): "next",
    ("cxr_ray/sweep/runner.py", "cloudpickle.loads"): (
        "what Ray Tune wrote in this run's own temporary folder, which only its user can write to"
    ),
    ("cxr_ray/config/layers.py", "yaml.load"): "a safe loader that refuses keys given twice",
    ("cxr_ray/report/trial_folder.py", "yaml.load"): "the safe loader in C",
}


def breaches(source):
    """Name what a module does that could run code from a file."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names}
            yield from (f"import {name}" for name in sorted(names & UNPICKLERS))
        elif isinstance(node, ast.ImportFrom):
            module, names = node.module or "", {alias.name for alias in node.names}
            yield from (f"import {name}" for name in sorted(names & UNPICKLERS))
            if module.partition(".")[0] in UNPICKLERS:
                yield f"import {module}"
            if module in ("torch", "numpy", "yaml") and "load" in names:
                yield f"from {module} import load"
        elif isinstance(node, ast.Call):
            yield from _called(node)


def _called(node):
    name = ast.unparse(node.func)
    given = {each.arg: ast.unparse(each.value) for each in node.keywords}
    if name in RUN_CODE or name == "yaml.load" or name.partition(".")[0] in UNPICKLERS:
        yield name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield name
    # whoever is asked for weights by a name may be handed a pickle of them
    if name.endswith((".from_pretrained", ".get_state_dict")):
        if not name.startswith(("AutoTokenizer", "AutoConfig")):
            if given.get("weights_only") != "True":
                yield f"{name} without weights_only"
    if given.get("allow_pickle", "False") != "False":
        yield f"{name} with allow_pickle"
    if given.get("trust_remote_code", "False") != "False":
        yield f"{name} with trust_remote_code"
    if given.get("shell", "False") != "False":
        yield f"{name} with shell"
    if name.endswith("Environment") and given.get("autoescape") != "True":
        yield f"{name} without autoescape"


def test_no_source_reads_a_file_in_a_way_that_could_run_code():
    found = {
        (path.relative_to(CHECKOUT).as_posix(), what)
        for path in SOURCES
        for what in breaches(path.read_text())
    }
    assert found == set(EXCUSED)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("import pickle", "import pickle"),
        ("from joblib import load", "import joblib"),
        ("from numpy import load", "from numpy import load"),
        ("torch.load(path)", "torch.load"),
        ("torch.load(path, weights_only=chosen)", "torch.load"),
        ("np.load(path, allow_pickle=True)", "np.load with allow_pickle"),
        ("pd.read_pickle(path)", "pd.read_pickle"),
        ("yaml.load(text, yaml.Loader)", "yaml.load"),
        ("pickle.loads(data)", "pickle.loads"),
        ("AutoModel.from_pretrained(n)", "AutoModel.from_pretrained without weights_only"),
        ("jinja2.Environment(loader=x)", "jinja2.Environment without autoescape"),
        ("subprocess.run(text, shell=True)", "subprocess.run with shell"),
        ("eval(text)", "eval"),
    ],
)
def test_the_rules_know_each_way(source, what):
    assert what in list(breaches(source))


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """An object that must not be unpickled, and a look at whether it was."""
    sprung = tmp_path / "sprung"
    yield Trap(sprung)
    assert not sprung.exists()


def test_the_trap_springs_where_a_pickle_is_loaded(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


def test_features_that_hold_objects_are_not_unpickled(tmp_path, trap):
    np.savez(tmp_path / FEATURES_FILE, image=np.array([trap], object))
    with pytest.raises(InputError) as refused:
        read_features(tmp_path)
    assert "allow_pickle" in str(refused.value.__cause__)


def test_a_checkpoint_that_holds_objects_is_not_unpickled(tmp_path, trap):
    torch.save({"model": trap}, tmp_path / "last.pt")
    with pytest.raises(pickle.UnpicklingError):
        load_state(tmp_path / "last.pt")


def _yaml_config(folder, text):
    return read_yaml(text, "mine.yaml")


def _yaml_recipe(folder, text):
    (folder / "own.yaml").write_text(text)
    return read_recipe(folder / "own.yaml")


def _yaml_trial(folder, text):
    (folder / "config.yaml").write_text(text)
    return read_config(folder)


@pytest.mark.parametrize("read", [_yaml_config, _yaml_recipe, _yaml_trial])
def test_yaml_that_names_an_object_makes_none(read, tmp_path):
    sprung = tmp_path / "sprung"
    text = f"csv: !!python/object/apply:os.mkdir ['{sprung}']\n"
    with pytest.raises(InputError) as refused:
        read(tmp_path, text)
    assert "constructor" in f"{refused.value} {refused.value.__cause__}"
    assert not sprung.exists()
