"""Networks and weights by name: hf:ORG/NAME[@REVISION] on the Hugging Face hub, and https://... files.

They come through huggingface_hub, which keeps what it fetched, goes on where it was cut off, and works
offline with what is there (HF_HUB_OFFLINE=1).
"""

import contextlib
import hashlib
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

from ccnet_jax.common import outputs
from ccnet_jax.common.compilation_cache import private, user_folder
from ccnet_jax.common.errors import UserError, first_line, write_whole
from ccnet_jax.engine import checksums, weights_file

PREFIX = "hf:"
_NAME = re.compile(r"(?i:hf):(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[^@]+))?")
_FETCHED = ("config.json", "classes.json", "versions.json", weights_file.NAME, "README.md")
_PICKLES = (".bin", ".pth", ".pt", ".pkl", ".ckpt")
_SHA256 = re.compile(r"[0-9a-f]{64}")


def is_name(text: object) -> bool:
    """Whether a text names a network on the hub."""
    return str(text)[: len(PREFIX)].lower() == PREFIX


def is_file_address(text: object) -> bool:
    """Whether a text is the address of a file."""
    return str(text).startswith(("https://", "http://"))


def parts_of(name: str) -> tuple[str, str | None]:
    """ "hf:ORG/NAME@REVISION" as (ORG/NAME, REVISION or None). Raises UserError where it is another text."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise UserError(f"{name} must be hf:ORG/NAME or hf:ORG/NAME@REVISION; correct the name")
    return found["repository"], found["revision"]


def library(wanted: str) -> Any:
    """The package huggingface_hub. Raises UserError, which names what is wanted, where it is missing."""
    if importlib.util.find_spec("huggingface_hub") is None:
        raise UserError(
            f"{wanted} needs the package huggingface_hub, which is not installed: pip install huggingface_hub"
        )
    import huggingface_hub
    import huggingface_hub.constants

    return huggingface_hub


# ---------------------------------------------------------------------------------------------- the hub
def fetch(name: str) -> pathlib.Path:
    """The folder of a network on the hub, in the hub's cache here: config, classes and weights.

    Raises UserError where it cannot be had: no network, no such name or revision, no safetensors, a corrupt
    file.
    """
    repository, revision = parts_of(name)
    hub = library(name)
    try:
        folder = pathlib.Path(
            hub.snapshot_download(repository, revision=revision, allow_patterns=list(_FETCHED))
        )
    except Exception as error:  # of HTTP, the file system or the hub: each has its own class
        raise UserError(_reason(name, error)) from None
    if not (folder / weights_file.NAME).is_file():
        pickles = [x for x in _files(hub, repository, revision) if x.endswith(_PICKLES)]
        instead = f", but {pickles[0]}, a pickle, which could run code and is not read" if pickles else ""
        raise UserError(f"{name} has no {weights_file.NAME}{instead}; name a repository with safetensors")
    _check_digest(folder / weights_file.NAME, name)
    return folder


def run_folder(name: str) -> pathlib.Path:
    """A folder of the user's cache that is a run with the hub's network; results can be written there.

    Raises UserError as `fetch` does, and where the repository holds no network of this package.
    """
    cached = fetch(name)
    if weights_file.is_ours(cached / weights_file.NAME):
        for part in ("config.json", "classes.json"):
            if not (cached / part).is_file():
                raise UserError(f"{name} is incomplete: it has no {part}; its maker must share it again")
    else:
        raise UserError(
            f"{name} is no network of ccnet_jax (python -m ccnet_jax.share makes one); weights of PyTorch "
            "can be named by --config.pretrained"
        )
    title = re.sub(r"[^\w.-]", "-", name[len(PREFIX) :])
    try:
        folder = private(user_folder("hub")) / f"{title}-{cached.name[:12]}"
        folder.mkdir(exist_ok=True)
        for path in cached.iterdir():
            if path.name == weights_file.NAME:
                outputs.point_link(folder / path.name, path.resolve())
            elif path.is_file():
                write_whole(folder / path.name, path.read_bytes())
    except (OSError, RuntimeError) as error:
        raise UserError(f"{name} cannot be kept here: {error}") from None
    return folder


def _files(hub: Any, repository: str, revision: str | None) -> list[str]:
    try:
        return hub.HfApi().list_repo_files(repository, revision=revision)
    except Exception:  # it is asked for a better message only
        return []


def _reason(name: str, error: Exception, done: str = "fetched") -> str:
    """A message for an error of the hub's package, where a name could not be `done`."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    offline = "is not in the cache, and the network is off (HF_HUB_OFFLINE); unset that to fetch it"
    if "GatedRepoError" in kinds:
        return f"{name} is open to those only who have accepted its terms; do so on the hub, then log in"
    if "RepositoryNotFoundError" in kinds:
        return (
            f"{name} is not on the hub, or not open to you; correct the name, or log in with `hf auth login`"
        )
    if "RevisionNotFoundError" in kinds or "RevisionResolutionError" in kinds:
        return f"{name} has no such revision; correct what follows the @"
    if "HFValidationError" in kinds:
        return f"{name} is no name on the hub; correct it"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return f"{name} {offline}"
    if "LocalEntryNotFoundError" in kinds or "ConnectError" in kinds or "TimeoutException" in kinds:
        return (
            f"{name} is not in the cache, and the hub cannot be reached; see that this machine has a network"
        )
    return f"{name} cannot be {done} ({first_line(error)}); try again, or name another"


