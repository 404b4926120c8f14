import json
import re
import shutil
import sys

import pytest

from experiments import corrections, markdown, report
from tests.experiments import reports
from tests.helpers import ROOT

PAGE = """# Page

<!-- table: streets_context/scores -->
<!-- end of table -->

Between.

<!-- table: published/costs -->
old
<!-- end of table -->

After.
"""
SCORES = "| none | 2 | 55.0 ± 7.1 | 27.5 ± 3.5 | 55.0 ± 7.1 | 27.5 ± 3.5 |"


@pytest.fixture
def root(tmp_path):
    """A checkout with two pages and one result, its tables made."""
    results = tmp_path / "experiments" / "results"
    results.mkdir(parents=True)
    (results / "streets_context.json").write_text(json.dumps(reports.streets_context()))
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text(PAGE)
    (tmp_path / "docs" / "results.md").write_text(PAGE)
    assert report.report(tmp_path) == []
    return tmp_path


def change_result(root, **changes):
    """Change what the result file holds; None takes a field away."""
    path = root / "experiments" / "results" / "streets_context.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def test_the_tables_of_the_manual_are_what_the_results_say():
    assert report.report(ROOT, check=True) == []


@pytest.mark.parametrize("page", report.pages(ROOT), ids=lambda page: page.name)
def test_no_measured_number_is_written_by_hand(page):
    by_hand = re.sub(r"```.*?```", "", report.TABLE.sub("", page.read_text()), flags=re.DOTALL)
    units = re.compile(r"\d ?(MB|GB|ms|GFLOPs?|images/s|samples/s|% mIoU)\b")
    published = "did not fit into the authors' 12 GB"
    for line in by_hand.splitlines():
        assert not units.search(line) or published in line, line
        if page.name in ("README.md", "results.md"):
            assert not re.match(r"\|.*\d\.\d", line), f"no table of numbers is written by hand: {line}"


def test_tables_stand_between_their_marks_with_where_and_when_they_were_measured(root):
    page = (root / "docs" / "results.md").read_text()
    assert page.startswith("# Page\n\n<!-- table: streets_context/scores -->\n| context module |")
    assert page.endswith("*\n<!-- end of table -->\n\nAfter.\n")
    assert "\n<!-- end of table -->\n\nBetween.\n\n<!-- table: published/costs -->\n| module |" in page
    assert SCORES in page
    assert "old" not in page
    caption = (
        "*cpu, 2 cores; python 3.12.1, jax 0.12.0; commit `0123456`; 2026-11-25; "
        "`python -m experiments.streets_context`; [all numbers]({})*"
    )
    assert caption.format("../experiments/results/streets_context.json") in page
    assert caption.format("experiments/results/streets_context.json") in (root / "README.md").read_text()


def test_what_is_made_again_does_not_change(root):
    before = (root / "README.md").read_text()
    assert report.report(root, check=True) == []
    assert report.report(root) == []
    assert (root / "README.md").read_text() == before


def test_an_edited_table_is_found_and_put_right(root):
    page = root / "docs" / "results.md"
    right = page.read_text()
    page.write_text(right.replace("55.0 ± 7.1", "65.0 ± 7.1"))
    (problem,) = report.report(root, check=True)
    assert problem == f"{page} differs from the results; run python -m experiments.report"
    assert "65.0" in page.read_text()
    assert report.report(root) == []
    assert page.read_text() == right


def test_a_changed_result_is_found(root):
    change_result(root, rows=[reports.network("none", 0, 0.9)])
    assert len(report.report(root, check=True)) == 2
    assert report.report(root) == []
    assert "| none | 1 | 90.0 | 45.0 | 90.0 | 45.0 |" in (root / "README.md").read_text()


@pytest.mark.parametrize("field", report.HEAD)
def test_a_result_without_a_field_of_the_head_is_named_and_its_tables_stay(field, root):
    before = (root / "README.md").read_text()
    change_result(root, **{field: None}, rows=[])
    path = root / "experiments" / "results" / "streets_context.json"
    assert report.report(root) == [f"{path} lacks {field}; run the experiment again"]
    assert (root / "README.md").read_text() == before


