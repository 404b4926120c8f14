"""Make a folder data set a TFDS one: sharded ArrayRecord files, which are fast to read from any storage.

    python -m ccnet_jax.prepare --dataset cityscapes --source FOLDER --out OUT [--split train,val]
    python -m ccnet_jax.train --config cityscapes --config.data.source=tfds --config.data.dir=OUT
    python -m ccnet_jax.prepare --dataset cityscapes --out OUT --verify
    python -m ccnet_jax.prepare --dataset folder --source FOLDER --out OUT [--images PATTERN ...]

Images and labels are kept as the bytes of their files, in the folder's order, after each pair was decoded
and checked. An image without a label, as in test splits, gets an 8-bit PNG that is 255 (void) everywhere,
so that every reader can decode it. Labels of `folder`, whose numbers and colours only its classes.txt
explains, become PNGs of class indices. What results in OUT/NAME/1.0.0 is a data set like any other of TFDS:

    tfds.data_source("NAME:1.0.0", data_dir=OUT, split="val")      # needs no ccnet_jax

though TFDS's own decoder makes colours of palette PNGs' labels (VOC's), where `ccnet_jax` reads the numbers.

With --tiles images and labels are cut into tiles, without loss, and training decodes only the tiles that a
crop needs: the same crops as from the folder, several times faster where images are large. Such a data set
is read by `ccnet_jax` alone. --jpeg makes its images small, and changes their pixels a little.

All is written in OUT/NAME/1.0.0.incomplete, which gets its name when nothing is missing. Stopped or killed,
the same command goes on with the shards that are whole. `checksums.json` holds the SHA-256 of every shard
and what the data set was made of; it stands for names and sizes of the files, not for their contents.
Splits cannot be added to a data set that is complete: prepare it again in another OUT, with all of them.
"""

import argparse
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import cv2
import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from ccnet_jax.common import outputs
from ccnet_jax.common.errors import UserError, write_json
from ccnet_jax.common.files import read_file
from ccnet_jax.common.kernels import whole_file
from ccnet_jax.common.labels import VOID, Classes
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.common.words import number_of
from ccnet_jax.config import command_line
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.data.images import decode_sample
from ccnet_jax.data.sources import FileSource, FolderSource, Location, MissingSplit, Source, files_of
from ccnet_jax.data.tfds_source import TILE_FEATURES
from ccnet_jax.data.tiles import SIDE, image_tiles, label_tiles
from ccnet_jax.engine.checksums import digest
from ccnet_jax.engine.lock import Lock
from ccnet_jax.engine.stopping import Stopped, StopSignal
from ccnet_jax.tasks import TASKS

