"""A page in your browser: what a trained network sees in an image, and what its pixels attend to.

    python -m ccnet_jax.explore [RUN] [--port N]
    python -m ccnet_jax.explore runs/demo runs/other     # two runs side by side

Drop an image on the page, take one of the run's own, or use the webcam. The page shows the classes over the
image, their areas, and the probabilities under the pointer. A click shows what that pixel attends to after
each loop of RCCA. Loops, scales and the run can be changed.

Everything stays on this machine: the page is served at 127.0.0.1, loads nothing from elsewhere, and writes no
file. It needs the packages starlette and uvicorn. Ctrl-C ends the program.
"""

import contextlib
import errno
import importlib.util
import socket
from collections.abc import Sequence
from typing import Any

from ccnet_jax.common import compilation_cache
from ccnet_jax.common.errors import UserError
from ccnet_jax.config import command_line
from ccnet_jax.data.images import MOST_PIXELS
from ccnet_jax.engine.folder import LATEST
from ccnet_jax.tools.page.answers import Explorer
from ccnet_jax.tools.page.guard import LOOPBACK
from ccnet_jax.tools.page.networks import Network
from ccnet_jax.tools.page.own_images import OwnImages
from ccnet_jax.tools.page.uploads import Limits
from ccnet_jax.weights.inference import load

PACKAGES = ("starlette", "uvicorn")
MOST_RUNS = 2
_ANYWHERE = ("0.0.0.0", "::")


def main(command: Sequence[str] | None = None) -> None:
    """The program."""
    arguments = flags().parse(command)
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"the page needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}"
        )
    if len(arguments.runs) > MOST_RUNS:
        raise UserError(
            f"the page compares {MOST_RUNS} runs, and {len(arguments.runs)} are named; name fewer"
        )
    command_line.run_parts(arguments)
    with listening_socket(arguments.host, arguments.port) as server:
        compilation_cache.turn_on()
        runs = arguments.runs or [str(LATEST)]
        own = OwnImages.of_run(runs[0], arguments.data_dir)
        networks = [Network(run, load(run, arguments.checkpoint)) for run in runs]
        limits = Limits(arguments.megabytes, arguments.megapixels, arguments.side)
        print(greeting(arguments.host, server.getsockname()[1], networks, own), flush=True)
        serve(Explorer(networks, own, limits), server, hosts_of(arguments.host))


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens at an address of this machine.

    Args:
      host: a name or an address.
      port: 0 takes a free one.

    Raises:
      UserError: that is no address of this machine, or the port cannot be had.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            remedy = "end the program that uses it, or choose another --port (0 takes a free one)"
            raise UserError(f"port {port} of {host} is in use; {remedy}") from None
        if number == errno.EACCES:
            raise UserError(f"port {port} is not for every user; choose a --port above 1023") from None
        reason = str(getattr(error, "strerror", None) or error).partition(" (while")[0]
        raise UserError(
            f"--host {host!r} is no address of this machine ({reason}); omit it for 127.0.0.1, or pass "
            "0.0.0.0 for all of its addresses"
        ) from None


def hosts_of(host: str) -> frozenset[str] | None:
    """The names under which the page may be asked for, see `page.guard.Guard`; None for all."""
    if host in LOOPBACK:
        return LOOPBACK
    return None if host in _ANYWHERE else frozenset({host.lower()})


def greeting(host: str, port: int, networks: list[Network], own: OwnImages) -> str:
    """What is printed when the page is ready."""
    lines = [network.summary() for network in networks]
    if own.missing:
        lines.append(f"none of the run's own images: {own.missing}")
    if host not in LOOPBACK:
        lines.append("warning: everybody who reaches this machine can use the page: it asks for no password")
    shown = "127.0.0.1" if host in _ANYWHERE else f"[{host}]" if ":" in host else host
    return "\n".join([*lines, f"open http://{shown}:{port}/ in a browser; Ctrl-C ends"])


def serve(explorer: Explorer, server: socket.socket, hosts: frozenset[str] | None) -> None:
    """Answer until Ctrl-C or SIGTERM; a prediction that is at work then ends first."""
    import uvicorn  # of the extra's packages

    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(server_settings(explorer, hosts)).run(sockets=[server])


def server_settings(explorer: Explorer, hosts: frozenset[str] | None) -> Any:
    """Of uvicorn's server; a connection is cheap here, and what takes memory has limits of its own."""
    import uvicorn

    from ccnet_jax.tools.page.app import make_app  # both of the extra's packages

    return uvicorn.Config(
        make_app(explorer, hosts),
        log_level="error",
        ws="none",
        lifespan="off",
        server_header=False,
        limit_concurrency=512,
        timeout_graceful_shutdown=1,
    )


def flags() -> command_line.Parser:
    """The command line."""
    parser = command_line.Parser("ccnet_jax.explore", __doc__)
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="one or two runs, converted checkpoints, or hf:ORG/NAME; default the newest",
    )
    parser.add_parts()
    parser.add_argument("--checkpoint", default="last", help="last, best, or the folder of a checkpoint")
    parser.add_argument("--data-dir", help="folder of the data, where it is not the run's data.dir")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to serve at; 0.0.0.0 lets other machines in"
    )
    parser.add_argument(
        "--port", type=command_line.whole(0, 65535), default=8765, help="default %(default)s; 0: a free one"
    )
    parser.add_argument(
        "--side",
        type=command_line.whole(64, 8192),
        default=Limits.side,
        help="longest side in pixels that the network sees; larger images are shrunk; default %(default)s",
    )
    parser.add_argument(
        "--megabytes",
        type=command_line.whole(1, 4096),
        default=Limits.megabytes,
        help="largest file that the page takes; default %(default)s",
    )
    parser.add_argument(
        "--megapixels",
        type=command_line.whole(1, MOST_PIXELS // 10**6),
        default=Limits.megapixels,
        help="million pixels of the largest image that the page takes; default %(default)s",
    )
    return parser


if __name__ == "__main__":
    command_line.run(main)
