"""The pictures of vae.generate, compared with values computed by hand."""

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import SHAPE, Four, Halves, Pixels, build_prior, code, load_data
from torch import nn
from torch.distributions import Normal

from vae.errors import UserError
from vae.generate import __main__ as generate
from vae.generate import pictures
from vae.generate.session import Session
from vae.model.likelihoods import Bernoulli
from vae.model.posteriors import DiagonalNormal
from vae.model.priors import StandardNormal
from vae.model.vae import VAE


@pytest.fixture
def make_session(monkeypatch):
    """make(**options): a Session of the linear model. Pictures are returned as rows and frames instead of files."""
    monkeypatch.setattr(pictures, "render_rows", lambda rows: rows)
    monkeypatch.setattr(pictures, "encode_png", lambda picture: picture)
    monkeypatch.setattr(pictures, "animate", lambda frames, *_, **__: frames)
    monkeypatch.setattr(pictures.figures, "grid", lambda x, columns: (x, columns))
    torch.manual_seed(0)
    vae = VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(4, SHAPE))
    data = load_data(Four)

    def make(**options):
        return Session(vae, lambda: data, **{"interpolation": "linear"} | options)

    with torch.inference_mode():
        yield make


def test_train_codes_do_not_depend_on_earlier_draws(make_session, monkeypatch):
    sessions = make_session(), make_session(), make_session(seed=1)
    monkeypatch.setattr(Session, "encode", lambda _, x: code(x) + torch.randn(len(x), 4))  # like an estimated mean
    first = sessions[0].train_codes
    torch.manual_seed(5)
    second, other = (session.train_codes for session in sessions[1:])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_samples_are_decoded_from_prior_and_mixture(make_session):
    shown, columns = pictures.samples(make_session(n=12, temperature=0.0))["samples.png"]
    torch.testing.assert_close(shown, torch.full((12, *SHAPE), 0.5))
    assert columns in (3, 4)
    shown, columns = pictures.samples(make_session(temperature=2.0))["samples.png"]
    assert (shown.shape, columns) == ((100, *SHAPE), 10)
    assert shown.logit().std() == pytest.approx(2, rel=0.15)
    torch.manual_seed(0)
    shown, _ = pictures.samples(make_session(n=300, source="mixture"))["mixture_samples.png"]
    codes = code(load_data(Four).x("train"))
    torch.testing.assert_close(shown.logit().flatten(1).mean(0), codes.mean(0), atol=0.3, rtol=0)
    assert shown.logit().flatten(1)[:, 2:].std() < 0.3  # 1 under the prior
    shown, _ = pictures.samples(make_session(n=9, source="mixture", temperature=0.0))["mixture_samples.png"]
    torch.testing.assert_close(shown.flatten(1), codes.mean(0).sigmoid().expand(9, 4))  # so few codes get one Gaussian
    first, other = (make_session(source="mixture", seed=seed).sample(9) for seed in (0, 1))
    assert not torch.equal(first, other)


def test_each_image_is_left_of_its_reconstruction(make_session):
    shown, columns = pictures.reconstructions(make_session(images=[4, 2, 9]))["reconstructions.png"]
    x = load_data(Four).x("test")[[4, 2, 9]]
    torch.testing.assert_close(shown[::2], x)
    torch.testing.assert_close(shown[1::2].flatten(1), code(x).sigmoid())
    assert columns == 6
    shown, _ = pictures.reconstructions(make_session(n=7))["reconstructions.png"]
    rows = (shown[::2, None] == load_data(Four).x("test")).flatten(2).all(2).nonzero()[:, 1]
    assert len({*rows.tolist()}) == 7  # seven different test images


def test_linear_midpoint_is_the_mean_of_two_codes(make_session):
    family, strip = pictures.fuse(make_session(fuse=[1, 6]))["fused.png"]
    x = load_data(Four).x("test")[[1, 6]]
    a, b = code(x)
    torch.testing.assert_close(family.images[[0, 2]], x)
    torch.testing.assert_close(family.images[1].flatten(), ((a + b) / 2).sigmoid())
    assert list(strip.captions) == [f"{10 * i}%" for i in range(11)]
    for i, image in enumerate(strip.images):
        torch.testing.assert_close(image.flatten(), (a + (b - a) * i / 10).sigmoid())


def test_spherical_midpoint_bisects_the_angle(make_session):
    family, _ = pictures.fuse(make_session(fuse=[1, 6], interpolation="spherical"))["fused.png"]
    a, b = code(load_data(Four).x("test")[[1, 6]])
    middle = a / a.norm() + b / b.norm()
    middle *= (a.norm() + b.norm()) / 2 / middle.norm()
    torch.testing.assert_close(family.images[1].flatten().logit(), middle, atol=1e-4, rtol=1e-4)


