"""Run folders are read as train.py wrote them."""

import os
from pathlib import Path

import pytest

from vae.errors import UserError
from vae.runs.run_folder import differing_keys, find_runs, latest_finished_run, read_finished_run, read_run


def test_read_run_returns_the_config_of_the_command_line(cli, runs):
    assert cli("hidden_size=[12,6]", "likelihood=bernoulli", "optimizer.lr=0.002", "trainer.max_epochs=1")[0] == 0
    (folder,) = runs()
    run = read_run(folder)
    assert run.status == "finished"
    assert run.value("hidden_size") == [12, 6]
    assert run.value("likelihood") == "bernoulli"
    assert run.value("optimizer.lr") == 0.002
    assert run.value("trainer.max_epochs") == 1
    assert run.value("seed") == 0  # not on the command line
    assert run.value("nonsense") is None
    assert read_finished_run(folder) == run
    assert run.history[-1]["test/elbo"] == pytest.approx(run.summary["test/elbo"])
    assert run.seconds == run.history[-1]["seconds"] > 0


def test_differing_keys_are_overrides_with_different_values(cli):
    cli("latent_dim=2", "trainer.max_epochs=1", "seed=0", "data_dir=here")
    cli("prior=mixture", "prior.components=4", "trainer.max_epochs=1", "data_dir=there")
    found = find_runs([Path("outputs")])
    assert differing_keys(found) == ["latent_dim", "prior", "prior.components"]
    assert [[run.value(key) for key in differing_keys(found)] for run in found] == [
        [2, "standard_normal", None],
        [3, "mixture", 4],
    ]


def test_a_folder_with_several_names_is_found_once(cli, runs, tmp_path):
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    (tmp_path / "link").symlink_to(folder)
    assert [run.folder for run in find_runs([Path("outputs"), folder, tmp_path / "link"])] == [
        Path("outputs") / folder.relative_to(tmp_path / "outputs")
    ]


def test_a_missing_or_damaged_run_is_a_one_line_error(cli, runs, tmp_path):
    with pytest.raises(UserError, match=r"nowhere: expected the folder of a run or of a sweep"):
        find_runs([tmp_path / "nowhere"])
    cli("trainer.max_epochs=1")
    (folder,) = runs()
    (folder / "summary.json").write_text("{")
    for read in (read_run, read_finished_run):
        with pytest.raises(UserError, match=r"summary.json: damaged; expected a JSON object of numbers"):
            read(folder)
    with pytest.raises(UserError, match=r"summary.json: damaged"):
        find_runs([folder])


def test_the_latest_finished_run_has_the_newest_best_checkpoint(tmp_path):
    for age, name in enumerate(("b", "sweeps/c", "a", "unfinished")):
        folder = tmp_path / name
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints/best.ckpt").touch()
        os.utime(folder / "checkpoints/best.ckpt", (1000 - age, 1000 - age))
        if name != "unfinished":
            (folder / "summary.json").touch()
    os.utime(tmp_path / "unfinished/checkpoints/best.ckpt", (2000, 2000))
    assert latest_finished_run(tmp_path) == tmp_path / "b"
    os.utime(tmp_path / "sweeps/c/checkpoints/best.ckpt", (1500, 1500))
    assert latest_finished_run(tmp_path) == tmp_path / "sweeps/c"
