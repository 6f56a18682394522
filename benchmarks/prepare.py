"""What preparation costs beside the arithmetic that it cannot avoid.

    python benchmarks/prepare.py

Images: records a second of a whole preparation, from a table to a written cohort, on a Ray that is
warm, over those of the same JPEG decode and resize and nothing else with every core busy. They are
64 generated radiographs of 2544x3056, each under several names. Text: reports a second and core of
the task that tokenises a chunk, on made-up reports in the proportions of the Indiana collection's.
"""

import argparse
import csv
import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import numpy as np
from bare import measure_decoding
from radiographs import write_radiographs
from rows import Row, machine, show
from sweeps import cores

from cxr_ray.config.identity import cohort_key, data_keys
from cxr_ray.config.layers import Layer, load_profile, resolve
from cxr_ray.data.fan_out import ray_tasks
from cxr_ray.data.image_pack import CHUNK
from cxr_ray.data.prepare import prepare
from cxr_ray.data.prepared import read_manifest
from cxr_ray.data.sources import open_source
from cxr_ray.data.sources.source import HeldReports
from cxr_ray.data.text_pack import View, read_reports_chunk, tokenize_chunk
from cxr_ray.data.tokenization import train_wordpiece
from cxr_ray.storage import Storage
from cxr_ray.sweep.runner import start_ray

FILMS, RECORDS, SIZE, ROUNDS = 64, 1024, 256, 2
OF_FLOOR = 0.85
RECIPE = """csv: {}.csv
id: record
patient: record
image: image
label: {{column: label, positive: ["1"], negative: ["0"]}}
"""
# 2,000 reports of the Indiana collection hold 90,437 words, 4,067 of them distinct.
REPORTS, WORDS, DISTINCT = 2000, 90_437, 4067
POOL = 4290  # words to draw from: not all of the rarest are drawn
VOCABULARY, MAX_TOKENS = 4000, 512
PER_CORE = 20_000


def measure(scratch: Path) -> list[Row]:
    """Measure images, then text."""
    return [_measure_images(scratch / "images"), _measure_text(scratch / "text")]


def _measure_images(folder: Path) -> Row:
    films = write_radiographs(folder / "films", FILMS)
    start_ray(None)
    few = CHUNK * cores()
    _prepare(_write_table(folder, films, few), few)  # the workers import what they need
    recipe = _write_table(folder, films, RECORDS)
    floors, ours = [], []
    for _ in range(ROUNDS):
        ours.append(RECORDS / _prepare(recipe, RECORDS))
        floors.append(cores() * FILMS / measure_decoding(films, SIZE))
    rate, floor = statistics.mean(ours), statistics.mean(floors)
    return Row(
        "prepare: images",
        f"images/s of prepare ({rate:.0f}) / of the same JPEG decode and resize in {cores()} "
        f"processes ({floor:.0f}), {RECORDS:,} of 2544x3056 to {SIZE} px",
        rate / floor,
        at_least=OF_FLOOR,
    )


def _write_table(folder: Path, films: list[Path], records: int) -> Path:
    """Write a table of records that each have a film under a name of its own."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    with (folder / f"{records}.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["record", "image", "label"])
        for number in range(records):
            path = images / f"{number:05d}.jpg"
            if not path.exists():
                os.link(films[number % len(films)], path)
            writer.writerow([f"r{number:05d}", f"images/{path.name}", number % 2])
    recipe = folder / f"{records}.yaml"
    recipe.write_text(RECIPE.format(records))
    return recipe


def _prepare(recipe: Path, records: int) -> float:
    """Prepare a table into a storage of its own; return the seconds."""
    fields = {"fusion.modalities": "image", "image.size": SIZE}
    with tempfile.TemporaryDirectory(dir=recipe.parent) as where:
        began = time.perf_counter()
        storage = Storage.open(where)
        config = resolve([load_profile("paper"), Layer("benchmark", fields)])
        source = open_source(f"table:{recipe}", config, storage.prepared)
        cohort = cohort_key(
            source.fingerprint(), source.rules(config.cohort), source.required(config.data), config
        )
        prepare(
            storage,
            source,
            [(config, data_keys(cohort, config))],
            fan_out=ray_tasks(storage),
            progress=lambda *_: None,
            driver=uuid.uuid4().hex,
        )
        seconds = time.perf_counter() - began
        assert read_manifest(storage, cohort)["records"] == records
    return seconds


def _measure_text(folder: Path) -> Row:
    """Time the task that tokenises a chunk of reports, in core-seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = make_reports(REPORTS, seed=0)
    names = [str(number) for number in range(len(texts))]
    held = HeldReports(dict(zip(names, texts, strict=True)))
    read_reports_chunk(folder, held, 0, list(names))
    (reports,) = folder.glob("reports-*.parquet")
    train_wordpiece(make_reports(REPORTS, seed=1), VOCABULARY, folder / "tokenizer")
    view = View(("full",), "none", MAX_TOKENS, "scratch")
    seconds = []
    for number in range(5):
        aside = folder / f"tokens-{number}"
        aside.mkdir()
        began = time.process_time()
        tokenize_chunk(reports, aside, view, folder / "tokenizer")
        seconds.append(time.process_time() - began)
    words = [text.split() for text in texts]
    return Row(
        "prepare: text",
        f"tokenising a chunk of {REPORTS:,} reports to a written file, made up of Zipf-distributed "
        f"words: {sum(map(len, words)):,}, {len(set().union(*words)):,} of them distinct, as "
        f"{WORDS:,} and {DISTINCT:,} in {REPORTS:,} of the Indiana collection",
        REPORTS / statistics.median(seconds[1:]),
        "reports/s and core",
        at_least=PER_CORE,
    )


def make_reports(count: int, seed: int) -> list[str]:
    """Make reports up of words whose frequency falls as their rank rises (Zipf)."""
    rng = np.random.default_rng(0)
    letters = np.array(list("etaoinshrdlucmfpgybvkw"))
    words = np.array(["".join(rng.choice(letters, rng.integers(2, 13))) for _ in range(POOL)])
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, POOL + 1)
    lengths = rng.poisson(WORDS / REPORTS, count)
    drawn = words[rng.choice(POOL, int(lengths.sum()), p=share / share.sum())]
    return [" ".join(each) for each in np.split(drawn, np.cumsum(lengths)[:-1])]


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        print(show(measure(Path(temporary))))
    print(machine())
