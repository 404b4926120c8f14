import datetime
import json
import os
import platform
import subprocess

import jax
import pytest

from kernels.bench import measure
from kernels.bench.measure import Program, interleaved_seconds, jax_clock
from kernels.whole_file import whole_file, write_whole
from tests.helpers import fresh_python


def test_a_program_that_fails_does_not_stop_the_others():
    def fail():
        raise RuntimeError("\nout of memory\nwhile allocating")

    programs = {
        "bad": Program(fail, [()], jax_clock),
        "good": Program(lambda: 1, [()], jax_clock),
    }
    seconds, failures = interleaved_seconds(programs, 3, 0.0)
    assert failures == {"bad": "out of memory"}
    assert list(seconds) == ["good"]
    assert len(seconds["good"]) == 3


def test_the_head_says_where_when_and_by_which_code(tmp_path):
    code = """if True:
        import json
        from kernels.bench.measure import result_head
        print(json.dumps(result_head()))
    """
    head = json.loads(fresh_python("-c", code))
    assert list(head) == ["device", "driver", "versions", "commit", "command", "date"]
    assert head["device"].startswith("cpu, ")
    assert head["versions"]["python"] == platform.python_version()
    assert head["versions"]["jax"] == jax.__version__
    assert head["command"].startswith("python -c ")
    assert datetime.datetime.fromisoformat(head["date"]).tzinfo is not None


def test_the_head_names_the_device_it_is_given():
    assert measure.result_head("NVIDIA H200")["device"] == "NVIDIA H200"


def test_packages_that_are_not_installed_have_no_version(monkeypatch):
    monkeypatch.setattr(measure, "PACKAGES", ("jaxlib", "no-such-package"))
    assert list(measure.versions()) == ["python", "jaxlib"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder that is taken for that of the project."""
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    return tmp_path


@pytest.fixture
def repository(folder):
    """A repository with the files a and experiments/results/a.json."""
    measure.write_result(folder / "experiments" / "results" / "a.json", {})
    (folder / "a").write_text("1")
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b"]
    for arguments in (["init", "-q"], ["add", "."], ["commit", "-qm", "a"]):
        subprocess.run([*git, *arguments], cwd=folder, check=True)
    return folder


def test_a_folder_that_is_no_repository_has_no_commit(folder):
    assert measure.commit() is None


def test_the_commit_is_marked_where_files_differ(repository):
    clean = measure.commit()
    assert len(clean) == 40
    (repository / "a").write_text("2")
    assert measure.commit() == f"{clean}-dirty"


def test_results_that_differ_are_no_other_code(repository):
    result = repository / "experiments" / "results" / "a.json"
    result.write_text("2")
    clean = measure.commit()
    assert len(clean) == 40
    (repository / "a").write_text("2")
    assert measure.commit() == f"{clean}-dirty"


def test_a_machine_without_nvidias_driver_has_none(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert measure.driver() is None


def test_a_copy_without_its_history_is_told_its_commit(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_COMMIT", "abc")
    assert measure.commit() == "abc"
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    assert measure.commit() == "abc"
    monkeypatch.delenv("SOURCE_COMMIT")
    assert measure.commit() is None


def test_sources_are_told_apart_by_what_is_in_them(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "ROOT", tmp_path)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.py").write_text("1")
    one, both = measure.sources("a"), measure.sources("a", "b")
    assert one != both
    (tmp_path / "a" / "notes.md").write_text("no source")
    assert measure.sources("a") == one
    (tmp_path / "b" / "x.py").write_text("2")
    assert measure.sources("a") == one
    assert measure.sources("a", "b") != both


def test_an_interrupted_measurement_goes_on_where_nothing_has_changed(tmp_path):
    path = tmp_path / "result.json"
    start = {"device": "x", "commit": "1", "sources": "s", "rows": []}
    assert measure.resume_report(path, start, ("rows",)) == start
    measure.write_result(path, {**start, "rows": [1]})
    later = {**start, "commit": "2"}
    assert measure.resume_report(path, later, ("rows",)) == {**later, "rows": [1]}
    for change in ({"device": "y"}, {"sources": "t"}, {"versions": {"torch": "2"}}):
        changed = later | change
        assert measure.resume_report(path, changed, ("rows",)) == changed
    path.write_text('{"device": "x", "ro')
    assert measure.resume_report(path, start, ("rows",)) == start


def test_a_result_is_written_whole_into_a_new_folder(tmp_path):
    path = tmp_path / "new" / "result.json"
    measure.write_result(path, {"device": "x", "rows": [1]})
    assert json.loads(path.read_text()) == {"device": "x", "rows": [1]}
    assert os.listdir(path.parent) == ["result.json"]


def test_a_write_that_fails_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    write_whole(path, "old")

    def write_half():
        with whole_file(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_half()
    assert path.read_text() == "old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]
