"""Write the tables of README.md and docs/*.md from the files in experiments/results.

    python -m experiments.report [--check]

A page shows a table between two lines:

    <!-- table: streets_context/scores -->
    <!-- end of table -->

The name is that of the file without ".json", then that of one of its tables: `tables(report)` of the module
experiments.streets_context makes them from what experiments/results/streets_context.json holds. A file in a
folder of its own, results/FOLDER/FILE.json, has the tables FOLDER/FILE/...; modules in experiments/gpu make
some of those that `experiments.on_gpu` leaves in the folder of a GPU. Tables of `published/...` hold what
others published (experiments/published.py). Below each table stands where and when it was measured, with the
versions of Python, JAX and the packages that the module names in `COMPARED_WITH`; and what was wrong in the
code that measured it, if that was found later (experiments/corrections.py).

A file without device, versions, commit, command and date is an error, and its tables stay as they are.
--check writes nothing, and fails where a page differs from the files.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import re
import sys
from typing import Any

from ccnet_jax.common.errors import UserError, write_whole
from ccnet_jax.config import command_line
from experiments import corrections, markdown, published
from kernels.bench.measure import ROOT

BEGIN, END = "<!-- table: ", "<!-- end of table -->"
TABLE = re.compile(rf"^{BEGIN}(?P<name>\S+) -->\n(?P<old>.*?)^{END}$", re.DOTALL | re.MULTILINE)
PUBLISHED = "published"
HEAD = ("device", "versions", "commit", "command", "date")  # of a result file
# {file in the folder of a GPU: the module that makes its tables}; for every other file it is experiments.FILE
OF_GPU = {
    "kernels": "experiments.gpu.kernel_errors",
    "bench": "experiments.gpu.kernel_speed",
    "bench_tuned": "experiments.gpu.kernel_speed",
    "blocks": "experiments.gpu.kernel_blocks",
    "camvid": "experiments.gpu.camvid",
}
Report = dict[str, Any]


def pages(root: pathlib.Path) -> list[pathlib.Path]:
    """The pages that may show tables."""
    return [root / "README.md", *sorted((root / "docs").glob("*.md"))]


def result_files(root: pathlib.Path) -> list[pathlib.Path]:
    """All results."""
    return sorted((root / "experiments" / "results").rglob("*.json"))


def load_report(path: pathlib.Path) -> Report:
    """What a result file holds. Raises UserError where its head is not complete."""
    try:
        report = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist; run the experiment, or remove its tables") from None
    except ValueError as error:
        raise UserError(f"{path} cannot be read as JSON ({error}); restore it") from None
    missing = [name for name in HEAD if not report.get(name)]
    if not missing and not {"python", "jax"} <= set(report["versions"]):
        missing = ["versions of python and jax"]
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; run the experiment again")
    return report


def module_of(result: str) -> str:
    """The module that makes the tables of a result: FILE, or FOLDER/FILE."""
    folder, _, name = result.rpartition("/")
    return OF_GPU.get(name, f"experiments.{name}") if folder else f"experiments.{name}"


def caption(report: Report, packages: tuple[str, ...], link: str) -> str:
    """A line of Markdown: where, when and by which code a result was measured.

    Args:
      report: the result.
      packages: those that it was measured with beside Python and JAX.
      link: to the file, from the page.
    """
    driver = f", driver {report['driver']}" if report.get("driver") else ""
    installed = [name for name in ("python", "jax", *packages) if name in report["versions"]]
    versions = ", ".join(f"{name} {report['versions'][name]}" for name in installed)
    commit = markdown.short_commit(report["commit"])
    return (
        f"*{report['device']}{driver}; {versions}; commit `{commit}`; {report['date'][:10]}; "
        f"`{report['command']}`; [all numbers]({link})*"
    )


def table(name: str, page: pathlib.Path, root: pathlib.Path) -> str:
    """The table of that name with its caption, as it stands in `page`.

    Raises UserError where there is no such table, or its file is not complete.
    """
    of, _, key = name.rpartition("/")
    if of == PUBLISHED:
        found, below = published.tables(), ""
    else:
        path = root / "experiments" / "results" / f"{of}.json"
        report = load_report(path)
        if importlib.util.find_spec(module_of(of)) is None:
            raise UserError(f"{page} asks for the table {name}, but there is no {module_of(of)} to make it")
        module = importlib.import_module(module_of(of))
        try:
            found = module.tables(report)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path} is of another version ({error!r}); run the experiment again") from None
        link = pathlib.PurePath(os.path.relpath(path, page.parent)).as_posix()
        remarks = " ".join(corrections.remarks(of, report["date"]))
        lines = [remarks, caption(report, getattr(module, "COMPARED_WITH", ()), link)]
        below = "".join(f"\n\n{line}" for line in lines if line)
    if key not in found:
        raise UserError(f"{page} asks for the table {name}; of {of} there are {', '.join(found)}")
    return found[key].strip() + below


def refresh(page: pathlib.Path, root: pathlib.Path) -> tuple[str, list[str]]:
    """The text of a page with its tables made again, and a message for each that could not be."""
    text = page.read_text()
    problems: list[str] = []

    def block(match: re.Match) -> str:
        try:
            new = table(match["name"], page, root)
        except UserError as error:
            problems.append(str(error))
            return match[0]
        return f"{BEGIN}{match['name']} -->\n{new}\n{END}"

    begins, ends = (len(re.findall(f"^{line}", text, re.MULTILINE)) for line in (BEGIN, END))
    if not begins == ends == len(TABLE.findall(text)):
        return text, [f"{page} has a line {BEGIN}... without its {END}, or the reverse; restore both"]
    return TABLE.sub(block, text), problems


def report(root: pathlib.Path, check: bool = False) -> list[str]:
    """Make every table in the pages below `root` again; what is wrong, a message each.

    Args:
      root: of a checkout.
      check: write nothing; a page that would change is wrong, too.
    """
    problems = []
    for path in result_files(root):
        try:
            load_report(path)
        except UserError as error:
            problems.append(str(error))
    for page in pages(root):
        new, found = refresh(page, root)
        problems += found
        if new == page.read_text():
            continue
        if check:
            problems.append(f"{page} differs from the results; run python -m experiments.report")
        else:
            write_whole(page, new)
            print(f"{page}: updated")
    return list(dict.fromkeys(problems))


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page would change")
    arguments = parser.parse_args()
    if problems := report(ROOT, arguments.check):
        print("\n".join(f"error: {problem}" for problem in problems), file=sys.stderr)
        sys.exit(2)
    print("every table is what the results say")


if __name__ == "__main__":
    command_line.run(main)
