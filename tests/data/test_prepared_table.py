"""A table prepared in pieces: what tasks are given, and that packs do not depend on the pieces."""

import csv
import io
import pickle

import numpy as np
import pytest
from prepared_phantom import quiet, tiny_config
from small_sets import jpeg_bytes

from cxr_ray.config.identity import cohort_key, data_keys
from cxr_ray.data import prepare as preparation
from cxr_ray.data import text_pack
from cxr_ray.data.fan_out import run_here
from cxr_ray.data.prepared import REPORTS_FOLDER, read_cohort
from cxr_ray.data.sources import open_source, table_rows
from cxr_ray.data.tokenization import train_wordpiece, trained_tokenize
from cxr_ray.storage import Storage

RECIPE = """csv: table.csv
id: key
patient: key
image: file
text: {findings: seen, impression: meant}
label: {column: ill, positive: ["1"], negative: ["0"]}
"""
NUMBER = 60


@pytest.fixture
def rows(tmp_path):
    """Rows in no order, with line breaks, quotes, letters beyond ASCII and blank texts."""
    (tmp_path / "film.jpg").write_bytes(jpeg_bytes())
    found = []
    for number in np.random.default_rng(0).permutation(NUMBER).tolist():
        (tmp_path / f"{number}.jpg").hardlink_to(tmp_path / "film.jpg")
        seen = f'Lungs "clear",\nno œdema {number % 7}.' if number % 9 else ""
        meant = f"Pneumonia {number} is likely." if number % 5 else " "
        found.append([f"k{number:02d}", f"{number}.jpg", seen, meant, str(int(number % 3 == 0))])
    with (tmp_path / "table.csv").open("w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([["key", "file", "seen", "meant", "ill"], *found])
    (tmp_path / "own.yaml").write_text(RECIPE)
    return found


def prepared(tmp_path, storage, fan_out=run_here):
    """Prepare the table into a storage; returns the cohort's folder and the data's keys."""
    place = Storage.open(str(tmp_path / storage))
    config = tiny_config(**{"data.max_bad_share": 0, "data.require": "image"})
    source = open_source(f"table:{tmp_path / 'own.yaml'}", config, place.prepared)
    required = source.required(config.data)
    cohort = cohort_key(source.fingerprint(), source.rules(config.cohort), required, config)
    keys = data_keys(cohort, config)
    preparation.prepare(
        place, source, [(config, keys)], fan_out=fan_out, progress=quiet, driver="test"
    )
    return place.prepared / cohort, keys, config


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*.*"))
        if path.suffix in (".npy", ".parquet") or path.name == "tokenizer.json"
    }


def test_packs_hold_what_the_whole_table_at_once_would_give(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(table_rows, "PIECE", 7)
    monkeypatch.setattr(text_pack, "CHUNK", 11)
    folder, keys, config = prepared(tmp_path, "pieces")
    wanted = {}
    for key, _, seen, meant, _ in rows:
        sections = {"FINDINGS": seen.strip(), "IMPRESSION": meant.strip()}
        wanted[key] = "\n\n".join(f"{name}: {text}" for name, text in sections.items() if text)
    cohort = read_cohort(folder)
    texts = [wanted[record] for record in cohort["record"]]
    assert cohort["record"].tolist() == sorted(wanted)
    assert text_pack.read_column(folder / REPORTS_FOLDER, "text") == texts

    trained = tmp_path / "trained"
    training = [t for t, part in zip(texts, cohort["part"], strict=True) if part == "train"]
    train_wordpiece(training, config.text.vocabulary, trained)
    ids = trained_tokenize(trained, config.text.max_tokens)(texts)
    arrays = {
        "tokens": np.array([each for row in ids for each in row], np.int32),
        "offsets": np.cumsum([0, *map(len, ids)], dtype=np.int64),
        "empty": np.array([not text for text in texts]),
    }
    for name, array in arrays.items():
        whole = io.BytesIO()
        np.save(whole, array)
        assert (folder / f"text-{keys.text}" / f"{name}.npy").read_bytes() == whole.getvalue()


def test_the_size_of_pieces_changes_no_byte(rows, tmp_path, monkeypatch):
    folder, _, _ = prepared(tmp_path, "whole")
    monkeypatch.setattr(table_rows, "PIECE", 7)
    monkeypatch.setattr(preparation, "_ROWS", 7)
    pieces, _, _ = prepared(tmp_path, "pieces")
    assert contents(pieces) == contents(folder) != {}
    assert pieces.name == folder.name
    salted = ["record_id", "group"]
    one, other = (read_cohort(each).drop(columns=salted) for each in (folder, pieces))
    assert one.equals(other)


def test_a_task_is_given_its_own_reports_and_not_the_table(rows, tmp_path, monkeypatch):
    monkeypatch.setattr(text_pack, "CHUNK", 11)
    given, made = [], []

    def watched(function, arguments):
        for each in arguments:
            if function is text_pack.read_reports_chunk:
                made.append(each[2])
                _, reader, _, references = pickle.loads(pickle.dumps(each))
                assert set(reader.texts) == set(filter(None, references))
                given.extend(reader.texts)
            yield from run_here(function, [each])
            # the next chunk's are not there before this one is done
            assert function is not text_pack.read_reports_chunk or made[-1] == each[2]

    prepared(tmp_path, "storage", watched)
    assert sorted(given) == sorted(key for key, _, seen, meant, _ in rows if (seen + meant).strip())
    assert made == list(range(0, NUMBER, 11))
