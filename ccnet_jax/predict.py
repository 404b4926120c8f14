"""Label images with a trained network.

    python -m ccnet_jax.predict IMAGES_OR_FOLDER ... [--workdir DIR] [--out DIR] [--ms-flip]
    python -m ccnet_jax.predict street.jpg --attention 200,310
    python -m ccnet_jax.predict street.jpg --loops 1,2,3

For every image, of any size, OUT gets NAME.png, NAME-overlay.png, and NAME-figure.png: image and
prediction side by side over the legend. NAME.png is a label map, a palette PNG whose pixels are the numbers
that the label files of the run's data set have for the classes. --attention ROW,COLUMN adds
NAME-attention.png, what that pixel attends to after each loop; --loops adds NAME-loops.png, predictions with
these numbers of loops. Images of one name get longer names: street-png, street-jpg.

An image that cannot be labelled is named at the end, and the exit code is 1; the others are labelled.

A network that finds instances leaves NAME-overlay.png, with boxes, names, scores and masks, and NAME.json: a
list of {"class", "score", "box": [x0, y0, x1, y1] in pixels, "mask": COCO's compressed runs}.
"""

import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ccnet_jax.common import compilation_cache, outputs
from ccnet_jax.common.errors import UserError
from ccnet_jax.common.progress import progress_bar
from ccnet_jax.common.words import number_of
from ccnet_jax.config import command_line
from ccnet_jax.data.layouts import IMAGE_SUFFIXES
from ccnet_jax.data.user_images import read_image
from ccnet_jax.engine.folder import LATEST, RunFolder
from ccnet_jax.evaluation.prediction import NotFinite
from ccnet_jax.models.config import MOST_LOOPS
from ccnet_jax.weights.inference import load

_FOLDERS = 4  # above an image, that the names of its results may have at most
_RESULTS = (".png", "-overlay.png", "-figure.png", "-attention.png", "-loops.png", ".json")


def images(paths: Sequence[str]) -> dict[str, pathlib.Path]:
    """The files to label, by the names that their results get: {name: file}. A file is labelled once.

    A name is the file's without suffix; where results of two files would be one file, it is with the suffix,
    and where that does not help, with the names of the folders above.

    Args:
      paths: files, and folders of which every image is taken; "~" is the user's home.

    Raises:
      UserError: a path does not exist, or a folder holds no image.
    """
    files: list[pathlib.Path] = []
    for path in (pathlib.Path(text).expanduser() for text in paths):
        if path.is_dir():
            images_inside = sorted(p for p in path.iterdir() if is_image(p))
            if not images_inside:
                raise UserError(f"{path} holds no image ({', '.join(IMAGE_SUFFIXES)}); choose another folder")
            files += images_inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path} does not exist; name images or folders of images")
    files = list({os.path.abspath(path): path for path in files}.values())
    names = outputs.distinct_names([result_names(path) for path in files], _RESULTS)
    return dict(zip(names, files, strict=True))


def result_names(path: pathlib.Path) -> list[str]:
    """What the results of an image may be called, the shortest name first."""
    parts = [part.replace(".", "-") for part in pathlib.Path(os.path.abspath(path)).parts[1:]]
    return [path.stem, *("-".join(parts[-count:]) for count in range(1, min(len(parts), _FOLDERS + 1) + 1))]


def is_image(path: pathlib.Path) -> bool:
    """Whether a file's name is an image's, and not that of a Mac's notes about one (`._NAME`)."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def label_all(
    files: Mapping[str, pathlib.Path],
    write: Callable[[np.ndarray, str], None],
    point: tuple[int, int] | None = None,
) -> list[str]:
    """Label every image that can be; a message on each of the others.

    Args:
      files: {name of the results: image}.
      write: labels an image, uint8 [H, W, 3] RGB, and writes the results of that name.
      point: (row, column) that an image must have; None for none.

    Raises:
      UserError: no image can be labelled, results cannot be written, or the network's output is not finite.
    """
    problems = []
    for name, path in progress_bar(files.items(), unit="image"):
        try:
            image = read_image(path)
        except UserError as error:
            problems.append(str(error))
            continue
        height, width = image.shape[:2]
        if point is not None and (point[0] >= height or point[1] >= width):
            problems.append(f"{path} has {height} rows and {width} columns, and no pixel {point}")
            continue
        try:
            write(image, name)
        except NotFinite:
            raise NotFinite(path) from None
    if len(problems) == len(files):
        raise UserError(problems[0])
    return problems


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    compilation_cache.turn_on()
    command_line.run_parts(arguments)
    if not arguments.images:
        raise UserError("name the images or folders to label, for example street.jpg")
    files = images(arguments.images)
    point: tuple[int, int] | None = None
    loops: tuple[int, ...] = ()
    if arguments.attention:
        row, column = command_line.pair("--attention", arguments.attention, "ROW,COLUMN")
        point = row, column
    if arguments.loops:
        loops = command_line.whole_numbers("--loops", arguments.loops, "N,...", 1, MOST_LOOPS)
    out = pathlib.Path(arguments.out).expanduser()
    results = [f"{name}{end}" for name in files for end in _RESULTS]
    outputs.check_folder(
        "--out", out, results, [*files.values(), *RunFolder.at(arguments.workdir, fetch=False).own_files]
    )
    model = load(arguments.workdir, arguments.checkpoint)
    write = model.writer(arguments.workdir, arguments.ms_flip, point, loops)
    others = label_all(files, lambda image, name: write(image, out / name), point)
    tell(f"{model.written.format(number_of(len(files) - len(others), 'image'))} in {out}", others)


def tell(done: str, problems: list[str]) -> None:
    """Print what was done; where there are problems, end the program with them and exit code 1."""
    print(done)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    if problems:
        raise SystemExit(1)


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.predict", __doc__)
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="images or folders to label")
    parser.add_argument(
        "--workdir",
        default=str(LATEST),
        metavar="RUN",
        help="folder of the run, or of a converted checkpoint",
    )
    parser.add_parts()
    parser.add_argument("--checkpoint", default="last", help="last, best, or the folder of a checkpoint")
    parser.add_argument("--out", default="predictions", help="folder for the results")
    parser.add_argument(
        "--ms-flip", action="store_true", help="average over several scales and mirror images"
    )
    parser.add_argument("--attention", metavar="ROW,COLUMN", help="draw what that pixel attends to")
    parser.add_argument("--loops", metavar="N,...", help="numbers of loops to compare, for example 1,2,3")
    return parser


if __name__ == "__main__":
    command_line.run(main)
