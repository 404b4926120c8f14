"""Cityscapes-sized training samples per second: this pipeline beside a PyTorch DataLoader with OpenCV.

    python -m experiments.data_throughput [--workers 1 2] [--data-dir /path/to/cityscapes]

Both read the same PNGs, and decode, resize by 0.5 to 2, crop 512x1024 with at most 75 % of one class, flip,
distort colours and pad; both hand over uint8 batches of 4 from the same number of worker processes. They
run in turn, so that a change in the machine's speed meets both. The DataLoader does what segmentation code
bases do, in their order: OpenCV decodes, the whole picture is resized, then cropped. Without --data-dir the
pictures are `streets` scenes, enlarged to 2048x1024 with noise until a PNG is as large as a Cityscapes one
(about 2.4 MB). Prints samples a second and worker, where the time of one sample goes in each, and how long
decoders take; writes experiments/results/data_throughput.json. Needs PyTorch's CPU build.
"""

import argparse
import functools
import io
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from ccnet_jax.data import pipeline, transforms
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import cityscapes
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.images import decode_sample
from ccnet_jax.data.sources import FolderSource, Location
from ccnet_jax.labels import VOID
from ccnet_jax.progress import progress_bar
from experiments import markdown
from kernels.measure import ROOT, cpu_name, result_head, write_result

RESULTS = ROOT / "experiments" / "results"
COMPARED_WITH = ("torch", "opencv-python-headless", "imagecodecs", "pillow")
CROP, SCALE, CAT_MAX_RATIO, BATCH = (512, 1024), (0.5, 2.0), 0.75, 4


def write_pictures(root: pathlib.Path, count: int) -> None:
    """A Cityscapes folder of `count` enlarged `streets` scenes with a camera's grain."""
    rng = np.random.default_rng(0)
    label_ids = np.full(256, 0, np.uint8)
    table = cityscapes.LABELS.label_ids[:34]
    label_ids[:19] = [np.flatnonzero(table == i)[0] for i in range(19)]
    for i in progress_bar(range(count), unit="picture", desc="writing pictures", leave=False):
        sample = Streets("train")[i]
        large = cv2.resize(sample["image"], (2048, 1024), interpolation=cv2.INTER_CUBIC).astype(np.float32)
        grain = cv2.GaussianBlur(rng.normal(0, 5, (1024, 2048, 3)).astype(np.float32), (0, 0), 1.0)
        image = np.clip(large + 1.6 * grain, 0, 255).astype(np.uint8)
        label = cv2.resize(sample["label"], (2048, 1024), interpolation=cv2.INTER_NEAREST)
        name = f"town_{i:06d}_000019"
        for path, pixels in (
            (root / "leftImg8bit/train/town" / f"{name}_leftImg8bit.png", image),
            (root / "gtFine/train/town" / f"{name}_gtFine_labelIds.png", label_ids[label]),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)


class OpenCVDataset:
    """The same operations as segmentation code bases order and write them, for a DataLoader."""

    def __init__(self, source: FolderSource, train_ids: np.ndarray):
        self.source, self.train_ids = source, train_ids

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        import torch  # not above: the tables are made without it

        rng = np.random.default_rng(torch.randint(2**31, ()).item())
        image, label = opencv_decode(*file_bytes(self.source, index), self.train_ids)
        image, label = opencv_resize(image, label, rng)
        image, label = opencv_crop(image, label, rng)
        if rng.integers(2):
            image, label = cv2.flip(image, 1), cv2.flip(label, 1)
        image = opencv_distort(image, rng)
        image, label = transforms.pad(image, label, CROP)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label)}


def file_bytes(source: FolderSource, index: int) -> tuple[bytes, bytes]:
    """What the two files of a sample hold. Raises ValueError where it has no label."""
    image, label = source.read(index)
    if label is None:
        raise ValueError(f"{source.name(index)} has no label")
    return image, label


def opencv_pixels(data: bytes, flags: int) -> np.ndarray:
    """A picture's pixels as OpenCV decodes them. Raises ValueError where it cannot."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ValueError("OpenCV cannot decode a picture")
    return pixels


def opencv_decode(image: bytes, label: bytes, train_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RGB and train ids."""
    pixels = opencv_pixels(image, cv2.IMREAD_COLOR)
    ids = opencv_pixels(label, cv2.IMREAD_UNCHANGED)
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), cv2.LUT(ids, train_ids)


