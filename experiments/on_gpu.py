"""Everything that only a GPU can tell, in one command that may be cut off at any second.

    python -m experiments.on_gpu --minutes 10 [--camvid DIR] [--parts NAME,NAME] [--results DIR] [--toy]

In this order, each part for a fraction of the time that is left, and none whose result for this GPU, these
versions and these sources is there already; a part that was cut off goes on where it was:

    gradients        experiments.gradients: of whole networks, beside PyTorch's float64
    kernels          kernels.bench.check: every dtype, odd shapes, with gradients, beside the reference
    bench            kernels.bench: beside einsum and PyTorch, and the floor
    blocks           kernels.bench.tune: the fastest block sizes
    bench_tuned      bench again, with these blocks
    model_speed      experiments.model_speed: training and inference beside PyTorch
    instance_speed   experiments.instance_speed: training Mask R-CNN beside torchvision
    camvid           ResNet-50 in bfloat16 from its last checkpoint, then the test split; needs --camvid DIR

Writes DIR/GPU-NAME/{PART.json,summary.md}, DIR by default experiments/results. summary.md says which claims
held. --toy writes DIR/GPU-NAME-toy.

A bare machine needs jax[cuda], flax, optax, torch, jaxtyping and tqdm; the part gradients does without torch,
and takes its recordings from this repository. The part camvid also needs
opencv-python-headless, pillow, imagecodecs, ml_collections, grain, cloudpickle, safetensors and tensorboardX.
A part whose packages are missing is skipped, and says so. Where the repository's history is missing,
the environment variable SOURCE_COMMIT says what to note as the commit.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from experiments import gradient_cases
from experiments.gpu import summary
from kernels.bench.measure import ROOT, commit, sources, versions
from kernels.whole_file import write_whole

RESULTS = ROOT / "experiments" / "results"
PARTS = (
    *("gradients", "kernels", "bench", "blocks", "bench_tuned", "model_speed", "instance_speed"),
    "camvid",
)
RESERVE = 5.0  # seconds for the summary
GRACE = 10.0  # seconds in which a part may end by itself when its time is up
CAMVID_PACKAGES = (
    *("cv2", "PIL", "imagecodecs", "ml_collections", "grain", "cloudpickle", "safetensors"),
    "tensorboardX",
)
INSTANCE_PACKAGES = ("torchvision",)
ASK_FOR_DEVICE = (
    "from kernels.bench import measure; import jax; print(jax.default_backend(), measure.device_name())"
)


class Part(NamedTuple):
    """One part.

    Attributes:
      name: also of its result, NAME.json.
      fraction: of the time that is left, at most.
      least: seconds without which it is not started.
      commands: programs with their flags, one after the other; {minutes} is the time it has.
      folders: of the sources on which the result depends, or single files.
      packages: that it imports and a bare machine may lack.
    """

    name: str
    fraction: float
    least: float
    commands: list[list[str]]
    folders: tuple[str, ...] = ("kernels",)
    packages: tuple[str, ...] = ()


def parts(folder: pathlib.Path, flags: argparse.Namespace) -> Iterator[Part]:
    """All parts in their order, each made when those before it have ended."""
    toy = ["--toy"] if flags.toy else []

    def output(name: str) -> list[str]:
        return ["--output", str(folder / f"{name}.json")]

    gradients = ["experiments.gradients", *toy, *output("gradients")]
    yield Part("gradients", 0.4, 60, [gradients], gradient_cases.SOURCES)
    yield Part("kernels", 0.4, 20, [["kernels.bench.check", *toy, *output("kernels")]])
    bench = ["kernels.bench", "--resume", *toy]
    yield Part("bench", 0.25, 30, [[*bench, *output("bench")]])
    tune = ["kernels.bench.tune", *toy, *output("blocks")]
    first = [] if flags.toy else [[*tune, "--shapes=8x97x97", "--dtypes=bfloat16"]]
    yield Part("blocks", 0.12, 30, [*first, tune])
    blocks = folder / "blocks.json"
    tuned = ["--blocks", str(blocks)] if blocks.exists() else []
    if tuned:
        yield Part("bench_tuned", 0.12, 30, [[*bench, *tuned, *output("bench_tuned")]])
    yield Part(
        "model_speed",
        0.75 if flags.camvid else 0.9,
        120,  # to compile one case for PyTorch and for JAX
        [["experiments.model_speed", *toy, *tuned, *output("model_speed")]],
        ("kernels", "ccnet_jax", "experiments/speed"),
    )
    yield Part(
        "instance_speed",
        0.5 if flags.camvid else 1.0,
        120,
        [["experiments.instance_speed", *toy, *output("instance_speed")]],
        ("kernels", "ccnet_jax", "experiments/speed"),
        INSTANCE_PACKAGES,
    )
    if flags.camvid:
        run = flags.camvid_run or ROOT / "runs" / f"camvid-{folder.name}"
        camvid = ["experiments.gpu.camvid", f"--data={flags.camvid}", f"--run={run}", "--minutes={minutes}"]
        camvid += [f"--steps={flags.camvid_steps}"] if flags.camvid_steps else []
        commands = [[*camvid, *toy, *output("camvid")]]
        folders = ("kernels", "ccnet_jax", "configs")
        yield Part("camvid", 1.0, 90, commands, folders, CAMVID_PACKAGES)


def is_done(part: Part, folder: pathlib.Path, device: str) -> bool:
    """Whether the part's result is there: complete, and of this device, these versions and these sources."""
    try:
        report = json.loads((folder / f"{part.name}.json").read_text())
    except (OSError, ValueError):
        return False
    measured = report["device"], report["versions"], report["sources"]
    return report["finished"] and measured == (device, versions(), sources(*part.folders))


