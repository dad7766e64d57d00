"""Files that appear whole or not at all."""

import pytest

from vae.errors import UserError
from vae.runs.atomic_files import whole


def test_what_goes_wrong_leaves_what_was_there(tmp_path):
    folder = tmp_path / "latent"
    with whole(folder) as part:
        (part / "a").write_text("1")
    with pytest.raises(FileNotFoundError), whole(folder) as part:
        (part / "a").write_text("2" + (part / "b").read_text())
    assert [path.name for path in tmp_path.iterdir()] == ["latent"]
    assert (folder / "a").read_text() == "1"


@pytest.mark.parametrize("place", ["taken", "nowhere/latent"])
def test_where_nothing_can_be_written_it_is_said_before_the_work(place, tmp_path):
    (tmp_path / "taken").write_text("in the way")
    with (
        pytest.raises(UserError, match=f"{place}: .*(in the way|cannot be written: No such file)"),
        whole(tmp_path / place),
    ):
        pytest.fail("the work began")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    assert (tmp_path / "taken").read_text() == "in the way"