def test_random_fusions_are_of_training_images(make_session):
    rows = pictures.fuse(make_session(n=3))["fused_random.png"]
    assert [len(row.images) for row in rows] == [7, 7]  # the last family is aligned with the first
    train = load_data(Four).x("train")
    for parents in (rows[0].images[:3], rows[0].images[4:], rows[1].images[:3]):
        for parent in parents[[0, 2]]:
            assert (train - parent).abs().flatten(1).sum(1).min() == 0
        middle = code(parents[[0, 2]]).mean(0).sigmoid()
        torch.testing.assert_close(parents[1].flatten(), middle)
    assert rows[0].images[3].eq(1).all()
    assert rows[1].images[3:].eq(1).all()
    assert rows[1].captions[3:] == [""] * 4
    (alone,) = pictures.fuse(make_session(n=1))["fused_random.png"]
    assert len(alone.images) == len(alone.captions) == 3


class Sampled(Bernoulli):
    """A likelihood that records how many candidates it is asked for. All are the mean."""

    sampled_mean = True

    def candidate_images(self, p_x, n):
        self.asked.append(n)
        return p_x.mean.expand(n, *p_x.mean.shape)


@pytest.mark.parametrize(
    ("function", "options", "default"),
    [
        (pictures.samples, {"n": 2}, 1),
        (pictures.reconstructions, {"images": [1]}, 1),
        (pictures.fuse, {"fuse": [1, 6]}, 16),
        (pictures.fuse, {"n": 1}, 16),
    ],
)
def test_number_of_candidates(function, options, default, make_session):
    likelihood = Sampled()
    vae = VAE(nn.Identity(), Halves(), Pixels(), likelihood, StandardNormal(4, SHAPE))
    for candidates in (None, 5):
        likelihood.asked = []
        function(replace(make_session(**options, candidates=candidates), vae=vae))
        assert likelihood.asked == [candidates or default]


def test_fused_names():
    assert pictures.fused_name(["pikachu", "charizard-mega-x"]) == "pikaizard"
    assert pictures.fused_name(["test 3", "test 4"]) == "midpoint"


def test_interpolation_starts_and_ends_with_the_images_and_the_gif_returns(make_session):
    files = pictures.interpolation(make_session(images=[0, 5]))
    ((images, captions, *_),) = files["interpolation.png"]
    x = load_data(Four).x("test")[[0, 5]]
    torch.testing.assert_close(images[[0, -1]], x)
    torch.testing.assert_close(images[[1, -2]].flatten(1), code(x).sigmoid())
    assert (captions[0], captions[-1], captions[6]) == ("test 0", "test 5", "50%")
    frames = files["interpolation.gif"].flatten(1)
    torch.testing.assert_close(frames[[0, 24, 33, 57, -1]], code(x)[[0, 1, 1, 0, 0]].sigmoid())
    torch.testing.assert_close(frames[[12, 45]], code(x).mean(0).sigmoid().expand(2, 4))


class Many(Four):
    """Enough images for every default of n."""

    n, tests = 200, 60


class Twelve(Halves):
    """`Halves` with 12 dimensions, of which only two are informative."""

    def forward(self, x):
        q_z, others = super().forward(x), torch.zeros(len(x), 8)
        return DiagonalNormal(torch.cat([q_z.mean, others], 1), torch.cat([q_z.log_var, others], 1))


def test_default_n_is_that_of_the_help(make_session):
    vae = VAE(nn.Identity(), Twelve(), Pixels(), Bernoulli(), StandardNormal(12, SHAPE))
    session = replace(make_session(), vae=vae, load_data=lambda: load_data(Many))
    found = {
        "samples": len(pictures.samples(session)["samples.png"][0]),
        "reconstructions": len(pictures.reconstructions(session)["reconstructions.png"][0]) // 2,
        "traversal": len(pictures.traversal(session)["traversal.png"]) - 1,
        "nearest": len(pictures.nearest(session)["nearest.png"]),
        "walk": pictures.walk(session)["walk.gif"].shape[1],
        "fuse": 2 * len(pictures.fuse(session)["fused_random.png"]),
    }
    documented = {name: int(n) for name, n in re.findall(r"^  (\w+) .* n=(\d+)", generate.__doc__, re.MULTILINE)}
    assert documented.pop("styles") == 10  # of a conditional model: see test_labels.py
    assert documented.pop("sequences") == 100  # of a run of dataset=fasta: see test_sequences.py
    assert found == documented


