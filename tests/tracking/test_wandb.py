"""What a run is in W&B: its group, its best values, its axes, its model; and what W&B's own sweeps start."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf
from test_config import composed
from wandb import wandb_agent
from wandb_server import WandbServer

from vae.config.schema import CONF, validate
from vae.tracking.loggers import BEST, MetricsCSV, finish
from vae.training.experiment import build_logger

ROOT = CONF.parent


@pytest.mark.parametrize(
    ("mode", "typed", "group", "job_type"),
    [
        ("RUN", [], None, "train"),
        ("RUN", ["logger.group=mine"], "mine", "train"),
        ("MULTIRUN", [], "2026-11-25", "sweep"),
        ("MULTIRUN", ["logger.group=mine"], "mine", "sweep"),
    ],
)
def test_the_runs_of_a_sweep_are_a_group(mode, typed, group, job_type, isolated_wandb, tmp_path):
    """What is read is what the run's folder says of how it began, as it is when the run is resumed, moved or not."""
    isolated_wandb.setenv("WANDB_MODE", "offline")
    about = {"mode": mode, "runtime": {"output_dir": "/somewhere/2026-11-25/latent_dim=2"}}
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save({"hydra": about}, tmp_path / ".hydra" / "hydra.yaml")
    OmegaConf.save(["latent_dim=2"], tmp_path / ".hydra" / "overrides.yaml")
    (logger,) = build_logger(composed("logger=wandb", "latent_dim=2", *typed), tmp_path)
    run = logger.experiment
    assert (
        (run.group, run.job_type, run.name) == (group, job_type, "latent_dim=2")
        if group
        else (not run.group and (run.job_type, run.name) == (job_type, "latent_dim=2"))
    )


def test_a_curve_s_summary_is_its_best_and_images_seen_can_be_its_axis(start):
    with WandbServer() as server:
        start(server.env).log_metrics({"val/elbo": -4.0, "val/kl": 1.0, "images_seen": 200, "seconds": 1.5}, step=1)
        finish(0)
        (run,) = server.runs.values()
    for split in ("train", "val"):
        for name in ("elbo", "log_likelihood", "objective", "minus_cross_entropy", "minus_cross_entropy_less_kl"):
            described = {"axis": "trainer/global_step", "summary": ["max"], "hidden": False}
            assert run.definitions[f"{split}/{name}"] == described
        assert run.definitions[f"{split}/squared_error"]["summary"] == ["min"]
    assert not {f"{split}/kl" for split in ("train", "val", "test")} & set(run.definitions)
    assert run.definitions["*"]["axis"] == "trainer/global_step"
    for axis in ("images_seen", "seconds"):
        assert run.definitions[axis] == {"axis": None, "summary": [], "hidden": True}


def test_every_curve_of_every_objective_has_a_best_value_or_is_the_kl():
    from vae.model.objectives import ELBO, Autoencoder
    from vae.training.lightning_module import UNNORMALIZED

    curves = {*ELBO.curves, *Autoencoder.curves, *UNNORMALIZED.values(), "objective"} - {"kl"}
    assert set(BEST) == {f"{split}/{name}" for split in ("train", "val") for name in curves}


def test_the_best_value_of_a_resumed_run_is_that_of_all_its_parts(start, tmp_path):
    history = MetricsCSV(tmp_path / "run")
    with WandbServer() as server:
        for elbo in (-3.0, -5.0, -4.0):
            logger = start(server.env)
            for each in (logger, history):
                each.log_metrics({"val/elbo": elbo, "val/squared_error": elbo}, step=1)
            logger.finalize("success")
            finish(0)
        (run,) = server.runs.values()
    assert (run.summary["val/elbo"], run.summary["val/squared_error"]) == ({"max": -3}, {"min": -5})


def test_under_wandb_agent_the_run_is_the_agent_s(start, tmp_path):
    with WandbServer() as server:
        start(server.env | {"WANDB_SWEEP_ID": "search", "WANDB_RUN_ID": "of-the-agent"})
        finish(0)
        assert list(server.runs) == ["of-the-agent"]
    assert (tmp_path / "run" / "wandb_id").read_text() == "of-the-agent"