def opencv_resize(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The whole pair by a random ratio."""
    ratio = rng.uniform(*SCALE)
    size = int(label.shape[1] * ratio + 0.5), int(label.shape[0] * ratio + 0.5)
    return cv2.resize(image, size), cv2.resize(label, size, interpolation=cv2.INTER_NEAREST)


def opencv_crop(
    image: np.ndarray, label: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """A random window, another where one class has too much of it."""
    for _ in range(10):
        top = rng.integers(max(label.shape[0] - CROP[0], 0) + 1)
        left = rng.integers(max(label.shape[1] - CROP[1], 0) + 1)
        window = label[top : top + CROP[0], left : left + CROP[1]]
        counts = np.bincount(window.ravel(), minlength=256)[:VOID]
        if np.count_nonzero(counts) > 1 and np.max(counts) < CAT_MAX_RATIO * counts.sum():
            break
    return image[top : top + CROP[0], left : left + CROP[1]], window


def opencv_distort(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Brightness, contrast, saturation, hue, each on all pixels in float32 and back to uint8."""

    def changed(pixels: np.ndarray, alpha: float = 1.0, beta: float = 0.0) -> np.ndarray:
        return np.clip(pixels.astype(np.float32) * alpha + beta, 0, 255).astype(np.uint8)

    if rng.integers(2):
        image = changed(image, beta=rng.uniform(-32, 32))
    contrast_first = rng.integers(2)
    if contrast_first and rng.integers(2):
        image = changed(image, alpha=rng.uniform(0.5, 1.5))
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = changed(hsv[..., 1], alpha=rng.uniform(0.5, 1.5))
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if rng.integers(2):
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + rng.integers(-18, 18)) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if not contrast_first and rng.integers(2):
        image = changed(image, alpha=rng.uniform(0.5, 1.5))
    return image


def grain_batches(source: FolderSource, workers: int) -> Iterator[Any]:
    """This project's batches."""
    data = DataConfig(
        scale=SCALE, crop=CROP, cat_max_ratio=CAT_MAX_RATIO, flip=True, distort=True, workers=workers
    )
    return pipeline.train_batches(source, data, BATCH, seed=0)


def torch_batches(source: FolderSource, workers: int) -> Iterator[Any]:
    """The DataLoader's batches."""
    import torch

    dataset = OpenCVDataset(source, cityscapes.LABELS.label_ids)
    endless = torch.utils.data.RandomSampler(dataset, num_samples=10**7)
    return iter(
        torch.utils.data.DataLoader(
            dataset,
            BATCH,
            sampler=endless,
            num_workers=workers,
            worker_init_fn=lambda _: cv2.setNumThreads(1),
        )
    )


def samples_per_second(batches: Iterator[Any], count: int) -> float:
    """Of `count` batches, after those that were made while the workers started."""
    for _ in range(8):
        next(batches)
    started = time.perf_counter()
    for _ in range(count):
        next(batches)
    return count * BATCH / (time.perf_counter() - started)


def milliseconds(function: Callable[[int], Any], count: int = 24) -> float:
    """Mean time of function(i) in one thread, for i = 0 to count - 1."""
    function(0)
    started = time.perf_counter()
    for i in range(count):
        function(i)
    return 1e3 * (time.perf_counter() - started) / count


def stages(source: FolderSource) -> dict[str, dict[str, float]]:
    """{stage: {"here", "opencv"}}: milliseconds of one sample, each stage on its own."""
    import torch

    pairs = [source.read(i) for i in range(min(len(source), 8))]
    classes = cityscapes.LABELS
    decoded = [decode_sample(classes, *pair, "image", "label") for pair in pairs]
    images, labels = ([sample[key] for sample in decoded] for key in ("image", "label"))
    count = len(pairs)

    def resized(i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        size = transforms.random_size(labels[i % count].shape, None, SCALE, None, rng)
        return transforms.random_window(images[i % count], labels[i % count], size, CROP, CAT_MAX_RATIO, rng)

    def opencv_resized(i: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return opencv_crop(*opencv_resize(images[i % count], labels[i % count], rng), rng)

    crops = [np.ascontiguousarray(image[: CROP[0], : CROP[1]]) for image in images]
    two = {
        "read and decode": (
            lambda i: decode_sample(classes, *source.read(i % count), "image", "label"),
            lambda i: opencv_decode(*file_bytes(source, i % count), classes.label_ids),
        ),
        "resize and crop": (
            lambda i: resized(i, np.random.default_rng(i)),
            lambda i: opencv_resized(i, np.random.default_rng(i)),
        ),
        "distort": (
            lambda i: transforms.random_distortion(crops[i % count], np.random.default_rng(i)),
            lambda i: opencv_distort(crops[i % count], np.random.default_rng(i)),
        ),
        "stack": (
            lambda i: np.stack(crops[:BATCH]),
            lambda i: torch.stack([torch.from_numpy(crop) for crop in crops[:BATCH]]),
        ),
    }
    shares = {"stack": BATCH}
    return {
        stage: {
            "here": milliseconds(here) / shares.get(stage, 1),
            "opencv": milliseconds(opencv) / shares.get(stage, 1),
        }
        for stage, (here, opencv) in two.items()
    }


def decoders(source: FolderSource) -> dict[str, dict[str, float]]:
    """{"png" or "jpeg": {decoder: milliseconds a 2048x1024 picture}}."""
    pngs = [source.read(i)[0] for i in range(4)]
    jpegs = [cv2.imencode(".jpg", opencv_pixels(p, cv2.IMREAD_COLOR))[1].tobytes() for p in pngs]

    def opencv(data: bytes) -> np.ndarray:
        return opencv_pixels(data, cv2.IMREAD_COLOR_RGB)

    def pillow(data: bytes) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(data)))

    table: dict[str, dict[str, Callable[[bytes], np.ndarray]]] = {
        "png": {"imagecodecs": imagecodecs.png_decode, "OpenCV": opencv, "Pillow": pillow},
        "jpeg": {"imagecodecs": imagecodecs.jpeg8_decode, "OpenCV": opencv, "Pillow": pillow},
    }
    datas = {"png": pngs, "jpeg": jpegs}

    def decoded(kind: str, decode: Callable[[bytes], np.ndarray], i: int) -> np.ndarray:
        return decode(datas[kind][i % 4])

    return {
        kind: {name: milliseconds(functools.partial(decoded, kind, decode)) for name, decode in row.items()}
        for kind, row in table.items()
    }