VERSION = "1.0.0"  # of what these data sets hold and how
CHECKSUMS = "checksums.json"
CLASSES = "classes.json"
_THREADS = min(8, os.cpu_count() or 1)  # that read and decode


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How images are written as tiles.

    Attributes:
      jpeg: quality of JPEG files, 1 to 100; None keeps every pixel. Labels are always kept.
    """

    jpeg: int | None = None


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file to be written: images `start` to `stop` of a split."""

    file: str
    split: str
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that is to be written, known before the first image is read.

    Attributes:
      sources: of every split.
      shards: in the order in which they are written.
      made_of: what must be the same for shards written before to be part of it: {"files": SHA-256 of names
        and sizes, "shard_bytes": ..., "images": {split: ...}}; of data sets whose classes are found in
        the data "classes", and of tiles "tiles".
      size: of all files read, in bytes.
      tiling: None where images and labels keep the bytes of their files.
    """

    sources: dict[str, FileSource]
    shards: list[Shard]
    made_of: dict[str, Any]
    size: int
    tiling: Tiling | None


def prepare(
    dataset: str,
    location: Location,
    out: str,
    splits: list[str] | None = None,
    shard_bytes: int = 2**28,
    tiling: Tiling | None = None,
) -> pathlib.Path:
    """The folder of the TFDS data set made of a folder data set; goes on where it stopped before.

    Args:
      dataset: a key of `DATASETS`.
      location: where it lies.
      out: TFDS's data_dir.
      splits: which; None takes all that exist and prints which do not.
      shard_bytes: most bytes of the folder that go into one file, though an image at least.
      tiling: how to cut tiles; None keeps the bytes of the folder's files.

    Raises:
      UserError: a file is missing or corrupt, `out` cannot be written or is full, or it holds the data set
        made of something else.
    """
    plan = _plan(dataset, _sources(dataset, location, splits), shard_bytes, tiling)
    complete, unfinished = _folders(dataset, out)
    with Lock(complete.with_name(f"{VERSION}.lock"), "--out", pathlib.Path(out)):
        if complete.exists():
            _check_made_of(complete, plan)
            if all((complete / shard.file).exists() for shard in plan.shards):
                print(f"{complete} is complete: {_contents(plan)}")
                return complete
        with _explain_write_errors(unfinished):
            if complete.exists():
                complete.rename(unfinished)  # a file of it was taken away, to be written again
            unfinished.mkdir(parents=True, exist_ok=True)
        kept = [path for source in plan.sources.values() for path in files_of(source)]
        outputs.check_folder("--out", unfinished, [path.name for path in unfinished.iterdir()], kept)
        _check_made_of(unfinished, plan)
        _write_missing_shards(unfinished, dataset, plan)
        with _explain_write_errors(unfinished):
            _write_metadata(unfinished, dataset, plan)
            unfinished.rename(complete)
    print(f"{complete} is complete: {_contents(plan)}")
    return complete


def verify(dataset: str, out: str) -> None:
    """Compare every shard of a data set with its checksum. Raises UserError naming those that differ."""
    complete, unfinished = _folders(dataset, out)
    if not complete.is_dir():
        state = f"is unfinished in {unfinished}" if unfinished.is_dir() else "is not there"
        raise UserError(f"{complete} {state}; run the command without --verify")
    checksums = _read_checksums(complete)
    bad = sorted(set(checksums["shards"]) - set(_good_shards(complete, checksums["shards"])))
    if bad:
        raise UserError(
            f"{complete} has {len(bad)} of {len(checksums['shards'])} files that are missing or not what was "
            f"written: {', '.join(bad[:3])}{', ...' * (len(bad) > 3)}; delete them and prepare the data set "
            "again, which writes only them"
        )
    print(f"{complete} is whole: {len(checksums['shards'])} files have their checksums")


# ------------------------------------------------------------- what to write


def _folders(dataset: str, out: str) -> tuple[pathlib.Path, pathlib.Path]:
    """Where the complete data set lies, and where one that is being written."""
    folder = pathlib.Path(out).expanduser() / dataset
    return folder / VERSION, folder / f"{VERSION}.incomplete"


def _sources(dataset: str, location: Location, splits: list[str] | None) -> dict[str, FileSource]:
    """The sources of the splits that were asked for, or of all that can be opened."""
    data_set = DATASETS[dataset]
    sources: dict[str, FileSource] = {}
    missing: dict[str, MissingSplit] = {}
    if data_set.layout is not None:  # it lies in a folder
        if location.dir is None:
            raise UserError(f"pass --source=FOLDER, where FOLDER holds {data_set.layout}")
        if not pathlib.Path(location.dir).expanduser().is_dir():
            raise UserError(f"--source={location.dir} is not a folder; it must hold {data_set.layout}")
    for split in splits or data_set.splits:
        try:
            source = data_set.open(location, split)
        except MissingSplit as error:
            if splits:
                raise
            missing[split] = error
            continue
        if not isinstance(source, FileSource):
            raise UserError(
                f"{dataset} cannot be prepared: its sources give no files; add to their class a method "
                "read(index) -> (bytes of the image's file, bytes of the label's file or None)"
            )
        sources[split] = source
    if not sources:
        raise next(iter(missing.values()))
    for split, reason in missing.items():
        print(f"without split {split}: {reason}")
    return sources


def _plan(dataset: str, sources: dict[str, FileSource], shard_bytes: int, tiling: Tiling | None) -> Plan:
    """What is to be written: shards of at most `shard_bytes`, though of one image at least."""
    shards, listed, total = [], {}, 0
    for split, source in sources.items():
        sizes = _sizes(source)
        starts, filled = [0], 0
        for i, size in enumerate(map(sum, sizes)):
            if i > starts[-1] and filled + size > shard_bytes:
                starts.append(i)
                filled = 0
            filled += size
            total += size
        files = _template(dataset, split).sharded_filenames(len(starts))
        stops = [*starts[1:], len(source)]
        shards += [Shard(file, split, *span) for file, *span in zip(files, starts, stops, strict=True)]
        listed[split] = [[source.name(i), *size] for i, size in enumerate(sizes)]
    made_of = {
        "files": hashlib.sha256(json.dumps(listed).encode()).hexdigest(),
        "shard_bytes": shard_bytes,
        "images": {split: len(source) for split, source in sources.items()},
    }
    if DATASETS[dataset].classes is None:
        made_of["classes"] = _class_file(next(iter(sources.values())).label_classes)
    if tiling is not None:
        made_of["tiles"] = {"side": SIDE, **dataclasses.asdict(tiling)}
    return Plan(sources, shards, made_of, total, tiling)


def _sizes(source: FileSource) -> list[tuple[int, int]]:
    """The bytes of every image's file and of its label's; of drawn scenes the first one's stand for all."""
    if not isinstance(source, FolderSource):
        image, label = source.read(0)
        return [(len(image), len(label or b""))] * len(source)
    try:
        return [
            (image.stat().st_size, 0 if label is None else label.stat().st_size)
            for image, label in source.pairs
        ]
    except OSError as error:
        raise UserError(f"{error.filename} cannot be read ({error.strerror}); put it back") from None


