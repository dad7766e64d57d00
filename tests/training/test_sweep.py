"""Sweeps: a job is what it would be alone, whatever the others do; nothing is done twice and nothing is lost."""

import os
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from conftest import BARS, SHORT
from filelock import FileLock
from toy_dataset import Bars

from vae.runs.run_folder import find_runs, read_metrics

ROOT = Path(__file__).parents[2]


def summaries(folder):
    """The test metrics of every finished run in or below a folder, by its latent_dim."""
    return {run.value("latent_dim"): run.summary for run in find_runs([Path(folder)]) if run.status == "finished"}


def process(folder, *arguments):
    """train.py as a process of its own, in a folder."""
    return subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *BARS, *SHORT, "logger=csv", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_jobs_that_fail_change_nothing_for_the_others(launcher, cli, tmp_path):
    assert cli("latent_dim=4")[0] == 0
    alone = summaries("outputs")[4]
    done = process(tmp_path, "-m", "latent_dim=2,-1,4,1e9", "hydra.sweep.dir=swept", f"hydra/launcher={launcher}")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stdout.partition("this run failed")[0]
    runs = {run.value("latent_dim"): run for run in find_runs([tmp_path / "swept"])}
    assert {latent_dim: run.status for latent_dim, run in runs.items()} == {
        2: "finished",
        -1: "failed",
        4: "finished",
        1e9: "failed",
    }
    assert runs[-1].failure == "latent_dim=-1: expected a whole number, 1 or more"
    assert runs[4].summary == pytest.approx(alone, abs=1e-4)  # a process with other threads sums in another order
    table = done.stdout.partition("active  seconds  status")[2]
    assert f"{runs[4].summary['test/elbo']:.2f}" in table
    assert runs[-1].failure in table


def test_a_job_that_diverges_is_told_apart_from_one_that_does_not(cli, tmp_path):
    code, out, _ = cli("-m", "optimizer.lr=1e30,1e-3")
    assert code == 1
    assert out.count("diverged at step") >= 2  # when it happened, and in the table
    assert sorted(run.status for run in find_runs([tmp_path / "outputs"])) == ["failed", "finished"]


def test_the_images_are_loaded_once(cli, monkeypatch):
    loads = []
    load = Bars.load
    monkeypatch.setattr(
        "toy_dataset.Bars.load", lambda data: loads.append(data.split_seed) or load(data), raising=False
    )
    assert cli("-m", "latent_dim=2,3", "dataset.split_seed=0,1", "trainer.max_epochs=1")[0] == 0
    assert cli("-m", "batch_size=30", "seed=1", "dataset.split_seed=0,1", "trainer.max_epochs=1")[0] == 0
    assert sorted(loads) == [0, 1]


def test_a_sweep_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    """Its second job is killed in its second epoch, the third never began."""
    line = ["-m", "latent_dim=2,3,4", "trainer.max_epochs=3", "optimizer.schedule._target_=toy_dataset.Kill"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killed").touch()  # so that nothing is
    assert process(tmp_path, *line, "hydra.sweep.dir=whole").returncode == 0
    (tmp_path / "killed").unlink()
    assert process(tmp_path, *line, "hydra.sweep.dir=cut").returncode == -9
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "cut").rglob("summary.json")}
    assert [run.status for run in find_runs([tmp_path / "cut"])] == ["finished", "unfinished"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), "sweep=cut"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("epoch   1") == 1  # of the third
    assert done.stdout.count("epoch   2") == 2
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert summaries("cut") == summaries("whole")
    for cut, whole in zip(*(sorted((tmp_path / name).rglob("metrics.csv")) for name in ("cut", "whole")), strict=True):
        timeless = [
            [row | {"seconds": 0, "images_per_second": 0} for row in read_metrics(path)] for path in (cut, whole)
        ]
        assert timeless[0] == timeless[1]


def test_what_makes_no_run_another_may_stand_beside_sweep(cli):
    line = [*BARS, *SHORT, "logger=csv", "-m", "latent_dim=2,-1"]
    assert cli(*line, "hydra.sweep.dir=swept", defaults=())[0] == 1
    first = summaries("swept")
    for more in ([], ["data_dir=elsewhere"], ["hydra.job.env_set={}"], line):
        code, out, _ = cli(*more, "sweep=swept", defaults=())
        assert code == 1  # the one that failed fails again
        assert "is finished" in out
        assert summaries("swept") == first
    code, _, err = cli("-m", "latent_dim=5", "sweep=swept")
    assert (code, err.count("\n")) == (2, 1)
    assert "got latent_dim=5" in err