def test_default_images_are_training_images(make_session):
    train = load_data(Four).x("train")
    (row,) = pictures.interpolation(make_session())["interpolation.png"]
    start = pictures.traversal(make_session())["traversal.png"][0]
    chosen = {row.captions[0]: row.images[0], row.captions[-1]: row.images[-1], start.captions[0]: start.images[0]}
    for name, image in chosen.items():
        split, number = name.split()
        assert split == "train"
        torch.testing.assert_close(image, train[int(number)])


def test_traversal_sorts_by_kl_and_changes_one_dimension_per_row(make_session):
    start, *rows = pictures.traversal(make_session(images=[7]))["traversal.png"]
    torch.testing.assert_close(start.images, load_data(Four).x("test")[[7]])
    assert [row.label.split()[0] for row in rows] == ["z2", "z1", "z3", "z4"]
    mean = code(load_data(Four).x("train"))
    kl = (mean.square() + torch.tensor([-4.0, -4, 0, 0]).exp() - 1 - torch.tensor([-4.0, -4, 0, 0])).mean(0) / 2
    assert [row.label.split(maxsplit=1)[1] for row in rows] == [f"{kl[d]:.2f} nats" for d in (1, 0, 2, 3)]
    base = code(start.images)[0]
    for row, d in zip(rows, (1, 0, 2, 3), strict=True):
        logits = row.images.flatten(1).logit()
        others = [i for i in range(4) if i != d]
        torch.testing.assert_close(logits[:, others], base[others].expand(11, 3), atol=1e-4, rtol=1e-3)
        q = Normal(mean[:, d], 1.0 if d > 1 else math.exp(-2))
        spread = (q.variance.mean() + q.mean.var()).sqrt()
        assert (logits[-1, d] - logits[0, d]).item() == pytest.approx(5 * spread.item(), rel=0.4)
        off = q.variance.mean().sqrt() / len(mean) ** 0.5
        assert logits[5, d].item() == pytest.approx(mean[:, d].mean().item(), abs=4 * off.item())
        assert (logits[:, d].diff() > 0).all()
    assert rows[-1].captions[0] == "\N{MINUS SIGN}2.5 sd"
    assert len(pictures.traversal(make_session(n=2))["traversal.png"]) == 3
    _, *chosen = pictures.traversal(make_session(images=[7], dimensions=[4, 2]))["traversal.png"]
    assert [row.label for row in chosen] == [rows[3].label, rows[0].label]
    torch.testing.assert_close(
        chosen[1].images, rows[0].images, atol=0.02, rtol=0.2
    )  # the moments are estimated from samples


def test_without_kl_per_dimension_traversal_sorts_by_variance_of_the_means(make_session):
    session = make_session(images=[7])
    session.vae.prior = build_prior("mixture")
    _, *rows = pictures.traversal(session)["traversal.png"]
    variance = code(load_data(Four).x("train")).var(0)
    assert [row.label for row in rows[:2]] == [f"z{d + 1}   {variance[d]:.2f} variance" for d in (1, 0)]


def test_nearest_training_images_equal_a_search_by_hand(make_session):
    rows = pictures.nearest(make_session(n=4))["nearest.png"]
    train = load_data(Four).x("train")
    assert len(rows) == 4
    for row in rows:
        far = [
            math.sqrt(sum((a - b) ** 2 for a, b in zip(x, row.images[0].flatten().tolist(), strict=True)) / 4)
            for x in train.flatten(1).tolist()
        ]
        order = sorted(range(len(far)), key=lambda i: far[i])[:6]
        torch.testing.assert_close(row.images[1:], train[order])
        assert list(row.captions) == ["sample", *(f"{far[i]:.2f}" for i in order)]


def test_rms_distances_average_over_pixels_and_channels():
    rng = torch.manual_seed(0)
    shown, pixels = torch.rand(3, 2, 4, 5, generator=rng), torch.randint(256, (7, 2, 4, 5), generator=rng).byte()
    far = (shown.numpy()[:, None] - pixels.numpy() / 255) ** 2
    np.testing.assert_allclose(pictures.rms_distances(shown, pixels), far.mean((2, 3, 4)) ** 0.5, atol=1e-5)


def test_walk_passes_through_sampled_codes(make_session):
    torch.manual_seed(3)
    frames = pictures.walk(make_session(n=6))["walk.gif"]
    torch.manual_seed(3)
    codes = make_session().sample_codes(5 * 6).view(5, 6, 4)
    assert frames.shape == (80, 6, *SHAPE)
    torch.testing.assert_close(frames[::16].flatten(2), codes.sigmoid())


