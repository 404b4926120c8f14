"""`folder`: your own images and labels, in `data.dir`, in one of the usual layouts or in any other.

How they may lie in `data.dir`; a split's folder may also be called training, validation, valid or testing:

    images/{train,val}/NAME.jpg             labels/{train,val}/NAME.png
    {train,val}/images/NAME.jpg             {train,val}/labels/NAME.png
    {train,val}/NAME.jpg                    {train,val}_labels/NAME.png
    JPEGImages/NAME.jpg                     SegmentationClass/NAME.png
                                            and lists ImageSets/Segmentation/{train,val}.txt
    images/NAME.jpg                         labels/NAME.png                 no splits: set data.val_fraction

Other usual names of the folders (img_dir and ann_dir, masks, annotations) are found too; for all others set
`data.images` and `data.labels` to patterns, for example `img/{split}`. Labels are PNG, TIFF or BMP files of
class ids from 0, where 255 is void; or colour images, where `classes.txt`, `classes.json` or `data.palette`
gives the colours. Without class names there are as many classes as the highest id in all labels, plus one.
"""

import collections
import functools
import pathlib
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import TypeVar

import numpy as np
from PIL import Image

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.files import check_regular
from ccnet_jax.common.labels import UNKNOWN, VOID, Classes, numbered_names, numbered_palette
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.data.class_files import (
    MOST,
    NamedClass,
    check_same_classes,
    classes_of,
    read_class_file,
)
from ccnet_jax.data.images import (
    UnusableImage,
    decode_indices,
    decode_label,
    decode_sample,
    label_pixels,
    read_bytes,
)
from ccnet_jax.data.layouts import SPELLINGS, Layout, Split, find_layout, open_layout
from ccnet_jax.data.sources import (
    DataSet,
    FolderSource,
    Location,
    MissingSplit,
    NoClasses,
    Source,
    data_folder,
)
from ccnet_jax.data.statistics import class_table

LAYOUT = (
    "images/{train,val} and labels/{train,val}, or another layout that docs/data.md lists, or any for which "
    "--config.data.images and --config.data.labels are set"
)
COUNTED = 2000  # labels of a split that the summary counts at most, evenly spread
_REMEDY = "correct the file, or name all classes in classes.txt or with --config.data.classes"
_ORIENTATION, _TURNED = 0x0112, (5, 6, 7, 8)  # an EXIF tag, and its values that exchange height and width
_THREADS = 8

Size = tuple[int, int]  # (height, width) in pixels
Result = TypeVar("Result")


class OwnImages(FolderSource):
    """The images of a split, with what `summary` prints about them.

    Args:
      files: of the split.
      classes: of the label files.
      origin: where the classes are from, for messages.
      skip_corrupt: how many labels `summary` may leave out.
    """

    def __init__(self, files: Split, classes: Classes, origin: str, skip_corrupt: int = 0):
        super().__init__(list(files.pairs.values()), classes, _REMEDY)
        self.layout, self.warnings, self.origin = files.layout, files.warnings, origin
        self.skip_corrupt = skip_corrupt
        self._names = [name.replace("/", "-") for name in files.pairs]

    def name(self, index: int) -> str:
        """The name that image and label have in common, with "-" for the folders' "/"."""
        return self._names[index]


def open_split(location: Location, split: str) -> OwnImages:
    """The pairs of `split`, sorted by name; "test" may have no labels.

    Raises UserError where files are missing or do not fit together, or nothing says what the classes are.
    """
    top = data_folder(location.dir, "folder", LAYOUT)
    root, layout = find_layout(top, location)
    files = open_layout(root, layout, split, location.val_fraction)
    named = _named_classes(location, root, top)
    if named is None:
        named = _counted_classes(root, layout, split, location.skip_corrupt)
    origin, classes = named
    _check_kind([label for _, label in files.pairs.values() if label is not None], classes, origin, location)
    return OwnImages(files, classes, origin, location.skip_corrupt)


