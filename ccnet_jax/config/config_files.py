"""Configs by name or path: the project's own, and a user's files."""

import contextlib
import dataclasses
import importlib.util
import inspect
import pathlib
import sys
import traceback
import types
from collections.abc import Iterator

import cloudpickle
import ml_collections

from ccnet_jax.common.errors import UserError
from ccnet_jax.common.fields import nearest

_PACKAGE = pathlib.Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class ConfigName:
    """A config as users name it: FILE.py, NAME, FILE.py:VARIANT or NAME:VARIANT.

    Attributes:
      path: of the file.
      variant: of the config, None for the file's first.
    """

    path: pathlib.Path
    variant: str | None

    @classmethod
    def of(cls, text: str) -> "ConfigName":
        """The config with that name. Raises UserError where there is no such file."""
        name, _, variant = text.partition(":")
        path = pathlib.Path(name).expanduser()
        if not path.is_file() and not path.suffix and path.name:
            ours = [folder() / f"{name}.py"] if path.name == name else []
            candidates = [*ours, path.with_name(f"{path.name}.py")]
            path = next((x for x in candidates if x.is_file()), path)
        if not path.is_file():
            known = names()
            raise UserError(
                f"--config {text}: there is no file {name} and no config of that name; the configs are "
                f"{', '.join(known)}{nearest(pathlib.Path(name).stem, known)}"
            )
        return cls(path, variant or None)

    @property
    def title(self) -> str:
        """The file's name without suffix: a run's default name begins with it."""
        return self.path.stem


def folder() -> pathlib.Path:
    """Where the project's configs lie: in the installed package, or beside it in the repository."""
    inside = _PACKAGE / "configs"
    return inside if inside.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """The project's configs."""
    return sorted(path.stem for path in folder().glob("[a-z]*.py"))


def names_with_variants() -> list[str]:
    """Each config, and each of its variants as NAME:VARIANT."""
    found = []
    for name in names():
        found += [name, *(f"{name}:{variant}" for variant in variants(folder() / f"{name}.py"))]
    return found


def module_of(path: pathlib.Path) -> types.ModuleType:
    """The Python file as a module; running it again would register its parts twice, so it runs once.

    Raises UserError where the file cannot be run.
    """
    name = f"ccnet_jax_config_{path.resolve().as_posix().replace('/', '_').replace('.', '_')}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is no Python file; name one that ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    cloudpickle.register_pickle_by_value(module)  # a data worker cannot import it by its name
    try:
        with _explain_errors(path):
            spec.loader.exec_module(module)
    except UserError:
        del sys.modules[name]
        raise
    return module


@contextlib.contextmanager
def _explain_errors(path: pathlib.Path) -> Iterator[None]:
    """Inside, what a user's file raises becomes a UserError with the file, the line and the reason."""
    try:
        yield
    except (Exception, SystemExit) as error:
        if isinstance(error, SyntaxError) and error.lineno is not None:
            where, reason = f"{error.filename}, line {error.lineno}", error.msg
        else:
            frames = traceback.extract_tb(error.__traceback__)
            lines = [x.lineno for x in frames if pathlib.Path(x.filename).resolve() == path.resolve()]
            where, reason = f"{path}, line {lines[-1]}" if lines else str(path), " ".join(str(error).split())
        kind = "" if isinstance(error, UserError) else f" {type(error).__name__}{':' * bool(reason)}"
        raise UserError(f"{where}:{kind}{' ' * bool(reason)}{reason}; correct that file") from error


def variants(path: pathlib.Path) -> dict[str, tuple]:
    """{variant: its row in the file's `VARIANTS`}, of which the last two are the published scores."""
    return getattr(module_of(path), "VARIANTS", {})


def load(name: ConfigName) -> ml_collections.ConfigDict:
    """What the file's `get_config` returns for the variant. Raises UserError where it returns none."""
    module, known = module_of(name.path), variants(name.path)
    if not hasattr(module, "get_config"):
        raise UserError(f"{name.path} has no function get_config; define one that returns a config")
    if name.variant is not None and known and name.variant not in known:
        raise UserError(
            f"{name.path} has no variant {name.variant!r}, but one of {', '.join(known)}"
            f"{nearest(name.variant, known)}"
        )
    arguments = [] if name.variant is None else [name.variant]
    try:
        inspect.signature(module.get_config).bind(*arguments)
    except TypeError:
        raise UserError(
            f"{name.path} needs a variant, {name.path}:VARIANT"
            if name.variant is None
            else f"{name.path} has no variants; omit :{name.variant}"
        ) from None
    with _explain_errors(name.path):
        config = module.get_config(*arguments)
    if not isinstance(config, ml_collections.ConfigDict):
        raise UserError(
            f"{name.path}: get_config returns {type(config).__name__}, not a ConfigDict; correct that file"
        )
    return config


def list_configs() -> str:
    """Every config and variant with its published scores, as text."""
    lines = [f"{'--config':44}  {'mIoU':>6}  {'ms + flip':>9}"]
    for name in names():
        path = folder() / f"{name}.py"
        summary = (module_of(path).__doc__ or "").splitlines()[0]
        lines += ["", f"{name:44}  {summary}"]
        for variant, (*_, miou, ms_flip) in variants(path).items():
            scores = ("-" if score is None else f"{score:.2f}" for score in (miou, ms_flip))
            lines.append("{:44}  {:>6}  {:>9}".format(f"{name}:{variant}", *scores))
    return "\n".join(lines)
