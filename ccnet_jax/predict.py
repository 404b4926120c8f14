"""Label pictures with a trained network.

    python -m ccnet_jax.predict IMAGES_OR_FOLDER ... [--workdir DIR] [--out DIR] [--ms-flip]
    python -m ccnet_jax.predict street.jpg --attention 200,310
    python -m ccnet_jax.predict street.jpg --loops 1,2,3

For every picture, of any size, OUT gets NAME.png (a palette PNG whose pixels are class ids),
NAME-overlay.png, and NAME-figure.png: picture and prediction side by side over the legend. --attention
ROW,COLUMN adds NAME-attention.png, what that pixel attends to after each loop; --loops adds NAME-loops.png,
predictions with these numbers of loops.
"""

import collections
import pathlib

import tqdm
from absl import flags, logging

from ccnet_jax import errors, visualize
from ccnet_jax.errors import UserError
from ccnet_jax.model import Model, load, read_picture

_KINDS = ("", "-overlay", "-figure", "-attention", "-loops")
_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def pictures(paths: tuple[str, ...]) -> dict[str, pathlib.Path]:
    """{name for the results: file} of files, and of folders' pictures.

    Raises UserError where a path is not there, or a folder holds no picture.
    """
    files = []
    for path in map(pathlib.Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _SUFFIXES)
            if not inside:
                raise UserError(f"{path} holds no picture ({', '.join(_SUFFIXES)}); choose another folder")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise UserError(f"{path} is not there; name pictures or folders of pictures")
    stems = collections.Counter(path.stem for path in files)
    names = {path.stem if stems[path.stem] == 1 else path.name.replace(".", "-"): path for path in files}
    if len(names) < len(files):
        raise UserError(
            "several of these pictures have one name; label them in separate runs, with an --out each"
        )
    return names


def check_out(out: pathlib.Path, files: dict[str, pathlib.Path]) -> None:
    """Raise UserError where `out` is a file, or a result there would replace one of the pictures."""
    if out.is_file():
        raise UserError(f"--out {out} is a file; name a folder")
    written = {(out / f"{name}{kind}.png").resolve() for name in files for kind in _KINDS}
    for path in files.values():
        if path.resolve() in written:
            raise UserError(f"--out {out} would replace the picture {path}; choose another folder")


def label_picture(
    model: Model, path: pathlib.Path, out: pathlib.Path, point: tuple[int, int] | None, loops: tuple[int, ...]
) -> None:
    """Write the results for one picture, as OUT/NAME is."""
    image = read_picture(path)
    prediction = model.predict(image)
    visualize.save_labels(out.with_name(out.name + ".png"), prediction.label, model.palette)
    visualize.save_picture(out.with_name(out.name + "-overlay.png"), prediction.overlay)
    figure = visualize.prediction_figure(
        image, {"prediction": prediction.label}, model.classes, model.palette
    )
    visualize.save_picture(out.with_name(out.name + "-figure.png"), figure)
    if point is not None:
        maps = visualize.attention_map(model, image, point)
        visualize.save_picture(
            out.with_name(out.name + "-attention.png"), visualize.attention_figure(image, maps, point)
        )
    if loops:
        labels = {
            f"{n} loop" + "s" * (n > 1): model.replace(network=model.network.clone(loops=n))
            .predict(image)
            .label
            for n in loops
        }
        figure = visualize.prediction_figure(image, labels, model.classes, model.palette)
        visualize.save_picture(out.with_name(out.name + "-loops.png"), figure)


def main(*paths: str) -> None:
    """The program."""
    logging.set_verbosity(logging.ERROR)
    given = flags.FLAGS
    files = pictures(paths)
    point = errors.whole_numbers("--attention", given.attention, "ROW,COLUMN") if given.attention else None
    loops = errors.whole_numbers("--loops", given.loops, "N,...") if given.loops else ()
    if any(n < 1 for n in loops):
        raise UserError(f"--loops={given.loops} must be 1 or more each")
    model = load(given.workdir, given.checkpoint)
    if given["ms-flip"].value:
        model = model.replace(testing=model.testing.ms_flip(model.network.flavour))
    if (point or loops) and model.network.context != "rcca":
        raise UserError(
            f"--attention and --loops are RCCA's; the network in {given.workdir} has the context "
            f"{model.network.context!r}"
        )
    out = pathlib.Path(given.out)
    check_out(out, files)
    for name, path in tqdm.tqdm(files.items(), unit="picture", dynamic_ncols=True):
        label_picture(model, path, out / name, point, loops)
    print(f"{len(files)} pictures labelled in {out}")


if __name__ == "__main__":  # the flags too: who imports this has a --workdir of their own
    flags.DEFINE_string("workdir", "runs/latest", "folder of the run, or of a converted checkpoint")
    flags.DEFINE_string("checkpoint", "last", "last, best, or the folder of a checkpoint")
    flags.DEFINE_string("out", "predictions", "folder for the results")
    flags.DEFINE_bool("ms-flip", False, "average over several scales and mirror images")
    flags.DEFINE_string("attention", None, "ROW,COLUMN of a pixel, to draw what it attends to")
    flags.DEFINE_string("loops", None, "numbers of loops to compare, for example 1,2,3")
    errors.run(main, "pictures or folders to label")