def _check_digest(path: pathlib.Path, name: str) -> None:
    """Raise UserError where a large file is not what the hub says: it keeps those by their SHA-256."""
    kept = path.resolve()
    if _SHA256.fullmatch(kept.name) and checksums.digest(kept) != kept.name:
        kept.unlink()
        raise UserError(f"{name} came corrupt, and is removed from the cache; start again")


# -------------------------------------------------------------------------------------- files at addresses
def fetched_file(address: str) -> pathlib.Path:
    """A file at https://HOST/PATH.safetensors[#sha256=DIGEST], kept in the user's cache.

    One that was cut off goes on at the next call. Raises UserError where it cannot be had, is of another
    kind, or is not what the digest says.
    """
    url, _, note = address.partition("#")
    digest = note.removeprefix("sha256=").lower()
    if note and not (note.startswith("sha256=") and _SHA256.fullmatch(digest)):
        raise UserError(f"{address}: after # only sha256=, and 64 hexadecimal digits, is understood")
    if not url.endswith(".safetensors"):
        raise UserError(f"{url} is no .safetensors file; others may hold pickles, which could run code")
    if url.startswith("http://") and not note:
        raise UserError(f"{url} is not encrypted, so anybody on the way can change it; add #sha256=DIGEST")
    hub = library(address)
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:16]}-{url.rpartition('/')[2]}"
    try:
        path = private(user_folder("downloads")) / name
        with _one_at_a_time(path):
            if not path.exists():
                if hub.constants.HF_HUB_OFFLINE:
                    raise UserError(
                        f"{url} is not in the cache, and the network is off (HF_HUB_OFFLINE); unset that to "
                        "fetch it"
                    )
                _download(url, path)
            if note and checksums.digest(path) != digest:
                path.unlink()
                raise UserError(
                    f"{url} is not the file with that SHA-256, and is removed; correct one of them"
                )
    except (OSError, RuntimeError) as error:
        raise UserError(f"{url} cannot be kept here: {error}") from None
    return path


@contextlib.contextmanager
def _one_at_a_time(path: pathlib.Path) -> Iterator[None]:
    """A block in which no other process works on the file `path`: the others wait, and find it there."""
    import filelock  # of huggingface_hub's own requirements

    with filelock.FileLock(path.with_name(f"{path.name}.lock")):
        yield


def _download(url: str, path: pathlib.Path) -> None:
    """Fetch a file, from where an earlier try was cut off; the name is given when it is whole."""
    from huggingface_hub.file_download import http_get

    begun = path.with_name(f"{path.name}.incomplete")
    log = logging.getLogger("huggingface_hub.file_download")  # it tells of each try
    with begun.open("ab") as file:
        try:
            log.setLevel(logging.CRITICAL)
            http_get(url, file, resume_size=file.tell(), displayed_filename=path.name[17:])
        except Exception as error:  # of HTTP: each library has its own
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status == 416:  # the file there is another one by now
                begun.unlink()
            reason = f"the server says {status}" if status else first_line(error)
            raise UserError(
                f"{url} cannot be fetched ({reason}); correct the address, or try again: what came is kept"
            ) from None
        finally:
            log.setLevel(logging.NOTSET)
    begun.replace(path)


# ------------------------------------------------------------------------------------------------ upload
def upload(folder: pathlib.Path, repository: str, private_one: bool) -> str:
    """Put the files of a folder into a repository, which is made if need be; its address.

    Raises UserError where the hub refuses it.
    """
    name = f"{PREFIX}{repository}"
    hub = library(name)
    try:
        hub.HfApi().create_repo(repository, private=private_one, exist_ok=True)
        hub.HfApi().upload_folder(
            repo_id=repository, folder_path=folder, commit_message="A network of ccnet_jax"
        )
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise UserError(
                f"{name} is not yours to write, or you are not logged in: `hf auth login`, or set HF_TOKEN"
            ) from None
        raise UserError(_reason(name, error, "uploaded")) from None
    return f"{hub.constants.ENDPOINT}/{repository}"
