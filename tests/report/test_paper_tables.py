import csv
import itertools

import pandas as pd
import pytest

from cxr_ray.report.paper_tables import leaderboard_table, paper_tables
from cxr_ray.report.reference import PRINTED_METRICS
from cxr_ray.report.result_table import ResultTable

ARMS = list(itertools.product(("multimodal", "image", "text"), ("full", "sub75"), ("bce", "focal")))


def trial(arm, value, seed=0, **more):
    modality, dataset, loss = arm
    rows = []
    for test_set in ("own", "full"):
        shift = 0.0 if test_set == "own" else -0.05
        figures = dict.fromkeys((*PRINTED_METRICS, "average_precision"), value + shift)
        rows.append(
            {
                "experiment_id": f"{arm}{seed}",
                "modality": modality,
                "dataset": dataset,
                "loss": loss,
                "seed": seed,
                "test_set": test_set,
                "n": 400,
                "n_positive": 40,
                **figures,
                "auroc_low": value - 0.1,
                "auroc_high": value + 0.1,
                "status": "done",
                "reason": None,
                **more,
            }
        )
    return rows


@pytest.fixture
def leaderboard():
    trials = [trial(arm, 0.6 + 0.02 * place) for place, arm in enumerate(ARMS)]
    return pd.DataFrame([row for rows in trials for row in rows])


@pytest.fixture
def sensitivity():
    return pd.DataFrame(
        [
            {
                "modality": "multimodal",
                "dataset": "full",
                "loss": "bce",
                "seed": 0,
                "test_set": "full",
                "perturbation": perturbation,
                "metric": metric,
                "perturbed": 0.1234,
            }
            for perturbation in ("image_shuffled", "text_shuffled")
            for metric in PRINTED_METRICS
        ]
    )


def column(table, head):
    place = table.columns.index(head)
    return [row[place] for row in table.rows]


def test_a_full_study_gives_the_three_tables_with_printed_figures_beside_ours(
    leaderboard, sensitivity
):
    result = paper_tables(leaderboard, sensitivity)
    assert [len(table.rows) for table in result.tables] == [5, 6, 6] and not result.left_out
    first, second, third = result.tables
    assert column(first, "model") == [
        "multimodal", "  image shuffled", "  text shuffled", "image", "text",
    ]  # fmt: skip
    assert column(first, "acc paper") == [".9934", ".9921", ".8451", ".9123", ".9948"]
    assert column(first, "acc")[1:3] == [".1234", ".1234"]
    assert column(first, "acc")[0] == ".6000"  # the own test set's, not the full one's .55
    assert column(third, "paper flag") == ["f1"] * 6
    assert column(first, "paper flag")[0] == "f1+recall"
    assert column(second, "acc paper 95 %")[0] == "[.9906-.9953]"


def test_every_line_fits_a_terminal_and_digits_stand_under_each_other(leaderboard, sensitivity):
    tables = [*paper_tables(leaderboard, sensitivity).tables, leaderboard_table(leaderboard)]
    for table in tables:
        lines = table.to_text().splitlines()
        assert max(map(len, lines)) <= 110
        body = lines[lines.index(next(x for x in lines if set(x) == {"-"})) + 1 :]
        points = [body[row].index(".") for row in range(len(table.rows))]
        assert len(set(points)) == 1


def test_auroc_is_marked_only_where_the_best_two_separate(leaderboard):
    best, runner_up = ("text", "full", "focal"), ("text", "full", "bce")
    apart = {(runner_up, best): True}

    def marks(separates):
        table = paper_tables(leaderboard, separates=separates).tables[1]
        return [cell for cell in column(table, "AUROC") if "*" in cell], table

    assert marks(apart)[0] == [".7800*"]
    assert "marks the highest AUROC, which separates from the next" in marks(apart)[1].caption
    together, table = marks(lambda first, second: False)
    assert together == [] and "do not separate" in table.caption
    for unknown in ({}, None):
        none, table = marks(unknown)
        assert none == [] and "were not compared" in table.caption


def test_figures_at_a_half_and_shuffled_rows_have_no_winner(leaderboard, sensitivity):
    sensitivity["perturbed"] = 0.99
    for table in paper_tables(leaderboard, sensitivity, separates=lambda *_: True).tables:
        marked = {
            (head, row[0])
            for row in table.rows
            for head, cell in zip(table.columns, row, strict=True)
            if "*" in cell
        }
        assert marked == {("AUROC", "text")}