def trained(logger: Any, folder: Path, status: str = "success") -> None:
    """Let a training end, and its test, as far as the logger knows."""
    (folder / "checkpoints").mkdir()
    for name in ("best", "last"):
        (folder / "checkpoints" / f"{name}.ckpt").write_text(name)
    logger.finalize(status)
    logger.finalize(status)


def test_the_best_checkpoint_is_an_artifact_of_the_run(start, tmp_path):
    with WandbServer() as server:
        logger = start(server.env, log_model=True)
        trained(logger, tmp_path / "run")
        finish(0)
        (artifact,) = server.artifacts.values()
    assert (artifact.about["artifactTypeName"], artifact.about["runName"]) == ("model", logger.version)
    assert "best" in [alias["alias"] for alias in artifact.about["aliases"]]
    assert (artifact.files["best.ckpt"], artifact.committed) == (b"best", True)


@pytest.mark.parametrize(("log_model", "status"), [(False, "success"), (True, "failed")])
def test_without_log_model_or_an_end_there_is_no_artifact(log_model, status, start, tmp_path):
    with WandbServer() as server:
        trained(start(server.env, log_model=log_model), tmp_path / "run", status)
        finish(0)
        assert (server.artifacts, len(server.runs)) == ({}, 1)


def test_a_model_that_cannot_be_sent_stops_nothing(start, caplog):
    with WandbServer() as server:
        start(server.env, log_model=True).finalize("success")  # there is no checkpoint
        assert "W&B does not get all of this run" in caplog.text
        finish(0)
        assert [run.exit_code for run in server.runs.values()] == [0]


SEARCH = CONF / "sweep" / "mnist.yaml"


def agent_s_command(search: dict[str, Any], values: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What wandb's own agent would start for these values of the parameters."""
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them
    started: list[list[str]] = []
    monkeypatch.setattr(wandb_agent, "AgentProcess", lambda command, **_: started.append(command) or SimpleNamespace())
    agent = object.__new__(wandb_agent.Agent)
    vars(agent).update(
        _sweep_command=search["command"], _in_jupyter=False, _function=None, _forward_signals=False, _run_processes={}
    )
    arguments = {key: {"value": value} for key, value in values.items()}
    agent._command_run({"run_id": "abc", "program": search["program"], "args": arguments})
    return started[0]


@pytest.mark.parametrize("end", [0, -1])
def test_what_wandb_s_agent_starts_is_a_run_with_these_values(end, isolated_wandb):
    search = yaml.safe_load(SEARCH.read_text())
    values = {
        key: sorted(given["values"], key=str)[end] if "values" in given else (given["min"], given["max"])[end]
        for key, given in search["parameters"].items()
    }
    assert set(values) == {"latent_dim", "hidden_size", "activation", "optimizer.lr"}
    command = [*agent_s_command(search, values, isolated_wandb), "--cfg", "job"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    cfg = OmegaConf.create(done.stdout)
    validate(cfg)
    assert {key: OmegaConf.select(cfg, key) for key in values} == values


def test_the_search_is_for_a_curve_that_is_maximised_and_is_no_choice_of_train_py(cli):
    search = yaml.safe_load(SEARCH.read_text())
    assert (search["method"], search["metric"]) == ("bayes", {"name": "val/elbo", "goal": "maximize"})
    assert BEST[search["metric"]["name"]] is max
    _, out, _ = cli("--help", defaults=())
    assert "logger: csv, none, wandb\n" in out
    assert "\nsweep:" not in out
    code, _, err = cli("sweep=mnist", defaults=())
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("argument", "words"),
    [("logger.log_model=best", "true or false"), ("logger.group=5", "a name that is no number, or null")],
)
def test_a_logger_s_key_out_of_its_range_is_one_line(argument, words, cli):
    code, out, err = cli(argument, defaults=())
    assert (code, out, err) == (2, "", f"{argument}: expected {words}\n")
