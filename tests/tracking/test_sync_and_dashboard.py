"""python -m vae.sync and python -m vae.dashboard, with a fake W&B server."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb_server import WandbServer

from vae import dashboard
from vae.config.schema import CONF
from vae.tracking.wandb_run import finish_wandb

pytestmark = pytest.mark.slow


@pytest.fixture
def command(isolated_wandb):  # noqa: ARG001 (isolates W&B)
    """command(module, *arguments, **env) runs python -m vae.<module>: (exit code, stdout, stderr)."""

    def command(module: str, *arguments: str, **env: str) -> tuple[int, str, str]:
        done = subprocess.run(
            [sys.executable, "-m", f"vae.{module}", *arguments],
            env=os.environ | {"PYTHONPATH": str(CONF.parent)} | env,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr

    return command


def make_offline_run(start_wandb: Any, run: str, values: list[float], **options: Any) -> Path:
    """Make an offline run and return its folder."""
    logger = start_wandb({"WANDB_MODE": "offline"}, run, **options)
    for step, value in enumerate(values):
        logger.log_metrics({"x": value}, step)
    folder = Path(logger.experiment.sync_dir)
    (folder.parent.parent / run / "checkpoints").mkdir(exist_ok=True)
    (folder.parent.parent / run / "checkpoints" / "best.ckpt").write_text("best")
    logger.finalize("success")
    finish_wandb(0)
    wandb.teardown()  # writes the rest of the data to disk
    return folder


def test_sync_uploads_each_offline_run_once(start_wandb, command, tmp_path):
    make_offline_run(start_wandb, "first", [1.0, 2.0], log_model=True)
    make_offline_run(start_wandb, "second", [3.0])
    with WandbServer() as server:
        code, out, _ = command("sync", str(tmp_path), **server.env, WANDB_MODE="offline")
        assert (code, out.splitlines()[-1]) == (0, "2 uploaded, 0 uploaded before, 0 skipped, 0 failed")
        assert [line.split()[0] for line in out.splitlines()[:-1]] == ["1/2", "2/2"]
        received = {run.about["displayName"]: [row["x"] for row in run.history] for run in server.runs.values()}
        assert received == {"first": [1, 2], "second": [3]}
        assert [run.about["groupName"] for run in server.runs.values()] == ["sweep", "sweep"]
        assert [artifact.files["best.ckpt"] for artifact in server.artifacts.values()] == [b"best"]
        server.runs.clear()
        code, out, _ = command("sync", f"outputs={tmp_path}", **server.env)
        assert (code, out, server.runs) == (0, "0 uploaded, 2 uploaded before, 0 skipped, 0 failed\n", {})


def truncate(run: Path) -> None:
    """Remove the end of a run's log, as if the run had been killed or were still running."""
    (log,) = run.glob("*.wandb")
    log.write_bytes(log.read_bytes()[:-20])


def test_sync_skips_damaged_and_unfinished_runs_and_their_later_parts(start_wandb, command, tmp_path):
    damaged = make_offline_run(start_wandb, "damaged", [1.0])
    later = damaged.with_name(damaged.name.replace("offline-run-", "offline-run-9"))
    shutil.copytree(damaged, later)
    (log,) = damaged.glob("*.wandb")
    log.write_bytes(log.read_bytes().replace(b"damaged", b"dAmaged", 1))  # now the checksum is wrong
    unfinished = make_offline_run(start_wandb, "unfinished", [1.0])
    truncate(unfinished)
    make_offline_run(start_wandb, "complete", [2.0])
    with WandbServer() as server:
        code, out, _ = command("sync", str(tmp_path), **server.env)
        assert [run.about["displayName"] for run in server.runs.values()] == ["complete"]
    lines = {line.split()[1]: line for line in out.splitlines()[:-1]}
    assert lines[damaged.name].endswith("skipped: damaged")
    assert "an earlier part is not uploaded" in lines[later.name]
    assert lines[unfinished.name].endswith(
        f"still running or interrupted; to upload it anyway: wandb sync {unfinished}"
    )
    assert (code, out.splitlines()[-1]) == (0, "1 uploaded, 0 uploaded before, 3 skipped, 0 failed")


def test_sync_uploads_all_parts_of_a_killed_and_resumed_run(start_wandb, command, tmp_path):
    killed = make_offline_run(start_wandb, "run", [1.0])
    truncate(killed)
    killed.rename(killed.with_name(killed.name.replace("offline-run-2", "offline-run-1")))  # an earlier date
    make_offline_run(start_wandb, "run", [2.0])
    with WandbServer() as server:
        for summary in (
            "2 uploaded, 0 uploaded before, 0 skipped, 0 failed",
            "0 uploaded, 2 uploaded before, 0 skipped, 0 failed",
        ):
            code, out, _ = command("sync", str(tmp_path), **server.env)
            assert (code, out.splitlines()[-1]) == (0, summary)
        (run,) = server.runs.values()
    assert [(row["_step"], row["x"]) for row in run.history] == [(0, 1), (1, 2)]


