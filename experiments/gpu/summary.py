"""One page about a GPU: which claims held there. Reads the result files in a folder; any may be missing."""

import json
import pathlib
from typing import Any, NamedTuple

from experiments import gradient_cases, gradients, markdown, model_speed
from kernels.bench import bench_pytorch

SHAPE = ("8x97x97", "bfloat16")  # the paper's
FASTER_THAN_EINSUM, FASTER_THAN_COMPILE = 4.0, 1.25
OVER_FLOOR = {"forward": 1.5, "forward+backward": 2.0}
NOT_MEASURED = "not measured"


class Claim(NamedTuple):
    """Something that should hold, of the number as the page shows it.

    Attributes:
      wanted: in words.
      measured: in words; `NOT_MEASURED` where there is no result.
      held: None where there is no result, or nothing is claimed.
    """

    text: str
    wanted: str
    measured: str = NOT_MEASURED
    held: bool | None = None


def results_in(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """{name of the file without its suffix: what it holds}."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def claims(results: dict[str, dict[str, Any]]) -> list[Claim]:
    """All of them, measured or not."""
    return [
        *gradient_errors(results.get("gradients")),
        kernel_errors(results.get("kernels")),
        *kernel_speeds(results),
        *model_speeds(results.get("model_speed")),
        camvid_score(results.get("camvid")),
    ]


def gradient_errors(report: dict[str, Any] | None) -> list[Claim]:
    """Whether gradients of whole networks are as near to float64 as PyTorch's own; a claim for each dtype."""
    wanted = f"each tensor <= {gradients.FACTOR:g}x PyTorch's error"
    found = []
    for dtype in gradient_cases.WEIGHTS:
        claim = Claim(f"gradients of whole networks, {dtype}", wanted)
        if rows := [row for row in report["rows"] if row["dtype"] == dtype] if report else []:
            errors = [(row["network"], *row["errors"][gradients.WHOLE]) for row in rows]
            measured = ", ".join(f"{name} {ours:.1e} (PyTorch {theirs:.1e})" for name, ours, theirs in errors)
            claim = claim._replace(measured=measured, held=not any(map(gradients.too_large, rows)))
        found.append(claim)
    return found


def kernel_errors(report: dict[str, Any] | None) -> Claim:
    """Whether every case of `kernels.bench.check` is within its bound."""
    claim = Claim("kernels equal the float32 reference", "every error within its bound")
    if report is None or not report["rows"]:
        return claim
    passed = sum(row["passed"] for row in report["rows"])
    measured = f"{passed} of {len(report['rows'])} cases" + ("" if report["finished"] else ", more to come")
    return claim._replace(measured=measured, held=passed == len(report["rows"]))


def kernel_speeds(results: dict[str, dict[str, Any]]) -> list[Claim]:
    """Of the fastest kernel at the paper's size: against einsum, and against the floor."""
    found = []
    for direction, most in OVER_FLOOR.items():
        row = fastest_kernel(results, direction)
        einsum = Claim(f"kernels against einsum, {direction}", f">= {FASTER_THAN_EINSUM:g}x as fast")
        floor = Claim(f"kernels against the floor, {direction}", f"<= {most:g}x its time")
        if row is not None:
            name = f"{row['implementation']}{' tuned' if row['tuned'] else ''}, {row['median_us']:.0f} us"
            over = round(row["time_over"]["floor"], 2)
            floor = floor._replace(measured=f"{over:.2f}x ({name})", held=over <= most)
            if "xla" in row["time_over"]:
                times = round(1 / row["time_over"]["xla"], 2)
                einsum = einsum._replace(measured=f"{times:.2f}x ({name})", held=times >= FASTER_THAN_EINSUM)
        found += [einsum, floor]
    return found


def fastest_kernel(results: dict[str, dict[str, Any]], direction: str) -> dict[str, Any] | None:
    """The row of `bench` of the fastest kernel, with "tuned": whether its blocks were; None without one."""
    rows = []
    for file in ("bench", "bench_tuned"):
        report = results.get(file, {"rows": [], "toy": False})
        shape = (report["rows"][0]["shape"], "bfloat16") if report["rows"] and report["toy"] else SHAPE
        for row in report["rows"]:
            is_kernel = row["implementation"] not in ("xla", *bench_pytorch.NAMES)
            here = (row["shape"], row["dtype"]) == shape and row["direction"] == direction
            if is_kernel and here and not row["failure"]:
                rows.append({**row, "tuned": file == "bench_tuned"})
    return min(rows, key=lambda row: row["median_us"], default=None)


def model_speeds(report: dict[str, Any] | None) -> list[Claim]:
    """Images a second against `torch.compile`, for each task the worst of the cases."""
    found = []
    for task in ("training", "inference"):
        claim = Claim(f"{task} against torch.compile", f">= {FASTER_THAN_COMPILE:g}x the images/s")
        times = {}
        for row in report["cases"] if report else []:
            ours, theirs = (row["contenders"].get(name) for name in ("jax", "torch.compile"))
            ran = ours and theirs and not ours["failure"] and not theirs["failure"]
            if ran and row["case"]["task"] == task:
                name = model_speed.Case(**row["case"]).name.removeprefix(f"{task} ")
                speeds = (model_speed.images_per_second(contender) for contender in (ours, theirs))
                times[name] = round(markdown.ratio(*speeds), 2)
        if times:
            words = ", ".join(f"{name} {x:.2f}x" for name, x in times.items())
            claim = claim._replace(measured=words, held=min(times.values()) >= FASTER_THAN_COMPILE)
        found.append(claim)
    return found


def camvid_score(report: dict[str, Any] | None) -> Claim:
    """The test score, about which nothing is claimed."""
    claim = Claim("CamVid, ResNet-50, bfloat16: mIoU on the test split", "no claim")
    if report is None or report["test"] is None:
        return claim
    score = f"{100 * report['test']['mIoU']:.1f} % after {report['step']} of {report['steps']} steps"
    return claim._replace(measured=score)


def page(folder: pathlib.Path) -> str:
    """The page in Markdown."""
    results = results_in(folder)
    first = next(iter(results.values()), {"device": folder.name, "toy": False})
    lines = [f"# Measured on {first['device']}", ""]
    if first["toy"]:
        lines += ["**Toy sizes: the times mean nothing.**", ""]
    for name, report in results.items():
        finished = "" if report["finished"] else "; not finished, the same command goes on"
        lines.append(
            f"* `{name}.json`: JAX {report['versions']['jax']}, driver {report['driver']}, "
            f"commit {report['commit']}, {report['date']}{finished}"
        )
    lines += ["", "| claim | wanted | measured | held |", "|---|---|---|---|"]
    words = {True: "yes", False: "**no**", None: "-"}
    lines += [f"| {x.text} | {x.wanted} | {x.measured} | {words[x.held]} |" for x in claims(results)]
    lines += [
        "",
        f"Kernels at {' in '.join(SHAPE)}, D = 64, C = 512. The floor is the least work of the op at ",
    ]
    lines[-1] += "the copy bandwidth and the matrix rate that were measured on this GPU."
    if "model_speed" in results:
        lines += ["", model_speed.tables(results["model_speed"])["times"]]
    return "\n".join(lines).rstrip() + "\n"
