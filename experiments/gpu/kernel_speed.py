"""The table of what `kernels.bench` measured on a GPU."""

from typing import Any

from experiments import markdown

COMPARED_WITH = ("torch",)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each case, microseconds of each implementation and of the floor."""
    cases: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in report["rows"]:
        shape = markdown.measured_at(row["shape"], row["commit"], report["commit"])
        case = cases.setdefault((shape, row["dtype"], row["direction"]), {})
        case[row["implementation"]] = "failed" if row["failure"] else f"{row['median_us']:.0f}"
        case["floor"] = f"{row['floor_us']:.0f}"
    names = [*dict.fromkeys(row["implementation"] for row in report["rows"]), "floor"]
    header = ["us", "dtype", "direction", *names]
    lines = [[*key, *(case.get(name, "-") for name in names)] for key, case in cases.items()]
    return {"times": markdown.table(header, lines)}
