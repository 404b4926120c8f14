"""`python -m ccnet_jax.explore`: its command line, and where it listens."""

import importlib.util
import socket

import pytest

from ccnet_jax import explore
from ccnet_jax.common.errors import UserError
from ccnet_jax.data.datasets.streets import Streets
from ccnet_jax.tools.page.own_images import OwnImages
from tests import helpers


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run of the demo's network."""
    folder = tmp_path_factory.mktemp("runs") / "demo"
    helpers.write_run(folder, helpers.load_config("demo"), Streets("val"))
    return folder


@pytest.fixture
def served(monkeypatch):
    """What would be served, of each start: (explorer, address, hosts)."""
    starts = []

    def serve(explorer, server, hosts):
        starts.append((explorer, server.getsockname(), hosts))

    monkeypatch.setattr(explore, "serve", serve)
    monkeypatch.setattr(explore, "PACKAGES", ())
    return starts


def test_the_page_of_two_runs(run, served, monkeypatch, capsys):
    helpers.ran(monkeypatch, explore, run, run, "--port=0", "--side=256", "--megabytes=3", "--megapixels=2")
    ((explorer, (address, port), hosts),) = served
    assert [network.name for network in explorer.networks] == [str(run), str(run)]
    limits = explorer.limits
    assert (limits.side, limits.megabytes, limits.megapixels) == (256, 3, 2)
    assert (address, hosts) == ("127.0.0.1", frozenset({"127.0.0.1", "localhost", "::1"}))
    out = capsys.readouterr().out
    assert f"{run}: 13 classes, context RCCA, loops 2" in out
    assert f"open http://127.0.0.1:{port}/ in a browser; Ctrl-C ends" in out
    assert "warning" not in out
    assert len(explorer.own.names) == 24


def test_other_machines_are_let_in_if_that_is_wanted(run, served, monkeypatch, capsys):
    helpers.ran(monkeypatch, explore, run, "--port=0", "--host=0.0.0.0")
    ((_, (address, _), hosts),) = served
    assert (address, hosts) == ("0.0.0.0", None)
    assert "warning: everybody who reaches this machine can use the page" in capsys.readouterr().out
    assert explore.hosts_of("Box.local") == {"box.local"}
    lines = explore.greeting("::1", 80, [], OwnImages(missing="no data")).splitlines()
    assert lines == [
        "none of the run's own images: no data",
        "open http://[::1]:80/ in a browser; Ctrl-C ends",
    ]


MISTAKES = [
    (["{tmp}/gone"], "gone is not a run: it has no config.json"),
    (["{run}/config.json"], "config.json is a file; name the folder of a run"),
    (["{run}", "{run}", "{run}"], "the page compares 2 runs, and 3 are named; name fewer"),
    (["{run}", "--checkpoint=best"], "best"),
    (["{run}", "--data-dir={tmp}/gone", "--parts={tmp}/gone.py"], "--parts {tmp}/gone.py is no file"),
    (["{run}", "--host=no..host"], "--host 'no..host' is no address of this machine"),
    (["{run}", "--host=198.51.100.7"], "--host '198.51.100.7' is no address of this machine (Cannot assign"),
    (["{run}", "--port={used}"], "port {used} of 127.0.0.1 is in use; end the program that uses it"),
]
WRONG_FLAGS = [
    (["--port=http"], "'http' must be a whole number from 0 to 65535"),
    (["--port=65536"], "'65536' must be a whole number from 0 to 65535"),
    (["--side=10"], "'10' must be a whole number from 64 to 8192"),
    (["--megabytes=0"], "'0' must be a whole number from 1 to"),
    (["--megapixels=-5"], "'-5' must be a whole number from 1 to"),
    (["--host="], "--host is empty; give it a value"),
    (["--prot=80"], "unknown argument '--prot=80'; did you mean --port?"),
    (["--config.steps=3"], "--config.steps cannot be changed here"),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_message(arguments, words, run, served, monkeypatch, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as used:
        names = {"run": run, "tmp": tmp_path, "used": used.getsockname()[1]}
        line = [argument.format(**names) for argument in arguments]
        with pytest.raises(UserError) as told:
            helpers.ran(monkeypatch, explore, "--port=0", *line)
    assert words.format(**names) in str(told.value)
    assert len(str(told.value).splitlines()) == 1
    assert not served


@pytest.mark.parametrize(("arguments", "words"), WRONG_FLAGS, ids=range(len(WRONG_FLAGS)))
def test_a_wrong_flag_is_one_message(arguments, words, run, monkeypatch, capsys):
    with pytest.raises(SystemExit) as ended:
        helpers.ran(monkeypatch, explore, run, *arguments)
    assert ended.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("missing", [["uvicorn"], ["starlette", "uvicorn"]])
def test_a_missing_package_is_one_message(missing, run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in missing else name)
    words = f"the page needs {' and '.join(missing)}, not installed here: pip install {' '.join(missing)}$"
    with pytest.raises(UserError, match=words):
        helpers.ran(monkeypatch, explore, run)


def test_a_port_of_the_system_is_told(monkeypatch):
    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refused)
    with pytest.raises(UserError, match="port 80 is not for every user; choose a --port above 1023"):
        explore.listening_socket("127.0.0.1", 80)
