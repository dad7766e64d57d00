"""Atomic writes of files and folders."""

from pathlib import Path

import pytest

from vae.errors import UserError
from vae.runs.atomic_files import atomic_directory, atomic_write


def test_an_error_leaves_the_existing_folder_unchanged(tmp_path):
    folder = tmp_path / "latent"
    with atomic_directory(folder) as part:
        (part / "a").write_text("1")
    with pytest.raises(FileNotFoundError), atomic_directory(folder) as part:
        (part / "a").write_text("2" + (part / "b").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["latent"]
    assert (folder / "a").read_text() == "1"


def test_a_file_is_replaced_at_once_and_no_temporary_file_is_left(tmp_path, monkeypatch):
    file = tmp_path / "a"
    atomic_write("1", file)

    def fail(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="no space"):
            atomic_write("2", file)
    assert file.read_text() == "1"
    atomic_write(b"3", file)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "3"}


@pytest.mark.parametrize("place", ["taken", "nowhere/latent"])
def test_an_unwritable_folder_is_an_error_before_the_block_runs(place, tmp_path):
    (tmp_path / "taken").write_text("content")
    with (
        pytest.raises(UserError, match=f"{place}: .*(this is a file|cannot be written: No such file)"),
        atomic_directory(tmp_path / place),
    ):
        pytest.fail("the block ran")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "content"