def reason_to_skip(
    part: Part, folder: pathlib.Path, device: str, seconds: float, ran: list[str]
) -> str | None:
    """Why the part is not started, or None. `ran` are the parts before it that were."""
    new_blocks = part.name == "bench_tuned" and "blocks" in ran
    if is_done(part, folder, device) and not new_blocks:
        return "its result is there"
    if missing := [name for name in part.packages if importlib.util.find_spec(name) is None]:
        return f"it needs the packages {', '.join(missing)}"
    if seconds < part.least:
        return f"it has {seconds:.0f} s and needs {part.least:.0f}; give more --minutes, or start again"
    return None


def run(part: Part, seconds: float) -> str:
    """Run the part's commands for so many seconds at most; how it ended, in words."""
    deadline = time.monotonic() + seconds
    for command in part.commands:
        left = deadline - time.monotonic()
        words = [word.format(minutes=left / 60) for word in command]
        process = subprocess.Popen([sys.executable, "-m", *words], cwd=ROOT, process_group=0)
        try:
            status = process.wait(max(0.0, left))
        except subprocess.TimeoutExpired:
            return "cut off: its time was up; what it has is kept"
        finally:
            stop(process)
        if status:
            return f"failed with status {status}"
    return "done"


def stop(process: subprocess.Popen) -> None:
    """End a process and those that it started: it may clean up first."""
    for signal_, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(process.pid, signal_)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)


def device_at_hand() -> tuple[str, str]:
    """JAX's platform and the device's name; another process asks, so that this one holds no GPU memory."""
    done = subprocess.run(
        [sys.executable, "-c", ASK_FOR_DEVICE], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"JAX does not start: {done.stderr.strip().splitlines()[-1]}")
    platform, _, name = done.stdout.strip().splitlines()[-1].partition(" ")
    return platform, name


def folder_name(device: str) -> str:
    """The device's name with nothing but letters, digits, points, lines."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", device).strip("-.")


def part_names(text: str) -> list[str]:
    """Names of parts as a flag gives them. Raises ArgumentTypeError."""
    names = text.split(",")
    if unknown := [name for name in names if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return names


def main(arguments: Sequence[str] | None = None) -> None:
    """The program."""
    start = time.monotonic()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="for everything; default 10")
    parser.add_argument(
        "--camvid", type=pathlib.Path, help="folder of CamVid; without it that part is skipped"
    )
    parser.add_argument("--camvid-run", type=pathlib.Path, help="default runs/camvid-GPU-NAME")
    parser.add_argument("--camvid-steps", type=int, help="of its schedule, where time is short")
    parser.add_argument("--results", type=pathlib.Path, default=RESULTS, help="folder of all GPUs' results")
    parser.add_argument("--parts", type=part_names, help="NAME,NAME: these alone; default: all")
    parser.add_argument("--toy", action="store_true", help="the parts at tiny sizes, without a GPU")
    flags = parser.parse_args(arguments)
    for name in ("camvid", "camvid_run", "results"):  # parts run in the repository
        if (path := getattr(flags, name)) is not None:
            setattr(flags, name, path.expanduser().resolve())

    if commit() is None:
        parser.error("nothing says which commit this is: set SOURCE_COMMIT to its hash, to note it")
    deadline = start + 60 * flags.minutes
    platform, device = device_at_hand()
    if platform != "gpu" and not flags.toy:
        parser.error(f"JAX sees no GPU but {device}; --toy tries all parts without one")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # parts end with this program
    folder = flags.results / (folder_name(device) + "-toy" * flags.toy)
    folder.mkdir(parents=True, exist_ok=True)
    ran: list[str] = []
    for part in parts(folder, flags):
        if flags.parts and part.name not in flags.parts:
            continue
        left = deadline - time.monotonic() - RESERVE
        seconds = part.fraction * left
        if reason := reason_to_skip(part, folder, device, seconds, ran):
            print(f"== {part.name} is skipped: {reason}", flush=True)
            continue
        ran.append(part.name)
        print(f"== {part.name}: at most {seconds:.0f} s of {left:.0f}", flush=True)
        print(f"== {part.name}: {run(part, seconds - GRACE)}", flush=True)
        write_whole(folder / "summary.md", summary.page(folder))
    if not flags.camvid and (not flags.parts or "camvid" in flags.parts):
        print("== camvid is skipped: name the folder of CamVid by --camvid DIR", flush=True)
    write_whole(folder / "summary.md", summary.page(folder))
    print(summary.page(folder))
    print(f"Everything is in {folder}")


if __name__ == "__main__":
    main()
