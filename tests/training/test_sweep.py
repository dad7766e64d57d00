"""Sweeps: jobs are independent of each other, and no work is done twice or lost."""

import io
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
from conftest import BARS, SHORT
from filelock import FileLock
from PIL import Image
from run_outputs import ROOT, load_weights, read_metrics, without_times
from toy_dataset import Bars
from wandb_server import WandbServer
from warm_process import run_python

from vae.runs import run_folder
from vae.runs.run_folder import find_runs

pytestmark = pytest.mark.slow


def summaries(folder):
    """The test metrics of every finished run in or below a folder, by latent_dim."""
    return {run.value("latent_dim"): run.summary for run in find_runs([Path(folder)]) if run.status == "finished"}


@pytest.fixture
def run_process(tmp_path, monkeypatch):
    """run_process(*arguments, code=0) runs train.py in a new process, in `tmp_path`, and returns what it printed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))

    def run(*arguments, code=0, defaults=(*BARS, *SHORT, "logger=csv")):
        typed = [str(ROOT / "train.py"), *defaults, *arguments]
        if "hydra/launcher=joblib" not in arguments:
            return run_python(tmp_path, *typed, code=code)
        done = subprocess.run(  # its workers need a parent that was started as usual
            [sys.executable, *typed], cwd=tmp_path, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    return run


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_failing_jobs_do_not_affect_the_others(launcher, cli, run_process, tmp_path):
    assert cli("latent_dim=4")[0] == 0
    single = summaries("outputs")[4]
    jobs = ["latent_dim=2,-1,4,1e9", "hydra.sweep.dir=swept", f"hydra/launcher={launcher}"]
    out = run_process("-m", *jobs, code=1)
    assert "Traceback" not in out.partition("run failed")[0]
    runs = {run.value("latent_dim"): run for run in find_runs([tmp_path / "swept"])}
    assert {latent_dim: run.status for latent_dim, run in runs.items()} == {
        2: "finished",
        -1: "failed",
        4: "finished",
        1e9: "failed",
    }
    assert runs[-1].failure == "latent_dim=-1: expected a whole number, 1 or more"
    assert runs[4].summary == pytest.approx(single, abs=1e-4)  # another number of threads sums in another order
    table = out.partition("active  seconds  status")[2]
    assert f"{runs[4].summary['test/elbo']:.2f}" in table
    assert runs[-1].failure in table


def test_a_job_that_diverges_fails_and_the_other_finishes(cli, tmp_path):
    code, out, _ = cli("-m", "optimizer.lr=1e30,1e-3")
    assert code == 1
    assert out.count("diverged at step") >= 2  # in the log and in the table
    assert sorted(run.status for run in find_runs([tmp_path / "outputs"])) == ["failed", "finished"]


def test_jobs_share_the_loaded_images(cli, monkeypatch):
    loads = []
    load = Bars.load
    monkeypatch.setattr(
        "toy_dataset.Bars.load", lambda data: loads.append(data.split_seed) or load(data), raising=False
    )
    assert cli("-m", "latent_dim=2,3", "dataset.split_seed=0,1", "trainer.max_epochs=1")[0] == 0
    assert cli("-m", "batch_size=30", "seed=1", "dataset.split_seed=0,1", "trainer.max_epochs=1")[0] == 0
    assert sorted(loads) == [0, 1]


def test_a_killed_sweep_can_be_resumed(run_process, tmp_path, monkeypatch):
    """The second job is killed in its second epoch; the third has not started."""
    killing = "optimizer.schedule._target_=toy_dataset.KillSecondJob"
    arguments = ["-m", "latent_dim=2,3,4", "trainer.max_epochs=3", killing]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "killed").touch()  # no job is killed if this file exists
    run_process(*arguments, "hydra.sweep.dir=uninterrupted")
    (tmp_path / "killed").unlink()
    run_process(*arguments, "hydra.sweep.dir=interrupted", code=-9)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "interrupted").rglob("summary.json")}
    assert [run.status for run in find_runs([tmp_path / "interrupted"])] == ["finished", "unfinished"]
    out = run_process("sweep=interrupted", "trust=true", defaults=())
    assert out.count("epoch   1") == 1  # of the third job
    assert out.count("epoch   2") == 2
    assert all(path.stat().st_mtime_ns == then for path, then in before.items())
    assert summaries("interrupted") == summaries("uninterrupted")
    sweeps = (sorted((tmp_path / name).rglob("metrics.csv")) for name in ("interrupted", "uninterrupted"))
    for interrupted, uninterrupted in zip(*sweeps, strict=True):
        assert without_times(interrupted.parent) == without_times(uninterrupted.parent)


def test_sweep_accepts_its_own_arguments_and_those_that_do_not_change_a_run(cli):
    arguments = [*BARS, *SHORT, "logger=csv", "-m", "latent_dim=2,-1"]
    assert cli(*arguments, "hydra.sweep.dir=swept", defaults=())[0] == 1
    first = summaries("swept")
    for more in ([], ["data_dir=elsewhere"], ["hydra.sweeper.max_batch_size=1"], arguments):
        code, out, _ = cli(*more, "sweep=swept", defaults=())
        assert code == 1  # the failed job fails again
        assert "is already finished" in out
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
    assert sum("test/elbo" in row for row in read_metrics(lost.parent)) == 1


def test_a_job_that_is_running_in_another_process_is_skipped(cli):
    assert cli("-m", "latent_dim=2", "hydra.sweep.dir=swept")[0] == 0
    (folder,) = (path.parent for path in Path("swept").rglob("summary.json"))
    (folder / "summary.json").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    history = (folder / "metrics.csv").read_text()
    with FileLock(folder / ".lock"):
        code, out, _ = cli("sweep=swept", defaults=())
    assert code == 1
    assert "is running in another process" in out
    assert (folder / "metrics.csv").read_text() == history


def test_a_job_with_a_damaged_summary_runs_again(cli):
    assert cli("-m", "latent_dim=2,3", "trainer.max_epochs=1", "hydra.sweep.dir=swept")[0] == 0
    before = summaries("swept")
    next(Path("swept").rglob("summary.json")).write_text("{")
    assert cli("sweep=swept", defaults=())[0] == 0
    assert summaries("swept") == before


def test_a_job_interrupted_before_its_first_checkpoint_starts_again(cli):
    assert cli("-m", "latent_dim=2", "hydra.sweep.dir=swept")[0] == 0
    (folder,) = (path.parent for path in Path("swept").rglob("summary.json"))
    before = summaries("swept"), run_folder.read_metrics(folder / "metrics.csv")
    (folder / "summary.json").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    assert cli("sweep=swept", defaults=())[0] == 0
    assert summaries("swept") == before[0]
    steps = [row["step"] for row in run_folder.read_metrics(folder / "metrics.csv")]
    assert steps == [row["step"] for row in before[1]]


@pytest.mark.parametrize("folder", ["nowhere", "outputs"])
def test_sweep_with_a_folder_that_is_not_a_sweep_is_a_one_line_error(folder, cli, tmp_path):
    (tmp_path / "outputs").mkdir()
    code, _, err = cli("-m", "latent_dim=2,3", f"sweep={folder}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"sweep={folder}: expected the folder of a sweep" in err


def test_parallel_jobs_share_the_threads(run_process, tmp_path):
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    run_process("-m", "latent_dim=2,3", *parallel, "optimizer.schedule._target_=toy_dataset.WriteThreadCount")
    threads = [int(path.read_text()) for path in tmp_path.glob("threads-*")]
    assert threads == [max(1, (os.cpu_count() or 1) // 2)] * 2


def test_parallel_jobs_label_their_lines_and_stop_when_the_sweep_is_killed(tmp_path):
    """The sweep is killed when both jobs are training."""
    arguments = ["-m", "seed=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "trainer.max_epochs=2000"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *BARS, "logger=csv", "hydra.sweep.dir=swept", *arguments],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    labels = set()
    for line in process.stdout:  # ends when the workers, which inherit the pipe, are gone
        labels |= {line.split("  ")[0]} if "epoch   1 " in line else set()
        if labels == {"seed=1", "seed=2"}:
            process.kill()
    assert process.wait() == -9
    assert len(list(tmp_path.rglob("last.ckpt"))) == 2
    assert not list(tmp_path.rglob("summary.json"))


def test_a_search_maximises_val_elbo_and_can_be_resumed(cli, tmp_path):
    arguments = [
        "-m",
        "search=mnist",
        "hydra.sweeper.params={latent_dim:'choice(1,3)',optimizer.lr:'interval(0.001,0.1)'}",
    ]
    assert cli(*arguments, "hydra.sweeper.n_trials=3", "hydra.sweep.dir=search", "trainer.max_epochs=1")[0] == 0
    assert cli("sweep=search", defaults=())[0] == 0
    study = optuna.load_study("mnist", f"sqlite:///{tmp_path / 'search' / 'study.db'}")
    assert len(study.trials) == 6
    best = [
        max(row["val/elbo"] for row in run.history if "val/elbo" in row) for run in find_runs([tmp_path / "search"])
    ]
    assert study.best_value == pytest.approx(max(best))
    assert sorted(trial.value for trial in study.trials) == pytest.approx(sorted(best))


def test_a_resumed_search_starts_with_the_interrupted_trial(cli, tmp_path):
    arguments = [
        "-m",
        "search=mnist",
        "hydra.sweeper.params={latent_dim:'choice(1,3)',optimizer.lr:'interval(0.001,0.1)'}",
    ]
    arguments += ["hydra.sweeper.n_trials=1", "hydra.sweep.dir=search", "trainer.max_epochs=1", "objective=autoencoder"]
    assert cli(*arguments)[0] == 0  # an autoencoder logs no ELBO
    study = optuna.load_study("mnist", f"sqlite:///{tmp_path / 'search' / 'study.db'}")
    (run,) = find_runs([tmp_path / "search"])
    assert study.best_value == max(row["val/objective"] for row in run.history if "val/objective" in row)
    interrupted = study.ask(study.trials[0].distributions)
    assert cli("sweep=search", defaults=())[0] == 0
    tried = {run.value("optimizer.lr") for run in find_runs([tmp_path / "search"])}
    assert tried == {trial.params["optimizer.lr"] for trial in (study.trials[0], interrupted)}


@pytest.mark.parametrize(
    ("swept", "lacking"),
    [
        ("objective=elbo,autoencoder", "objective=autoencoder"),
        ("+hydra.sweeper.params.objective='choice(autoencoder,iwae)'", "objective=autoencoder"),
        ("experiment=lesson,pytorch_example", "experiment=pytorch_example"),
        ("likelihood=bernoulli,grey_cross_entropy", "likelihood=grey_cross_entropy"),
    ],
)
def test_a_search_over_runs_with_and_without_an_elbo_is_refused(swept, lacking, cli, tmp_path):
    code, _, err = cli("-m", "search=mnist", swept)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"{lacking}: ")
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_writes_a_folder_for_each_value(cli, runs):
    code, _, _ = cli("-m", "latent_dim=1,2,5", "trainer.max_epochs=1")
    assert code == 0
    values = [dict(pair.split("=", 1) for pair in folder.name.split(",") if "=" in pair) for folder in runs()]
    assert [value["latent_dim"] for value in values] == ["1", "2", "5"]
    sizes = [load_weights(folder)["vae.decoder.net.0.weight"].shape[1] for folder in runs()]
    assert sizes == [1, 2, 5]


def test_every_run_of_a_sweep_is_sent_to_wandb(run_process, tmp_path, monkeypatch):
    """Run train.py online against a fake server. The second of three runs has an invalid key."""
    with WandbServer() as server:
        for name, value in (server.env | {"HOME": str(tmp_path)}).items():
            monkeypatch.setenv(name, value)
        out = run_process("-m", *BARS, *SHORT, "latent_dim=2,0,4", code=1, defaults=())
    assert "latent_dim=0: expected a whole number" in out
    folders = sorted(path.parent for path in (tmp_path / "outputs" / "sweeps").rglob("summary.json"))
    assert len(folders) == len(server.runs) == 2
    for folder, latent_dim in zip(folders, (2, 4), strict=True):
        run = server.runs[(folder / "wandb_id").read_text()]
        assert (folder / "train.log").exists()
        assert run.about["groupName"] == folder.parent.name
        assert run.about["displayName"] == f"latent_dim={latent_dim}"
        assert run.exit_code == 0
        assert (run.about["groupName"], run.about["jobType"]) == (folder.parent.name, "sweep")
        assert f"latent_dim={latent_dim}" in run.about["displayName"]
        assert run.config["latent_dim"] == latent_dim
        assert run.config["dataset"]["binarize"] == "dynamic"
        assert run.config["optimizer"]["schedule"]["warmup"] == 0.1
        logged = {name for row in run.history for name in row}
        for split in ("train", "val", "test"):
            assert {f"{split}/{name}" for name in ("elbo", "kl", "log_likelihood")} <= logged
        assert {"lr", "images_per_second", "test/log_px", "test/log_px_se", "test/active_units"} <= logged
        summary = json.loads((folder / "summary.json").read_text())
        assert {name: run.summary[name] for name in summary} == pytest.approx(summary)
        names = {path.stem for path in (folder / "figures").iterdir()}
        assert names <= logged
        assert run.summary["val/elbo"] == {
            "max": max(row["val/elbo"] for row in read_metrics(folder) if "val/elbo" in row)
        }
        assert all("images_seen" in row for row in run.history if "train/elbo" in row or "val/elbo" in row)
        sent = (np.asarray(Image.open(io.BytesIO(f))) for p, f in run.files.items() if "/samples" in p)
        saved = np.asarray(Image.open(folder / "figures" / "samples.png"))
        assert any(np.array_equal(picture, saved) for picture in sent)


def test_a_key_that_a_choice_lacks_is_refused_with_sweeps_that_work(cli, monkeypatch):
    jobs = []
    monkeypatch.setattr("vae.training.sweep.run_job", lambda cfg, _folder: jobs.append(cfg) or 0.0)
    swept = ["prior=flow,vampprior,standard_normal", "prior.pseudo_inputs=3", "objective=beta,elbo", "objective.beta=2"]
    code, _, err = cli("-m", *swept, "hidden_size=[4]")
    assert (code, err.count("\n"), jobs) == (2, 1, [])
    assert "prior=flow,standard_normal has no such key; run " in err
    for command in err.partition("; run ")[2].split(" && "):
        cli(*shlex.split(command)[2:], defaults=())
    priors = [("Flow", None), ("VampPrior", 3), ("StandardNormal", None)]
    assert sorted(map(str, [(*prior, beta) for prior in priors for beta in (2, None)])) == sorted(
        str((cfg.prior._target_.rpartition(".")[2], cfg.prior.get("pseudo_inputs"), cfg.objective.get("beta")))
        for cfg in jobs
    )
