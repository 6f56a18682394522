"""One table of what people type and write wrongly, and what the scripts answer to it."""

import pytest
import yaml
from answers import (
    DRY,
    RECIPE,
    answer,
    argv,
    grid,
    profile,
    run,
    search,
    sets,
    space,
    study,
    sweep,
    table,
    written,
)

AXIS, FOCAL = "axes: {a: {x: {loss.kind: bce}}}\n", "\nbase: {loss.kind: focal}"
STUDY = {"name": "mine", "uuid": "0" * 32, "profile": "tiny", "data_key": "x", "members": []}
NEWER = {"name": "mine", "version": "99.0.0"}
MINE = "runs/studies/mine"
# "Billion laughs": each line is ten times the one before, in no circle.
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
FLOW_LAUGHS = "{" + ", ".join(LAUGHS.splitlines()) + "}"
MERGED_LAUGHS = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join([f'*{before}'] * 10)}]}}\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
HUGE = {
    f"a{i}": {f"l{j}": {field: low + j} for j in range(10)}
    for i, (field, low) in enumerate(
        {
            "train.batch": 1, "train.max_epochs": 1, "train.patience": 1, "image.features": 1,
            "text.features": 1, "evaluation.ece_bins": 2,
        }.items()
    )
}  # fmt: skip
CONFIG = {
    "unknown field": (sets("train.batc=3"), "train.batc … --set … did you mean train.batch?"),
    "unknown section": (sets("trian.lr=1"), "trian.lr … no config field … train.lr"),
    "a section": (sets("train=1"), "train (from --set) … section, not a field"),
    "text for a number": (sets("train.batch=many"), "train.batch … 'many' … valid integer"),
    "a share of a whole": (sets("train.batch=2.5"), "train.batch … 2.5 … integer"),
    "a list for a number": (sets("train.lr=[1, 2]"), "train.lr … [1, 2] … number"),
    "not a number": (sets("train.lr=.nan"), "train.lr … nan … finite number"),
    "alpha above 1": (
        profile("loss: {alpha: 1.5}"),
        "p.yaml … loss.alpha is 1.5 … less than or equal to 1",
    ),
    "alpha below 0": (
        profile("loss: {alpha: -0.1}"),
        "p.yaml … loss.alpha is -0.1 … greater than or equal to 0",
    ),
    "gamma below 0": (
        profile("loss: {gamma: -1}"),
        "p.yaml … loss.gamma is -1 … greater than or equal to 0",
    ),
    "unknown fusion": (sets("fusion.kind=gatd"), "fusion.kind is 'gatd' … 'gated'"),
    "unknown encoder": (sets("image.encoder=vit"), "image.encoder is 'vit' … 'resnet50'"),
    "unknown stage": (sets("image.freeze=layer9"), "image.freeze … layer9 … 'layer4'"),
    "shares over 1": (sets("data.split.shares=.7,.2,.2"), "data.split … 1.1, not 1"),
    "a fold": (sets("data.split.fold=1"), "data.split.fold … data.split.folds"),
    "no equals": (sets("train.lr"), "--set train.lr … key=value"),
    "no key": (sets("=3"), "--set =3 … key=value"),
    "twice": (sets("train.lr=1", "train.lr=2"), "--set train.lr … twice"),
    "of an axis": (
        sets("data.majority_share=.8"),
        "--set data.majority_share … axis dataset … paper12",
    ),
    "seed beside seeds": (sets("train.seed=3", "--seeds", "2"), "train.seed … --seeds"),
    "no profile": (sweep("--profile", "absent.yaml"), "--profile absent.yaml … demo, tiny, paper"),
    "broken profile": (profile("train: {lr: ["), "p.yaml … no valid YAML … line 1"),
    "profile of a list": (profile("- train\n"), "p.yaml … list … mapping"),
    "profile unknown": (profile("trane: {lr: 1}\n"), "trane.lr … p.yaml … did you mean train.lr"),
    "profile section": (profile("train: 3\n"), "train … p.yaml … section"),
    "profile of aliases": (profile(LAUGHS), "p.yaml … line 1 … more than 100,000 values … aliases"),
    "a value of aliases": (sets(f"text.sections={FLOW_LAUGHS}"), "text.sections … 100,000 values"),
    "folds": (sets("data.split.kind=kfold", "data.split.folds=1000000000"), "folds … 1000"),
    "profile name too long": (sweep("--profile", "p" * 3000), "the name is too long"),
    "profile folder": (sweep("--profile", "."), "--profile . … nor a YAML file"),
}
GRIDS = {
    "absent": (argv("--grid", "absent.yaml"), "--grid absent.yaml … paper12 … nor a YAML file"),
    "broken": (grid("axes: {a: [}"), "g.yaml … no valid YAML … line 1"),
    "no mapping": (grid("just words"), "g.yaml … str … mapping"),
    "empty": (grid(""), "g.yaml: axes … mapping with at least one"),
    "twice": (grid("axes: {}\naxes: {}\n"), "g.yaml … line 2 … axes is given twice"),
    "unknown key": (grid("axis: {}\n"), "g.yaml … unknown key axis … did you mean axes?"),
    "axis of a list": (grid("axes: {a: [1, 2]}"), "g.yaml: axis a … mapping … [1, 2]"),
    "level empty": (grid("axes: {a: {x: {}}}"), "g.yaml: level a=x … mapping"),
    "level unknown field": (
        grid("axes: {a: {x: {loss.knd: bce}}}"),
        "level a=x … loss.knd … did you mean loss.kind?",
    ),
    "level wrong value": (grid("axes: {a: {x: {loss.alpha: 2}}}"), "loss.alpha is 2 … level a=x"),
    "two axes": (
        grid("axes: {a: {x: {loss.kind: bce}}, b: {y: {loss.kind: focal}}}"),
        "level b=y … loss.kind … axis a sets already",
    ),
    "contradiction": (
        grid("axes: {a: {x: {text.width: 30}}, b: {y: {text.heads: 4}}}"),
        "30 … heads … 4",
    ),
    "combination": (
        grid(AXIS + "combinations: [{when: {b: x}, set: {train.lr: 1}}]"),
        "combination 1 … b is no axis … has a",
    ),
    "combinations number": (grid(AXIS + "combinations: 3"), "g.yaml: combinations … list … 3"),
    "compare": (grid(AXIS + "compare: {a: z}"), "compare … z is no level of axis a … has x"),
    "base number": (grid("base: 3\n" + AXIS), "g.yaml: base … mapping … 3"),
    "space unknown field": (
        space("parameters: {loss.gama: {float: [0, 1]}}"),
        "s.yaml … loss.gama … did you mean loss.gamma?",
    ),
    "space bounds": (
        space("parameters: {loss.alpha: {float: [0.5, 2]}}" + FOCAL),
        "loss.alpha … s.yaml … less than or equal to 1",
    ),
    "of aliases": (grid(f"{LAUGHS}axes: *h\n"), "g.yaml … more than 100,000 values"),
    "merged aliases": (grid(MERGED_LAUGHS), "g.yaml … more than 100,000 values"),
    "too large": (
        grid(yaml.safe_dump({"axes": HUGE})),
        "grid g … 1,000,000 … at most 100,000",
    ),
    "space of aliases": (space(LAUGHS), "s.yaml … more than 100,000 values"),
    "space none": (space("title: x\n"), "s.yaml … parameters"),
    "space sampler": (
        space("parameters: {train.lr: {float: [1e-4, 1e-3]}}\nsampler: tpee"),
        "s.yaml … sampler … tpee … tpe",
    ),
    "grid as space": (space("axes: {a: {x: {loss.kind: bce}}}"), "s.yaml … --grid"),
}
FLAGS = {
    "both": (
        argv("--grid", "paper12", "--search", "focal"),
        "--search … not allowed with … --grid",
    ),
    "neither": (argv("--dry-run"), "one of the arguments --grid --search is required"),
    "study slash": (sweep("--study", "a/b"), "--study 'a/b' … plain name"),
    "study dots": (sweep("--study", ".."), "--study '..' … plain name"),
    "study blank": (sweep("--study", ""), "--study '' … plain name"),
    "study spaces": (sweep("--study", "   "), "--study '   ' … plain name"),
    "study space around": (sweep("--study", " a"), "--study ' a' … spaces around"),
    "study bell": (sweep("--study", "a\x07"), "--study 'a\\x07' … control characters"),
    "study escape": (sweep("--study", "\x1b[31ma"), "control characters"),
    "study tab": (sweep("--study", "a\tb"), "control characters"),
    "study no unicode": (sweep("--study", "a\udcff"), "plain name"),
    "study long": (sweep("--study", "\U0001f600" * 100), "at most 120 characters"),
    "seeds 0": (sweep("--seeds", "0"), "--seeds 0 … at least 1"),
    "seeds below": (sweep("--seeds", "-2"), "--seeds -2 … at least 1"),
    "seeds text": (sweep("--seeds", "2.5"), "--seeds … '2.5' … int"),
    "seeds many": (sweep("--seeds", "1000000000"), "--seeds 1e+09 … at most 1,000"),
    "trials 0": (search("--trials", "0"), "--trials 0 … at least 1"),
    "trials many": (search("--trials", "1000000000"), "--trials 1e+09 … at most 100,000"),
    "keep many": (search("--keep", "1000000000"), "--keep 1e+09 … at most 100,000"),
    "workers 0": (sweep("--workers-per-trial", "0"), "--workers-per-trial 0 … at least 1"),
    "workers many": (sweep("--workers-per-trial", "1000000000"), "1e+09 … at most 10,000"),
    "cpus many": (sweep("--cpus-per-worker", "1000000000"), "1e+09 … at most 10,000"),
    "gpus many": (sweep("--gpus-per-worker", "inf"), "--gpus-per-worker inf … at most 10,000"),
    "concurrent many": (sweep("--max-concurrent", "1000000000"), "1e+09 … at most 10,000"),
    "concurrent below": (sweep("--max-concurrent", "-1"), "--max-concurrent -1 … at least 1"),
    "storage long": (sweep("--storage", "s" * 3000), "the name is too long"),
    "source": (sweep("--data", "mimc:x"), "--data … 'mimc' … phantom, mimic, openi, table"),
    "source no path": (sweep("--data", "openi"), "--data … openi needs a path"),
    "source absent": (sweep("--data", "openi:absent"), "absent"),
    "phantom variant": (sweep("--data", "phantom:leeky"), "phantom:leeky … phantom:leaky"),
    "reports": (sweep("--reports", "x"), "--reports … only mimic … phantom"),
    "demographics": (sweep("--demographics", "x"), "--demographics … only mimic"),
    "address": (run("--address", "127.0.0.1:1"), "--address 127.0.0.1:1"),
    "address no port": (run("--address", "nonsense"), "--address nonsense"),
    "budget": (search("--time-budget", "soon"), "--time-budget … 'soon' … 30m"),
    "budget 0": (search("--time-budget", "0m"), "--time-budget … '0m' … above 0"),
    "budget nan": (search("--time-budget", "nanm"), "--time-budget … 'nanm'"),
    "trials": (search("--trials", "-3"), "--trials -3 … at least 1"),
    "trials text": (search("--trials", "many"), "--trials … 'many' … int"),
    "trials of a grid": (sweep("--trials", "3"), "--trials … --search"),
    "budget of a grid": (sweep("--time-budget", "3m"), "--time-budget … --search"),
    "keep of a grid": (sweep("--keep", "3"), "--keep … --search"),
    "keep": (search("--keep", "-1"), "--keep -1 … at least 1"),
    "only axis": (sweep("--only", "colour=red"), "--only colour=red … no axis … modality"),
    "only level": (sweep("--only", "modality=audio"), "audio is no level … image"),
    "only no equals": (sweep("--only", "modality"), "--only modality … axis=level"),
    "mlflow": (sweep("--mlflow-uri", "ftp://x"), "--mlflow-uri ftp://x … sqlite"),
    "mlflow path": (sweep("--mlflow-uri", "./mlruns"), "--mlflow-uri ./mlruns … sqlite"),
    "workers": (sweep("--workers-per-trial", "-1"), "--workers-per-trial -1 … at least 1"),
    "cpus": (sweep("--cpus-per-worker", "0"), "--cpus-per-worker 0 … at least 1"),
    "gpus": (sweep("--gpus-per-worker", "-1"), "--gpus-per-worker -1 … at least 0"),
    "gpus nan": (sweep("--gpus-per-worker", "nan"), "--gpus-per-worker … nan"),
    "wait nan": (sweep("--wait-for-room", "nan"), "--wait-for-room … nan"),
    "concurrent": (sweep("--max-concurrent", "0"), "--max-concurrent 0 … at least 1"),
    "measure": (argv("--grid", "paper12", "--measure"), "--measure … --dry-run"),
    "unknown flag": (sweep("--grdi", "x"), "unrecognized … --grdi"),
    "storage a file": (
        written("runs", "", "--grid", "paper12", "--profile", "tiny"),
        "--storage runs … is a file where a folder should be",
    ),
    "storage below": (
        written("f", "", "--grid", "paper12", "--profile", "tiny", "--storage", "f/runs"),
        "--storage f/runs … is a file where a folder should be",
    ),
    "study damaged": (
        study('{"name": ', "--grid", "paper12", "--profile", "tiny", "--study", "mine"),
        "study.json … is no JSON",
    ),
    "study no mapping": (
        study("[1]", "--grid", "paper12", "--profile", "tiny", "--study", "mine"),
        "study.json",
    ),
    "study damaged dry": (study('{"name": ', *DRY, "--study", "mine"), "study.json … is no JSON"),
    "study newer": (study(NEWER, *DRY, "--study", "mine"), "study.json … 99.0.0"),
}
OTHERS = {
    "predict nothing": ("predict.py", argv("t"), "--image … --text … --table"),
    "predict both": (
        "predict.py",
        argv("t", "--table", "x.csv", "--image", "a.png"),
        "either … --image … --table",
    ),
    "predict out": ("predict.py", argv("t", "--text", "a b", "--out", "x.csv"), "--out … --table"),
    "predict no image": (
        "predict.py",
        argv("t", "--image", "a.png"),
        "--image a.png … no such file",
    ),
    "predict no text": ("predict.py", argv("t", "--text", "a.txt"), "--text a.txt … no such file"),
    "predict no trial": ("predict.py", argv("absent", "--text", "a b"), "absent … STORAGE/trials"),
    "predict not a trial": (
        "predict.py",
        written("d/x", "", "d", "--text", "a b"),
        "d: not a finished trial … STORAGE/trials",
    ),
    "predict no table": (
        "predict.py",
        argv("t", "--table", "x.csv"),
        "--table x.csv … No such file",
    ),
    "predict columns": (
        "predict.py",
        written("x.csv", "a,b\n1,2\n", "t", "--table", "x.csv"),
        "--table x.csv … columns a, b … image",
    ),
    "predict empty": (
        "predict.py",
        written("x.csv", "", "t", "--table", "x.csv"),
        "--table x.csv … CSV",
    ),
    "predict no rows": (
        "predict.py",
        written("x.csv", "text\n", "t", "--table", "x.csv"),
        "--table x.csv … no row",
    ),
    "predict twice": (
        "predict.py",
        written("x.csv", "record,text\n1,a\n1,b\n", "t", "--table", "x.csv"),
        "--table x.csv … '1' … twice",
    ),
    "predict damaged": (
        "predict.py",
        written("d/result.json", "{", "d", "--text", "a b"),
        "d … result.json",
    ),
    "export no trial": ("export.py", argv("absent", "out"), "absent: not a finished trial"),
    "export of a study": ("export.py", study(STUDY, MINE, "out"), f"{MINE}: not a finished trial"),
    "export damaged": (
        "export.py",
        written("d/result.json", "{", "d", "out"),
        "result.json is damaged",
    ),
    "export no out": ("export.py", argv("absent"), "required: OUT"),
    "evaluate absent": (
        "evaluate.py",
        argv("absent", "--data", "phantom"),
        "absent is no folder … STORAGE/studies",
    ),
    "evaluate no study": (
        "evaluate.py",
        argv(".", "--data", "phantom"),
        "study.json … STORAGE/studies",
    ),
    "evaluate no data": ("evaluate.py", argv("."), "required: --data"),
    "evaluate set": (
        "evaluate.py",
        study(STUDY, MINE, "--data", "phantom", "--set", "train.lr=1"),
        "--set train.lr … cohort.*",
    ),
    "evaluate none": (
        "evaluate.py",
        study(STUDY, MINE, "--data", "phantom"),
        f"{MINE} … no finished trial",
    ),
    "evaluate damaged": (
        "evaluate.py",
        study("{", MINE, "--data", "phantom"),
        "study.json … is no JSON",
    ),
    "evaluate list": ("evaluate.py", study("[]", MINE, "--data", "phantom"), "study.json"),
    "evaluate mlflow": (
        "evaluate.py",
        study(STUDY, MINE, "--data", "phantom", "--mlflow-uri", "ftp://x"),
        "--mlflow-uri ftp://x … sqlite",
    ),
    "report absent": ("report.py", argv("absent"), "absent … STORAGE/studies"),
    "report no study": ("report.py", argv("."), "study.json … STORAGE/studies"),
    "report damaged": ("report.py", study("{", MINE), "study.json … JSON"),
    "report list": ("report.py", study("[]", MINE), "study.json"),
    "report fields": ("report.py", study({}, MINE), "study.json"),
    "report newer": ("report.py", study(NEWER, MINE), "study.json … 99.0.0"),
    "report uri": ("report.py", argv("memory://x/y"), "memory://x/y … URI/studies/NAME"),
    "clean absent": (
        "clean.py",
        argv("--storage", "absent"),
        "--storage absent … prepared … studies",
    ),
    "clean file": ("clean.py", written("runs", ""), "--storage runs … is a file where"),
    "clean bucket": ("clean.py", argv("--storage", "s3://b"), "--storage s3://b … only folders"),
    "clean also": ("clean.py", argv("--also", "everything"), "--also … 'everything' … 'packs'"),
    "clean damaged": ("clean.py", study("{"), "study.json"),
    "clean list": ("clean.py", study("[]"), "study.json"),
}
for _script in ("prepare.py", "audit.py"):
    OTHERS |= {
        f"{_script} recipe": (_script, argv("--data", "table:absent.yaml"), "absent.yaml"),
        f"{_script} csv": (_script, table(None), "a.csv"),
        f"{_script} key": (
            _script,
            table("", recipe=RECIPE + "lable: 3\n"),
            "t.yaml … 'lable' … did you mean 'label'?",
        ),
        f"{_script} storage": (_script, written("runs", ""), "--storage runs … is a file where"),
        f"{_script} profile": (
            _script,
            argv("--profile", "papr"),
            "--profile papr … did you mean paper?",
        ),
        f"{_script} set": (
            _script,
            argv("--set", "cohort.vew=PA"),
            "cohort.vew … did you mean cohort.view?",
        ),
    }
# Without --cohort-only, which audit.py does not have, Ray would start before the CSV is read.
OTHERS |= {
    "prepare column": ("prepare.py", table("who,ill\n1,1\n", "--cohort-only"), "a.csv … report"),
    "prepare empty csv": ("prepare.py", table("", "--cohort-only"), "a.csv"),
}
CASES = [
    pytest.param(script, build, words, id=name.replace(" ", "-"))
    for script, build, words, name in [
        *(("sweep.py", *case, f"config {name}") for name, case in CONFIG.items()),
        *(("sweep.py", *case, f"grid {name}") for name, case in GRIDS.items()),
        *(("sweep.py", *case, name) for name, case in FLAGS.items()),
        *((*case, name) for name, case in OTHERS.items()),
    ]
]


@pytest.mark.parametrize(("script", "build", "words"), CASES)
def test_bad_input_is_answered_by_what_was_found_and_what_would_be_right(
    script, build, words, tmp_path, monkeypatch
):
    code, said = answer(script, build(tmp_path), tmp_path, monkeypatch)
    assert code == 2, said
    assert "Traceback" not in said
    assert [word for word in words.split(" … ") if word not in said] == [], said
