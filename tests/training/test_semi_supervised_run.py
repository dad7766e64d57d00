"""Runs with objective=m2, on images whose bright row is their label."""

import pytest
import torch
from conftest import BARS
from run_outputs import load_weights, read_metrics, same_weights, without_times
from toy_dataset import Bars

import vae
from vae.errors import UserError

LINE = [*BARS, "objective=m2", "objective.labelled=16", "test.K=4", "optimizer.lr=0.01", "logger=none"]


class FixedLabels(Bars):
    """The same 16 training images have labels, whatever the labels are."""

    labelled_rows = torch.arange(5, 21)


class PermutedLabels(FixedLabels):
    """The labels of all other training images are permuted."""

    def load(self):
        images = super().load()
        labels = images["train"].labels.clone()
        hidden = torch.ones(len(labels), dtype=torch.bool)
        hidden[self.labelled_rows] = False
        labels[hidden] = labels[hidden].roll(7)
        return images | {"train": images["train"]._replace(labels=labels)}


def train(root, name, *arguments):
    return vae.train(*LINE, *arguments, f"data_dir={root}/data", f"hydra.run.dir={root}/{name}").folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return train(tmp_path_factory.mktemp("m2"), "run", "trainer.max_epochs=12", "hidden_size=32")


def test_the_error_of_a_trained_classifier(folder):
    """16 labels are enough for bars; the error recorded is that of q(y|x) on all test images."""
    run = vae.load(folder, trust=True)
    rows = read_metrics(folder)
    assert run.summary["test/error"] < 0.05
    assert next(row["val/error"] for row in rows if "val/error" in row) > 0.2
    with torch.inference_mode():
        predicted = run.vae.classifier(run.data.x("test")).argmax(1)
    labels = run.data.images["test"].labels
    assert run.summary["test/error"] == pytest.approx((predicted != labels).float().mean().item())


def test_labels_that_are_not_used_never_reach_the_loss(tmp_path):
    weights, rows = [], []
    for dataset in ("FixedLabels", "PermutedLabels"):
        target = f"dataset._target_=test_semi_supervised_run.{dataset}"
        folder = train(tmp_path, dataset, target, "trainer.max_epochs=2")
        weights.append(load_weights(folder))
        rows.append([{k: v for k, v in row.items() if not k.startswith("test")} for row in without_times(folder)])
    assert same_weights(*weights)
    assert rows[0] == rows[1]


def test_a_resumed_run_gives_the_same_weights(folder, interrupt, monkeypatch):
    def stop():
        raise UserError("stopped")

    with interrupt(40, stop), pytest.raises(UserError, match="stopped"):
        train(folder.parent, "stopped", "trainer.max_epochs=12", "hidden_size=32")
    monkeypatch.setenv("VAE_DATA_DIR", str(folder.parent / "data"))
    vae.train(resume=folder.parent / "stopped")
    assert same_weights(load_weights(folder.parent / "stopped"), load_weights(folder))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "objective.labelled=7",
            "objective.labelled=7: expected 8, one for each label, to 240, the number of training",
        ),
        ("objective.labelled=241", "objective.labelled=241: expected 8"),
        ("objective.labelled=0", "objective.labelled=0: expected a whole number, 1 or more"),
        ("objective.alpha=-1", "objective.alpha=-1: expected a number of 0 or more"),
        ("conditional=false", "objective.labelled=100: expected conditional=true"),
        ("dataset._target_=fakes.Named likelihood=gaussian dataset.val_size=8", "these images have none"),
        ("posterior=point", "expected objective=autoencoder"),
    ],
)
def test_an_impossible_value_is_one_line(line, message, cli, tmp_path):
    code, _, err = cli("objective=m2", *line.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (tmp_path / "outputs").exists()
