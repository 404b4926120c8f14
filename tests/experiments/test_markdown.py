"""What pages say is computed from the numbers that they show: the helpers, and that every table uses them."""

import ast
import importlib.util
import re

import pytest

from experiments import camvid, markdown, report
from kernels.bench.measure import ROOT
from tests.experiments import reports

# Functions whose numbers are measured as ratios, round by round, and are named so above them.
RATIOS_OF_ROUNDS = {("stop_flag", "tables")}
MODULES = sorted(
    path for folder in ("experiments", "experiments/gpu") for path in (ROOT / folder).glob("*.py")
)


def test_a_difference_is_that_of_what_is_shown():
    assert str(markdown.difference("45.0", "40.3")) == "4.7"
    assert str(markdown.difference("1,045.0 (3 to 4)", "40.3 %")) == "1004.7"
    assert f"{markdown.difference('40.26', '40.36'):+}" == "-0.10"
    assert markdown.ratio("4.0 (3 to 5)", "1.6e+01") == 0.25
    with pytest.raises(ValueError, match="'-' begins with no number"):
        markdown.difference("-", "1")


def test_a_message_agrees_with_the_table_above_it():
    """45.04 and 40.26 are 4.78 apart, and the table shows 45.0 and 40.3."""
    table = camvid.tables(reports.camvid(baseline=0.4026, rcca=0.4504))["scores"]
    assert "| none | 40.3 |" in table
    assert "| RCCA, 2 loops | 45.0 |" in table
    assert "4.7 points above (at one scale)" in table


def functions_of_pages(tree):
    """The functions of a module that its tables and pages are made by: those, and what they call."""
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    waiting = [name for name in functions if name in ("tables", "page") or name.endswith("_table")]
    found = {}
    while waiting:
        name = waiting.pop()
        found[name] = functions[name]
        calls = (node.func for node in ast.walk(functions[name]) if isinstance(node, ast.Call))
        names = {called.id for called in calls if isinstance(called, ast.Name)}
        waiting += [other for other in names & set(functions) if other not in found]
    return found


def is_harmless(node):
    """A unit, such as 1e9, or the name of a file."""
    return isinstance(node, ast.Constant | ast.JoinedStr)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_table_subtracts_or_divides_what_it_shows_otherwise(path):
    for name, function in functions_of_pages(ast.parse(path.read_text())).items():
        if (path.stem, name) in RATIOS_OF_ROUNDS:
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div):
                assert is_harmless(node.right) or is_harmless(node.left), (name, ast.unparse(node))


def result_tables():
    """(result, header, rows) of every table that the results make, whether a page shows it or not."""
    for path in report.result_files(ROOT):
        name = path.relative_to(ROOT / "experiments" / "results").with_suffix("").as_posix()
        if importlib.util.find_spec(report.module_of(name)) is None:
            continue  # such a file has no table
        for text in importlib.import_module(report.module_of(name)).tables(report.load_report(path)).values():
            lines = [line for line in text.splitlines() if line.startswith("|")]
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            yield name, cells[0], cells[2:]


def derived(header, rows, i, row):
    """What a cell must be by its neighbours; None where its column follows from no other."""
    match header[i]:
        case "difference" if row[i] != "-":
            return f"{markdown.difference(row[i - 2], row[i - 1]):+}"
        case "more than `none`":
            none = next(x for x in rows if x[:3] == row[:3] and x[3] == "`none`")
            return f"{100 * (markdown.ratio(row[i - 1], none[i - 1]) - 1):.0f} %"
        case "beside `none`":
            plain = [x for x in rows if x[0][:9] == row[0][:9] and x[1] == row[1] and x[0].endswith("none`")]
            return f"{100 * (markdown.ratio(row[i - 1], plain[0][i - 1]) - 1):+.1f} %" if plain else "-"
        case "speed":
            return f"{markdown.ratio(rows[0][i - 1], row[i - 1]):.2f}x"
        case "JAX's time over this" if row[i] != "-":
            name = next(k for k in range(2) if header[k] in ("", "contender"))
            jax = next(x for x in rows if x[name].split(" (")[0] == "jax" and x[:name] == row[:name])
            return f"{markdown.ratio(jax[i - 1], row[i - 1]):.2f}"
    return None


def test_the_tables_agree_with_themselves():
    """Every number in a table that follows from its neighbours, and every message below one."""
    seen = set()
    for name, header, rows in result_tables():
        for row in rows:
            for i, column in enumerate(header):
                if (wanted := derived(header, rows, i, row)) is not None:
                    assert row[i] == wanted, (name, row)
                    seen.add(column)
    assert seen >= {"more than `none`", "beside `none`", "speed", "JAX's time over this"}
    told = re.compile(r"is ([\d.]+) points (above|below) \(at one scale\)")
    shown = [match["old"] for page in report.pages(ROOT) for match in report.TABLE.finditer(page.read_text())]
    messages = [(text, found) for text in shown if (found := told.search(text))]
    assert messages
    for text, found in messages:
        none, rcca = (
            re.search(rf"^\| {x}[^|]*\| ([\d.]+) ", text, re.MULTILINE)[1] for x in ("none", "RCCA")
        )
        gain = markdown.difference(rcca, none)
        assert found.groups() == (str(abs(gain)), "above" if gain >= 0 else "below")
