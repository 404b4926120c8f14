"""The table of what `kernels.bench.check` found on a GPU."""

from typing import Any

from experiments import markdown


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"errors"}: Markdown, a line for each dtype: the largest error of all cases, beside its bound."""
    lines = []
    for dtype in dict.fromkeys(row["dtype"] for row in report["rows"]):
        rows = [row for row in report["rows"] if row["dtype"] == dtype]
        passed = sum(row["passed"] for row in rows)
        largest = max((x for row in rows for x in row["errors"].values()), default=None)
        error = "-" if largest is None else f"{largest:.1e}"
        lines.append([dtype, f"{passed} of {len(rows)}", error, f"{rows[0]['bound']:.0e}"])
    return {"errors": markdown.table(["dtype", "cases that passed", "largest error", "bound"], lines)}
