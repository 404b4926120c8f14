"""Programs keep what they compile in a private folder of the user; the library leaves JAX's cache alone."""

import os
import sys

import jax
import pytest

from ccnet_jax import eval, predict, train
from ccnet_jax.common import compilation_cache
from tests.helpers import fresh_python

START = """
import os, sys
os.environ["XDG_CACHE_HOME"] = sys.argv[1]
for name in ("JAX_COMPILATION_CACHE_DIR", "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
    os.environ.pop(name, None)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
import jax, jax.numpy as jnp
from ccnet_jax.common import compilation_cache
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event.endswith("cache_hits")))
compilation_cache.turn_on()
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))
print(sum(hits))
"""
IMPORT = """
import jax, ccnet_jax, ccnet_jax.train, ccnet_jax.eval, ccnet_jax.predict
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.fixture
def no_cache_yet(tmp_path, monkeypatch):
    """As a program starts: JAX has no cache, the user's cache folder is `tmp_path`, which is returned."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    names = ("compilation_cache_dir", "enable_compilation_cache", "persistent_cache_min_compile_time_secs")
    before = {f"jax_{name}": jax.config.values[f"jax_{name}"] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)


def cache_folder():
    return jax.config.values["jax_compilation_cache_dir"]


def test_a_second_process_loads_what_the_first_compiled(tmp_path):
    first, second = (fresh_python("-c", START, str(tmp_path)) for _ in range(2))
    assert int(first) == 0
    assert int(second) > 0
    folder = tmp_path / "ccnet_jax" / "compiled"
    assert list(folder.glob("*-cache"))
    assert folder.stat().st_mode & 0o777 == 0o700


def test_who_imports_the_library_has_jaxs_cache_as_before(monkeypatch):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    assert fresh_python("-c", IMPORT).strip() == "None"


@pytest.mark.parametrize(
    ("program", "arguments"),
    [(train, ["--config=demo"]), (eval, ["no-run"]), (predict, ["image.png"])],
)
def test_programs_turn_it_on(program, arguments, monkeypatch):
    def turned_on():
        raise KeyboardInterrupt

    monkeypatch.setattr(compilation_cache, "turn_on", turned_on)
    monkeypatch.setattr(sys, "argv", ["program", *arguments])
    with pytest.raises(KeyboardInterrupt):
        program.main()


def test_the_folder_is_in_the_users_cache_folder(no_cache_yet, monkeypatch):
    compilation_cache.turn_on()
    assert cache_folder() == str(no_cache_yet / "ccnet_jax" / "compiled")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its specification says to ignore
    monkeypatch.setenv("HOME", "/home/somebody")
    assert str(compilation_cache.user_folder("compiled")) == "/home/somebody/.cache/ccnet_jax/compiled"


def test_jaxs_own_settings_win(no_cache_yet):
    jax.config.update("jax_compilation_cache_dir", "/their/own")
    compilation_cache.turn_on()
    assert cache_folder() == "/their/own"
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.turn_on()
    assert cache_folder() is None
    assert not list(no_cache_yet.iterdir())


def test_a_folder_that_others_may_write_into_is_not_used(no_cache_yet, capsys):
    folder = no_cache_yet / "ccnet_jax" / "compiled"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    compilation_cache.turn_on()
    assert cache_folder() is None
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"others may write into {folder}" in error
    folder.chmod(0o755)  # readable alone: made private
    compilation_cache.turn_on()
    assert cache_folder() == str(folder)
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_folder_of_another_user_is_not_used(no_cache_yet, capsys, monkeypatch):
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    compilation_cache.turn_on()
    assert cache_folder() is None
    assert "belongs to another user" in capsys.readouterr().err


def test_where_nothing_can_be_written_one_message_says_so(no_cache_yet, capsys, monkeypatch):
    (no_cache_yet / "ccnet_jax").write_text("a file where the folder should be")
    compilation_cache.turn_on()
    (no_cache_yet / "ccnet_jax").unlink()
    monkeypatch.setattr(os, "access", lambda *_: False)
    compilation_cache.turn_on()
    monkeypatch.undo()
    assert cache_folder() is None
    assert [line.startswith("warning: compiled programs are not kept") for line in _lines(capsys)] == [
        True
    ] * 2


def test_a_full_disk_is_not_written_to(no_cache_yet, capsys, monkeypatch):
    monkeypatch.setattr(compilation_cache, "_FREE", 2**80)
    compilation_cache.turn_on()
    assert cache_folder() is None
    (line,) = _lines(capsys)
    assert "MiB left" in line


def _lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_what_was_not_used_for_the_longest_time_is_deleted(tmp_path):
    (tmp_path / "inner").mkdir()
    for age, name in enumerate(["a", "inner/b", "c", "d"]):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    os.utime(tmp_path / "d", (2000, 1))  # written first, read last
    compilation_cache.trim(tmp_path, 300)
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()) == [
        "a",
        "d",
        "inner/b",
    ]
    compilation_cache.trim(tmp_path, 199)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["d"]