def summary(source: Source) -> str:
    """What lies in a split: folders, sizes, the fraction of each class and of void, and what was left out.

    Counts the classes in at most `COUNTED` labels, and compares sizes of images and labels.

    Raises:
      UserError: all labels are void, or a label holds what is no class or has another size than its image.
    """
    if not isinstance(source, OwnImages):
        return ""
    labelled = [(image, label) for image, label in source.pairs if label is not None]
    warnings = [f"warning: {message}" for message in source.warnings]
    if not labelled:
        return "\n".join([f"in {source.layout}, without labels", *warnings])
    chosen = np.unique(np.linspace(0, len(labelled) - 1, min(COUNTED, len(labelled))).astype(int))
    counted = [labelled[i] for i in chosen]
    pixels = np.zeros(256, np.int64)
    sizes: collections.Counter[Size] = collections.Counter()
    count_classes = functools.partial(_class_counts, source.label_classes)
    found = _in_threads(
        count_classes, *zip(*counted, strict=True), what="counting classes", skip_corrupt=source.skip_corrupt
    )
    for size, counts in found:
        sizes[size] += 1
        for index, count in counts.items():
            pixels[index] += count
    count = len(source.classes)
    pixels = np.append(pixels[:count], pixels[VOID])
    if not pixels[:-1].any():
        raise UserError(
            f"all {len(counted)} labels in {labelled[0][1].parent} are void ({VOID}) everywhere: there is "
            "nothing to learn or to score; correct the labels, or say with classes.txt what their numbers or "
            "colours mean"
        )
    if np.count_nonzero(pixels[:-1]) == 1:
        only = source.classes[int(np.argmax(pixels[:-1]))]
        warnings.append(f"warning: {only!r} is the only class that occurs: there is nothing to tell apart")
    of_all = "" if len(counted) == len(labelled) else f" (in {len(counted)} of {len(labelled)} labels)"
    never = count - np.count_nonzero(pixels[:-1])
    if source.label_classes.counted and never:
        warnings.append(
            f"warning: {never} of the {count} class ids occur in none of these labels; the network has an "
            "output for each of them: give the classes the ids from 0 on, or name them in classes.txt"
        )
    lines = [
        f"in {source.layout}, {_range(sizes)}",
        f"{count} classes {source.origin}{of_all}:",
        *(f"  {line}" for line in class_table(source.classes, pixels).splitlines()),
    ]
    return "\n".join(lines + warnings)


# ----------------------------------------------------------------- classes


def _named_classes(location: Location, *folders: pathlib.Path) -> tuple[str, Classes] | None:
    """The classes of the config, or of a file in one of the folders; None where neither names them.

    Raises OtherClasses where both do, and do not agree.
    """
    found = next(filter(None, map(read_class_file, dict.fromkeys(folders))), None)
    own = None if found is None else (f"from {found[0]}", found[1])
    if location.classes is None:
        return own
    colours = location.palette or (None,) * len(location.classes)
    named = [NamedClass(*entry) for entry in zip(location.classes, colours, strict=True)]
    given = classes_of(named, "config.data.classes")
    if found is not None:
        check_same_classes(given, found[1], str(found[0]))
    return own if own is not None and location.palette is None else ("from config.data.classes", given)


def _counted_classes(
    root: pathlib.Path, layout: Layout, split: str, skip_corrupt: int
) -> tuple[str, Classes]:
    """Classes for the ids 0 to the highest in the labels of all splits, so that all splits have the same.

    Raises NoClasses where there are fewer than two.
    """
    labels: dict[pathlib.Path, None] = {}  # each once, in order
    for name in dict.fromkeys((split, *SPELLINGS)):
        try:
            files = open_layout(root, layout, name)
        except MissingSplit:
            continue
        labels |= {label: None for _, label in files.pairs.values() if label is not None}
    if not labels:
        raise NoClasses(f"{root} has no labels and no classes.txt; add one of them")
    pixels = np.zeros(256, np.int64)
    counted = _in_threads(_number_counts, list(labels), what="looking for classes", skip_corrupt=skip_corrupt)
    for _, counts in counted:
        for number, count in counts.items():
            pixels[number] += count
    ids = np.flatnonzero(pixels[:VOID])
    if len(ids) < 2:
        found = ", ".join(map(str, np.flatnonzero(pixels)))
        binary = (
            f". If {VOID} is a class and not void, write there `background 0 0 0` and `object 255 255 255`"
        )
        raise NoClasses(
            f"the labels in {root} hold only the numbers {found} ({VOID} is void): there is nothing to "
            f"learn; say in {root / 'classes.txt'} what the numbers mean{binary if pixels[VOID] else ''}"
        )
    if ids[-1] >= MOST:
        raise UserError(
            f"the labels in {root} hold the number {ids[-1]}; class ids go from 0 to {MOST - 1}, and {VOID} "
            f"is void: say in {root / 'classes.txt'} what the numbers mean, or correct the labels"
        )
    rare = np.count_nonzero(pixels[ids] < pixels.sum() / 1000)
    noise = f" ({rare} of them in less than 0.1 % of the pixels: were the labels once JPEGs, or resized?)"
    origin = "counted from the ids in the labels" + (noise if rare > 20 and 2 * rare > len(ids) else "")
    count = int(ids[-1]) + 1
    return origin, Classes(numbered_names(count), numbered_palette(count), counted=True)


def _check_kind(labels: list[pathlib.Path], classes: Classes, origin: str, location: Location) -> None:
    """Raise UserError where the first label is a colour image and the classes do not name its colours."""
    for number, label in enumerate(labels):
        try:
            pixels = label_pixels(read_bytes(label), label)
        except UnusableImage:
            if number >= location.skip_corrupt:
                raise
            continue
        if pixels.ndim == 3 and classes.label_colours is None:
            raise UserError(_colours_without_names(label, pixels, f" (the classes are {origin})"))
        return