def test_versions_must_name_python_and_jax(root):
    change_result(root, versions={"python": "3.12.1"})
    (problem,) = report.report(root, check=True)
    assert "lacks versions of python and jax" in problem


def test_a_result_that_no_page_shows_needs_its_head_too(root):
    (root / "experiments" / "results" / "GPU").mkdir()
    (root / "experiments" / "results" / "GPU" / "more.json").write_text("{}")
    (problem,) = report.report(root, check=True)
    assert "more.json lacks device, versions, commit, command, date" in problem


def test_results_of_a_device_lie_in_a_folder_of_their_own(root):
    results = root / "experiments" / "results"
    (results / "GPU").mkdir()
    shutil.copy(results / "streets_context.json", results / "GPU")
    page = root / "README.md"
    page.write_text(page.read_text().replace("table: streets_context/", "table: GPU/streets_context/"))
    assert report.report(root) == []
    assert "(experiments/results/GPU/streets_context.json)" in page.read_text()


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("streets_context/scores", "streets_context/sizes", "of streets_context there are scores, classes"),
        ("streets_context/scores", "nothing/scores", "nothing.json does not exist; run the experiment"),
        ("streets_context/scores", "GPU/nothing/rows", "but there is no experiments.nothing to make it"),
        ("<!-- end of table -->\n\nBetween", "Between", "without its <!-- end of table -->"),
    ],
)
def test_marks_that_cannot_be_followed_are_named(old, new, problem, root):
    (root / "experiments" / "results" / "GPU").mkdir()
    (root / "experiments" / "results" / "GPU" / "nothing.json").write_text(json.dumps(reports.HEAD))
    page = root / "README.md"
    page.write_text(page.read_text().replace(old, new))
    wrong = page.read_text()
    (found,) = report.report(root)
    assert problem in found
    assert page.read_text() == wrong


def test_a_result_of_an_earlier_form_is_named(root):
    change_result(root, rows=[{"context": "none"}])
    assert "is of another version (KeyError('commit'))" in report.report(root, check=True)[0]


def test_the_program_fails_where_a_page_differs(root, monkeypatch, capsys):
    monkeypatch.setattr(report, "ROOT", root)
    monkeypatch.setattr(sys, "argv", ["report", "--check"])
    report.main()
    assert "every table is what the results say" in capsys.readouterr().out
    (root / "README.md").write_text(PAGE)
    with pytest.raises(SystemExit) as ended:
        report.main()
    assert ended.value.code == 2
    assert "README.md differs from the results" in capsys.readouterr().err


def test_packages_that_something_was_compared_with_are_named():
    assert "; python 3.12.1, jax 0.12.0, torch 2.13.0; " in report.caption(
        reports.HEAD, ("torch", "imagecodecs"), "x.json"
    )
    gpu = reports.HEAD | {"device": "NVIDIA H200", "driver": "570.1", "commit": "0123456789-dirty"}
    assert report.caption(gpu, (), "x.json").startswith("*NVIDIA H200, driver 570.1; ")
    assert "commit `0123456-dirty`" in report.caption(gpu, (), "x.json")


def test_a_row_of_another_commit_says_so():
    assert markdown.measured_at("PSP", reports.OLDER, reports.HEAD["commit"]) == "PSP (at `fedcba9`)"
    assert markdown.measured_at("PSP", reports.OLDER, reports.OLDER) == "PSP"


def test_a_result_from_before_a_correction_says_so(root):
    """Until it is measured again; others do not."""
    correction = corrections.CORRECTIONS[0]
    page = root / "README.md"
    assert correction.was in page.read_text()
    change_result(root, date=correction.date)
    assert report.report(root) == []
    assert correction.was not in page.read_text()
    assert corrections.remarks("NVIDIA-H200/camvid", "2026-11-27")
    assert not corrections.remarks("bench", "2026-11-27")
    names = {path.stem for path in report.result_files(ROOT)}
    assert all(names >= set(correction.results) for correction in corrections.CORRECTIONS)
