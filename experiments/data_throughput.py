"""Cityscapes-sized training samples per second: this pipeline beside a PyTorch DataLoader with OpenCV.

    python -m experiments.data_throughput [--workers 1 2] [--data-dir /path/to/cityscapes]

Three contenders: this pipeline with the tiles that `prepare --tiles` writes, this pipeline with the
folder of PNGs, and the DataLoader with the same folder. All decode, resize by 0.5 to 2, crop 512x1024 with at
most 75 % of one class, flip, distort colours and pad; all hand over uint8 batches of 4 from the same number
of worker processes. They run in turn, so that a change in the machine's speed meets all of a round.
The DataLoader does what segmentation code bases do, in their order: OpenCV decodes, the whole image is
resized, then cropped. Without --data-dir the images are `streets` scenes, enlarged to 2048x1024 with noise
until a PNG is as large as a Cityscapes one (about 2.4 MB). Of --data-dir the first --images are read.

Prints samples a second and worker, bytes on disk, where the time of one sample goes, what other ways to store
images would cost, and how long decoders take; writes experiments/results/data_throughput.json after each of
these, and started again makes those that are missing. Times of single stages are of the processor, in one
thread. Needs PyTorch's CPU build.
"""

import argparse
import dataclasses
import functools
import io
import itertools
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from ccnet_jax import prepare
from ccnet_jax.common.labels import VOID
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.config import command_line
from ccnet_jax.data import pipeline, transforms
from ccnet_jax.data.config import DataConfig
from ccnet_jax.data.datasets import cityscapes
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.data.images import decode_image
from ccnet_jax.data.sources import FolderSource, LazySource, Location
from experiments import markdown
from kernels.bench.measure import ROOT, cpu_name, result_head, resume_report, sources, write_result
from kernels.bench.programs import result_file

RESULTS = ROOT / "experiments" / "results"
COMPARED_WITH = ("torch", "opencv-python-headless", "imagecodecs", "pillow")
CROP, SCALE, CAT_MAX_RATIO, BATCH = (512, 1024), (0.5, 2.0), 0.75, 4


def write_images(root: pathlib.Path, count: int) -> None:
    """A Cityscapes folder of `count` enlarged `streets` scenes with a camera's grain."""
    rng = np.random.default_rng(0)
    label_ids = np.full(256, 0, np.uint8)
    table = cityscapes.LABELS.label_ids[:34]
    label_ids[:19] = [np.flatnonzero(table == i)[0] for i in range(19)]
    for i in progress_bar(range(count), unit="image", desc="writing images", leave=False):
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


def link_images(root: pathlib.Path, folder: str, count: int) -> None:
    """A Cityscapes folder of the first `count` training images of another."""
    pairs = cityscapes.open_split(Location(dir=folder), "train").pairs[:count]
    for path in filter(None, itertools.chain.from_iterable(pairs)):
        link = root / path.relative_to(pathlib.Path(folder).expanduser())
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(path.resolve())


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
    """An image's pixels as OpenCV decodes them. Raises ValueError where it cannot."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise ValueError("OpenCV cannot decode an image")
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


def grain_batches(data: DataConfig, workers: int) -> Iterator[Any]:
    """This project's batches."""
    data = dataclasses.replace(data, workers=workers)
    return pipeline.train_batches(pipeline.open_source(data, "train"), data, BATCH, seed=0)


def torch_batches(data: DataConfig, workers: int) -> Iterator[Any]:
    """The DataLoader's batches."""
    import torch

    dataset = OpenCVDataset(cityscapes.open_split(data, "train"), cityscapes.LABELS.label_ids)
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
    """Mean time of the processor for function(i), for i = 0 to count - 1."""
    function(0)
    started = time.process_time()
    for i in range(count):
        function(i)
    return 1e3 * (time.process_time() - started) / count


