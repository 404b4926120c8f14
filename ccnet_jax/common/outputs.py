"""Where programs write: a result harms no file that is read, and leads out of no folder."""

import functools
import os
import pathlib
import tempfile
import unicodedata
from collections.abc import Iterable, Sequence

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.kernels import obstacle

LONGEST_NAME = 255  # bytes of a file's name on common file systems


def check_file(
    flag: str,
    path: pathlib.Path,
    kept: Iterable[pathlib.Path] = (),
    suffixes: tuple[str, ...] = (),
) -> None:
    """Raise UserError where a result must not or cannot be written to a file.

    Programs ask before they begin to work.

    Args:
      flag: that names the file, for example "--output".
      path: of the file.
      kept: files that the program reads, and others that no result may replace.
      suffixes: of the kinds of files that the program writes, () where the name may have any.
    """
    if reason := obstacle(path):
        raise UserError(f"{flag} {path} {reason}; name another file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{flag} {path} must end in {' or '.join(suffixes)}: no other kind is written")
    if os.path.realpath(path) in _real(kept):
        raise UserError(f"{flag} {path} would replace a file that this program reads; name another file")


def check_folder(
    flag: str, folder: pathlib.Path, names: Iterable[str], kept: Iterable[pathlib.Path] = ()
) -> None:
    """Raise UserError where results must not or cannot be written into a folder.

    They must not where one would replace a file that is read, or where a link would lead it out of the
    folder: links in a folder that came from elsewhere may point at any file of the user's.

    Args:
      flag: that names the folder, for example "--out".
      folder: it need not exist, and may be a link itself.
      names: of all results, relative to the folder.
      kept: files that the program reads, and others that no result may replace.
    """
    if reason := obstacle(folder, folder=True):
        raise UserError(f"{flag} {folder} {reason}; name another folder")
    names = list(names)
    inside = os.path.realpath(folder)
    forbidden = set(map(_fold_name, _real(kept if names else ())))
    for name in names:
        if len(os.fsencode(pathlib.PurePath(name).name)) > LONGEST_NAME:
            raise UserError(f"{flag} {folder}: the name {name} is too long for a file; rename that image")
        path = os.path.realpath(folder / name)
        if _fold_name(path) in forbidden:
            raise UserError(
                f"{flag} {folder} would replace {path}, which this program reads; choose another folder"
            )
        if os.path.commonpath([path, inside]) != inside:
            raise UserError(
                f"{flag} {folder}: {folder / name} leads out of that folder, to {path}; remove that link, or "
                "choose another folder"
            )


def check_links(
    flag: str, folder: pathlib.Path, part: pathlib.Path, foreign: Sequence[pathlib.Path] = ()
) -> None:
    """Raise UserError where a link leads out of a folder, so that what is written below stays there.

    Args:
      flag: that names the folder.
      folder: it may be a link itself.
      part: the folder, or one inside it, in which everything is looked at.
      foreign: folders in `part`, in which nothing is.
    """
    inside = os.path.realpath(folder)
    links = [str(part)] if part != folder else []
    for place, folders, files in os.walk(part):  # which enters no link
        links += filter(os.path.islink, (os.path.join(place, name) for name in (*folders, *files)))
        folders[:] = [name for name in folders if pathlib.Path(place, name) not in foreign]
    for path in links:
        if os.path.commonpath([os.path.realpath(path), inside]) != inside:
            raise UserError(
                f"{flag} {folder}: {path} leads out of that folder, to {os.path.realpath(path)}; remove that "
                "link, or choose another folder"
            )


def distinct_names(candidates: Sequence[Sequence[str]], endings: Sequence[str]) -> list[str]:
    """A name for the results of each image, so that no two results of a program are one file.

    An image gets the first of its candidates, or where a result of another image would be the same file, the
    next one, as the other image does, and behind the last one its number, from 1. A name with a number gives
    way to one without. Names that differ only in case, or in the normal form of their Unicode, are the same
    file on some systems.

    Args:
      candidates: of each image, the shortest name first.
      endings: what the names of an image's results add to its name, as "-overlay.png".
    """
    tried = [0] * len(candidates)

    def name(image: int) -> str:
        known, extra = candidates[image], tried[image] - len(candidates[image])
        if extra < 0:
            return known[tried[image]]
        return f"{known[-1]}-{image + 1}" + (f"-{extra + 1}" if extra else "")

    def giving_way(images: set[int]) -> set[int]:
        numbered = {image for image in images if tried[image] >= len(candidates[image])}
        return numbered or images

    while True:
        images_of: dict[str, set[int]] = {}
        for image in range(len(candidates)):
            for ending in endings:
                images_of.setdefault(folded_name(name(image) + ending), set()).add(image)
        clashing = {image for images in images_of.values() if len(images) > 1 for image in giving_way(images)}
        if not clashing:
            return [name(image) for image in range(len(candidates))]
        for image in clashing:
            tried[image] += 1


def folded_name(name: str) -> str:
    """What two names have in common that are one file on some system."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def results_in(folder: pathlib.Path, suffixes: tuple[str, ...]) -> list[str]:
    """The names in a folder that end in one of the suffixes, as those of results; none where it is not there.

    For programs that cannot tell the names of their results before they have read all images.
    """
    return [x.name for x in folder.iterdir() if x.suffix in suffixes] if folder.is_dir() else []


def point_link(link: pathlib.Path, target: str | pathlib.Path) -> None:
    """Make a link, or turn it elsewhere, while other processes may read it or do the same. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix=f".{link.name}-", dir=link.parent) as folder:
        made = pathlib.Path(folder, link.name)
        made.symlink_to(target)
        made.replace(link)


def _fold_name(path: str) -> str:
    """A path whose last part is as `folded_name` gives it."""
    folder, name = os.path.split(path)
    return os.path.join(folder, folded_name(name))


def _real(paths: Iterable[pathlib.Path]) -> set[str]:
    """Where the files lie, without links."""
    real_folder = functools.cache(os.path.realpath)  # there are many files in few folders
    return {
        os.path.realpath(path) if path.is_symlink() else os.path.join(real_folder(path.parent), path.name)
        for path in paths
    }
