"""Random input for whatever reads what other people wrote: `pytest -m fuzz`, minutes.

Each reader may give a result that keeps its promises, or refuse in its own way; nothing else.
What was found so is a case in `tests/data/test_bad_records.py` or beside the reader's tests.
"""

import io
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml
from fuzzing import fuzz
from hypothesis import strategies as st
from PIL import Image

from cxr_ray.config.layers import Layer, field_names, flatten, parse_assignments, read_yaml, resolve
from cxr_ray.config.schema import ExperimentConfig
from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.image_pack import UNREADABLE, decode_image
from cxr_ray.data.masking import MASKS, mask_text
from cxr_ray.data.reports import compose_report, parse_report, view_text
from cxr_ray.data.sources import open_source
from cxr_ray.data.sources.source import read_text
from cxr_ray.errors import InputError

pytestmark = pytest.mark.fuzz

REPORT_PIECES = st.sampled_from(
    [
        *("FINAL REPORT", "WET READ:", "WET READ VERSION #1", "\n", "\n\n", " \t\n \n", "_" * 12),
        *("IMPRESSION:", "INDICATION: ", "FINDINGS AND IMPRESSION:", "History:", "TECHNIQUE :"),
        *("REASON FOR THE EXAM:", "A" * 80 + ":", "ABC " * 30, "12:30", "XXXX", "___", "\x00"),
        *("no evidence of pneumonia.", "No acute process", "infectious  process", "\u200f\u05d0"),
        *("\U0001f600", "\x85", "\u2028", "\x0b", "\x1c", "\ufeff", "İnfectious", "pneumon\u0131a"),
    ]
)
REPORTS = st.one_of(
    st.lists(st.one_of(REPORT_PIECES, st.text(max_size=20)), max_size=60).map("".join),
    st.lists(st.one_of(REPORT_PIECES, st.text(max_size=20)), max_size=40).map("\n".join),
    st.tuples(REPORT_PIECES, st.integers(1, 3000)).map(lambda pair: pair[0] * pair[1]),
    st.binary(max_size=400).map(read_text),
)


def check_report(text):
    report = parse_report(text)
    assert report.full == text
    for name, section in report.sections.items():
        assert section.strip() and name == name.lower()
        assert all(word in text for word in section.split())
    assert report.label_section in (None, "last", *report.sections)
    assert view_text(report, ("full",)) == (text if text.strip() else "")
    for mask in MASKS:
        once = mask_text(text, mask)
        assert mask_text(once, mask) == once
    parse_report(compose_report(report.sections))


