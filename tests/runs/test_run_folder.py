"""Run folders as they are read back, against what train.py was told and wrote."""

import os
from pathlib import Path

import pytest

from vae.errors import UserError
from vae.runs.run_folder import differences, find, newest, read


def test_a_run_is_read_as_it_was_typed(cli, runs):
    assert cli("hidden_size=[12,6]", "likelihood=bernoulli", "optimizer.lr=0.002", "trainer.max_epochs=1")[0] == 0
    (folder,) = runs()
    run = read(folder)
    assert run.status == "finished"
    assert run.value("hidden_size") == [12, 6]
    assert run.value("likelihood") == "bernoulli"
    assert run.value("optimizer.lr") == 0.002
    assert run.value("trainer.max_epochs") == 1
    assert run.value("seed") == 0  # not typed
    assert run.value("nonsense") is None
    assert run.records[-1]["test/elbo"] == pytest.approx(run.summary["test/elbo"])
    assert run.seconds == run.records[-1]["seconds"] > 0


def test_what_differs_is_what_was_typed_and_is_not_the_same(cli):
    cli("latent_dim=2", "trainer.max_epochs=1", "seed=0", "data_dir=here")
    cli("prior=mixture", "prior.components=4", "trainer.max_epochs=1", "data_dir=there")
    found = find([Path("outputs")])
    assert differences(found) == ["latent_dim", "prior", "prior.components"]
    assert [[run.value(key) for key in differences(found)] for run in found] == [
        [2, "standard_normal", None],
        [3, "mixture", 4],
    ]


def test_a_folder_is_found_once_by_whatever_name(cli, runs, tmp_path):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    (tmp_path / "link").symlink_to(folder)
    assert [run.folder for run in find([Path("outputs"), folder, tmp_path / "link"])] == [
        Path("outputs") / folder.relative_to(tmp_path / "outputs")
    ]


def test_what_is_no_run_is_one_line(cli, runs, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: expected the folder of a run or of a sweep"):
        find([tmp_path / "nowhere"])
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    (folder / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"its .hydra/ or summary.json is missing or damaged"):
        find([folder])


def test_the_newest_run_is_the_finished_one_with_the_latest_weights(tmp_path):
    for age, name in enumerate(("b", "sweeps/c", "a", "unfinished")):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/best.ckpt").touch()
        os.utime(folder / "checkpoints/best.ckpt", (1000 - age, 1000 - age))
        if name != "unfinished":
            (folder / "summary.json").touch()
    os.utime(tmp_path / "unfinished/checkpoints/best.ckpt", (2000, 2000))
    assert newest(tmp_path) == tmp_path / "b"
    os.utime(tmp_path / "sweeps/c/checkpoints/best.ckpt", (1500, 1500))
    assert newest(tmp_path) == tmp_path / "sweeps/c"
