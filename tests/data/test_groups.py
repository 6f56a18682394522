from pathlib import Path

import pytest
import yaml
from small_sets import configured, jpeg_bytes

from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.sources import open_source
from cxr_ray.errors import InputError

RECIPE = {
    "csv": "table.csv",
    "patient": "who",
    "image": "file",
    "label": {"column": "finding", "positive": ["ill"], "negative": ["well"]},
}


def cells(values):
    """Each value of a column in two rows of both classes, often enough for every part."""
    return [values[i // 2 % len(values)] for i in range(max(24, 2 * len(values)))]


def source_of(folder, column, groups=None):
    lines = ["who,file,finding,told"]
    for i, told in enumerate(column):
        lines.append(f"p{i},{i}.jpg,{'ill' if i % 2 else 'well'},{told}")
        (folder / f"{i}.jpg").write_bytes(jpeg_bytes())
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    recipe = RECIPE if groups is None else {**RECIPE, "groups": groups}
    (folder / "own.yaml").write_text(yaml.safe_dump(recipe))
    return open_source(f"table:{folder / 'own.yaml'}", configured(), Path("unused"))


def levels(folder, values, groups, name="group_it"):
    frame = select_cohort(source_of(folder, cells(values), groups), configured()).frame
    row = frame["record"].str.removeprefix("row").astype(int) - 1
    return dict(zip([cells(values)[place] for place in row], frame[name], strict=True))


def test_a_column_of_few_values_gives_its_values(tmp_path):
    found = levels(tmp_path, ["M", " F ", "", "Unknown"], {"it": "told"})
    assert found == {"M": "M", " F ": "F", "": "unknown", "Unknown": "unknown"}


def test_numbers_are_cut_at_the_edges_that_are_declared(tmp_path):
    groups = {"it": {"column": "told", "edges": [40, 60.5]}}
    found = levels(tmp_path, ["39.9", "40", "60.4", "60.5", "", "x"], groups)
    assert list(found.values()) == ["<40", "40 to <60.5", "40 to <60.5", ">=60.5"] + ["unknown"] * 2


def test_many_numbers_are_cut_at_quartiles_and_ages_at_bands(tmp_path):
    numbers = [str(number) for number in range(20, 100, 5)]
    ages = levels(tmp_path, numbers, {"age": "told"}, "group_age")
    assert [ages[n] for n in ("35", "40", "75", "95")] == ["<40", "40-59", "60-79", ">=80"]
    counts = list(levels(tmp_path, numbers, {"it": "told"}).values())
    assert sorted(map(counts.count, set(counts))) == [4, 4, 4, 4]


def test_many_names_are_refused(tmp_path):
    names = [f"ward {number}" for number in range(20)]
    with pytest.raises(InputError, match=r"groups\.it: the column 'told' holds 20 different"):
        levels(tmp_path, names, {"it": "told"})


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ({"it": "absent"}, "column 'absent' is missing"),
        ({"it": {"edges": [1]}}, "key 'column' is missing"),
        ({"it": {"column": "told", "bands": [1]}}, "unknown key 'bands'"),
        ({"it": {"column": "told", "edges": [60, 40]}}, "not numbers that rise"),
        ({"it": {"column": "told", "edges": ["old"]}}, "'old' is not a number"),
        ({"it": {"column": "told", "edges": [1]}}, "has edges and holds no number"),
        ({"a b": "told"}, "no plain name"),
        (["told"], "not a mapping of name to column"),
    ],
)
def test_what_is_declared_wrongly_is_refused_in_a_sentence(tmp_path, groups, said):
    with pytest.raises(InputError, match=said):
        levels(tmp_path, ["M", "F"], groups)


def test_a_table_without_groups_keeps_its_key_and_one_with_them_has_another(tmp_path):
    plain = source_of(tmp_path, cells(["M", "F"]))
    assert "groups" not in plain.recipe.meaning()
    declared = source_of(tmp_path, cells(["M", "F"]), {"it": "told"})
    assert plain.fingerprint() != declared.fingerprint()
