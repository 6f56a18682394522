"""What a folder of other people's files may hold that is no record."""

import gc
import tempfile

import pytest
import yaml
from ordinary_user import ordinary_user
from small_sets import MimicTables, configured, jpeg_bytes

from cxr_ray.data.cohort import select_cohort
from cxr_ray.data.image_pack import allocate_images, collect_faults, decode_chunk
from cxr_ray.data.sources import open_source
from cxr_ray.data.text_pack import read_column, read_reports_chunk
from cxr_ray.errors import InputError

RECIPE = {
    "csv": "table.csv",
    "id": "key",
    "patient": "who",
    "image": "file",
    "text": "note",
    "label": {"column": "finding", "positive": ["ill"], "negative": ["well"]},
}
HEADER = "key,who,file,note,finding"
LINK = "link out of the data folder; see data.follow_links"


def rows(number=20):
    return [f"k{i},p{i},{i}.jpg,note {i},{'ill' if i % 2 else 'well'}" for i in range(number)]


def laid_out(folder, content=None, **changed):
    """A table, its YAML and its images."""
    folder.mkdir(exist_ok=True)
    if content is not None:
        raw = content if isinstance(content, bytes) else content.encode()
        (folder / "table.csv").write_bytes(raw)
    (folder / "own.yaml").write_text(yaml.safe_dump(RECIPE | changed))
    for name in ("a", *range(20)):
        (folder / f"{name}.jpg").write_bytes(jpeg_bytes())
    return folder


def opened(folder, **data):
    return open_source(f"table:{folder / 'own.yaml'}", configured(data=data), folder)


def refusal(folder):
    """The sentence with which a table is refused, by its fingerprint or its records."""
    with pytest.raises(InputError) as caught:
        opened(folder).fingerprint()
        select_cohort(opened(folder), configured())
    return str(caught.value)


def image_fault(folder, source, reference):
    allocate_images(folder, 1, 16)
    decode_chunk(folder, source, 0, [reference])
    return collect_faults(folder).get(0)


def table(*added, header=HEADER):
    return "\n".join([header, *rows(), *added]) + "\n"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "table.csv: not a readable table: No columns"),
        (table(header="key,who,file,note,f"), "table.csv: column 'finding' is missing; it has key"),
        (table().replace(",", ";"), "table.csv: column 'key' is missing; it has key;who;file"),
        (table().encode() + b"x,\xff,a.jpg,n,ill\n", "is no UTF-8 text; save the table as UTF-8"),
        (table(header=f"key{'y' * 300_000},who,file,note,finding"), "it has keyyy"),
        (table("k1,p9,a.jpg,n,ill"), "1 ids in column 'key' are blank or occur before"),
        (table(",p9,a.jpg,n,ill"), "1 ids in column 'key' are blank or occur before"),
        (HEADER + "\n", "no record is left"),
        (table().replace(",ill", ",well"), "all 20 records are negative; two classes needed"),
        (f"{HEADER}\nk1,p1,1.jpg,n,ill\nk2,p2,2.jpg,n,well\n", "part 'val' has no positive record"),
        (f"{HEADER}\nk1,p1,1.jpg,n,ill\nk2,p1,2.jpg,n,well\n", "has no positive record"),
    ],
)
def test_a_table_that_is_none_is_refused_in_one_sentence(content, sentence, tmp_path):
    said = refusal(laid_out(tmp_path / "set", content))
    assert sentence in said and "\n" not in said and len(said) < 1000


@pytest.mark.parametrize(
    "changed",
    [
        {"per_patient": "earliest", "order": "key"},
        {"groups": {"age": {"column": "key", "edges": [40]}}},
    ],
)
@pytest.mark.parametrize("labels", ["nan", "todo"])
def test_columns_of_numbers_are_not_blamed_where_no_record_is_left(changed, labels, tmp_path):
    content = table().replace(",ill", f",{labels}").replace(",well", f",{labels}")
    assert "no record is left" in refusal(laid_out(tmp_path / "set", content, **changed))