def measured(source: FolderSource, workers: list[int], rounds: int, count: int) -> dict[str, Any]:
    """{workers: {"here", "opencv", "ratio"}}: medians over the rounds, a second and worker."""
    makers = {"here": grain_batches, "opencv": torch_batches}
    result: dict[str, dict[str, Any]] = {}
    for number in workers:
        rates: dict[str, list[float]] = {name: [] for name in makers}
        for _ in progress_bar(range(rounds), unit="round", desc=f"{number} workers", leave=False):
            for name, make in makers.items():
                batches = make(source, number)
                rates[name].append(samples_per_second(batches, count) / number)
                del batches  # ends its workers before the other's start
        ratios = [here / opencv for here, opencv in zip(rates["here"], rates["opencv"], strict=True)]
        result[str(number)] = {name: statistics.median(values) for name, values in rates.items()}
        result[str(number)] |= {"ratio": statistics.median(ratios), "ratios": ratios}
    return result


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"rates", "stages", "decoders"}: Markdown."""
    rates = []
    for count, row in report["samples_per_second_and_worker"].items():
        numbers = f"{row['here']:.1f}", f"{row['opencv']:.1f}", f"{row['ratio']:.2f}"
        rates.append([f"{count} worker{'s' * (count != '1')}", *numbers])
    stages = [[x, f"{row['here']:.1f}", f"{row['opencv']:.1f}"] for x, row in report["milliseconds"].items()]
    decoders = [[x.upper(), *(f"{ms:.1f}" for ms in row.values())] for x, row in report["decoders"].items()]
    two = ["here", "DataLoader + OpenCV"]
    return {
        "rates": markdown.table(["samples/s and worker", *two, "ratio"], rates),
        "stages": markdown.table(["ms a sample, one thread", *two], stages),
        "decoders": markdown.table(["ms a 2048x1024 picture", *report["decoders"]["png"]], decoders),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--data-dir", help="a Cityscapes folder; default pictures made up for the purpose")
    parser.add_argument("--rounds", type=int, default=3, help="of both in turn")
    parser.add_argument("--batches", type=int, default=40, help="timed in each round")
    parser.add_argument("--pictures", type=int, default=32, help="to make up")
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS / "data_throughput.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    head = result_head(cpu_name())  # JAX must not start a backend here: the DataLoader forks
    with tempfile.TemporaryDirectory() as made_up:
        if arguments.data_dir is None:
            write_pictures(pathlib.Path(made_up), arguments.pictures)
        source = cityscapes.open_split(Location(dir=arguments.data_dir or made_up), "train")
        sizes = [path.stat().st_size for path, _ in source.pairs]
        report = {
            **head,
            "pictures": "made up" if arguments.data_dir is None else "Cityscapes",
            "png_megabytes": statistics.mean(sizes) / 1e6,
            "milliseconds": stages(source),
            "decoders": decoders(source),
            "samples_per_second_and_worker": measured(
                source, arguments.workers, arguments.rounds, arguments.batches
            ),
        }
    write_result(arguments.output, report)
    print("\n\n".join(tables(report).values()))


if __name__ == "__main__":
    main()
