"""The group, best values, x-axes and model of a run in W&B, and the sweeps of W&B."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from conftest import compose_config
from omegaconf import OmegaConf
from wandb import wandb_agent
from wandb_server import WandbServer

from vae.config.schema import CONF, validate
from vae.tracking.build import build_loggers
from vae.tracking.metrics_csv import MetricsCSV
from vae.tracking.wandb_run import BEST, finish_wandb

ROOT = CONF.parent


@pytest.mark.parametrize(
    ("mode", "overrides", "group", "job_type"),
    [
        ("RUN", [], None, "train"),
        ("RUN", ["logger.wandb.group=mine"], "mine", "train"),
        ("MULTIRUN", [], "2026-11-25", "sweep"),
        ("MULTIRUN", ["logger.wandb.group=mine"], "mine", "sweep"),
    ],
)
def test_runs_of_a_sweep_form_a_group(mode, overrides, group, job_type, isolated_wandb, tmp_path):
    """The group comes from the run's .hydra/hydra.yaml, also when the run is resumed or its folder was moved."""
    isolated_wandb.setenv("WANDB_MODE", "offline")
    hydra = {"mode": mode, "runtime": {"choices": {}, "output_dir": "/somewhere/2026-11-25/latent_dim=2"}}
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save({"hydra": hydra}, tmp_path / ".hydra" / "hydra.yaml")
    OmegaConf.save(["latent_dim=2"], tmp_path / ".hydra" / "overrides.yaml")
    (logger,) = build_loggers(compose_config("logger=wandb", "latent_dim=2", *overrides), tmp_path)
    run = logger.experiment
    assert (
        (run.group, run.job_type, run.name) == (group, job_type, "latent_dim=2")
        if group
        else (not run.group and (run.job_type, run.name) == (job_type, "latent_dim=2"))
    )


@pytest.mark.parametrize("mode", ["RUN", "MULTIRUN"])
def test_the_environment_names_a_run_where_keys_do_not(mode, isolated_wandb, tmp_path, caplog):
    environment = {"MODE": "offline", "PROJECT": "mine", "NAME": "first", "TAGS": "a,b", "RUN_GROUP": "theirs"}
    for name, value in (environment | {"DIR": str(tmp_path / "elsewhere")}).items():
        isolated_wandb.setenv(f"WANDB_{name}", value)
    (tmp_path / ".hydra").mkdir()
    hydra = {"mode": mode, "runtime": {"choices": {}, "output_dir": "/somewhere/2026-11-25/latent_dim=2"}}
    OmegaConf.save({"hydra": hydra}, tmp_path / ".hydra" / "hydra.yaml")
    OmegaConf.save(["latent_dim=2"], tmp_path / ".hydra" / "overrides.yaml")
    (logger,) = build_loggers(compose_config("logger=wandb", "latent_dim=2"), tmp_path)
    run = logger.experiment
    assert (run.project, run.group, run.tags) == ("mine", "theirs", ("a", "b"))
    assert run.name == ("first" if mode == "RUN" else "first latent_dim=2")
    assert Path(run.settings.wandb_dir).parent == tmp_path / "elsewhere"
    assert "vae sync elsewhere" in caplog.text
    finish_wandb(0)
    keys = ["logger.wandb.project=typed", "logger.wandb.tags=[c]", "logger.wandb.group=g", "logger.wandb.save_dir=here"]
    (logger,) = build_loggers(compose_config("logger=wandb", "latent_dim=2", *keys), tmp_path)
    run = logger.experiment
    assert (run.project, run.group, run.tags) == ("typed", "g", ("c",))
    assert Path(run.settings.wandb_dir).parent == Path("here")


def test_the_hint_names_the_folder_that_wandb_writes_to(isolated_wandb, tmp_path, caplog):
    """wandb writes to the system's temporary folder if it cannot write to the one it was given."""
    isolated_wandb.setenv("WANDB_MODE", "offline")
    isolated_wandb.setattr("os.access", lambda path, _mode: not str(path).startswith(str(tmp_path / "locked")))
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save({"hydra": {"mode": "RUN", "runtime": {"choices": {}}}}, tmp_path / ".hydra" / "hydra.yaml")
    OmegaConf.save([], tmp_path / ".hydra" / "overrides.yaml")
    (logger,) = build_loggers(compose_config("logger=wandb", f"logger.wandb.save_dir={tmp_path / 'locked'}"), tmp_path)
    folder = caplog.text.partition("vae sync ")[2].split()[0]
    assert Path(folder).resolve() == Path(logger.experiment.settings.wandb_dir).resolve().parent


def test_the_summary_of_a_curve_is_its_best_value_and_images_seen_can_be_its_axis(start_wandb):
    with WandbServer() as server:
        start_wandb(server.env).log_metrics(
            {"val/elbo": -4.0, "val/kl": 1.0, "images_seen": 200, "seconds": 1.5}, step=1
        )
        finish_wandb(0)
        (run,) = server.runs.values()
    for split in ("train", "val"):
        for name in ("elbo", "log_likelihood", "objective", "minus_cross_entropy", "minus_cross_entropy_less_kl"):
            definition = {"axis": "trainer/global_step", "summary": ["max"], "hidden": False}
            assert run.definitions[f"{split}/{name}"] == definition
        assert run.definitions[f"{split}/squared_error"]["summary"] == ["min"]
    assert not {f"{split}/kl" for split in ("train", "val", "test")} & set(run.definitions)
    assert run.definitions["*"]["axis"] == "trainer/global_step"
    for axis in ("images_seen", "seconds"):
        assert run.definitions[axis] == {"axis": None, "summary": [], "hidden": True}


