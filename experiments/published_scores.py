"""Whether mmsegmentation's published weights, converted, score what was published.

    python -m experiments.published_scores FOLDER --cityscapes DIR [--ade20k DIR] [--voc12aug DIR] [--ms-flip]

FOLDER holds some of the files in docs/weights.md, as they were fetched (.pth needs PyTorch) or as
.safetensors of the same name. Each is checked, converted with the config of its name and scored on that
config's validation split, if the folder of its data set is named. Writes
experiments/results/published_scores.json. What is converted and scored is not done again: an interrupted
experiment goes on.
"""

import argparse
import pathlib
from decimal import Decimal
from typing import Any

from ccnet_jax import convert
from ccnet_jax import eval as evaluate
from ccnet_jax.common.errors import UserError, read_json
from ccnet_jax.common.log import say
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.engine import checksums
from ccnet_jax.engine.folder import RunFolder
from experiments import markdown, published
from kernels.bench.measure import ROOT, result_head, write_result

PATH = ROOT / "experiments" / "results" / "published_scores.json"
SPLIT = "val"
AGREE = 0.05  # points of mIoU: what is published has two digits, and decoders of JPEGs differ


def found(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """{config: file} of the published files in a folder."""
    files = {}
    for config, name in published.MMSEG_FILES.items():
        path = folder / name
        for candidate in (path.with_suffix(".safetensors"), path):
            if candidate.is_file():
                files[config] = candidate
    return files


def digest_of(path: pathlib.Path) -> str:
    """The SHA-256 of a file. Raises UserError where a .pth is not the one that its name tells."""
    digest = checksums.digest(path)
    if path.suffix == ".pth" and not digest.startswith(path.stem[-8:]):
        raise UserError(
            f"{path} is corrupt: its SHA-256 begins with {digest[:8]}, not {path.stem[-8:]}; fetch it again"
        )
    return digest


def score(run: RunFolder, data: pathlib.Path, ms_flip: bool, limit: int | None) -> dict[str, Any]:
    """What `eval` says of a converted run; it is not asked again where it has said so."""
    name = SPLIT + "-ms-flip" * ms_flip + (f"-first{limit}" if limit else "")
    if not run.scores_file(name).is_file():
        options = ["--ms-flip"] * ms_flip + (["--limit", str(limit)] if limit else [])
        evaluate.main(["--workdir", str(run), "--split", SPLIT, "--data-dir", str(data), *options])
    return read_json(run.scores_file(name), "delete it")


def measure(
    config: str, file: pathlib.Path, data: pathlib.Path, runs: pathlib.Path, flags: argparse.Namespace
) -> dict[str, Any]:
    """The row of a file: converted and scored."""
    digest = digest_of(file)
    run = RunFolder(runs / f"{config.replace(':', '-')}-{digest[:8]}")
    if not run.config_file.is_file():
        width = [] if flags.width is None else [f"--config.model.width={flags.width}"]
        convert.main([str(file), "--out", str(run), "--config", config, *width])
    row = {"config": config, "file": file.name, "sha256": digest}
    for key, ms_flip in {"mIoU": False, "ms_flip": True}.items():
        if not ms_flip or flags.ms_flip:
            result = score(run, data, ms_flip, flags.limit)
            row |= {key: result["mIoU"], "images": result["images"]}
    return row


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"scores": Markdown}: measured beside published, percent."""
    scores, rows = published.published_scores(), []
    for row in report["rows"]:
        cells = [f"`{row['config']}`", str(row["images"])]
        for key, wanted in zip(("mIoU", "ms_flip"), scores[row["config"]], strict=True):
            got = None if row.get(key) is None else 100 * row[key]
            shown = ["-" if x is None else f"{x:.2f}" for x in (got, wanted)]
            known = got is not None and wanted is not None
            cells += [*shown, f"{markdown.difference(*shown):+}" if known else "-"]
        rows.append(cells)
    header = ["`--config`", "images", "mIoU", "published", "difference"]
    return {"scores": markdown.table([*header, "ms + flip", "published", "difference"], rows)}


def main(command: list[str] | None = None) -> None:
    """The program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=pathlib.Path, help="of the files")
    parser.add_argument("--cityscapes", type=pathlib.Path, metavar="DIR", help="folder of that data set")
    parser.add_argument("--ade20k", type=pathlib.Path, metavar="DIR", help="folder of that data set")
    parser.add_argument("--voc12aug", type=pathlib.Path, metavar="DIR", help="folder of that data set")
    parser.add_argument(
        "--ms-flip", action="store_true", help="score with several scales and mirror images, too"
    )
    parser.add_argument("--limit", type=command_line.positive, help="score the first images only")
    parser.add_argument("--runs", type=pathlib.Path, default=ROOT / "runs" / "published")
    parser.add_argument(
        "--output", type=pathlib.Path, help=f"default {PATH.relative_to(ROOT)}; no file with --width"
    )
    parser.add_argument("--width", type=float, help="of the networks in made-up files, to try this program")
    flags = parser.parse_args(command)

    folder = flags.folder.expanduser()
    files = found(folder)
    data = {config: getattr(flags, config.partition(":")[0]) for config in files}
    cells = {config: path for config, path in files.items() if data[config] is not None}
    if not cells:
        reason = "name the folders of their data sets" if files else "fetch some of those in docs/weights.md"
        parser.error(
            f"{folder} has {len(files)} of the {len(published.MMSEG_FILES)} published files; {reason}"
        )
    rows = []
    with progress_bar(total=len(cells), unit="network") as bar:
        for config, path in cells.items():
            row = measure(config, path, data[config].expanduser(), flags.runs.expanduser().resolve(), flags)
            rows.append(row)
            for key, name, wanted in zip(
                ("mIoU", "ms_flip"),
                ("", " with --ms-flip"),
                published.published_scores()[config],
                strict=True,
            ):
                if key in row and wanted is not None:
                    shown = [f"{score:.2f}" for score in (100 * row[key], wanted)]
                    told = f"{config}{name}: mIoU {shown[0]} %, published {shown[1]} %"
                    say(f"{told}: {verdict(markdown.difference(*shown), flags)}")
            bar.update()
    output = flags.output or (None if flags.width else PATH)
    if output:
        write_result(output, {**result_head(), "made_up": flags.width is not None, "rows": rows})


def verdict(difference: Decimal, flags: argparse.Namespace) -> str:
    """Whether a score is the published one; few images or made-up weights tell nothing."""
    if flags.width is not None or flags.limit is not None:
        return "not comparable"
    return "agrees" if abs(difference) <= AGREE else "DIFFERS"


if __name__ == "__main__":
    command_line.run(main)
