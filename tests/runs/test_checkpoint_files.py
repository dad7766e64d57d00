"""Damaged checkpoints are recognised by their checksums, and the last intact one is used."""

import random

import pytest
import torch

from vae.errors import UserError
from vae.runs.checkpoint_files import checkpoint_to_resume, is_intact, latest_checkpoint


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    torch.save({"state_dict": {"w": torch.randn(200, 200)}, "epoch": 3}, path)
    return path


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(checkpoint, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("vae.runs.checkpoint_files.ZipFile", refuse)  # root may read every file
    with pytest.raises(PermissionError):
        checkpoint_to_resume(checkpoint.parents[1])


def test_a_changed_byte_of_the_data_is_found(checkpoint):
    """torch.load accepts such a file without an error."""
    content = checkpoint.read_bytes()
    start = content.index(b"data/0") + 200
    for place in random.Random(0).sample(range(start, start + 100_000), 40):
        checkpoint.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        torch.load(checkpoint, weights_only=True)
        assert not is_intact(checkpoint)
    checkpoint.write_bytes(content)
    assert is_intact(checkpoint)


@pytest.mark.parametrize("n", [0, 1, 100, -1000, -1])
def test_a_truncated_file_is_damaged(checkpoint, n):
    checkpoint.write_bytes(checkpoint.read_bytes()[:n])
    assert not is_intact(checkpoint)


def test_a_missing_file_and_a_folder_are_not_intact(tmp_path):
    assert not is_intact(tmp_path / "no.ckpt")
    assert not is_intact(tmp_path)


def test_the_last_intact_checkpoint_is_used(checkpoint, tmp_path):
    previous = checkpoint.with_name("last-previous.ckpt")
    torch.save({}, previous)
    assert checkpoint_to_resume(tmp_path) == checkpoint
    checkpoint.write_bytes(b"")
    assert checkpoint_to_resume(tmp_path) == previous
    checkpoint.unlink()
    assert latest_checkpoint(tmp_path) == previous
    previous.write_bytes(b"")
    assert latest_checkpoint(tmp_path) is None
    with pytest.raises(UserError, match=r"last.ckpt is damaged, and there is no intact last-previous.ckpt"):
        checkpoint_to_resume(tmp_path)