def test_sync_reports_a_failed_upload(start_wandb, command, tmp_path, monkeypatch):
    make_offline_run(start_wandb, "run", [1.0])
    monkeypatch.setattr(WandbServer, "file_stream", None)  # the server closes the connection
    with WandbServer() as server:
        code, out, _ = command("sync", str(tmp_path), "timeout=3", **server.env)
    assert code == 1
    assert "failed: not uploaded within 3 s" in out
    assert out.endswith("\n0 uploaded, 0 uploaded before, 0 skipped, 1 failed\n")


SERVER_ERRORS = {
    "no key": "no API key",
    "malformed key": "40+ characters",
    "rejected": "401",
    "unreachable": "API request",
}


@pytest.mark.parametrize("failure", SERVER_ERRORS)
@pytest.mark.parametrize("module", ["sync", "dashboard"])
def test_a_failed_login_is_a_one_line_error_within_the_timeout(module, failure, start_wandb, command, tmp_path):
    make_offline_run(start_wandb, "run", [1.0])
    with WandbServer(401) as rejecting:
        env = {
            "no key": {},
            "malformed key": rejecting.env | {"WANDB_API_KEY": "k"},
            "rejected": rejecting.env,
            "unreachable": rejecting.env | {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_HTTP_TIMEOUT": "2"},
        }[failure]
        begin = time.monotonic()
        code, out, err = command(module, str(tmp_path) if module == "sync" else "project=vae", **env)
    assert time.monotonic() - begin < 20
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert SERVER_ERRORS[failure] in err


@pytest.mark.parametrize(
    ("module", "argument", "words"),
    [
        ("sync", "nowhere", ["outputs=nowhere", "no wandb/"]),
        ("sync", "timeout=0", ["timeout=0", "above 0"]),
        ("dashboard", "project=", ["project=", "name of a W&B project"]),
        ("dashboard", "entity=me", ["project: missing"]),
        ("dashboard", "vae", ["vae: expected key=value", "project, entity"]),
    ],
)
def test_a_user_error_is_one_line_and_exit_code_2(module, argument, words, command):
    code, out, err = command(module, argument)
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def panels(view: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the settings of the panels of one kind in a view, from top to bottom."""
    sections = json.loads(view["spec"])["section"]["panelBankConfig"]["sections"]
    return [p["config"] for section in sections for p in section["panels"] if p["viewType"] == kind]


def test_the_dashboard_shows_curves_hyperparameters_pictures_and_differences(command):
    with WandbServer() as server:
        code, out, _ = command("dashboard", "project=vae", **server.env)
        (view,) = server.views
    assert (code, view["entityName"], view["projectName"]) == (0, "team", "vae")
    assert out == f"{server.url}/team/vae?nw={view['name'].split('-')[1]}\n"
    curves = [(panel["xAxis"], panel["metrics"]) for panel in panels(view, "Run History Line Plot")]
    assert curves == [
        (axis, [f"train/{name}", f"val/{name}"])
        for axis in ("trainer/global_step", "images_seen")
        for name in ("elbo", "kl", "log_likelihood")
    ]
    (hyperparameters,) = panels(view, "Parallel Coordinates Plot")
    assert [column["accessor"] for column in hyperparameters["columns"]] == [
        *(f"config:{key}.value" for key in ("latent_dim", "hidden_size", "activation")),
        "summary:test/log_px",
    ]
    shown = {key for panel in panels(view, "Media Browser") for key in panel["mediaKeys"]}
    assert {"samples", "reconstructions", "fusions"} <= shown
    assert panels(view, "Run Comparer") == [{"diffOnly": "split"}]


def test_the_dashboard_uses_the_given_or_the_default_entity(command):
    with WandbServer() as server:
        for arguments in (["entity=lab"], []):
            command("dashboard", "project=vae", *arguments, **server.env | {"WANDB_ENTITY": ""})
        assert [view["entityName"] for view in server.views] == ["lab", "team"]


def test_a_missing_library_is_an_error_with_the_install_command(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    monkeypatch.setattr(sys, "argv", ["vae.dashboard", "project=vae"])
    assert dashboard.cli() == 2
    assert capsys.readouterr().err == "vae.dashboard needs wandb-workspaces: pip install wandb-workspaces\n"