YAML_PIECES = st.sampled_from(
    [
        *(
            "a: 1\n",
            "- ",
            "{",
            "}",
            "[",
            "]",
            ": ",
            "? ",
            "&a ",
            "*a",
            "!!int ",
            "!!float ",
            "<<: ",
        ),
        *(
            "2001-99-99",
            "0b2",
            "0x_",
            "1:99",
            ".nan",
            ".inf",
            "-",
            "\n  ",
            "\n",
            "'",
            '"',
            "|\n",
            "#",
        ),
        *(
            "!!binary x",
            "!!timestamp 1",
            "!!set ",
            "!!python/none ",
            "~",
            "\t",
            "\x00",
            "%YAML 9\n",
        ),
        *("---\n", "...\n", "null", "yes", "1e999", "9" * 400, "[" * 200, "loss.kind: ", "data: "),
    ]
)
YAML = st.one_of(
    st.lists(st.one_of(YAML_PIECES, st.text(max_size=6)), max_size=14).map("".join),
    st.tuples(YAML_PIECES, st.integers(1, 200)).map(lambda pair: pair[0] * pair[1]),
)
PLAIN = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=8),
        st.dates(),
        st.sampled_from(["bce", "focal", "image", "text", "concat", "full", "1e-3", "nan", "all"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
FIELDS = st.one_of(
    st.sampled_from(field_names()),
    st.text(max_size=8),
    st.sampled_from(["loss", "data.split", "."]),
)


def one_sentence(error):
    said = str(error)
    assert said.strip()
    assert len(said) < 20_000
    return said


def check_config(text, values, assignments):
    try:
        tree = read_yaml(text, "mine.yaml")
        assert isinstance(tree, dict)
        resolve([Layer("mine.yaml", flatten(tree))])
    except InputError as error:
        one_sentence(error)
    try:
        config = resolve([Layer("grid", values)])
        assert ExperimentConfig.model_validate(config.model_dump()) == config
    except InputError as error:
        one_sentence(error)
    try:
        resolve([parse_assignments([f"{key}={value}" for key, value in assignments])])
    except InputError as error:
        one_sentence(error)


CELLS = st.one_of(
    st.sampled_from(
        ["ill", "well", "p1", "p2", "", " ", "nan", "NA", "1", "0", "-1", "1e400", "todo", "a.jpg"]
    ),
    st.sampled_from(
        ["../../etc/passwd", "/etc/passwd", "x/../y", ".", "a\\b", '"q', "a,b", "\n", "\r", "\x00"]
    ),
    st.text(max_size=8),
)
TABLES = st.one_of(
    st.lists(st.lists(CELLS, min_size=4, max_size=7), max_size=25).map(
        lambda rows: (
            "key,who,file,note,finding,day\n"
            + "\n".join(",".join(json.dumps(c) if "\n" in c else c for c in row) for row in rows)
        ).encode("utf-8", "surrogatepass")
    ),
    st.lists(
        st.tuples(st.sampled_from(["ill", "well", "todo"]), CELLS, st.integers(0, 40)),
        min_size=10,
        max_size=60,
    ).map(
        lambda rows: (
            "key,who,file,note,finding,day\n"
            + "\n".join(
                f'k{n},p{who},a.jpg,"{note.replace(chr(34), "")}",{finding},{who}'
                for n, (finding, note, who) in enumerate(rows)
            )
        ).encode("utf-8", "surrogatepass")
    ),
    st.binary(max_size=300),
    st.binary(max_size=60).map(lambda tail: b"key,who,file,note,finding,day\n" + tail),
)
COLUMN = st.sampled_from(["key", "who", "file", "note", "finding", "day"])
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "id": COLUMN,
        "order": COLUMN,
        "image": st.one_of(COLUMN, st.none()),
        "text": st.one_of(COLUMN, st.dictionaries(st.text(max_size=5), COLUMN, max_size=2)),
        "per_patient": st.sampled_from(["earliest", "all", "drop_repeated", "first"]),
        "require": st.sampled_from([[], ["image"], ["text"], "text", "x"]),
        "delimiter": st.one_of(
            st.sampled_from([",", ";", "\t", "|", "::", "\\s+"]), st.text(max_size=3)
        ),
        "where": st.dictionaries(COLUMN, CELLS, max_size=2),
        "groups": st.dictionaries(st.sampled_from(["age", "x y", "sex"]), COLUMN, max_size=2),
        "metadata": st.lists(COLUMN, max_size=2),
        "image_root": st.text(max_size=5),
        "csv": st.one_of(st.just("table.csv"), st.text(max_size=6)),
        "name": PLAIN,
        "label": PLAIN,
    },
)


