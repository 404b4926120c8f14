"""The table of what `kernels.criss_cross.bench` measured on a GPU."""

from typing import Any

from experiments import markdown

COMPARED_WITH = ("torch",)


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each case, microseconds of each implementation and of the floor."""
    names = report["implementations"]
    cases: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in report["rows"]:
        case = cases.setdefault((row["shape"], row["dtype"], row["direction"]), {})
        case[row["implementation"]] = "failed" if row["failure"] else f"{row['median_us']:.0f}"
        case["floor"] = f"{row['floor_us']:.0f}"
    header = ["us", "dtype", "direction", *names, "floor"]
    lines = [[*key, *(case[name] for name in (*names, "floor"))] for key, case in cases.items()]
    return {"times": markdown.table(header, lines)}
