"""Raw inputs in the shape of a hospital's export: JPEGs, a CSV, and the YAML that explains it.

Pixels and texts are the phantom's, so that there is something to learn; films are scaled up to the
size asked for and given a grain of their own, since what a decoder does depends on it.
"""

import csv
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.sources.phantom_images import render
from cxr_ray.data.sources.phantom_tables import phantom_tables, report_texts

GRAIN, QUALITY = 3.0, 95
RECIPE = """csv: table.csv
id: record
patient: patient
image: image
text: text
label: {column: label, positive: ["1"], negative: ["0"]}
"""


@dataclass(frozen=True)
class RawInput:
    """A cohort to be made: one film and one report a patient."""

    name: str
    patients: int
    positive: int
    height: int
    width: int


SMALL_FILMS = RawInput("small films", 1200, 150, 384, 320)
LARGE_FILMS = RawInput("large films", 400, 50, 3056, 2544)


def write_inputs(wanted: RawInput, folder: Path) -> Path:
    """Write a cohort's files unless they are there, and return the path of its YAML."""
    recipe = folder / "table.yaml"
    if recipe.exists():
        return recipe
    folder.mkdir(parents=True, exist_ok=True)
    config = PhantomConfig(
        patients=wanted.patients, positive_share=wanted.positive / wanted.patients
    )
    drawn = phantom_tables(config)
    texts = report_texts(config, drawn)[: wanted.patients]
    films = render(
        drawn.image_signal[: wanted.patients], np.zeros(wanted.patients, dtype=bool), config.seed
    )
    names = [f"{number:05d}.jpg" for number in range(wanted.patients)]
    with ProcessPoolExecutor(2) as pool:
        jobs = [
            pool.submit(_write_film, film, folder / name, (wanted.width, wanted.height), number)
            for number, (film, name) in enumerate(zip(films, names, strict=True))
        ]
        for job in jobs:
            job.result()
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["record", "patient", "image", "text", "label"])
        for number, (name, text) in enumerate(zip(names, texts, strict=True)):
            writer.writerow([f"r{number}", f"p{number}", name, text, drawn.truth[number]])
    recipe.write_text(RECIPE)
    return recipe


def _write_film(film: np.ndarray, path: Path, size: tuple[int, int], seed: int) -> None:
    scaled = np.asarray(Image.fromarray(film).resize(size, Image.Resampling.BICUBIC), np.float32)
    rng = np.random.default_rng([seed, 7])
    scaled = scaled + GRAIN * rng.standard_normal(scaled.shape, dtype=np.float32)
    Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).save(path, "JPEG", quality=QUALITY)