def test_a_table_that_is_refused_leaves_no_file_open(tmp_path, recwarn):
    gc.collect()
    recwarn.clear()  # of what other tests left
    assert "is missing" in refusal(laid_out(tmp_path / "set", table(header="key,who,f,n,x")))
    gc.collect()
    assert [str(w.message) for w in recwarn] == []


def test_where_no_folder_takes_temporary_files_the_table_is_not_said_to_be_absent(
    tmp_path, monkeypatch
):
    folder = laid_out(tmp_path / "set", table())
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "absent")])
    said = refusal(folder)
    assert "No usable temporary directory" in said and "another folder in TMPDIR" in said


def test_a_long_text_is_read_where_every_row_ends_with_a_delimiter(tmp_path):
    content = table(f"long,p99,a.jpg,{'cough ' * 30_000},ill").replace("\n", ",\n")
    content = content.replace(f"{HEADER},", HEADER)
    frame = select_cohort(opened(laid_out(tmp_path / "set", content)), configured()).frame
    assert "long" in set(frame["record"])


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        ("x,p77,b.jpg,n,todo", False),
        ("x,p77,b.jpg,n,nan", False),
        ("x,p77,b.jpg,n,", False),
        ("x,p77,../b.jpg,n,ill", False),
        ("x,p77,/etc/passwd,n,ill", False),
        ("x,p77,gone.jpg,n,ill", False),
        ("x,p77,folder,n,ill", False),
        ("x,p77,b.jpg, ,ill", False),
        ("../../etc/passwd,p77,b.jpg,n,ill", True),
        ("x,../../etc/passwd,b.jpg,n,ill", True),
        ('x,p77,b.jpg,"one\n\ntwo\r\n",ill', True),
        (f"x,p77,b.jpg,{'a' * 1_000_000},ill", True),
        ("x,nan,b.jpg,NA,ill", True),
        ("x,p77,b.jpg,a\0b,ill", True),
    ],
)
def test_a_bad_row_is_dropped_and_the_others_stay(row, kept, tmp_path):
    folder = laid_out(tmp_path / "set", "\ufeff" + table(row))
    (folder / "b.jpg").write_bytes(jpeg_bytes())
    (folder / "folder").mkdir()
    frame = select_cohort(opened(folder), configured()).frame
    assert {f"k{i}" for i in range(20)} <= set(frame["record"])
    assert len(frame) == 20 + kept


def test_a_folder_in_place_of_the_table_is_refused_in_one_sentence(tmp_path):
    folder = laid_out(tmp_path / "set")
    (folder / "table.csv").mkdir()
    assert refusal(folder) == f"table.csv in {folder} cannot be read: Is a directory"


def test_a_table_that_is_not_there_is_refused_with_how_to_name_its_folder(tmp_path):
    said = refusal(laid_out(tmp_path / "set"))
    assert said.startswith("table.csv is not in") and "--data table:FILE.yaml@DIR" in said


def test_a_table_that_may_not_be_read_is_refused_in_one_sentence(open_place):
    folder = laid_out(open_place / "set", table())
    assert opened(folder).fingerprint()  # imports what it needs, as who may read it
    (folder / "table.csv").chmod(0)
    with ordinary_user():
        assert refusal(folder) == f"table.csv in {folder} cannot be read: Permission denied"


@pytest.mark.parametrize("delimiter", ["::", "\\s+", "§", '"', "\n", "ab"])
def test_a_delimiter_that_is_none_is_refused_without_a_warning(delimiter, tmp_path, recwarn):
    folder = laid_out(tmp_path / "set", table(), delimiter=delimiter)
    said = refusal(folder)
    assert f"delimiter: {delimiter!r} should be one ASCII character" in said
    assert [str(w.message) for w in recwarn] == []