def check_table(content, changed, raw_recipe):
    recipe = {
        "csv": "table.csv",
        "patient": "who",
        "text": "note",
        "label": {"column": "finding", "positive": ["ill"], "negative": ["well"]},
    }
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "table.csv").write_bytes(content)
        (folder / "a.jpg").write_bytes(b"there")
        if raw_recipe is None:
            (folder / "own.yaml").write_text(yaml.safe_dump(recipe | changed))
        else:
            (folder / "own.yaml").write_bytes(raw_recipe)
        config = ExperimentConfig()
        try:
            source = open_source(f"table:{folder / 'own.yaml'}", config, folder)
            source.fingerprint()
            cohort = select_cohort(source, config)
        except InputError as error:
            one_sentence(error)
            return
    assert cohort.frame["record"].is_unique
    assert set(cohort.frame["label"]) == {0, 1}
    assert cohort.frame.groupby("patient")["part"].nunique().max() == 1
    steps = cohort.flow
    assert all(step.after == step.before - step.dropped for step in steps)
    assert all(one.after == two.before for one, two in zip(steps, steps[1:], strict=False))
    assert steps[-1].after == len(cohort.frame)
    for reference in cohort.frame["report"].dropna():
        assert parse_report(source.read_report(reference)).full.strip()


RECIPE_TEXTS = st.one_of(
    st.none(), st.none(), st.binary(max_size=80), YAML.map(lambda t: t.encode("utf-8", "replace"))
)


def _whole_images():
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 255, (24, 24, 3), dtype=np.uint8)
    gray16 = Image.fromarray(rng.integers(0, 65535, (24, 24)).astype(np.uint16))
    colour = Image.fromarray(pixels)
    formats = ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "DDS", "TGA", "JPEG2000", "PPM", "ICO"]
    formats += ["PCX", "SGI", "IM", "MSP", "SPIDER", "XBM", "PDF", "EPS", "ICNS", "MPO", "AVIF"]
    images = [(format, colour, {}) for format in formats]
    images += [("PNG", gray16, {}), ("TIFF", gray16, {}), ("TIFF", colour.convert("CMYK"), {})]
    images += [
        ("PNG", colour.convert("P"), {"transparency": 3}),
        ("PNG", colour.convert("RGBA"), {}),
    ]
    images += [("PNG", colour.convert("1"), {}), ("JPEG", colour.convert("CMYK"), {})]
    images += [("JPEG", colour, {"progressive": True}), ("TIFF", colour, {"compression": "jpeg"})]
    images += [
        ("TIFF", colour, {"compression": c}) for c in ("tiff_lzw", "tiff_deflate", "packbits")
    ]
    made = []
    for format, image, options in images:
        content = io.BytesIO()
        try:
            image.save(content, format, **options)
        except (OSError, KeyError, ValueError):
            continue
        made.append(content.getvalue())
    return made


WHOLE = _whole_images()


@st.composite
def damaged_images(draw):
    content = bytearray(draw(st.sampled_from(WHOLE)))
    near = st.integers(0, min(len(content), 200) - 1)
    for _ in range(draw(st.integers(0, 6))):
        content[draw(st.one_of(near, st.integers(0, len(content) - 1)))] = draw(
            st.one_of(st.integers(0, 255), st.sampled_from([0, 1, 127, 128, 255]))
        )
    if draw(st.booleans()):
        at = draw(near)
        content[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    if draw(st.booleans()):
        content = content[: draw(st.integers(0, len(content)))]
    return bytes(content)


def check_image(content):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            pixels = decode_image(content, 32)
        except UNREADABLE:
            return
    assert pixels.shape == (32, 32) and pixels.dtype == np.uint8


@pytest.mark.parametrize(
    ("check", "strategies"),
    [
        pytest.param(check_report, (REPORTS,), id="report parser"),
        pytest.param(
            check_config,
            (
                YAML,
                st.dictionaries(FIELDS, PLAIN, max_size=3),
                st.lists(st.tuples(FIELDS, YAML), max_size=2),
            ),
            id="config loader",
        ),
        pytest.param(check_table, (TABLES, CHANGES, RECIPE_TEXTS), id="table source"),
        pytest.param(
            check_image, (st.one_of(damaged_images(), st.binary(max_size=200)),), id="images"
        ),
    ],
)
def test_a_reader_answers_or_refuses_whatever_it_is_given(check, strategies, capsys):
    tally = fuzz(check, *strategies)
    with capsys.disabled():
        print(f"\n{check.__name__}: {tally}")
    assert tally.examples