def _template(dataset: str, split: str) -> tfds.core.ShardedFileTemplate:
    """TFDS's names of a split's files."""
    return tfds.core.ShardedFileTemplate(
        data_dir="", dataset_name=dataset, split=split, filetype_suffix="array_record"
    )


def _written_classes(dataset: str, source: Source) -> Classes:
    """What the numbers in the label files of the prepared data set mean.

    Readers know the classes of the published data sets, so that the files' bytes can stay. Where classes are
    found in the data, labels are written as class indices.
    """
    classes = source.label_classes
    return classes if DATASETS[dataset].classes is not None else Classes(classes.names, classes.palette)


def _class_file(classes: Classes) -> dict[str, Any]:
    """Names and colours, as in a classes.json."""
    return {"classes": list(classes.names), "palette": classes.palette.tolist()}


def _features(dataset: str, plan: Plan) -> tfds.features.FeaturesDict:
    """TFDS's description of a record."""
    if plan.tiling is not None:
        return TILE_FEATURES
    classes = _written_classes(dataset, next(iter(plan.sources.values())))
    return tfds.features.FeaturesDict(
        {
            "image": tfds.features.Image(shape=(None, None, 3), doc="the image's file, unchanged"),
            "label": tfds.features.LabeledImage(
                labels=_number_names(classes), shape=(None, None, 1), doc="the label's file; 255 is void"
            ),
            "name": tfds.features.Text(doc="the image's name, without folder and suffix"),
        }
    )


def _number_names(classes: Classes) -> list[str]:
    """What the numbers in the label files mean, from 0 on: classes, or "void 0" and the like."""
    count = np.flatnonzero(classes.label_ids[:VOID] < len(classes.names))[-1] + 1
    indices = classes.label_ids[:count]
    return [classes.names[c] if c < len(classes.names) else f"void {n}" for n, c in enumerate(indices)]


def _contents(plan: Plan) -> str:
    images = ", ".join(f"{split} {count:,}" for split, count in plan.made_of["images"].items())
    return f"{images} images in {number_of(len(plan.shards), 'file')}"


