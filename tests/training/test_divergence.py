"""A training that diverges stops with one line that names the step and the term."""

import math

import pytest
import torch
from run_outputs import read_metrics

from vae.model.vae import VAE


@pytest.mark.parametrize(
    ("broken", "term", "value"),
    [("kl", "kl", math.inf), ("log_px_z", "log_likelihood", math.nan), ("log_px_z", "log_likelihood", -math.inf)],
)
def test_an_objective_that_is_not_finite_stops_the_run(broken, term, value, cli, tmp_path, monkeypatch):
    original = VAE.terms

    def broken_terms(vae, x, K=1):
        terms = original(vae, x, K)
        if torch.is_grad_enabled() and next(steps) == 8:
            vars(terms)[broken] = torch.full_like(getattr(terms, broken), value)
        return terms

    steps = iter(range(1000))  # 0 is the check before training
    monkeypatch.setattr(VAE, "terms", broken_terms)
    code, _, err = cli()
    assert (code, err.count("\n")) == (2, 1)
    assert f"diverged at step 8: {term} is {value}" in err
    assert "optimizer.lr" in err
    assert "gradient_clip_val" in err
    (metrics,) = tmp_path.rglob("metrics.csv")
    assert read_metrics(metrics.parent)[-1]["step"] == 7


def test_a_high_learning_rate_diverges_with_a_one_line_error(cli, tmp_path):
    code, _, err = cli("optimizer.lr=1e30")
    assert (code, err.count("\n")) == (2, 1)
    assert "diverged at step" in err
    assert "optimizer.lr" in err
    assert len(list(tmp_path.rglob("metrics.csv"))) == 1
