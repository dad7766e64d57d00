"""Files that appear whole or not at all."""

import pytest

from vae.files import whole


def test_what_goes_wrong_leaves_what_was_there(tmp_path):
    folder = tmp_path / "latent"
    with whole(folder) as part:
        (part / "a").write_text("1")
    with pytest.raises(FileNotFoundError), whole(folder) as part:
        (part / "a").write_text("2" + (part / "b").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["latent"]
    assert (folder / "a").read_text() == "1"