def stages(tiles: LazySource, folder: FolderSource) -> dict[str, dict[str, float]]:
    """{stage: {contender: milliseconds of one sample}}."""
    import torch

    torch.set_num_threads(1)  # as in the DataLoader's workers
    count = min(len(folder), 8)

    def crop(sample: Mapping[str, transforms.Pixels], i: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(i)
        size = transforms.random_size(sample["label"].shape, None, SCALE, None, rng)
        return transforms.random_window(sample["image"], sample["label"], size, CROP, CAT_MAX_RATIO, rng)

    def opencv_crop_of(i: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(i)
        pair = opencv_decode(*file_bytes(folder, i % count), cityscapes.LABELS.label_ids)
        return opencv_crop(*opencv_resize(*pair, rng), rng)

    whole = [folder[i]["image"] for i in range(count)]
    crops = [np.ascontiguousarray(image[: CROP[0], : CROP[1]]) for image in whole]
    distort = milliseconds(lambda i: transforms.random_distortion(crops[i % count], np.random.default_rng(i)))
    stack = milliseconds(lambda i: np.stack(crops[:BATCH])) / BATCH
    return {
        "read, decode, resize, crop": {
            "tiles": milliseconds(lambda i: crop(tiles.lazy(i % count), i)),
            "folder": milliseconds(lambda i: crop(folder[i % count], i)),
            "opencv": milliseconds(opencv_crop_of),
        },
        "distort": {
            "tiles": distort,
            "folder": distort,
            "opencv": milliseconds(lambda i: opencv_distort(crops[i % count], np.random.default_rng(i))),
        },
        "stack": {
            "tiles": stack,
            "folder": stack,
            "opencv": milliseconds(lambda i: torch.stack([torch.from_numpy(x) for x in crops[:BATCH]]))
            / BATCH,
        },
    }


class Form(NamedTuple):
    """A way to store an image in parts: how a part is written, and its (height, width)."""

    encode: Callable[[Any], Any]  # -> bytes, or another buffer
    part: tuple[int, int]


def _opencv_jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


_PNG = functools.partial(imagecodecs.png_encode, level=6)
_WEBP = functools.partial(imagecodecs.webp_encode, lossless=True, level=0)
FORMS = {
    "PNG, whole": Form(_PNG, (1024, 2048)),
    "PNG, strips of 64 rows": Form(_PNG, (64, 2048)),
    "PNG, tiles of 128": Form(_PNG, (128, 128)),
    "WebP without loss, tiles of 128": Form(_WEBP, (128, 128)),
    "QOI, tiles of 256": Form(imagecodecs.qoi_encode, (256, 256)),
    "QOI, tiles of 128 (`--tiles`)": Form(imagecodecs.qoi_encode, (128, 128)),
    "JPEG of quality 95, tiles of 128 (`--tiles --jpeg=95`)": Form(_opencv_jpeg, (128, 128)),
}


def storage(folder: FolderSource) -> dict[str, dict[str, float]]:
    """{form: as of `measure_storage`} of the first images."""
    images = [folder[i]["image"] for i in range(2)]
    forms = progress_bar(FORMS.items(), unit="form", desc="storing", leave=False)
    return {name: measure_storage(images, form) for name, form in forms}


def measure_storage(images: list[np.ndarray], form: Form, crops: int = 100) -> dict[str, float]:
    """{"megabytes" an image, "fraction" that a crop decodes, "decode" of that and "encode" of all in ms}."""
    height, width = form.part
    rows, columns = range(0, images[0].shape[0], height), range(0, images[0].shape[1], width)
    cut = [
        [np.ascontiguousarray(image[y : y + height, x : x + width]) for y in rows for x in columns]
        for image in images
    ]
    parts = [[bytes(form.encode(pixels)) for pixels in tiles] for tiles in cut]
    needed = [needed_parts(form.part, np.random.default_rng(i)) for i in range(crops)]

    def decode(i: int) -> None:
        for number in needed[i]:
            decode_image(parts[i % len(parts)][number], "a part")

    return {
        "megabytes": sum(map(len, itertools.chain.from_iterable(parts))) / len(parts) / 1e6,
        "fraction": statistics.mean(map(len, needed)) / len(cut[0]),
        "decode": milliseconds(decode, crops),
        "encode": milliseconds(lambda i: [form.encode(pixels) for pixels in cut[i]], len(cut)),
    }


def needed_parts(part: tuple[int, int], rng: np.random.Generator) -> list[int]:
    """The numbers of the parts, of (height, width), in which a random crop of a 2048x1024 image lies."""
    spans, counts = [], []
    size = transforms.random_size((1024, 2048), None, SCALE, None, rng)
    for side, resized, crop, length in zip((1024, 2048), size, CROP, part, strict=True):
        start = int(rng.integers(max(resized - crop, 0) + 1))
        stop = min(start + crop, resized)
        spans.append(range(start * side // resized // length, -(-stop * side // resized // length)))
        counts.append(-(-side // length))
    return [y * counts[1] + x for y in spans[0] for x in spans[1]]


def decoders(source: FolderSource) -> dict[str, dict[str, float]]:
    """{"png" or "jpeg": {decoder: milliseconds a 2048x1024 image}}."""
    pngs = [source.read(i)[0] for i in range(min(4, len(source)))]
    jpegs = [cv2.imencode(".jpg", opencv_pixels(p, cv2.IMREAD_COLOR))[1].tobytes() for p in pngs]

    def opencv(data: bytes) -> np.ndarray:
        return opencv_pixels(data, cv2.IMREAD_COLOR_RGB)

    def pillow(data: bytes) -> np.ndarray:
        return np.array(Image.open(io.BytesIO(data)))

    here = functools.partial(decode_image, name="an image")
    table: dict[str, dict[str, Callable[[bytes], np.ndarray]]] = {
        "png": {"here": here, "imagecodecs": imagecodecs.png_decode, "OpenCV": opencv, "Pillow": pillow},
        "jpeg": {"here": here, "imagecodecs": imagecodecs.jpeg8_decode, "OpenCV": opencv, "Pillow": pillow},
    }
    datas = {"png": pngs, "jpeg": jpegs}

    def decoded(kind: str, decode: Callable[[bytes], np.ndarray], i: int) -> np.ndarray:
        return decode(datas[kind][i % len(pngs)])

    return {
        kind: {name: milliseconds(functools.partial(decoded, kind, decode)) for name, decode in row.items()}
        for kind, row in table.items()
    }


MEASURED = ("megabytes_an_image", "milliseconds", "storage", "decoders", "samples_per_second_and_worker")
CONTENDERS = {"tiles": grain_batches, "folder": grain_batches, "opencv": torch_batches}


def measure(
    configs: dict[str, DataConfig], workers: list[int], rounds: int, count: int
) -> dict[str, dict[str, Any]]:
    """{workers: {contender: {"rate", "ratio", "ratios"}}}.

    Rates are samples a second and worker, ratios to the DataLoader's of the same round; medians over rounds.
    """
    result: dict[str, dict[str, Any]] = {}
    for number in workers:
        rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in progress_bar(range(rounds), unit="round", desc=f"{number} workers", leave=False):
            for name, make in CONTENDERS.items():
                batches = make(configs[name], number)
                rates[name].append(samples_per_second(batches, count) / number)
                del batches  # ends its workers before the next one's start
        result[str(number)] = {}
        for name, values in rates.items():
            ratios = [rate / opencv for rate, opencv in zip(values, rates["opencv"], strict=True)]
            result[str(number)][name] = {
                "rate": statistics.median(values),
                "ratio": statistics.median(ratios),
                "ratios": ratios,
            }
    return result


def megabytes(folder: pathlib.Path) -> float:
    """Of all files in a folder, followed through links."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def tables(report: dict[str, Any]) -> dict[str, str]:
    """{"rates", "stages", "storage", "decoders"}: Markdown; none of a report that is not complete."""
    if not set(MEASURED) <= set(report):
        return {}
    titles = {"tiles": "here, tiles", "folder": "here, folder", "opencv": "DataLoader + OpenCV"}
    rates = []
    for count, row in report["samples_per_second_and_worker"].items():
        numbers = [f"{row[x]['rate']:.1f}" + f" ({row[x]['ratio']:.2f}x)" * (x != "opencv") for x in titles]
        rates.append([f"{count} worker{'s' * (count != '1')}", *numbers])
    on_disk = report["megabytes_an_image"]
    rates.append(["MB an image and label, on disk", *(f"{on_disk[x]:.2f}" for x in titles)])
    stages = [[x, *(f"{row[y]:.1f}" for y in titles)] for x, row in report["milliseconds"].items()]
    storage = []
    for name, row in report["storage"].items():
        fraction = f"{100 * row['fraction']:.0f}"
        storage.append(
            [name, f"{row['megabytes']:.2f}", fraction, f"{row['decode']:.1f}", f"{row['encode']:.0f}"]
        )
    decoders = [[x.upper(), *(f"{ms:.1f}" for ms in row.values())] for x, row in report["decoders"].items()]
    columns = ["MB an image", "% decoded for a crop", "ms to decode them", "ms to write an image"]
    return {
        "rates": markdown.table(["samples/s and worker", *titles.values()], rates),
        "stages": markdown.table(["ms a sample, one thread", *titles.values()], stages),
        "storage": markdown.table(["a 2048x1024 image as", *columns], storage),
        "decoders": markdown.table(["ms a 2048x1024 image", *report["decoders"]["png"]], decoders),
    }


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workers", type=command_line.positive, nargs="+", default=[1, 2])
    parser.add_argument("--data-dir", help="a Cityscapes folder; default images made up for the purpose")
    parser.add_argument("--rounds", type=command_line.positive, default=3, help="of all in turn")
    parser.add_argument("--batches", type=command_line.positive, default=40, help="timed in each round")
    parser.add_argument("--images", type=command_line.positive, default=32, help="to make up or to read")
    parser.add_argument("--output", type=result_file, default=RESULTS / "data_throughput.json")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    report = result_head(cpu_name())  # JAX must not start a backend here: the DataLoader forks
    report |= {"sources": sources("ccnet_jax/data", "experiments/data_throughput.py")}
    report |= {"images": "made up" if arguments.data_dir is None else "Cityscapes"}
    report |= {"count": arguments.images}
    report |= {name: getattr(arguments, name) for name in ("workers", "rounds", "batches")}
    report = resume_report(arguments.output, report, MEASURED)
    with tempfile.TemporaryDirectory() as temporary:
        folder, tiles = pathlib.Path(temporary, "folder"), pathlib.Path(temporary, "tiles")
        if arguments.data_dir is None:
            write_images(folder, arguments.images)
        else:
            link_images(folder, arguments.data_dir, arguments.images)
        prepare.prepare(
            "cityscapes", Location(dir=str(folder)), str(tiles), ["train"], tiling=prepare.Tiling()
        )
        common = DataConfig(
            name="cityscapes",
            dir=str(folder),
            scale=SCALE,
            crop=CROP,
            cat_max_ratio=CAT_MAX_RATIO,
            flip=True,
            distort=True,
        )
        tiled = dataclasses.replace(common, source="tfds", dir=str(tiles))
        source, lazy = cityscapes.open_split(common, "train"), pipeline.open_source(tiled, "train")
        assert isinstance(lazy, LazySource)
        sizes = {"folder": megabytes(folder), "tiles": megabytes(tiles)}
        configs = {"tiles": tiled, "folder": common, "opencv": common}
        measurements: dict[str, Callable[[], Any]] = {
            "megabytes_an_image": lambda: {
                name: sizes["tiles" if name == "tiles" else "folder"] / len(source) for name in CONTENDERS
            },
            "milliseconds": lambda: stages(lazy, source),
            "storage": lambda: storage(source),
            "decoders": lambda: decoders(source),
            "samples_per_second_and_worker": lambda: measure(
                configs, arguments.workers, arguments.rounds, arguments.batches
            ),
        }
        missing = [name for name in MEASURED if name not in report]
        for name in progress_bar(missing, unit="measurement"):
            report[name] = measurements[name]()
            write_result(arguments.output, report)
    print("\n\n".join(tables(report).values()))


if __name__ == "__main__":
    command_line.run(main)
