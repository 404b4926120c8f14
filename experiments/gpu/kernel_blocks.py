"""The table of the block sizes that `kernels.bench.tune` found on a GPU."""

from typing import Any

from experiments import markdown


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"times"}: Markdown, a line for each direction, dtype and length: tuned, and by default."""
    lines = []
    for row in report["rows"]:
        bits, default = 8 * row["bytes"], row["default_us"]
        blocks = ", ".join(map(str, row["blocks"]))
        times = [f"{row['us']:.0f}", "failed" if default is None else f"{default:.0f}"]
        direction = markdown.measured_at(row["direction"], row["commit"], report["commit"])
        lines.append([direction, f"{bits} bits", f"up to {row['longest']}", blocks, *times])
    header = ["direction", "numbers of", "lines of", "query, key, channels, warps, stages", "us"]
    return {"times": markdown.table([*header, "us, default blocks"], lines)}
