"""Where people keep images and labels: usual folders, their spellings, and which files belong together."""

import dataclasses
import hashlib
import itertools
import os
import pathlib
import unicodedata
from collections.abc import Iterator

from ccnet_jax.common.errors import UserError
from ccnet_jax.data.sources import Location, MissingSplit, read_lines

SPELLINGS = {
    "train": ("train", "training"),
    "val": ("val", "validation", "valid"),
    "test": ("test", "testing"),
}
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
_LOSSY = (".jpg", ".jpeg", ".webp")
_NO_IMAGES = (".txt", ".json", ".xml", ".csv", ".md", ".ini", ".db", ".yaml", ".yml", ".html", ".py", "")
_IMAGES = ("images", "image", "img_dir", "imgs", "img", "jpegimages", "pictures", "photos")
_LABELS = (
    *("labels", "label", "ann_dir", "annotations", "annotation", "ann", "masks", "mask"),
    *("segmentationclass", "segmentationclasspng", "segmentations", "gt"),
)
_LISTS = ("ImageSets/Segmentation/", "ImageSets/", "splits/", "lists/", "")
_ENDINGS = ("_mask", "_label", "_labels", "_labelIds", "_gt", "_seg", "_annotation", "_L", "-mask", "-label")
_SET = "set --config.data.images='img/{split}' and --config.data.labels='ann/{split}' as it is in your folder"


@dataclasses.dataclass(frozen=True)
class Layout:
    """Patterns of paths below the data folder, in which {split} stands for a split's name.

    Attributes:
      images: of the folder of images.
      labels: of the folder of label files.
      names: of a text file that lists a split's images, None where the folder is the split.
    """

    images: str
    labels: str
    names: str | None = None

    @property
    def has_splits(self) -> bool:
        """Whether images are assigned to splits."""
        return "{split}" in self.images or self.names is not None

    def __str__(self) -> str:
        return f"{self.images} and {self.labels}" + (f" by {self.names}" if self.names else "")


@dataclasses.dataclass(frozen=True)
class Split:
    """The files of a split.

    Attributes:
      pairs: {name: (image, label)}; the label is None where the split has no labels.
      layout: the names of the folders, for messages.
      warnings: messages on what was left out.
    """

    pairs: dict[str, tuple[pathlib.Path, pathlib.Path | None]]
    layout: str
    warnings: tuple[str, ...] = ()


def find_layout(root: pathlib.Path, location: Location) -> tuple[pathlib.Path, Layout]:
    """The folder that holds the data, `root` or the only folder in it, and how it is laid out.

    Raises UserError where it is no usual layout and the location does not say what it is.
    """
    if location.images is not None or location.labels is not None:
        if location.images is None or location.labels is None:
            raise UserError(f"config.data.images and config.data.labels go together; {_SET}")
        if "{split}" in location.labels and "{split}" not in location.images:
            raise UserError(
                f"config.data.labels={location.labels!r} has a {{split}} but config.data.images="
                f"{location.images!r} has none; {_SET}"
            )
        return root, Layout(location.images, location.labels)
    inside = [path for path in _folders(root) if path.is_dir()]
    for folder in (root, *(inside if len(inside) == 1 else [])):
        for layout in _usual_layouts(folder):
            if any(_paths(folder, layout, split)[1] is not None for split in SPELLINGS):
                return folder, layout
    held = ", ".join(path.name + "/" * path.is_dir() for path in _folders(root, files=True)[:8])
    raise UserError(
        f"{root} has no folders of a known layout (it holds {held or 'nothing'}); {_SET}, without "
        "{split} where there are no splits"
    )


