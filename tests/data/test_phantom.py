import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import cross_val_predict
from small_sets import configured

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.sources import config_of, open_source
from cxr_ray.data.sources.phantom_images import ZONE, render
from cxr_ray.data.sources.phantom_tables import phantom_tables, report_texts
from cxr_ray.errors import InputError


def drawn(**changed):
    config = PhantomConfig(**{"patients": 600, "positive_share": 0.5} | changed)
    return config, phantom_tables(config)


def word_scores(config, tables):
    words = CountVectorizer(binary=True).fit_transform(report_texts(config, tables))
    model = LogisticRegression(C=0.1, max_iter=1000)
    return cross_val_predict(model, words, tables.truth, method="decision_function")


def zone_scores(config, tables):
    chosen = ~tables.lateral
    pictures = render(tables.image_signal[tables.study], tables.lateral, config.seed)
    zone = np.array([picture[ZONE].mean() for picture in pictures])
    return zone[chosen], tables.truth[tables.study][chosen]


def test_words_and_opacity_reach_the_auroc_that_their_signal_allows():
    config, tables = drawn()
    assert roc_auc_score(tables.truth, word_scores(config, tables)) == pytest.approx(0.82, abs=0.04)
    zone, truth = zone_scores(config, tables)
    assert roc_auc_score(truth, zone) == pytest.approx(0.83, abs=0.04)


def test_without_signal_words_and_opacity_say_nothing():
    config, tables = drawn(image_signal=0, text_signal=0)
    assert roc_auc_score(tables.truth, word_scores(config, tables)) == pytest.approx(0.5, abs=0.06)
    zone, truth = zone_scores(config, tables)
    assert roc_auc_score(truth, zone) == pytest.approx(0.5, abs=0.06)


def test_the_relation_of_the_two_signals_is_the_one_asked_for():
    def within(tables):
        signals = np.stack([tables.image_signal, tables.text_signal])
        return [np.corrcoef(signals[:, tables.truth == label])[0, 1] for label in (0, 1)]

    complementary = drawn(patients=4000)[1]
    assert within(complementary) == pytest.approx([0, 0], abs=0.08)
    together = complementary.image_signal + complementary.text_signal
    assert roc_auc_score(complementary.truth, together) == pytest.approx(0.92, abs=0.015)
    assert within(drawn(patients=4000, relation="redundant")[1]) == pytest.approx(
        [0.8, 0.8], abs=0.04
    )
    xor = drawn(patients=4000, relation="xor", image_signal=4, text_signal=4)[1]
    for signal in (xor.image_signal, xor.text_signal):
        assert roc_auc_score(xor.truth, signal) == pytest.approx(0.5, abs=0.03)
    differ = (xor.image_signal > 0) != (xor.text_signal > 0)
    assert (differ == xor.truth).mean() > 0.95


def test_length_and_all_but_the_indication_say_nothing_about_the_label():
    config, tables = drawn(patients=1500)
    texts = report_texts(config, tables)
    assert len({len(text.split("Notes")[1].split(".")[0].split()) for text in texts}) == 1
    assert not any("neumonia" in text or "nfecti" in text for text in texts)
    rest = [text.split("COMPARISON")[1] for text in texts]
    words = CountVectorizer().fit_transform(rest)
    scores = cross_val_predict(
        LogisticRegression(), words, tables.truth, method="decision_function"
    )
    assert roc_auc_score(tables.truth, scores) == pytest.approx(0.5, abs=0.05)


def test_a_leaky_phantom_names_the_label_in_its_impression():
    config, tables = drawn(leaky=True)
    named = ["IMPRESSION:\n\n Pneumonia" in text for text in report_texts(config, tables)]
    assert (np.array(named) == tables.truth).all()


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    config = configured(phantom={"patients": 120, "positive_share": 0.3})
    source = open_source("phantom", config, tmp_path_factory.mktemp("prepared"))
    planned = select_cohort(source, config)
    source.ensure_written()
    return source, config, planned


def test_the_cohort_before_writing_is_the_cohort_after(phantom):
    source, config, planned = phantom
    written = select_cohort(source, config)
    assert written.flow == planned.flow
    assert written.frame.equals(planned.frame)


def test_every_rule_drops_a_decoy_and_the_tables_leave_exactly_the_patients(phantom):
    _, _, cohort = phantom
    steps = {step.rule: step for step in cohort.flow}
    never = ("all images of the metadata table", "both positive and No Finding", "image missing")
    for rule, step in steps.items():
        assert (step.dropped > 0) == (rule not in never), rule
    last = steps["further records of a patient"]
    assert (last.after, last.positive) == (120, 36)
    assert steps["report missing"].dropped == 1
    assert len(cohort.frame) == 119


def test_one_kept_image_is_truncated_and_the_others_decode(phantom):
    source, _, cohort = phantom
    broken = 0
    for reference in cohort.frame["image"]:
        image = Image.open(io.BytesIO(source.read_image(reference)))
        assert (image.mode, image.size, image.format) == ("L", (160, 192), "JPEG")
        try:
            image.load()
        except OSError:
            broken += 1
    assert broken == 1


def test_a_small_phantom_keeps_its_corrupt_image_out_of_the_cohort():
    config = configured(phantom={"patients": 40, "positive_share": 0.3})
    tables = phantom_tables(config.phantom)
    cohort = select_cohort(open_source("phantom", config, Path("unwritten")), config)
    assert tables.corrupt_image in tables.images
    assert tables.corrupt_image not in set(cohort.frame["image"])


def test_the_official_split_and_other_rules_work_on_the_phantom(phantom):
    source, _, _ = phantom
    for sections in (
        {"data": {"split": {"kind": "official"}}},
        {"cohort": {"negative": "not_positive", "uncertain": "positive", "view": None}},
        {"cohort": {"labels": "negbio", "per_patient": "all"}},
    ):
        cohort = select_cohort(source, configured(**sections))
        assert source.present("image", cohort.frame["image"].tolist()).all()


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    parts = [f"{path.relative_to(folder)}".encode() + path.read_bytes() for path in files]
    return hashlib.sha256(b"".join(parts)).hexdigest(), len(files)


def test_the_same_config_gives_the_same_bytes_and_another_seed_others(tmp_path):
    digests = []
    for place, seed in (("a", 0), ("b", 0), ("c", 1)):
        config = configured(phantom={"patients": 20, "positive_share": 0.5, "seed": seed})
        source = open_source("phantom", config, tmp_path / place)
        source.ensure_written()
        source.ensure_written()
        (folder,) = (tmp_path / place).iterdir()
        digests.append((digest(folder), folder.name, source.fingerprint()))
    assert digests[0] == digests[1]
    assert digests[0][0] != digests[2][0]
    assert digests[0][2] != digests[2][2]


def test_leaky_is_part_of_the_recipe(tmp_path):
    config = configured()
    plain = open_source("phantom", config, tmp_path)
    assert config_of("phantom:leaky") == {"phantom.leaky": True}
    phantom = config.phantom.model_copy(update={"leaky": True})
    leaky = open_source("phantom:leaky", config.model_copy(update={"phantom": phantom}), tmp_path)
    assert plain.root != leaky.root
    assert plain.fingerprint() != leaky.fingerprint()
    with pytest.raises(InputError, match=r"phantom\.leaky is false"):
        open_source("phantom:leaky", config, tmp_path)
