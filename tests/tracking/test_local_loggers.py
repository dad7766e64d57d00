"""TensorBoard and MLflow, read back with their own packages; several loggers at once."""

import sys

import pytest
from run_outputs import read_metrics

pytestmark = pytest.mark.slow


def read_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    return events


def test_tensorboard_and_mlflow_receive_metrics_config_and_pictures(cli, runs, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    code, _, err = cli("logger=[tensorboard,mlflow]", "latent_dim=2", "trainer.max_epochs=2")
    assert (code, err) == (0, "")
    (run,) = runs()
    rows = read_metrics(run)
    expected = [(row["step"], row["val/elbo"]) for row in rows if "val/elbo" in row]
    assert len(expected) == 2

    events = read_tensorboard(run)
    assert [(event.step, pytest.approx(event.value)) for event in events.Scalars("val/elbo")] == expected
    assert {"samples", "reconstructions", "curves"} <= set(events.Tags()["images"])

    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{tmp_path / 'outputs' / 'mlruns'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "vae"]
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_id == (run / "mlflow_id").read_text()
    assert (found.info.status, found.data.params["latent_dim"], found.data.tags["job_type"]) == (
        "FINISHED",
        "2",
        "train",
    )
    history = client.get_metric_history(found.info.run_id, "val/elbo")
    assert [(metric.step, metric.value) for metric in history] == expected
    assert "samples" in {file.path for file in client.list_artifacts(found.info.run_id)}


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboard"), ("mlflow", "mlflow")])
def test_a_logger_whose_package_is_missing_is_one_line(name, package, cli, monkeypatch):
    from vae.tracking import local_loggers

    def missing(*_args, **_kwargs):
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(local_loggers, {"tensorboard": "_TensorBoardLogger", "mlflow": "_MLFlowLogger"}[name], missing)
    code, _, err = cli(f"logger={name}")
    assert (code, err.count("\n")) == (2, 1)
    assert f"logger={name} needs {package}: pip install -e '.[loggers]'" in err


def test_wandb_and_tensorboard_at_once(cli, runs, isolated_wandb):
    isolated_wandb.setenv("WANDB_MODE", "offline")
    assert cli("logger=[wandb,tensorboard]", "trainer.max_epochs=1", "logger.wandb.group=mine")[0] == 0
    (run,) = runs()
    assert (run / "wandb_id").exists()
    assert read_tensorboard(run).Scalars("test/elbo")


def test_an_unknown_logger_in_a_list_is_one_line(cli):
    code, _, err = cli("logger=[wandb,tensorbord]")
    assert (code, err.count("\n")) == (2, 1)
    assert "logger=tensorbord: expected one of" in err
    assert "did you mean tensorboard?" in err
    assert "tensorboard" not in sys.modules or code