def test_seeds_are_averaged_and_counted(leaderboard):
    more = pd.DataFrame([row for arm in ARMS for row in trial(arm, 0.9, seed=1)])
    table = paper_tables(pd.concat([leaderboard, more])).tables[1]
    assert column(table, "acc")[0] == ".7500" and "mean of 2 seeds" in table.caption


def test_what_a_study_lacks_is_left_out_with_its_reason_or_named(leaderboard):
    only_full = leaderboard[leaderboard["dataset"] == "full"]
    result = paper_tables(only_full)
    assert len(result.tables) == 2
    (reason,) = result.left_out.values()
    assert "no finished model with dataset sub75" in reason
    no_text = only_full[only_full["modality"] != "text"]
    table = paper_tables(no_text).tables[0]
    assert column(table, "acc")[-1] == "-" and "Not in this study: text-full-bce" in table.caption
    failed = leaderboard.assign(status="failed")
    assert len(paper_tables(failed).left_out) == 3


def test_a_grid_with_a_further_axis_is_not_averaged_over_it(leaderboard):
    twice = pd.concat([leaderboard.assign(fusion="concat"), leaderboard.assign(fusion="gated")])
    result = paper_tables(twice)
    assert not result.tables
    assert all("a further axis" in reason for reason in result.left_out.values())


def test_a_leaderboard_without_a_needed_column_is_refused_by_name(leaderboard):
    with pytest.raises(ValueError, match="lacks the columns f1"):
        paper_tables(leaderboard.drop(columns="f1"))


def test_the_leaderboard_names_trials_as_runs_are_named_and_says_why_one_failed(leaderboard):
    frame = leaderboard.assign(fusion="gated")
    frame.loc[frame.index[-2:], ["status", "reason"]] = ["failed", "out of memory"]
    frame.loc[frame.index[:2], "seed"] = 2
    frame.loc[frame.index[2], "auroc_low"] = None
    table = leaderboard_table(frame)
    assert len(table.rows) == 22
    assert table.rows[0][0] == "multimodal-full-bce-gated-seed2"
    assert table.rows[0][-2] == ".6000 [.5000-.7000]" and table.rows[2][-2] == ".6200"
    assert "text-sub75-focal-gated failed: out of memory." in table.caption


def test_markdown_and_csv_keep_every_cell(leaderboard, sensitivity):
    table = paper_tables(leaderboard, sensitivity).tables[0]
    lines = [line for line in table.to_markdown().splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(table.rows)
    assert {line.count(" | ") for line in lines} == {len(table.columns) - 1}
    records = list(csv.DictReader(table.to_csv().splitlines()))
    assert float(records[-1]["F1"]) == pytest.approx(0.76)  # the mark is left behind
    assert records[1]["paper flag"] == ""


def test_long_names_lose_their_middle_and_a_ragged_table_is_refused():
    table = ResultTable("T", "", ("name", "acc"), (("a" * 90 + "-end", ".5"),))
    line = table.to_text(40).splitlines()[-1]
    assert len(line) <= 40 and ".." in line and "-end" in line
    with pytest.raises(ValueError, match="1 cells under 2 heads"):
        ResultTable("T", "", ("name", "acc"), (("a",),))


def test_a_trial_whose_own_test_set_is_the_full_one_has_one_line(leaderboard):
    same = leaderboard["dataset"] == "full"
    leaderboard.loc[same & (leaderboard["test_set"] == "full"), PRINTED_METRICS] = leaderboard.loc[
        same & (leaderboard["test_set"] == "own"), PRINTED_METRICS
    ].to_numpy()
    table = leaderboard_table(leaderboard)
    assert column(table, "test set") == ["both", "both", "own", "full", "own", "full"] * 3


def test_a_table_of_which_the_study_has_fewer_than_half_the_models_is_left_out(leaderboard):
    few = leaderboard[leaderboard["modality"] == "image"]
    result = paper_tables(few)
    assert not result.tables
    assert "only 2 of its 6 models" in result.left_out[next(t for t in result.left_out if "3" in t)]


def test_a_study_without_a_finished_trial_has_an_empty_leaderboard(leaderboard):
    assert leaderboard_table(leaderboard.iloc[:0]).rows == ()