# ------------------------------------------------------------------ writing


def _write_missing_shards(folder: pathlib.Path, dataset: str, plan: Plan) -> None:
    """Write all shards that do not exist, or differ from their checksums."""
    features = _features(dataset, plan)
    checksums = {"made_of": plan.made_of, "shards": {}}
    if (folder / CHECKSUMS).exists():
        recorded = _read_checksums(folder)["shards"]
        checksums["shards"] = {name: recorded[name] for name in _good_shards(folder, recorded)}
    with _explain_write_errors(folder):
        for left_over in folder.glob(".*.tmp"):
            left_over.unlink()
        write_json(folder / CHECKSUMS, checksums)
    todo = [shard for shard in plan.shards if shard.file not in checksums["shards"]]
    if len(todo) < len(plan.shards):
        print(f"{folder} holds {len(plan.shards) - len(todo)} of {len(plan.shards)} files: going on")
    _check_space(folder, plan, checksums["shards"])
    total = sum(plan.made_of["images"].values())
    written = total - sum(shard.stop - shard.start for shard in todo)
    with (
        StopSignal() as stop,
        futures.ThreadPoolExecutor(_THREADS) as pool,
        progress_bar(total=total, initial=written, unit="image") as bar,
    ):

        def count() -> None:
            bar.update()
            stop.check()

        try:
            for shard in todo:
                bar.set_postfix_str(shard.file)
                source = plan.sources[shard.split]
                make = _record_maker(dataset, source, features, plan.tiling)
                records = pool.map(make, range(shard.start, shard.stop))
                checksums["shards"][shard.file] = _write_shard(folder / shard.file, records, count)
                with _explain_write_errors(folder):
                    write_json(folder / CHECKSUMS, checksums)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else what is queued would be made first
            raise


def _record_maker(
    dataset: str, source: FileSource, features: Any, tiling: Tiling | None
) -> Callable[[int], bytes]:
    """The function from an image's number to its record, as TFDS writes it, after a check of the pair."""
    as_indices = DATASETS[dataset].classes is None

    def files(index: int) -> dict[str, Any]:
        """The bytes of the files; labels whose numbers only the folder explains as PNGs of class indices."""
        image, label = source.read(index)
        indices = _check_pair(source, index, image, label)["label"]
        if label is None or as_indices:  # the indices of a missing label are void everywhere
            label = cv2.imencode(".png", indices)[1].tobytes()
        return {"image": image, "label": label}

    def tiles(index: int, tiling: Tiling) -> dict[str, Any]:
        return _in_tiles(_check_pair(source, index, *source.read(index)), tiling)

    def make(index: int) -> bytes:
        values = files(index) if tiling is None else tiles(index, tiling)
        return features.serialize_example({**values, "name": source.name(index)})

    return make


def _check_pair(source: FileSource, index: int, image: bytes, label: bytes | None) -> dict[str, np.ndarray]:
    """The pixels of a pair of files. Raises UserError where they are not what they should be."""
    names: tuple[object, object] = (source.name(index),) * 2
    remedy = "correct the file"
    if isinstance(source, FolderSource):
        names, remedy = source.pairs[index], source.remedy
    return decode_sample(source.label_classes, image, label, *names, remedy)


def _in_tiles(sample: dict[str, np.ndarray], tiling: Tiling) -> dict[str, Any]:
    """A sample as `TILE_FEATURES` has it, without its name."""
    return {
        "image_tiles": image_tiles(sample["image"], tiling.jpeg),
        "label_tiles": label_tiles(sample["label"]),
        "grid": np.array([*sample["label"].shape, SIDE], np.int32),
    }


def _write_shard(path: pathlib.Path, records: Iterator[bytes], count: Callable[[], None]) -> dict[str, Any]:
    """Write a shard under another name, then give it its own; {"bytes", "sha256"} of the file."""
    with _explain_write_errors(path), whole_file(path) as temporary:
        # One record a group is what random access wants, and images need no further compression.
        writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
        for record in records:
            writer.write(record)
            count()
        writer.close()
        return {"bytes": temporary.stat().st_size, "sha256": digest(temporary)}


