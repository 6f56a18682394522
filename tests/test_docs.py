"""Holds the pages against the code: commands, configs, examples and links."""

import ast
import importlib.util
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from page_blocks import PAGES, ROOT, code_blocks

from cxr_ray.config.layers import Layer, load_profile, parse_assignments, read_yaml, resolve
from cxr_ray.data.sources.table_recipe import read_recipe
from cxr_ray.sweep.grid import expand, find_study_file, load_grid, load_search

LINKING = [*PAGES, *(ROOT / name for name in ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
COMMAND = re.compile(r"(?:python )?launch/\w+\.py\s+\S")

OF_OTHER_TOOLS = {"--app-name", "--env-manager", "--strict"}  # of mlflow and pip-audit


def without_fences(page):
    """Return a page without its fenced blocks."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^\s*```.*?^\s*```$", "", text, flags=re.M | re.S)


def words_of(text):
    """Split shell text into commands, each a list of words; quoted commands are such too."""
    text = re.sub(r"<[^<>\n]+>", "PLACEHOLDER", text.replace("\\\n", " "))
    pending = ""
    for line in text.splitlines():
        pending = f"{pending} {line}"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        pending, command = "", []
        for word in [*words, ";"]:
            if word in ("&&", "|", ";"):
                yield command
                command = []
            elif " " in word and COMMAND.search(word):
                yield from words_of(word)
            else:
                command.append(word)
    assert not pending, f"{pending} has an open quotation"


def launch_commands():
    """Collect (place, script, options) of every command line of the launch scripts."""
    found = []
    for page in LINKING:
        if page.name == "CHANGELOG.md":  # it names options, not whole commands
            continue
        texts = [(b.place, b.text) for b in code_blocks(page) if b.language in ("", "sh")]
        spans = re.findall(r"`([^`]+)`", without_fences(page))
        texts += [(page.name, " ".join(s.split())) for s in spans if COMMAND.match(s)]
        for place, text in texts:
            if not COMMAND.search(text):
                continue
            for words in words_of(text):
                words = words[1:] if words[:1] == ["python"] else words
                if words and re.fullmatch(r"launch/\w+\.py", words[0]):
                    found.append((place, words[0], words[1:]))
    return found


COMMANDS = launch_commands()
BLOCKS = [block for page in LINKING for block in code_blocks(page)]


@pytest.fixture
def parser_of(monkeypatch):
    """Build a script's own parser."""
    monkeypatch.syspath_prepend(ROOT / "launch")

    def build(script):
        spec = importlib.util.spec_from_file_location(Path(script).stem, ROOT / script)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.build_parser()

    return build


@pytest.mark.parametrize(
    ("place", "script", "options"), COMMANDS, ids=[f"{c[0]} {c[1]}" for c in COMMANDS]
)
def test_every_command_of_the_pages_is_one_that_its_script_takes(
    parser_of, monkeypatch, capsys, place, script, options
):
    monkeypatch.chdir(ROOT)
    try:
        asked = vars(parser_of(script).parse_args(options))
    except SystemExit:
        pytest.fail(f"{place}: {capsys.readouterr().err}")
    for option, load in (("grid", load_grid), ("search", load_search)):
        name = asked.get(option)
        if name and not name.startswith(("NAME", "FILE", "runs/")):
            load(find_study_file(f"--{option}", name, ROOT / "search_spaces"))
    if recipe := re.match(r"table:(docs/.+?\.yaml)", str(asked.get("data"))):
        read_recipe(Path(recipe[1]))
    overrides = parse_assignments(asked.get("set") or [])
    resolve([load_profile(asked.get("profile") or "demo"), overrides])


def test_the_commands_of_every_kind_of_block_are_found():
    """A reader of pages that finds nothing would agree with everything."""
    places = {place.partition(":")[0] for place, _, _ in COMMANDS}
    assert {"README.md", "search.md", "your-own-data.md", "mimic.md", "cluster-cloud.md"} <= places
    assert {script for _, script, _ in COMMANDS} >= {
        f"launch/{name}.py" for name in ("sweep", "prepare", "evaluate", "predict", "audit")
    }


def test_every_option_that_the_pages_name_is_one_of_some_script(parser_of):
    known = {"--debug", *OF_OTHER_TOOLS}  # run_script adds the first
    for path in sorted((ROOT / "launch").glob("*.py")):
        if path.name != "terminal.py":
            known |= set(parser_of(f"launch/{path.name}")._option_string_actions)
    for page in LINKING:
        named = set(re.findall(r"`(--[a-z-]+)[^`]*`", without_fences(page)))
        assert not named - known, f"{page.name} names {named - known}"


YAML = [block for block in BLOCKS if block.is_yaml]


@pytest.mark.parametrize("block", YAML, ids=[block.place for block in YAML])
def test_every_yaml_of_the_pages_is_accepted(block, tmp_path):
    tree = yaml.safe_load(block.text)
    assert tree == read_yaml(block.text, block.place)
    path = tmp_path / "shown.yaml"
    path.write_text(block.text, encoding="utf-8")
    if "csv" in tree:
        read_recipe(path)
    elif "axes" in tree:
        assert expand(load_grid(path), load_profile("demo"), Layer("--set", {}))
    elif "parameters" in tree:
        load_search(path)
    else:
        resolve([load_profile(str(path))])


PYTHON = [block for block in BLOCKS if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON, ids=[block.place for block in PYTHON])
def test_every_python_block_finds_its_imports_and_runs_if_it_needs_no_file(
    block, tmp_path, monkeypatch
):
    tree = ast.parse(block.text)
    monkeypatch.chdir(tmp_path)
    if not isinstance(tree.body[0], (ast.Import, ast.ImportFrom)):  # a part of a module
        return
    if "Path(" in block.text:
        own = [each for each in tree.body if getattr(each, "module", "").startswith("cxr_ray")]
        tree = ast.Module(own, [])
    exec(compile(tree, block.place, "exec"), {"__name__": "shown"})


def test_the_fusion_shown_scores_in_numpy_what_its_module_does_in_torch():
    import torch

    shown = {}
    for block in code_blocks(ROOT / "docs" / "extending.md"):
        if "MaximumFusion(" in block.text or "def _maximum" in block.text:
            exec(block.text, shown)
    torch.manual_seed(0)
    module = shown["MaximumFusion"]((3, 5))
    image, text = torch.randn(40, 3), torch.randn(40, 5)
    weights = {name: value.detach().numpy() for name, value in module.named_parameters()}
    found = shown["_maximum"](weights).score(image.numpy(), text.numpy())
    wanted = module([image, text]).detach().numpy()
    assert wanted.shape == (40,)
    assert found == pytest.approx(wanted, abs=1e-5)


def test_the_metric_shown_counts_in_its_module_as_by_hand():
    from cxr_ray.evaluation import confusion

    (shown,) = [block for block in PYTHON if block.text.startswith("@property")]
    own = dict(vars(confusion))
    exec(shown.text, own)
    counts = [np.array([count, 0]) for count in (8, 2, 4, 12)]
    assert own["npv"].fget(confusion.Confusion(*counts)).tolist() == [0.75, 0.0]


def anchors(page):
    """List the anchors that a page's headings get."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", each.lower()).replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", LINKING, ids=lambda page: page.name)
def test_every_local_link_leads_somewhere(page):
    text = re.sub(r"`[^`]*`", "code", without_fences(page))
    for target in re.findall(r"\]\(([^()\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page.name} links to {target}"
        assert path.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(path), f"{page.name} links to {target}"


def test_every_page_is_listed_in_the_documentations_contents():
    contents = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    unlisted = [p.name for p in PAGES if p.name != "README.md" and f"({p.name})" not in contents]
    assert not unlisted


def test_the_ci_runs_the_repositorys_own_script():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert ".ci/run" in [step.get("run") for step in steps]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