def open_layout(root: pathlib.Path, layout: Layout, split: str, val_fraction: float | None = None) -> Split:
    """The files of a split; with `val_fraction`, "val" is that fraction of "train", by the hashes of names.

    Raises UserError where files do not fit together, MissingSplit where the split does not exist.
    """
    if val_fraction is not None and split in ("train", "val"):
        if layout.has_splits and _paths(root, layout, "val")[0] is not None:
            raise UserError(
                f"{root} has a split val of its own ({layout}); remove "
                f"--config.data.val_fraction={val_fraction}"
            )
        whole = _files(root, layout, "train")
        pairs = {
            name: pair
            for name, pair in whole.pairs.items()
            if (hash_fraction(name) < val_fraction) == (split == "val")
        }
        if not pairs:
            raise UserError(
                f"config.data.val_fraction={val_fraction} of {len(whole.pairs)} images leaves none "
                f"for {split}; choose a {'larger' if split == 'val' else 'smaller'} one"
            )
        return dataclasses.replace(whole, pairs=pairs, layout=f"{whole.layout}, val_fraction={val_fraction}")
    if not layout.has_splits and split != "train":
        raise MissingSplit(f"{root} has no split {split!r}, because {layout} are not divided{_hint(split)}")
    return _files(root, layout, split)


def _hint(split: str) -> str:
    """How to make a missing split."""
    return "; --config.data.val_fraction=0.1 makes val of a tenth of the images" if split == "val" else ""


def hash_fraction(name: str) -> float:
    """A number from 0 to 1, evenly distributed over names, and always the same for one name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:6], "big") / 2**48


# ----------------------------------------------------------------- layouts


def _usual_layouts(root: pathlib.Path) -> Iterator[Layout]:
    """The layouts that the names in a folder may mean, the most specific first."""
    here = [path.name for path in _folders(root)]
    images, labels = _known_names(here, _IMAGES), _known_names(here, _LABELS)
    splits = [name for name in here if any(name.lower() in spelled for spelled in SPELLINGS.values())]
    for image, label in itertools.product(images, labels):
        yield Layout(f"{image}/{{split}}", f"{label}/{{split}}")
    for name in splits:
        inside = [path.name for path in _folders(root / name)]
        for image, label in itertools.product(_known_names(inside, _IMAGES), _known_names(inside, _LABELS)):
            yield Layout(f"{{split}}/{image}", f"{{split}}/{label}")
    for ending in ("annot", "_labels", "_masks", "_annotations", "-labels", "-masks"):
        yield Layout("{split}", f"{{split}}{ending}")
    for image, label, folder in itertools.product(images, labels, _LISTS):
        yield Layout(image, label, f"{folder}{{split}}.txt")
    for image, label in itertools.product(images, labels):
        yield Layout(f"{image}/{{split}}", label)
    for image, label in itertools.product(images, labels):
        yield Layout(image, label)
    if splits:
        yield Layout("{split}", "{split}")
    if _split_mixed([path for path in _folders(root, files=True) if path.is_file()])[1]:
        yield Layout(".", ".")


def _known_names(names: list[str], wanted: tuple[str, ...]) -> list[str]:
    """Those of `names` that are in `wanted`, whatever their case, in the order of `wanted`."""
    return sorted((name for name in names if name.lower() in wanted), key=lambda n: wanted.index(n.lower()))


def _folders(root: pathlib.Path, files: bool = False) -> list[pathlib.Path]:
    """The folders in a folder, and the files if asked for, without hidden ones."""
    try:
        found = sorted(root.iterdir())
    except OSError:
        return []
    return [p for p in found if not p.name.startswith((".", "__MACOSX")) and (files or p.is_dir())]


def _paths(
    root: pathlib.Path, layout: Layout, split: str
) -> tuple[pathlib.Path | None, pathlib.Path | None, pathlib.Path | None]:
    """The folders of images and of labels, and the list, of a split; None for what does not exist."""
    images, labels = (_first_existing(root, pattern, split) for pattern in (layout.images, layout.labels))
    names = None if layout.names is None else _first_existing(root, layout.names, split)
    if images is None or not images.is_dir() or (layout.names is not None and names is None):
        return None, None, None
    if images == labels and not _split_mixed(_walk(images))[1]:
        labels = None
    return images, labels, names


def _first_existing(root: pathlib.Path, pattern: str, split: str) -> pathlib.Path | None:
    """The first path of a pattern that exists, over all spellings of the split's name."""
    known = SPELLINGS.get(split, (split,))
    for spelled in (split, *known, *(name.capitalize() for name in known), *(name.upper() for name in known)):
        path = root / pattern.replace("{split}", spelled)
        if path.exists():
            return path
    return None