def test_every_curve_except_the_kl_has_a_best_value():
    from vae.model.objectives import ELBO, Autoencoder
    from vae.training.optimizer_steps import UNNORMALIZED

    curves = {*ELBO.curves, *Autoencoder.curves, *UNNORMALIZED.values(), "objective"} - {"kl"}
    assert set(BEST) == {f"{split}/{name}" for split in ("train", "val") for name in curves}


def test_the_best_value_of_a_resumed_run_includes_all_its_parts(start_wandb, tmp_path):
    history = MetricsCSV(tmp_path / "run")
    with WandbServer() as server:
        for elbo in (-3.0, -5.0, -4.0):
            logger = start_wandb(server.env)
            for destination in (logger, history):
                destination.log_metrics({"val/elbo": elbo, "val/squared_error": elbo}, step=1)
            logger.finalize("success")
            finish_wandb(0)
        (run,) = server.runs.values()
    assert (run.summary["val/elbo"], run.summary["val/squared_error"]) == ({"max": -3}, {"min": -5})


def test_under_wandb_agent_the_run_has_the_id_of_the_agent(start_wandb, tmp_path):
    with WandbServer() as server:
        start_wandb(server.env | {"WANDB_SWEEP_ID": "search", "WANDB_RUN_ID": "of-the-agent"})
        finish_wandb(0)
        assert list(server.runs) == ["of-the-agent"]
    assert (tmp_path / "run" / "wandb_id").read_text() == "of-the-agent"


def finalize(logger: Any, folder: Path, status: str = "success") -> None:
    """Call the logger as Lightning does at the end of a training and of its test."""
    (folder / "checkpoints").mkdir()
    for name in ("best", "last"):
        (folder / "checkpoints" / f"{name}.ckpt").write_text(name)
    logger.finalize(status)
    logger.finalize(status)


def test_the_best_checkpoint_is_uploaded_as_an_artifact(start_wandb, tmp_path):
    with WandbServer() as server:
        logger = start_wandb(server.env, log_model=True)
        finalize(logger, tmp_path / "run")
        finish_wandb(0)
        (artifact,) = server.artifacts.values()
    assert (artifact.about["artifactTypeName"], artifact.about["runName"]) == ("model", logger.version)
    assert "best" in [alias["alias"] for alias in artifact.about["aliases"]]
    assert (artifact.files["best.ckpt"], artifact.committed) == (b"best", True)


@pytest.mark.parametrize(("log_model", "status"), [(False, "success"), (True, "failed")])
def test_no_artifact_without_log_model_or_of_a_failed_run(log_model, status, start_wandb, tmp_path):
    with WandbServer() as server:
        finalize(start_wandb(server.env, log_model=log_model), tmp_path / "run", status)
        finish_wandb(0)
        assert (server.artifacts, len(server.runs)) == ({}, 1)


def test_a_failed_upload_does_not_stop_the_run(start_wandb, caplog):
    with WandbServer() as server:
        start_wandb(server.env, log_model=True).finalize("success")  # without a checkpoint
        assert "W&B did not receive all data of this run" in caplog.text
        finish_wandb(0)
        assert [run.exit_code for run in server.runs.values()] == [0]


SWEEP_FILE = CONF / "sweep" / "mnist.yaml"


def agent_command(sweep: dict[str, Any], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the command that wandb's agent starts for these parameter values."""
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them
    started: list[list[str]] = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or SimpleNamespace())
    agent = object.__new__(wandb_agent.Agent)
    vars(agent).update(
        _sweep_command=sweep["command"], _in_jupyter=False, _function=None, _forward_signals=False, _run_processes={}
    )
    arguments = {key: {"value": value} for key, value in values.items()}
    agent._command_run({"run_id": "abc", "program": sweep["program"], "args": arguments})
    return started[0]


@pytest.mark.parametrize("end", [0, -1])
def test_the_agent_starts_a_run_with_the_sampled_values(end, isolated_wandb):
    sweep = yaml.safe_load(SWEEP_FILE.read_text())
    values = {
        key: sorted(given["values"], key=str)[end] if "values" in given else (given["min"], given["max"])[end]
        for key, given in sweep["parameters"].items()
    }
    assert set(values) == {"latent_dim", "hidden_size", "activation", "optimizer.lr"}
    command = [*agent_command(sweep, values, isolated_wandb), "--cfg", "job"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    cfg = OmegaConf.create(done.stdout)
    validate(cfg)
    assert {key: OmegaConf.select(cfg, key) for key in values} == values


def test_the_sweep_maximizes_a_logged_curve_and_is_not_a_choice_of_train_py(cli):
    sweep = yaml.safe_load(SWEEP_FILE.read_text())
    assert (sweep["method"], sweep["metric"]) == ("bayes", {"name": "val/elbo", "goal": "maximize"})
    assert BEST[sweep["metric"]["name"]] is max
    _, out, _ = cli("--help", defaults=())
    assert "logger: csv, mlflow, none, tensorboard, wandb\n" in out
    assert "\nsweep:" not in out
    code, _, err = cli("sweep=mnist", defaults=())
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("argument", "words"),
    [("logger.wandb.log_model=best", "true or false"), ("logger.wandb.group=[a]", "a name, or null")],
)
def test_an_invalid_logger_key_is_a_one_line_error(argument, words, cli):
    code, out, err = cli(argument, defaults=())
    assert (code, out) == (2, "")
    assert err.replace("'", "") == f"{argument}: expected {words}\n"
