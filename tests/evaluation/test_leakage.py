import re

import numpy as np
import pytest

from cxr_ray.config.schema import PhantomConfig
from cxr_ray.data.image_pack import decode_image
from cxr_ray.data.masking import LABEL_PATTERN, mask_text
from cxr_ray.data.sources.phantom_images import jpeg, render
from cxr_ray.data.sources.phantom_tables import phantom_tables, report_texts
from cxr_ray.data.split import assign_parts
from cxr_ray.evaluation.image_leakage import find_image_copies, perceptual_hash, shrink
from cxr_ray.evaluation.leakage import NAMED, find_patient_overlap, find_shortcut
from cxr_ray.evaluation.text_leakage import (
    find_identical_texts,
    find_label_source,
    find_label_words,
    judge_mask,
    judge_probe,
    probe_text,
)

SHARES = (0.7, 0.1, 0.2)


class DrawnCohort:
    """A phantom cohort in arrays, one record a patient."""

    def __init__(self, seed, patients=300, *, images=True, leaky=False):
        config = PhantomConfig(patients=patients, positive_share=0.2, seed=seed, leaky=leaky)
        drawn = phantom_tables(config)
        self.n = patients
        # The records that pass the selection come first.
        self.label = drawn.truth[:patients]
        self.group = np.array([f"p{number}" for number in range(patients)])
        self.record_id = np.array([f"r{number}" for number in range(patients)])
        self.part = assign_parts(self.group, self.label, SHARES, seed)
        self.texts = report_texts(config, drawn)[:patients]
        if images:
            pictures = render(drawn.image_signal[:patients], np.zeros(patients, bool), seed)
            self.images = np.stack([decode_image(jpeg(pixels), 64) for pixels in pictures])

    def first(self, part):
        """Index of a part's first record."""
        return int(np.flatnonzero(self.part == part)[0])

    def findings(self):
        """All that the functions say about this cohort."""
        rng = np.random.default_rng(1)
        probe = probe_text(self.texts, self.label, self.part)
        masked = [
            (
                mask,
                probe_text([mask_text(text, mask) for text in self.texts], self.label, self.part),
            )
            for mask in ("label_terms", "all_finding_terms")
        ]
        return [
            find_patient_overlap(self.group, self.part, self.record_id),
            find_image_copies(self.images, self.part, self.record_id),
            find_identical_texts(
                self.texts, self.label, self.part, self.record_id, score=probe.score
            ),
            find_label_words(self.texts, self.label, LABEL_PATTERN),
            judge_probe(probe, self.label, self.part),
            *(judge_mask(probe, other, mask, self.label, self.part) for mask, other in masked),
            find_shortcut("width", rng.choice([2544, 3056], self.n), self.label, self.part),
            find_shortcut("view", rng.choice(["AP", "PA"], self.n), self.label, self.part),
            find_shortcut("accession", self.record_id.tolist(), self.label, self.part),
        ]


@pytest.fixture(scope="module")
def clean():
    return DrawnCohort(100)


def _copied(texts, source, target):
    changed = list(texts)
    changed[target] = changed[source]
    return changed


def test_a_patient_in_two_parts_stops_and_its_records_are_named(clean):
    group = clean.group.copy()
    one, two = clean.first("train"), clean.first("test")
    group[two] = group[one]
    found = find_patient_overlap(group, clean.part, clean.record_id)
    assert (found.grade, found.value) == ("stop", 1)
    assert set(found.record_ids) == {f"r{one}", f"r{two}"}


def test_a_finding_names_a_few_records_only():
    part = np.repeat(["train", "test"], 50)
    found = find_patient_overlap(np.tile(np.arange(50), 2), part, np.arange(100).astype(str))
    assert found.value == 50
    assert len(found.record_ids) == NAMED


@pytest.mark.parametrize("later", ["val", "test"])
@pytest.mark.parametrize("size", [32, 64])
def test_a_copied_and_slightly_brightened_image_is_found(clean, later, size):
    images = clean.images.copy()
    one, two = clean.first("train"), clean.first(later)
    images[two] = np.clip(images[one] * 1.05 + 6.0, 0, 255).round()
    found = find_image_copies(shrink(images, size), clean.part, clean.record_id)
    assert (found.grade, found.value, found.record_ids) == ("finding", 1, (f"r{two}",))


def test_a_copy_within_one_part_is_no_leak(clean):
    images = clean.images.copy()
    one, two = np.flatnonzero(clean.part == "train")[:2]
    images[two] = images[one]
    assert find_image_copies(images, clean.part, clean.record_id).value == 0


def test_blank_images_are_no_copies_of_each_other(clean):
    images = clean.images.copy()
    images[[clean.first("train"), clean.first("test")]] = 7
    assert find_image_copies(images, clean.part, clean.record_id).value == 0


def test_two_images_that_are_all_there_is_are_copies_of_each_other():
    image = np.random.default_rng(0).integers(0, 255, (1, 40, 50), dtype=np.uint8)
    found = find_image_copies(image.repeat(2, 0), ["train", "test"], ["a", "b"])
    assert found.record_ids == ("b",)


def test_brightness_and_contrast_hardly_change_a_hash(clean):
    brighter = (clean.images * 0.7 + 40).round().astype(np.uint8)
    apart = np.bitwise_count(perceptual_hash(clean.images) ^ perceptual_hash(brighter))
    assert apart.max() <= 4


def test_shrinking_averages_even_where_sizes_do_not_divide():
    image = np.arange(100, dtype=np.uint8).reshape(1, 10, 10)
    small = shrink(image, 4)
    assert small.shape == (1, 4, 4)
    assert small[0, 0, 0] == np.rint(image[0, :2, :2].mean())
    assert small[0, 1, 1] == np.rint(image[0, 2:5, 2:5].mean())