def _split_names(root: pathlib.Path, layout: Layout) -> list[str]:
    """The names for which the images of a layout exist."""
    pattern = layout.names or layout.images
    before, _, after = pattern.partition("{split}")
    folder, _, prefix = before.rpartition("/")
    suffix = after.partition("/")[0]
    names = []
    for path in _folders(root / (folder or "."), files=True):
        name = path.name.removeprefix(prefix).removesuffix(suffix)
        if path.name == prefix + name + suffix and (root / pattern.replace("{split}", name)).exists():
            names.append(name)
    return names


# ------------------------------------------------------------------- files


def _files(root: pathlib.Path, layout: Layout, split: str) -> Split:
    """The files of a split that has a folder or a list of its own. Raises as `open_layout`."""
    images, labels, names = _paths(root, layout, split)
    if images is None:
        existing = _split_names(root, layout)
        raise MissingSplit(
            f"{root} has no split {split!r}: {layout.names or layout.images} exists for "
            f"{', '.join(existing) or 'no name'}; --config.data.train_split and eval_split choose by name"
            f"{_hint(split)}"
        )
    if labels is None and split in ("train", "val"):
        wanted = root / layout.labels.replace("{split}", split)
        raise UserError(f"{images} holds images but {wanted} is not a folder of their labels; {_SET}")
    folders = [path for path in (images, labels) if path is not None]
    where = " and ".join(
        str(path.relative_to(root) if path.is_relative_to(root) else path) for path in folders
    )
    return _pair_files(images, labels, names, where, own_labels="{split}" in layout.labels)


def _pair_files(
    images: pathlib.Path,
    labels: pathlib.Path | None,
    names: pathlib.Path | None,
    where: str,
    own_labels: bool,
) -> Split:
    """The images of a folder with their labels; `own_labels`: no other split has labels in the folder."""
    image_files = _walk(images)
    label_files = [] if labels is None else _walk(labels)
    if images == labels:
        image_files, label_files = _split_mixed(image_files)
    warnings = []
    named, left_out = _by_name(images, image_files, IMAGE_SUFFIXES)
    warnings += left_out
    if not named:
        raise UserError(f"{images} holds no image ({', '.join(IMAGE_SUFFIXES)} are read); add them")
    if names is not None:
        named = _files_in_list(named, images, names)
    if labels is None:
        return Split({name: (path, None) for name, path in named.items()}, where, tuple(warnings))
    found, left_out = _by_name(labels, label_files, LABEL_SUFFIXES)
    warnings += left_out
    if not found:
        lossy = [path for path in label_files if path.suffix.lower() in _LOSSY]
        reason = f" ({lossy[0].name} is lossy, which changes class ids)" if lossy else ""
        raise UserError(
            f"{labels} holds no label file of {', '.join(LABEL_SUFFIXES)}{reason}; export the labels as PNG"
        )
    pairs: dict[str, tuple[pathlib.Path, pathlib.Path | None]] = {}
    for name, image in named.items():
        label = next((found[name + end] for end in ("", *_ENDINGS) if name + end in found), None)
        if label is not None:
            pairs[name] = (image, label)
    alone = [path for name, path in named.items() if name not in pairs]
    if 2 * len(alone) > len(named):
        raise UserError(
            f"{len(alone)} of the {len(named)} images in {images} have no label in {labels}: there is "
            f"no {name_in(alone[0], images)}.png for {alone[0].name}, but for example "
            f"{next(iter(found.values())).name}; give both the same name, or correct the folders"
        )
    if alone:
        warnings.append(f"{images}: {len(alone)} without a label, left out ({_examples(alone)})")
    if own_labels and names is None:
        used = {label for _, label in pairs.values()}
        unused = [path for name, path in found.items() if path not in used and not _extends(name, named)]
        if 2 * len(unused) > len(found):
            raise UserError(
                f"{len(unused)} of the {len(found)} labels in {labels} have no image in {images}, as "
                f"{_examples(unused)}; put the images back, or remove these labels"
            )
        if unused:
            warnings.append(f"{labels}: {len(unused)} without an image, left out ({_examples(unused)})")
    return Split(pairs, where, tuple(warnings))