def test_walk_has_at_most_36_pictures(make_session):
    with pytest.raises(UserError, match="n=37: expected 36"):
        pictures.walk(make_session(n=37))


def test_arithmetic_uses_labels_by_name(make_session):
    def named(identifiers):
        session = make_session(arithmetic=identifiers)
        named = {split: it._replace(classes=["2", "10", "a"]) for split, it in session.data.images.items()}
        session.__dict__["data"] = SimpleNamespace(
            **vars(session.data) | {"images": named, "x": session.data.x, "y": session.data.y}
        )
        return pictures.arithmetic(session)["arithmetic.png"][0]

    by_number = pictures.arithmetic(make_session(arithmetic=[0, 1, 2]))["arithmetic.png"][0]
    by_name = named([2, 10, "a"])
    assert torch.equal(by_name[0], by_number[0])
    assert by_name[1][:3] == ["mean of label 2", "\N{MINUS SIGN} mean of label 10", "+ mean of label a"]
    with pytest.raises(UserError, match=r"arithmetic=1: expected a label of the training images, such as 2, 10, a$"):
        named([2, 10, 1])


def test_arithmetic_uses_mean_codes_of_labels(make_session):
    ((images, captions, *_),) = pictures.arithmetic(make_session(arithmetic=[2, 0, 1]))["arithmetic.png"]
    data = load_data(Four)
    x, labels = data.x("train"), data.images["train"].labels
    a, b, c = (code(x[labels == label]).mean(0) for label in (2, 0, 1))
    torch.testing.assert_close(images.flatten(1), torch.stack([a, b, c, a - b + c]).sigmoid())
    assert captions == ["mean of label 2", "\N{MINUS SIGN} mean of label 0", "+ mean of label 1", "="]
    with pytest.raises(UserError, match=r"arithmetic=5: expected a label of the training images, such as 0, 1, 2$"):
        pictures.arithmetic(make_session(arithmetic=[2, 0, 5]))


def test_manifold_needs_two_dimensions(make_session):
    with pytest.raises(UserError, match="what=manifold: expected a run with latent_dim=2; this one has latent_dim=4"):
        pictures.manifold(make_session())


@pytest.mark.parametrize(("name", "by_codes"), [("standard_normal", False), ("mixture", True)])
def test_manifold_uses_the_prior_if_it_is_standard_normal(name, by_codes, make_session, monkeypatch):
    session = make_session()
    session.vae.prior = build_prior(name)
    session.__dict__["train_codes"] = torch.randn(9, 2)
    monkeypatch.setattr(pictures.figures, "manifold", lambda _, codes: codes)
    found = pictures.manifold(session)["manifold.png"]
    assert found is (session.train_codes if by_codes else None)


def test_manifold_of_another_prior_uses_the_quantiles_of_the_codes(monkeypatch):
    monkeypatch.setattr(pictures, "encode_png", lambda picture: picture)
    decoded = []
    vae = VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(2, SHAPE))
    monkeypatch.setattr(vae, "decode", lambda z: decoded.append(z) or torch.zeros(len(z), *SHAPE))
    codes = torch.stack([torch.linspace(0, 1, 401) ** 2 * 8, torch.linspace(-1, 0, 401)], 1)
    pictures.figures.manifold(vae, 2, codes)
    expected = [[0.25**2 * 8, -0.25], [0.75**2 * 8, -0.25], [0.25**2 * 8, -0.75], [0.75**2 * 8, -0.75]]
    torch.testing.assert_close(decoded[0], torch.tensor(expected))


def test_arithmetic_with_labels_and_images_that_have_the_same_numbers(make_session):
    def operands(*identifiers):
        ((images, captions, *_),) = pictures.arithmetic(make_session(arithmetic=identifiers))["arithmetic.png"]
        return images[:3], captions[:3]

    images, captions = operands("label:2", "test:2", "train:0")
    session = make_session()
    assert captions == ["mean of label 2", "\N{MINUS SIGN} test 2", "+ train 0"]
    torch.testing.assert_close(images[0], operands(2, 0, 1)[0][0])
    for image, x in zip(
        images[1:], (session.data.x("test", slice(2, 3)), session.data.x("train", slice(1))), strict=True
    ):
        torch.testing.assert_close(image, session.decode(session.encode(x))[0])
    with pytest.raises(UserError, match="arithmetic=label:7: expected a label of the training images"):
        operands("label:7", 0, 1)
    with pytest.raises(UserError, match=r"arithmetic=test:77: expected 0 to \d+, the number of a test image"):
        operands("test:77", 0, 1)
