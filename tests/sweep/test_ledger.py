"""The ledger of what a search has asked for."""

import pytest

from cxr_ray.errors import InputError
from cxr_ray.sweep.ledger import ASKED_FILE, Asked, Ledger


def asked(number):
    return Asked(number, {"train.lr": 0.1 / 3, "loss.kind": None}, f"{number:016x}", None, {"g": 1})


def test_what_was_asked_is_read_back_to_the_last_digit(tmp_path):
    ledger = Ledger(tmp_path)
    assert ledger.read() == []
    for number in range(3):
        ledger.append(asked(number))
    assert ledger.read() == [asked(number) for number in range(3)]


def test_a_line_that_a_kill_cut_off_is_left_out_and_written_over(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.append(asked(0))
    path = tmp_path / ASKED_FILE
    whole = path.read_bytes()
    for cut in (1, len(whole) - 1):
        path.write_bytes(whole + whole[:cut])
        assert ledger.read() == [asked(0)]
        ledger.append(asked(1))
        assert ledger.read() == [asked(0), asked(1)]


@pytest.mark.parametrize("line", ["{}", "no json", '{"number": 5, "parameters": {}}'])
def test_a_line_that_is_no_entry_is_refused_by_its_place(tmp_path, line):
    Ledger(tmp_path).append(asked(0))
    with (tmp_path / ASKED_FILE).open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match=r"asked.jsonl: line 2 "):
        Ledger(tmp_path).read()
