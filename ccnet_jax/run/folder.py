"""What lies in the folder of a run, and where: nothing else builds such a path."""

import dataclasses
import datetime
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np

from ccnet_jax import config as configuration
from ccnet_jax.config import Config
from ccnet_jax.data.datasets import DATASETS
from ccnet_jax.errors import UserError, write_json
from ccnet_jax.labels import Classes
from ccnet_jax.version import __version__
from kernels.criss_cross import IMPLEMENTATIONS
from kernels.measure import result_head

LATEST = pathlib.Path("runs/latest")  # a link to the newest run


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The folder of a run, or of a converted checkpoint.

    Attributes:
      path: of the folder; it need not exist yet.
    """

    path: pathlib.Path

    @classmethod
    def at(cls, path: str | os.PathLike[str]) -> "RunFolder":
        """The run in `path`, in which "~" is the user's home. Raises UserError where `path` is a file."""
        folder = pathlib.Path(path).expanduser()
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder} is a file; name the folder of a run")
        return cls(folder)

    @classmethod
    def new(cls, name: str) -> "RunFolder":
        """runs/NAME-DATE-TIME, a folder for a new run."""
        return cls(pathlib.Path("runs") / f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}")

    def __str__(self) -> str:
        return str(self.path)

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
    def metrics_file(self) -> pathlib.Path:
        """What training logged: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def lock_file(self) -> pathlib.Path:
        """Who is at work in the folder."""
        return self.path / "lock"

    @property
    def traces(self) -> pathlib.Path:
        """The profiler's traces, where TensorBoard and xprof look for them below the run."""
        return self.path / "plugins" / "profile"

    @property
    def checkpoints(self) -> pathlib.Path:
        """`last/STEP` and `best/STEP`."""
        return self.path / "checkpoints"

    @property
    def all_pictures(self) -> pathlib.Path:
        """A folder of pictures for each evaluation."""
        return self.path / "pictures"

    def pictures(self, name: str) -> pathlib.Path:
        """Folder of the pictures of one evaluation; its split and mode are the name."""
        return self.all_pictures / name

    def scores_file(self, name: str) -> pathlib.Path:
        """The scores of one evaluation."""
        return self.path / f"eval-{name}.json"

    # ------------------------------------------------------------------ config
    def save_config(self, config: Config) -> None:
        """Write config.json."""
        write_json(self.config_file, configuration.to_dict(config))

    def load_config(self) -> Config:
        """The run's config, with a backend of the op that can run here.

        Raises UserError where the folder is no run, or its config.json is damaged.
        """
        values = self._read_json(self.config_file)
        if values is None:
            raise UserError(f"{self} is not a run: it has no config.json; train first, or pass --workdir")
        try:
            config = configuration.parse(values, made_elsewhere=True)
        except (UserError, AttributeError) as error:
            raise UserError(
                f"{self.config_file}: {error} (if a file of your own adds it: pass --parts FILE)"
            ) from None
        name = config.model.implementation
        if name is not None and (name not in IMPLEMENTATIONS or IMPLEMENTATIONS[name].unavailable()):
            print(f"model.implementation={name!r} cannot run here: the op chooses another")
            model = dataclasses.replace(config.model, implementation=None)
            return dataclasses.replace(config, model=model)
        return config

    def check_same_run(self, config: Config, classes: tuple[str, ...]) -> None:
        """Raise UserError where the run was started with another config, naming the keys, or classes."""
        there = configuration.parse(self._read_json(self.config_file) or {}, made_elsewhere=True)
        if keys := configuration.different_keys(config, there):
            here, before = (configuration.flat(configuration.to_dict(c)) for c in (config, there))
            listed = ", ".join(f"{name}={before[name]!r}, not {here[name]!r}" for name in keys)
            raise UserError(
                f"{self} holds a run with {listed}; repeat its config, or choose another --workdir"
            )
        if self.classes_file.exists() and (names := self.load_classes().names) != tuple(classes):
            changed = ", ".join(sorted(set(names) ^ set(classes))) or "their order"
            raise UserError(
                f"the classes of {self} are not those of the data, which differ in: {changed}; restore the "
                "data, or choose another --workdir"
            )

    # ----------------------------------------------------------------- classes
    def save_classes(self, names: tuple[str, ...], palette: np.ndarray) -> None:
        """Write classes.json: to predict, one needs no data set."""
        write_json(self.classes_file, {"classes": list(names), "palette": palette.tolist()})

    def load_classes(self) -> Classes:
        """The classes of the run; of a run from before classes.json those of its data set.

        Raises UserError where neither tells.
        """
        values = self._read_json(self.classes_file)
        if values is None:
            name = self.load_config().data.name
            classes = DATASETS[name].classes if name in DATASETS else None
            if classes is None:
                raise UserError(f"{self} has no classes.json and {name} names no classes; restore that file")
            return classes
        try:
            return Classes(tuple(values["classes"]), np.array(values["palette"], np.uint8))
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise UserError(f"{self.classes_file} cannot be read ({error!r}); restore it") from None

    # ------------------------------------------------------------------ others
    def add_versions(self) -> None:
        """Note in versions.json which code, versions and device go to work on the run now."""
        entries = self._read_json(self.versions_file) or []
        write_json(self.versions_file, [*entries, _versions()])

    def point_latest(self) -> None:
        """Make runs/latest a link to this run."""
        LATEST.parent.mkdir(exist_ok=True)
        link = LATEST.with_name(f".latest-{os.getpid()}")
        link.symlink_to(os.path.relpath(self.path.resolve(), LATEST.parent.resolve()))
        link.replace(LATEST)

    def _read_json(self, path: pathlib.Path) -> Any:
        """What a file holds, None where it does not exist. Raises UserError where it is damaged."""
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read as JSON ({error}); restore it") from None


def _versions() -> dict[str, Any]:
    """The code, versions and devices at hand."""
    return result_head() | {
        "ccnet_jax": __version__,
        "devices": jax.device_count(),
        "hosts": jax.process_count(),
    }