def _colours_without_names(label: pathlib.Path, pixels: np.ndarray, origin: str = "") -> str:
    colours = np.unique(pixels.reshape(-1, pixels.shape[2])[:, :3], axis=0)
    listed = ", ".join(" ".join(map(str, colour)) for colour in colours[:8].tolist())
    more = f" and {len(colours) - 8} more" if len(colours) > 8 else ""
    return (
        f"{label} is a colour image, and nothing gives one colour for each class{origin}; put a file "
        "classes.txt with lines NAME RED GREEN BLUE into the data folder. The image has the colours "
        f"{listed}{more}"
    )


# ---------------------------------------------------------------- counting


def _class_counts(classes: Classes, image: pathlib.Path, label: pathlib.Path) -> tuple[Size, dict[int, int]]:
    """The label's (height, width), and the pixels of each class index and of void.

    Raises UserError where the image has another size, or the label holds what is no class.
    """
    if classes.label_colours is None:
        size, numbers = _number_counts(label)
        counts: dict[int, int] = collections.Counter()
        for number, count in numbers.items():
            counts[int(classes.label_ids[number])] += count
        if UNKNOWN in counts:
            decode_indices(classes, read_bytes(label), label, _REMEDY)  # raises the message with the place
    else:
        indices = decode_indices(classes, read_bytes(label), label, _REMEDY)
        size, counts = indices.shape, _count_numbers(indices)
    if _size_in_header(image) != size:  # decoding takes longer, and raises the message
        decode_sample(classes, read_bytes(image), read_bytes(label), image, label, _REMEDY)
    return size, counts


def _number_counts(label: pathlib.Path) -> tuple[Size, dict[int, int]]:
    """The (height, width) of a label file of one channel, and how often each number occurs in it."""
    try:
        status = label.stat()
    except OSError as error:
        raise UnusableImage(f"{label} cannot be read ({error.strerror}); put it back") from None
    return _counts_of_state(label, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=2**17)
def _counts_of_state(label: pathlib.Path, modified: int, size: int) -> tuple[Size, dict[int, int]]:
    """`_number_counts` of the file in the state of that time: counted once for all splits and `summary`."""
    data = read_bytes(label)
    pixels = label_pixels(data, label)
    if pixels.ndim == 3:
        raise UserError(_colours_without_names(label, pixels))
    numbers = decode_label(data, label) if pixels.dtype != np.uint8 else pixels
    return numbers.shape, _count_numbers(numbers)


def _count_numbers(numbers: np.ndarray) -> dict[int, int]:
    """{number: pixels} of the numbers that occur in uint8 [H, W]."""
    counts = np.bincount(numbers.ravel(), minlength=256)
    return {int(number): int(counts[number]) for number in np.flatnonzero(counts)}


def _size_in_header(image: pathlib.Path) -> Size | None:
    """(height, width) of an image, upright, by its header; None where Pillow does not find it there."""
    try:
        check_regular(image)
        with Image.open(image) as opened:
            width, height = opened.size
            # of a PNG Pillow would decode all pixels to find the EXIF data behind them
            turned = opened.format == "JPEG" and opened.getexif().get(_ORIENTATION) in _TURNED
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    return (width, height) if turned else (height, width)


def _in_threads(
    function: Callable[..., Result], *arguments: Sequence[object], what: str, skip_corrupt: int
) -> Iterator[Result]:
    """The results of a function for all labels, in order, with a progress bar.

    Raises UnusableImage where more than `skip_corrupt` labels, which have no result, are corrupt.
    """

    def tried(*label: object) -> Result | UnusableImage:
        try:
            return function(*label)
        except UnusableImage as error:
            return error

    with futures.ThreadPoolExecutor(_THREADS) as pool:
        count = len(arguments[0])
        results = pool.map(tried, *arguments)
        corrupt = 0
        try:
            for result in progress_bar(
                results, total=count, desc=what, unit="label", leave=False, disable=count < 100
            ):
                if not isinstance(result, UnusableImage):
                    yield result
                elif (corrupt := corrupt + 1) > skip_corrupt:
                    raise result
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else it would finish what is queued
            raise


def _range(sizes: collections.Counter[Size]) -> str:
    """ "640x480 pixels", or "320x240 to 640x480 pixels" from the smallest area to the largest."""
    ordered = sorted(sizes, key=lambda size: size[0] * size[1])
    (low, *_, high) = [f"{width}x{height}" for height, width in (ordered[0], *ordered)]
    return f"{low} pixels" if len(sizes) == 1 else f"{low} to {high} pixels"


DATA_SET = DataSet(None, tuple(SPELLINGS), open_split, LAYOUT, __doc__, summary)
