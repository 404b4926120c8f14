"""What lies in the folder of a run, and where: nothing else builds such a path."""

import contextlib
import dataclasses
import datetime
import errno
import os
import pathlib
from collections.abc import Iterable
from typing import Any

import jax

from ccnet_jax.common import outputs
from ccnet_jax.common.errors import UserError, read_json, write_json
from ccnet_jax.common.kernels import fragments, result_head
from ccnet_jax.common.log import say
from ccnet_jax.common.version import __version__
from ccnet_jax.engine import hub, weights_file
from ccnet_jax.engine.remote import Remote, is_address

LATEST = pathlib.Path("runs/latest")  # a link to the newest run


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run, or of a converted checkpoint.

    Attributes:
      path: of the folder; it need not exist yet.
      remote: the store that the folder is a copy of, None for a run that lies here.
    """

    path: pathlib.Path
    remote: Remote | None = None

    @classmethod
    def at(cls, path: str | os.PathLike[str], fetch: bool = True) -> "RunFolder":
        """The run in `path`, in which "~" is the user's home.

        Args:
          path: of the folder, an address as gs://BUCKET/RUN, or a network on the hub, hf:ORG/NAME.
          fetch: whether the copy of a run in a store is made what the store has now.

        Raises:
          UserError: it can be no folder, or the store or the hub cannot be read.
        """
        if hub.is_file_address(path):
            raise UserError(
                f"{path} is the address of a file, which --config.pretrained takes; a network on the hub is "
                "hf:ORG/NAME"
            )
        if is_address(path):
            remote = Remote.at(str(path))
            if fetch:
                remote.fetch()
            return cls(remote.local, remote)
        if hub.is_name(path):
            return cls(hub.run_folder(str(path)))
        folder = pathlib.Path(path).expanduser()
        above = next(x for x in (folder, *folder.absolute().parents) if os.path.exists(x))
        if not above.is_dir():
            where = "is a file" if above == folder else f"lies below {above}, which is a file"
            raise UserError(f"{folder} {where}; name the folder of a run")
        return cls(folder)

    @classmethod
    def new(cls, name: str) -> "RunFolder":
        """runs/NAME-DATE-TIME, a folder for a new run."""
        return cls(pathlib.Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")

    def __str__(self) -> str:
        return str(self.path) if self.remote is None else self.remote.url

    # ------------------------------------------------------------------- store
    def push(self) -> None:
        """Bring what was written to the store, if the run lies in one. Raises UserError where it cannot."""
        if self.remote is not None:
            self.remote.push()

    def mirror(self) -> contextlib.AbstractContextManager[None]:
        """A block in which a run in a store is kept the same as its copy; see `Remote.mirror`."""
        return contextlib.nullcontext() if self.remote is None else self.remote.mirror()

    # ------------------------------------------------------------------- paths
    @property
    def config_file(self) -> pathlib.Path:
        """Every key of the config, as JSON."""
        return self.path / "config.json"

    @property
    def classes_file(self) -> pathlib.Path:
        """Names and colours of the classes, as JSON."""
        return self.path / "classes.json"

    @property
    def versions_file(self) -> pathlib.Path:
        """Which code, versions and device worked on the run, one entry for each start."""
        return self.path / "versions.json"

    @property
    def tracker_file(self) -> pathlib.Path:
        """The run's name in a tracker of experiments, as JSON."""
        return self.path / "tracker.json"

    @property
    def finished_file(self) -> pathlib.Path:
        """Number of steps of a run that has ended, written after all else, as JSON."""
        return self.path / "finished.json"

    @property
    def wandb_folder(self) -> pathlib.Path:
        """What W&B keeps."""
        return self.path / "wandb"

    @property
    def metrics_file(self) -> pathlib.Path:
        """What training logged: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def weights_file(self) -> pathlib.Path:
        """The weights of a network that was shared, which has no checkpoints."""
        return self.path / weights_file.NAME

    @property
    def is_shared(self) -> bool:
        """Whether the folder holds a network that was shared, and not a run."""
        return self.weights_file.is_file() and not self.checkpoints.is_dir()

    @property
    def lock_file(self) -> pathlib.Path:
        """Who is at work in the folder."""
        return self.path / "lock"

    @property
    def own_files(self) -> list[pathlib.Path]:
        """The files without which a run is no run, or not the same: no result may replace them."""
        files = [
            self.config_file,
            self.classes_file,
            self.versions_file,
            self.metrics_file,
            self.tracker_file,
            self.finished_file,
        ]
        return [*files, self.weights_file]

    @property
    def traces(self) -> pathlib.Path:
        """The profiler's traces, where TensorBoard and xprof look for them below the run."""
        return self.path / "plugins" / "profile"

    @property
    def checkpoints(self) -> pathlib.Path:
        """`last/STEP` and `best/STEP`."""
        return self.path / "checkpoints"

    @property
    def all_images(self) -> pathlib.Path:
        """A folder of images for each evaluation."""
        return self.path / "images"

    def images(self, name: str) -> pathlib.Path:
        """Folder of the images of one evaluation; its split and mode are the name."""
        return self.all_images / name

    def scores_file(self, name: str) -> pathlib.Path:
        """The scores of one evaluation."""
        return self.path / f"eval-{name}.json"

    def remove_fragments(self) -> None:
        """Remove temporary files that a killed process left beside the run's files and images.

        For the one that holds the run's lock.
        """
        folders = self.all_images.iterdir() if self.all_images.is_dir() else ()
        for folder in (self.path, *folders):
            for path in fragments(folder):
                path.unlink(missing_ok=True)

    def check_results(self, written: Iterable[pathlib.Path], data: Iterable[pathlib.Path]) -> None:
        """Raise UserError where a result would replace the data, leads out of the folder, or cannot be made.

        Args:
          written: files that will be written here, beside images.
          data: the files of the data set.
        """
        folders = list(self.all_images.iterdir()) if self.all_images.is_dir() else []
        drawn = [path / name for path in folders for name in outputs.results_in(path, (".png",))]
        names = [str(path.relative_to(self.path)) for path in (*written, *folders, *drawn)]
        outputs.check_folder("--workdir", self.path, names, data)
        if os.path.lexists(self.all_images) and not self.all_images.is_dir():
            raise UserError(f"{self.all_images} is no folder, and images are to lie there; move it away")

    # ------------------------------------------------------------------ others
    def add_versions(self) -> None:
        """Note in versions.json which code, versions and device go to work on the run now."""
        file = self.versions_file
        entries = (read_json(file, "restore it") if os.path.lexists(file) else None) or []
        if not isinstance(entries, list):
            raise UserError(f"{self.versions_file} holds no list of starts; move it away")
        write_json(self.versions_file, [*entries, _versions()])

    def point_latest(self) -> None:
        """Make runs/latest a link to this run; where that is not possible, say so and do without.

        The link is for convenience, and training goes on: `runs` may be a file, or runs/latest a folder.
        There is none to a run in a store.
        """
        if self.remote is not None:
            return
        try:
            if LATEST.exists() and not LATEST.is_symlink():
                raise FileExistsError(errno.EEXIST, "it is no link")
            LATEST.parent.mkdir(exist_ok=True)
            outputs.point_link(LATEST, os.path.relpath(self.path.resolve(), LATEST.parent.resolve()))
        except OSError as error:
            say(
                f"warning: {LATEST} does not point at this run ({error.strerror}): move it away, or name the "
                "run with --workdir"
            )


def _versions() -> dict[str, Any]:
    """The code, versions and devices at hand."""
    return result_head() | {
        "ccnet_jax": __version__,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
    }
