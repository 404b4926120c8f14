"""Files that are whole or not there: who may read them while they are written, and where none can be."""

import os
import pathlib
import stat
import tempfile

import pytest

from kernels.whole_file import UMASK, obstacle, whole_file, write_whole


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_the_users_alone_until_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with whole_file(path) as temporary:
        temporary.write_text("half of it")
        assert (mode(temporary), temporary.parent) == (0o600, tmp_path)
    assert mode(path) == 0o666 & ~UMASK
    path.chmod(0o640)
    write_whole(path, "another")
    assert (path.read_text(), mode(path)) == ("another", 0o640)


def test_nobody_can_wait_for_a_temporary_file_with_a_link(tmp_path):
    """Of a name that can be guessed a link could be made, which leads the data elsewhere."""
    names = set()
    for _ in range(3):
        with whole_file(tmp_path / "file") as temporary:
            names.add(temporary.name)
            temporary.write_text("x")
    assert len(names) == 3
    assert all(str(os.getpid()) not in name for name in names)


def test_what_tries_a_folder_has_no_name_there(tmp_path, monkeypatch):
    """A process that is killed just then leaves nothing."""
    made, seen = tempfile.TemporaryFile, []

    def watched(*arguments, **options):
        file = made(*arguments, **options)
        seen.append(list(tmp_path.iterdir()))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    assert obstacle(tmp_path / "new" / "file") is None
    assert seen == [[]]


def test_names_may_have_any_length(tmp_path):
    path = tmp_path / ("ü" * 125 + ".json")  # of 255 bytes
    write_whole(path, "x")
    assert os.listdir(tmp_path) == [path.name]


def test_why_nothing_can_be_written_is_known_before(tmp_path):
    (tmp_path / "file").write_text("x")
    assert obstacle(tmp_path) == "is a folder"
    assert obstacle(tmp_path / "file", folder=True) == "is a file"
    below = f"lies below {tmp_path / 'file'}, which is a file"
    assert obstacle(tmp_path / "file" / "a" / "b") == obstacle(tmp_path / "file/a", folder=True) == below
    assert "cannot be written" in str(obstacle(tmp_path / ("x" * 300)))
    for path in (tmp_path / "file", tmp_path / "new", tmp_path / "a" / "b" / "c"):
        assert obstacle(path) is None
    assert obstacle(tmp_path, folder=True) is None
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="a file system that takes no folders")
def test_a_file_system_that_takes_no_folders():
    for folder in (False, True):
        assert "cannot be written" in str(obstacle(pathlib.Path("/proc/new/file"), folder))