def test_a_copied_text_is_told_with_its_class_and_the_probe_rescored(clean):
    one, two = clean.first("train"), clean.first("test")
    before = find_identical_texts(clean.texts, clean.label, clean.part, clean.record_id)
    texts = _copied(clean.texts, one, two)
    texts[two] = f"  {texts[two].upper()}\n"
    score = probe_text(texts, clean.label, clean.part).score
    found = find_identical_texts(texts, clean.label, clean.part, clean.record_id, score=score)
    assert found.grade == "information"
    assert found.value == before.value + 1
    assert f"r{two}" in found.record_ids
    assert "without the" in found.sentence


def test_label_words_are_found_where_the_text_names_the_label():
    cohort = DrawnCohort(3, images=False)
    texts = [
        f"{text} Pneumonia." if positive else text
        for text, positive in zip(cohort.texts, cohort.label, strict=True)
    ]
    found = find_label_words(texts, cohort.label, LABEL_PATTERN)
    assert (found.grade, found.value) == ("finding", 1.0)
    masked = [mask_text(text, "label_terms") for text in texts]
    assert find_label_words(masked, cohort.label, LABEL_PATTERN).value == 0.5


def test_a_probe_finds_the_label_in_a_leaking_text():
    leaky = DrawnCohort(4, patients=600, images=False, leaky=True)
    probe = probe_text(leaky.texts, leaky.label, leaky.part)
    found = judge_probe(probe, leaky.label, leaky.part)
    assert found.grade == "finding"
    assert found.value >= 0.95


def test_a_probe_on_a_few_records_is_no_finding():
    part = ["train"] * 20 + ["test"] * 6
    label, texts = [0, 1] * 13, ["calm lungs", "white lungs"] * 13
    found = judge_probe(probe_text(texts, label, part), label, part)
    assert (found.grade, found.value) == ("information", 1.0)
    assert "too few records" in found.sentence


def test_words_that_a_mask_takes_away_are_found():
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, 800)
    part = np.repeat(["train", "test"], 400)
    named = rng.random(800) < 0.1 + 0.6 * label
    texts = ["seen pneumonia today" if has else "seen nothing today" for has in named]
    masked = [mask_text(text, "label_terms").replace("nothing", "") for text in texts]
    probes = [probe_text(each, label, part) for each in (texts, masked)]
    found = judge_mask(*probes, "label_terms", label, part)
    assert (found.grade, found.value) == ("finding", 0.5)


def test_texts_without_a_word_and_parts_of_one_class_are_answered():
    part = ["train", "train", "test", "test"]
    blank = probe_text(["", "", "", ""], [0, 1, 0, 1], part)
    assert blank.test.auroc == 0.5
    one_class = judge_probe(probe_text(["ab", "cd"] * 2, [0, 1, 1, 1], part), [0, 1, 1, 1], part)
    assert (one_class.value, one_class.grade) == (None, "information")
    assert find_shortcut("width", [1, 2], [1, 1], part[:2]).value is None


@pytest.mark.parametrize("direction", [1, -1])
def test_a_number_that_goes_with_the_label_is_a_shortcut(clean, direction):
    noise = np.random.default_rng(2).normal(size=clean.n)
    values = (direction * 1.5 * clean.label + noise).tolist()
    values[0] = None
    found = find_shortcut("width", values, clean.label, clean.part)
    assert found.grade == "finding"
    assert found.n == clean.n - 1


def test_a_category_that_goes_with_the_label_is_a_shortcut(clean):
    flipped = np.random.default_rng(3).random(clean.n) < 0.1
    values = np.where((clean.label == 1) ^ flipped, "PORTABLE", "FIXED")
    found = find_shortcut("view", values.tolist(), clean.label, clean.part)
    assert found.grade == "finding"
    assert found.n == int((clean.part != "train").sum())


def test_dates_are_ranked():
    label = np.repeat([0, 1], 30)
    dates = [f"{2001 + int(value)}-01-{day % 28 + 1:02d}" for day, value in enumerate(label)]
    assert find_shortcut("date", dates, label, ["train"] * 60).value == 1.0


def test_a_strong_effect_without_evidence_is_no_finding():
    found = find_shortcut("width", [1, 2, 3, 4], [0, 0, 1, 1], ["train"] * 4)
    assert (found.value, found.grade) == (1.0, "information")


def test_a_patients_many_records_are_no_evidence_of_their_own():
    label, width = np.repeat([0, 1, 0, 1], 50), np.repeat([1, 2, 1, 2], 50)
    group, part = np.repeat(["a", "b", "c", "d"], 50), ["train"] * 200
    assert find_shortcut("width", width, label, part).grade == "finding"
    assert find_shortcut("width", width, label, part, groups=group).grade == "information"


def test_the_source_of_the_label_counts_by_what_is_read():
    sections = ["impression", "findings", None, "last"]
    assert find_label_source(sections, ("full",)).value == 0.75
    assert find_label_source(sections, ("indication", "findings")).value == 0.25
    assert find_label_source(sections, ("history",)).value == 0


def test_no_sentence_quotes_a_text_or_names_a_patient(clean):
    for finding in clean.findings():
        assert not re.search(r"\bp\d+\b|year old", finding.sentence)


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 20))]
)
def test_a_clean_phantom_raises_no_alarm(seed):
    alarms = [each for each in DrawnCohort(seed).findings() if each.grade != "information"]
    assert not alarms
