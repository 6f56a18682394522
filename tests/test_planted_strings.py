"""The search for planted strings finds them in every kind of file that a run writes."""

import gzip
import io
import sqlite3
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image, PngImagePlugin
from planted_strings import MARK, STUDIES, SUBJECTS, find, leaks

WORD = f"{MARK}word"


def _parquet(word, folder):
    content = io.BytesIO()
    pd.DataFrame({"text": [word] * 3}).to_parquet(content, compression="zstd")
    return content.getvalue()


def _npz(word, folder):
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, ids=np.array([word, "other"]))
    return content.getvalue()


def _zip_in_zip(word, folder):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.gz", gzip.compress(word.encode()))
    return content.getvalue()


def _sqlite(word, folder):
    path = folder / "some.db"
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE notes (note)")
        # a page ends inside the word, wherever it lies
        database.execute("INSERT INTO notes VALUES (?)", ("-" * 3 + word * 2000,))
    database.close()
    return path.read_bytes()


def _safetensors(word, folder):
    from safetensors.numpy import save

    return save({"a": np.zeros(3)}, metadata={"note": word})


def _page(word, folder):
    import base64

    picture, note = io.BytesIO(), PngImagePlugin.PngInfo()
    note.add_text("note", word, zip=True)
    Image.new("L", (8, 8)).save(picture, "PNG", pnginfo=note)
    source = base64.b64encode(picture.getvalue()).decode()
    return f'<img src="data:image/png;base64,{source}">'.encode()


KINDS = {
    "plain": lambda word, folder: b"\x00\xff" + word.upper().encode() + b"\xfe",
    "utf-16": lambda word, folder: word.encode("utf-16-be"),
    "gzip": lambda word, folder: gzip.compress(word.encode()),
    "zip": _zip_in_zip,
    "parquet": _parquet,
    "npz": _npz,
    "sqlite": _sqlite,
    "safetensors": _safetensors,
    "picture": _page,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_planted_word_is_found_in_every_kind_of_file(kind, tmp_path):
    assert find(KINDS[kind](WORD, tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_other_words_are_not(kind, tmp_path):
    assert find(KINDS[kind]("plantedword", tmp_path)) is None


def test_planted_numbers_are_found_as_text_and_as_integers():
    for number in (SUBJECTS + 31, STUDIES + 87):
        assert find(f"files/p18/p{number}/x".encode())
        assert find(f"{number}.0,".encode())
        assert find(np.array([3, number]).tobytes())
        assert find(np.array([number], ">i8").tobytes())
    assert find(b"118726912 187269121") is None
    assert find(np.arange(SUBJECTS + 256, SUBJECTS + 400).tobytes()) is None


def test_names_of_files_and_folders_are_searched_too(tmp_path):
    (tmp_path / f"{WORD}.d").mkdir()
    (tmp_path / f"{WORD}.d" / "plain").write_text("nothing")
    assert len(leaks(tmp_path)) == 2