def _walk(folder: pathlib.Path) -> list[pathlib.Path]:
    """All files below a folder, sorted, without hidden ones but with the "._NAME" files of a Mac."""
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        found += [
            pathlib.Path(place, name) for name in files if not name.startswith(".") or name.startswith("._")
        ]
    return sorted(found)


def name_in(path: pathlib.Path, folder: pathlib.Path) -> str:
    """What an image and its label have in common: the path below the folder, without suffix.

    In Unicode's form NFC: some systems write an accented letter as two characters, others as one.
    """
    return _compose(path.relative_to(folder).with_suffix("").as_posix())


def _compose(text: str) -> str:
    """A text in Unicode's form NFC."""
    return unicodedata.normalize("NFC", text)


def _by_name(
    folder: pathlib.Path, files: list[pathlib.Path], suffixes: tuple[str, ...]
) -> tuple[dict[str, pathlib.Path], list[str]]:
    """{name: file} of those that are read, and messages about those that are not.

    Raises UserError where two files have one name.
    """
    by_name: dict[str, pathlib.Path] = {}
    of_a_mac, unread = [], []
    for path in files:
        if path.name.startswith("._"):
            of_a_mac.append(path)
        elif path.suffix.lower() not in suffixes:
            unread += [path] if path.suffix.lower() not in _NO_IMAGES else []
        else:
            name = name_in(path, folder)
            if name in by_name:
                raise UserError(
                    f"{by_name[name]} and {path} have the same name without suffix, so that it is not "
                    "clear which one is meant; remove or rename one of them"
                )
            by_name[name] = path
    warnings = []
    if of_a_mac:
        warnings.append(
            f"{folder}: {len(of_a_mac)} left out, which macOS wrote beside the images ({_examples(of_a_mac)})"
        )
    if unread:
        warnings.append(
            f"{folder}: {len(unread)} left out, because only {', '.join(suffixes)} are read "
            f"({_examples(unread)})"
        )
    return by_name, warnings


def _files_in_list(
    images: dict[str, pathlib.Path], folder: pathlib.Path, names: pathlib.Path
) -> dict[str, pathlib.Path]:
    """The images that a split's list names. Raises UserError at the first that does not exist."""
    by_stem = {pathlib.PurePosixPath(name).name: name for name in images}
    chosen = {}
    for line in map(_compose, read_lines(names, "folder", "list the names of images")):
        entry = pathlib.PurePosixPath(line.strip() if line.strip() in images else line.split()[0])
        name = str(entry) if str(entry) in images else str(entry.with_suffix(""))
        if name not in images:
            name = by_stem.get(entry.name, by_stem.get(entry.stem, ""))
        if name not in images:
            raise UserError(
                f"{names} names {entry}, which is not in {folder}; add the image or remove the line"
            )
        chosen[name] = images[name]
    return chosen


def _split_mixed(files: list[pathlib.Path]) -> tuple[list[pathlib.Path], list[pathlib.Path]]:
    """Images and labels of a folder that holds both: NAME.jpg and NAME.png, or NAME and NAME_mask."""
    stems = {_compose(str(path.with_suffix(""))) for path in files}
    lossy = {_compose(str(path.with_suffix(""))) for path in files if path.suffix.lower() in _LOSSY}
    labels = []
    for path in files:
        name = _compose(str(path.with_suffix("")))
        if path.suffix.lower() in LABEL_SUFFIXES and not path.name.startswith("._"):
            without_endings = {name.removesuffix(end) for end in _ENDINGS}
            if name in lossy or (without_endings - {name}) & stems:
                labels.append(path)
    return [path for path in files if path not in set(labels)], labels


def _extends(name: str, images: dict[str, pathlib.Path]) -> bool:
    """Whether a label's name begins with an image's: it shows that image's label in another form."""
    return any(name[:end] in images for end, letter in enumerate(name) if letter in "_-.")


def _examples(paths: list[pathlib.Path]) -> str:
    """The first names, for people."""
    return ", ".join(path.name for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