def _write_metadata(folder: pathlib.Path, dataset: str, plan: Plan) -> None:
    """TFDS's dataset_info.json, features.json and the names of the labels' numbers."""
    data_set, checksums = DATASETS[dataset], _read_checksums(folder)["shards"]
    first = next(iter(plan.sources.values()))
    infos = []
    for split in plan.sources:
        shards = [shard for shard in plan.shards if shard.split == split]
        infos.append(
            tfds.core.SplitInfo(
                name=split,
                shard_lengths=[shard.stop - shard.start for shard in shards],
                num_bytes=sum(checksums[shard.file]["bytes"] for shard in shards),
                filename_template=_template(dataset, split),
            )
        )
    identity = tfds.core.DatasetIdentity(
        name=dataset,
        version=tfds.core.Version(VERSION),
        data_dir=str(folder),
        module_name=f"ccnet_jax.data.datasets.{dataset}",
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=data_set.description,
        features=_features(dataset, plan),
        disable_shuffling=True,
    )
    info.set_file_format("array_record")
    info.set_splits(tfds.core.SplitDict(infos))
    info.write_to_directory(folder)
    if data_set.classes is None:
        write_json(folder / CLASSES, _class_file(first.label_classes))


@contextlib.contextmanager
def _explain_write_errors(path: pathlib.Path) -> Iterator[None]:
    """Tell in one message why `path` cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the second is ArrayRecord's, with its reason in front
        reason = error.strerror if isinstance(error, OSError) else str(error).split(";")[0]
        raise UserError(
            f"{path} cannot be written ({reason}); make room or choose another --out, then run the same "
            "command again"
        ) from None


# -------------------------------------------------------- what was written before


def _read_checksums(folder: pathlib.Path) -> dict[str, Any]:
    """What `checksums.json` holds. Raises UserError where it is missing or corrupt."""
    path = folder / CHECKSUMS
    try:
        values = json.loads(read_file(path))
        return {"made_of": dict(values["made_of"]), "shards": dict(values["shards"])}
    except (OSError, KeyError, TypeError, ValueError, RecursionError):
        raise UserError(
            f"{folder} has no {CHECKSUMS} of this program; choose another --out or remove that folder"
        ) from None


def _check_made_of(folder: pathlib.Path, plan: Plan) -> None:
    """Raise UserError where `folder` holds, whole or in part, what was made of something else."""
    if folder.name != VERSION and not (folder / CHECKSUMS).exists():
        return  # killed before it wrote anything
    before, now = _read_checksums(folder)["made_of"], plan.made_of
    if before == now:
        return
    if before["shard_bytes"] != now["shard_bytes"]:
        what = f"with --shard-megabytes={before['shard_bytes'] / 2**20:g}"
    elif list(before["images"]) != list(now["images"]):
        what = f"with --split={','.join(before['images'])}"
    elif before.get("tiles") != now.get("tiles"):
        what = _tiling_in_words(before.get("tiles"))
    elif before.get("classes") != now.get("classes"):
        what = "with other classes"
    else:
        what = "from files of other names or sizes"
    raise UserError(f"{folder} was prepared {what}; repeat that, choose another --out or remove that folder")


def _tiling_in_words(made_of: dict[str, Any] | None) -> str:
    """For example "with --tiles --jpeg=95"."""
    if made_of is None:
        return "without --tiles"
    if made_of["side"] != SIDE:
        return f"by another version of this program, with tiles of {made_of['side']} pixels"
    return "with --tiles" + ("" if made_of["jpeg"] is None else f" --jpeg={made_of['jpeg']}")


def _good_shards(folder: pathlib.Path, checksums: dict[str, Any]) -> list[str]:
    """The names of the shards that are what was written."""
    total = sum(checksum["bytes"] for checksum in checksums.values())
    good = []
    with (
        StopSignal() as stop,
        progress_bar(total=total, unit="B", unit_scale=True, desc="checking", leave=False) as bar,
    ):
        for name, checksum in checksums.items():
            path = folder / name
            with contextlib.suppress(OSError):
                if path.stat().st_size == checksum["bytes"] and digest(path) == checksum["sha256"]:
                    good.append(name)
            bar.update(checksum["bytes"])
            stop.check()
    return good


def _check_space(folder: pathlib.Path, plan: Plan, done: dict[str, Any]) -> None:
    """Raise UserError where the disk cannot hold what is still to be written."""
    needed = plan.size * _growth(plan) - sum(checksum["bytes"] for checksum in done.values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"{folder} needs {needed / 1e9:.1f} GB more but its disk has {free / 1e9:.1f} GB free; make room "
            "or choose another --out"
        )


def _growth(plan: Plan) -> float:
    """How many times the bytes of its files the data set takes; of tiles judged by the first image."""
    if plan.tiling is None:
        return 1.0
    source = next(iter(plan.sources.values()))
    image, label = source.read(0)
    tiles = _in_tiles(_check_pair(source, 0, image, label), plan.tiling)
    written = sum(map(len, tiles["image_tiles"] + tiles["label_tiles"]))
    return written / (len(image) + len(label or b""))


# ------------------------------------------------------------------ program


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    try:
        if arguments.verify:
            verify(arguments.dataset, arguments.out)
        else:
            location = Location(
                dir=arguments.source,
                images=arguments.images,
                labels=arguments.labels,
                val_fraction=arguments.val_fraction,
            )
            splits = None if arguments.split is None else arguments.split.split(",")
            shard_bytes = arguments.shard_megabytes * 2**20
            if arguments.jpeg is not None and not arguments.tiles:
                raise UserError("--jpeg is the quality of tiles: pass --tiles too, or leave it out")
            tiling = Tiling(arguments.jpeg) if arguments.tiles else None
            prepare(arguments.dataset, location, arguments.out, splits, shard_bytes, tiling)
    except Stopped as stopped:
        print("\ninterrupted: the same command goes on where this one stopped")
        raise SystemExit(128 + stopped.number) from None


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.prepare", __doc__)
    choices = [name for name, data_set in DATASETS.items() if TASKS[data_set.task].labels_pixels]
    parser.add_argument("--dataset", required=True, choices=choices, help="the data set")
    parser.add_argument("--source", help="its folder, as for data.dir in training; streets needs none")
    parser.add_argument("--out", required=True, help="folder of TFDS data sets, TFDS's data_dir")
    parser.add_argument("--split", help="splits to prepare, separated by commas; default all that exist")
    parser.add_argument("--images", help="of --dataset folder: as data.images in training")
    parser.add_argument("--labels", help="of --dataset folder: as data.labels in training")
    parser.add_argument(
        "--val-fraction", type=_fraction, help="of --dataset folder: as data.val_fraction in training"
    )
    parser.add_argument(
        "--shard-megabytes",
        type=command_line.whole(1, 2**20),
        default=256,
        help="most of the folder that goes into one file, in 2^20 bytes (default: %(default)s)",
    )
    parser.add_argument(
        "--tiles", action="store_true", help="write tiles, of which training decodes only what a crop needs"
    )
    parser.add_argument(
        "--jpeg",
        type=command_line.whole(1, 100),
        metavar="QUALITY",
        help="with --tiles: images as JPEG of this quality, 1 to 100; default without loss",
    )
    parser.add_argument(
        "--verify", action="store_true", help="read a prepared data set again and compare its checksums"
    )
    return parser


def _fraction(text: str) -> float:
    """A number between 0 and 1 as argparse reads it. Raises ArgumentTypeError for another."""
    with contextlib.suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} must be a number above 0 and below 1")


if __name__ == "__main__":
    command_line.run(main)