def test_the_folder_of_a_sweep_may_have_any_name(cli):
    folder = "it's a, [x] = dir/s w"
    quoted = folder.replace("'", "\\'")
    assert cli("-m", "hidden_size=[8,4],8", "trainer.max_epochs=1", f"hydra.sweep.dir='{quoted}'")[0] == 0
    (lost, _) = Path(folder).rglob("summary.json")
    lost.unlink()
    assert cli(f"sweep={folder}", defaults=())[0] == 0
    assert len(list(Path(folder).rglob("summary.json"))) == 2
    assert sum("test/elbo" in row for row in read_metrics(lost.parent / "metrics.csv")) == 1


def test_a_job_that_is_under_way_elsewhere_is_left_alone(cli):
    assert cli("-m", "latent_dim=2", "hydra.sweep.dir=swept")[0] == 0
    (folder,) = (path.parent for path in Path("swept").rglob("summary.json"))
    (folder / "summary.json").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    history = (folder / "metrics.csv").read_text()
    with FileLock(folder / ".lock"):
        code, out, _ = cli("sweep=swept", defaults=())
    assert code == 1
    assert "under way in another process" in out
    assert (folder / "metrics.csv").read_text() == history


def test_a_summary_that_is_damaged_is_made_anew(cli):
    assert cli("-m", "latent_dim=2,3", "trainer.max_epochs=1", "hydra.sweep.dir=swept")[0] == 0
    whole = summaries("swept")
    next(Path("swept").rglob("summary.json")).write_text("{")
    assert cli("sweep=swept", defaults=())[0] == 0
    assert summaries("swept") == whole


def test_a_job_cut_off_before_its_first_checkpoint_begins_anew(cli):
    assert cli("-m", "latent_dim=2", "hydra.sweep.dir=swept")[0] == 0
    (folder,) = (path.parent for path in Path("swept").rglob("summary.json"))
    whole = summaries("swept"), read_metrics(folder / "metrics.csv")
    (folder / "summary.json").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert cli("sweep=swept", defaults=())[0] == 0
    assert summaries("swept") == whole[0]
    assert [row["step"] for row in read_metrics(folder / "metrics.csv")] == [row["step"] for row in whole[1]]


@pytest.mark.parametrize("folder", ["nowhere", "outputs"])
def test_what_is_no_sweep_is_one_line(folder, cli, tmp_path):
    (tmp_path / "outputs").mkdir()
    code, _, err = cli("-m", "latent_dim=2,3", f"sweep={folder}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"sweep={folder}: expected the folder of a sweep" in err


def test_two_jobs_at_a_time_share_the_threads(tmp_path):
    done = process(
        tmp_path,
        "-m",
        "latent_dim=2,3",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "optimizer.schedule._target_=toy_dataset.Threads",
    )
    assert done.returncode == 0, done.stderr
    used = [int(path.read_text()) for path in tmp_path.glob("threads-*")]
    assert used == [max(1, (os.cpu_count() or 1) // 2)] * 2


def test_a_search_looks_for_the_best_val_elbo_and_goes_on(cli, tmp_path):
    line = ["-m", "search=mnist", "hydra.sweeper.params={latent_dim:'choice(1,3)',optimizer.lr:'interval(0.001,0.1)'}"]
    assert cli(*line, "hydra.sweeper.n_trials=3", "hydra.sweep.dir=found", "trainer.max_epochs=1")[0] == 0
    assert cli("sweep=found", defaults=())[0] == 0
    study = optuna.load_study("mnist", f"sqlite:///{tmp_path / 'found' / 'study.db'}")
    assert len(study.trials) == 6
    best = [max(row["val/elbo"] for row in run.history if "val/elbo" in row) for run in find_runs([tmp_path / "found"])]
    assert study.best_value == pytest.approx(max(best))
    assert sorted(trial.value for trial in study.trials) == pytest.approx(sorted(best))


def test_a_search_begins_with_what_it_was_cut_off_in(cli, tmp_path):
    line = ["-m", "search=mnist", "hydra.sweeper.params={latent_dim:'choice(1,3)',optimizer.lr:'interval(0.001,0.1)'}"]
    line += ["hydra.sweeper.n_trials=1", "hydra.sweep.dir=found", "trainer.max_epochs=1", "objective=autoencoder"]
    assert cli(*line)[0] == 0  # though it has no ELBO
    study = optuna.load_study("mnist", f"sqlite:///{tmp_path / 'found' / 'study.db'}")
    cut = study.ask(study.trials[0].distributions)
    assert cli("sweep=found", defaults=())[0] == 0
    tried = {run.value("optimizer.lr") for run in find_runs([tmp_path / "found"])}
    assert tried == {trial.params["optimizer.lr"] for trial in (study.trials[0], cut)}