@pytest.mark.parametrize("delimiter", [";", "\t", "|", " ", "^", "."])
def test_a_table_between_other_delimiters_is_read_without_a_warning(delimiter, tmp_path, recwarn):
    content = table().replace(".jpg", "").replace("note ", "note").replace(",", delimiter)
    folder = laid_out(tmp_path / "set", content, delimiter=delimiter, image=None)
    assert len(select_cohort(opened(folder), configured()).frame) == 20
    assert [str(w.message) for w in recwarn] == []


def test_a_delimiter_at_every_lines_end_adds_nothing_and_further_cells_are_refused(
    tmp_path, recwarn
):
    lines = table().splitlines()
    blank = "\n".join([lines[0], *(f"{line}," for line in lines[1:])]) + "\n"
    assert len(select_cohort(opened(laid_out(tmp_path / "a", blank)), configured()).frame) == 20
    further = "\n".join([lines[0], *(f"{line},more" for line in lines[1:])]) + "\n"
    said = refusal(laid_out(tmp_path / "b", further))
    assert said.startswith("table.csv: row 2 has 6 cells and the header 5 columns")
    assert [str(w.message) for w in recwarn] == []


def test_an_image_that_links_out_of_the_folder_is_a_fault_unless_links_are_followed(tmp_path):
    folder = laid_out(tmp_path / "set", table())
    (tmp_path / "out.jpg").write_bytes(jpeg_bytes())
    (folder / "link.jpg").symlink_to(tmp_path / "out.jpg")
    (folder / "inside.jpg").symlink_to(folder / "a.jpg")
    (tmp_path / "settled").mkdir()
    (tmp_path / "settled" / "b.jpg").write_bytes(jpeg_bytes())
    (folder / "sub").symlink_to(tmp_path / "settled")
    for name, fault in (("link.jpg", LINK), ("sub/b.jpg", LINK), ("inside.jpg", None)):
        pack = tmp_path / f"pack-{name.replace('/', '-')}"
        assert image_fault(pack, opened(folder), name) == fault
        followed = opened(folder, follow_links=True)
        assert image_fault(pack.with_suffix(".followed"), followed, name) is None


def test_a_folder_that_has_a_longer_name_than_the_data_folder_is_outside(tmp_path):
    folder = laid_out(tmp_path / "set", table())
    laid_out(tmp_path / "set-of-another")
    (folder / "link.jpg").symlink_to(tmp_path / "set-of-another" / "a.jpg")
    assert image_fault(tmp_path / "pack", opened(folder), "link.jpg") == LINK


def test_a_data_folder_that_is_itself_a_link_is_read(tmp_path):
    laid_out(tmp_path / "set", table())
    (tmp_path / "linked").symlink_to(tmp_path / "set")
    source = opened(tmp_path / "linked")
    assert source.fingerprint() == opened(tmp_path / "set").fingerprint()
    assert image_fault(tmp_path / "pack", source, "a.jpg") is None


def test_a_table_that_links_out_of_the_folder_is_refused_unless_links_are_followed(tmp_path):
    folder = laid_out(tmp_path / "set")
    (tmp_path / "out.csv").write_text(table())
    (folder / "table.csv").symlink_to(tmp_path / "out.csv")
    said = refusal(folder)
    assert said.startswith(f"table.csv is a link out of {folder}; ")
    assert said.endswith("data.follow_links=true")
    assert opened(folder, follow_links=True).fingerprint()


def test_reports_that_link_out_of_a_mimic_folder_are_faults_unless_links_are_followed(tmp_path):
    tables = MimicTables()
    tables.add_background(20)
    folder = tables.write(tmp_path / "mimic")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "s55000000.txt").write_text("FINDINGS: none")
    place = folder / "reports" / "p15"
    place.mkdir(parents=True)
    (place / "p15000000").symlink_to(tmp_path / "notes")
    for follow, faults in ((False, [LINK]), (True, [None])):
        source = open_source(f"mimic:{folder}", configured(data={"follow_links": follow}), tmp_path)
        made = tmp_path / f"reports-{follow}"
        made.mkdir()
        read_reports_chunk(made, source, 0, ["files/p15/p15000000/s55000000.txt"])
        assert read_column(made, "fault") == faults
