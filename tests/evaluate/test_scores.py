"""Scores of images are kept in a file, and are not computed twice."""

import numpy as np
import pytest
import torch
from linear_gaussian import linear_gaussian

from vae.errors import UserError
from vae.evaluate import scores
from vae.evaluate.scores import cached_scores
from vae.model.estimator import importance_sample


@pytest.fixture
def score_and_sizes(tmp_path, monkeypatch):
    """Return a function that scores n of 250 images, and the list of the batch sizes that it computed.

    The first two batches have the same images.
    """
    vae, x, _ = linear_gaussian(widen=1.5, n=250)
    vae.register_parameter("device", torch.nn.Parameter(torch.zeros(())))
    x[100:200] = x[:100]
    sizes = []

    def counted(vae, x, K, compiled):
        sizes.append(len(x))
        return importance_sample(vae, x, K, compiled=compiled)

    monkeypatch.setattr(scores, "importance_sample", counted)
    return lambda n, weights="w", name="scores": cached_scores(
        vae, x, n, 7, 3, tmp_path / f"{name}.npz", weights, False
    ), sizes


def test_scores_are_saved_per_batch_and_not_computed_twice(score_and_sizes, tmp_path):
    score, sizes = score_and_sizes
    all_at_once = score(250, name="all_at_once")
    assert sizes == [100, 100, 50]
    assert (all_at_once.log_px[:100] != all_at_once.log_px[100:200]).all()  # different noise for the same images
    part = score(150)
    assert score(150).log_px.equal(part.log_px)
    assert sizes == [100, 100, 50, 100, 100]
    again = score(250)
    assert sizes == [100, 100, 50, 100, 100, 50]
    for a, b, c in zip(all_at_once, again, part, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a[:150], c)
    with np.load(tmp_path / "scores.npz") as saved:
        assert torch.from_numpy(saved["log_px"]).equal(all_at_once.log_px)
    assert not list(tmp_path.glob("*.part"))


def test_scores_survive_an_interruption(score_and_sizes, monkeypatch):
    score, sizes = score_and_sizes
    counted = scores.importance_sample

    def interrupted(*args, **kwargs):
        if len(sizes) == 2:
            raise KeyboardInterrupt
        return counted(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(scores, "importance_sample", interrupted)
        with pytest.raises(KeyboardInterrupt):
            score(250)
    score(250)
    assert sizes == [100, 100, 50]


def test_scores_of_other_weights_are_computed_again(score_and_sizes):
    score, sizes = score_and_sizes
    score(250)
    score(250, weights="others")
    assert sizes == 2 * [100, 100, 50]


@pytest.mark.parametrize("damage", [lambda whole: whole[:200], lambda _: b"", lambda _: b"not an archive"])
def test_damaged_file_raises_a_user_error(damage, score_and_sizes, tmp_path):
    score, _ = score_and_sizes
    score(100)
    file = tmp_path / "scores.npz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=r"scores\.npz is damaged"):
        score(100)
