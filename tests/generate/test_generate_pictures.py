"""What is made of a finished run, beside the same computed by hand."""

import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from fakes import SHAPE, Four, Halves, Pixels, code, prior_of, ready
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
def studio(monkeypatch):
    """A Session of the hand-made model, whose pictures are the rows and frames that they would be drawn of."""
    monkeypatch.setattr(pictures, "sheet", lambda rows: rows)
    monkeypatch.setattr(pictures, "png", lambda picture: picture)
    monkeypatch.setattr(pictures, "moving", lambda frames, *_, **__: frames)
    monkeypatch.setattr(pictures.figures, "grid", lambda x, columns: (x, columns))
    torch.manual_seed(0)
    vae = VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(4, SHAPE))
    data = ready(Four)

    def make(**about):
        given = {"n": None, "temperature": 1.0, "source": "prior", "way": "linear", "seed": 0}
        given |= {"images": (), "fuse": (), "arithmetic": ()} | about
        return Session(vae, data, **given)

    with torch.inference_mode():
        yield make


def test_the_known_codes_are_the_same_whatever_was_drawn_before(studio, monkeypatch):
    made = studio(), studio(), studio(seed=1)
    monkeypatch.setattr(Session, "codes", lambda _, x: code(x) + torch.randn(len(x), 4))  # as where means are estimated
    first = made[0].known
    torch.manual_seed(5)
    second, other = (one.known for one in made[1:])
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_samples_are_decoded_draws(studio):
    shown, columns = pictures.samples(studio(n=12, temperature=0.0))["samples.png"]
    torch.testing.assert_close(shown, torch.full((12, *SHAPE), 0.5))
    assert columns in (3, 4)
    shown, columns = pictures.samples(studio(temperature=2.0))["samples.png"]
    assert (shown.shape, columns) == ((100, *SHAPE), 10)
    assert shown.logit().std() == pytest.approx(2, rel=0.15)
    torch.manual_seed(0)
    shown, _ = pictures.samples(studio(n=300, source="mixture"))["mixture_samples.png"]
    codes = code(ready(Four).x("train"))
    torch.testing.assert_close(shown.logit().flatten(1).mean(0), codes.mean(0), atol=0.3, rtol=0)
    assert shown.logit().flatten(1)[:, 2:].std() < 0.3  # where the prior has 1
    shown, _ = pictures.samples(studio(n=9, source="mixture", temperature=0.0))["mixture_samples.png"]
    torch.testing.assert_close(shown.flatten(1), codes.mean(0).sigmoid().expand(9, 4))  # of so few, one Gaussian
    first, other = (studio(source="mixture", seed=seed).drawn(9) for seed in (0, 1))
    assert not torch.equal(first, other)


def test_each_image_is_left_of_what_the_model_makes_of_it(studio):
    shown, columns = pictures.reconstructions(studio(images=[4, 2, 9]))["reconstructions.png"]
    x = ready(Four).x("test")[[4, 2, 9]]
    torch.testing.assert_close(shown[::2], x)
    torch.testing.assert_close(shown[1::2].flatten(1), code(x).sigmoid())
    assert columns == 6
    shown, _ = pictures.reconstructions(studio(n=7))["reconstructions.png"]
    rows = (shown[::2, None] == ready(Four).x("test")).flatten(2).all(2).nonzero()[:, 1]
    assert len({*rows.tolist()}) == 7  # seven of the test images


def test_the_middle_of_a_straight_way_is_the_mean_of_two_codes(studio):
    family, strip = pictures.fuse(studio(fuse=[1, 6]))["fused.png"]
    x = ready(Four).x("test")[[1, 6]]
    a, b = code(x)
    torch.testing.assert_close(family.images[[0, 2]], x)
    torch.testing.assert_close(family.images[1].flatten(), ((a + b) / 2).sigmoid())
    assert list(strip.captions) == [f"{10 * i}%" for i in range(11)]
    for i, image in enumerate(strip.images):
        torch.testing.assert_close(image.flatten(), (a + (b - a) * i / 10).sigmoid())


def test_the_middle_of_a_spherical_way_bisects_the_angle(studio):
    family, _ = pictures.fuse(studio(fuse=[1, 6], way="spherical"))["fused.png"]
    a, b = code(ready(Four).x("test")[[1, 6]])
    middle = a / a.norm() + b / b.norm()
    middle *= (a.norm() + b.norm()) / 2 / middle.norm()
    torch.testing.assert_close(family.images[1].flatten().logit(), middle, atol=1e-4, rtol=1e-4)


def test_a_page_of_children_of_training_images(studio):
    rows = pictures.fuse(studio(n=3))["fused_random.png"]
    assert [len(row.images) for row in rows] == [7, 7]  # so that the last stands below the first
    known = ready(Four).x("train")
    for parents in (rows[0].images[:3], rows[0].images[4:], rows[1].images[:3]):
        for parent in parents[[0, 2]]:
            assert (known - parent).abs().flatten(1).sum(1).min() == 0
        middle = code(parents[[0, 2]]).mean(0).sigmoid()
        torch.testing.assert_close(parents[1].flatten(), middle)
    assert rows[0].images[3].eq(1).all()
    assert rows[1].images[3:].eq(1).all()
    assert rows[1].captions[3:] == [""] * 4
    (alone,) = pictures.fuse(studio(n=1))["fused_random.png"]
    assert len(alone.images) == len(alone.captions) == 3


def test_names_are_fused_too():
    assert pictures.fused_name(["pikachu", "charizard-mega-x"]) == "pikaizard"
    assert pictures.fused_name(["test 3", "test 4"]) == "the middle"


def test_interpolation_has_the_images_at_its_ends_and_a_film_goes_there_and_back(studio):
    made = pictures.interpolation(studio(images=[0, 5]))
    ((images, captions, *_),) = made["interpolation.png"]
    x = ready(Four).x("test")[[0, 5]]
    torch.testing.assert_close(images[[0, -1]], x)
    torch.testing.assert_close(images[[1, -2]].flatten(1), code(x).sigmoid())
    assert (captions[0], captions[-1], captions[6]) == ("test 0", "test 5", "50%")
    film = made["interpolation.gif"].flatten(1)
    torch.testing.assert_close(film[[0, 24, 33, 57, -1]], code(x)[[0, 1, 1, 0, 0]].sigmoid())
    torch.testing.assert_close(film[[12, 45]], code(x).mean(0).sigmoid().expand(2, 4))


class Many(Four):
    """As many that there are enough for everything."""

    n, tests = 200, 60


class Twelve(Halves):
    """The same in 12 dimensions, with nothing in the others."""

    def forward(self, x):
        q_z, others = super().forward(x), torch.zeros(len(x), 8)
        return DiagonalNormal(torch.cat([q_z.mean, others], 1), torch.cat([q_z.log_var, others], 1))


def test_how_many_there_are_unless_said_is_what_the_help_says(studio):
    vae = VAE(nn.Identity(), Twelve(), Pixels(), Bernoulli(), StandardNormal(12, SHAPE))
    made = replace(studio(), vae=vae, data=ready(Many))
    found = {
        "samples": len(pictures.samples(made)["samples.png"][0]),
        "reconstructions": len(pictures.reconstructions(made)["reconstructions.png"][0]) // 2,
        "traversal": len(pictures.traversal(made)["traversal.png"]) - 1,
        "nearest": len(pictures.nearest(made)["nearest.png"]),
        "walk": pictures.walk(made)["walk.gif"].shape[1],
        "fuse": 2 * len(pictures.fuse(made)["fused_random.png"]),
    }
    said = re.findall(r"^  (\w+) .* n=(\d+)", generate.__doc__, re.MULTILINE)
    assert found == {name: int(n) for name, n in said}


def test_what_nobody_chose_is_a_training_image(studio):
    known = ready(Four).x("train")
    (row,) = pictures.interpolation(studio())["interpolation.png"]
    start = pictures.traversal(studio())["traversal.png"][0]
    chosen = {row.captions[0]: row.images[0], row.captions[-1]: row.images[-1], start.captions[0]: start.images[0]}
    for name, image in chosen.items():
        split, number = name.split()
        assert split == "train"
        torch.testing.assert_close(image, known[int(number)])


def test_traversal_begins_with_what_carries_most_and_moves_nothing_else(studio):
    start, *rows = pictures.traversal(studio(images=[7]))["traversal.png"]
    torch.testing.assert_close(start.images, ready(Four).x("test")[[7]])
    assert [row.label.split()[0] for row in rows] == ["z2", "z1", "z3", "z4"]
    mean = code(ready(Four).x("train"))
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
    assert len(pictures.traversal(studio(n=2))["traversal.png"]) == 3
    _, *chosen = pictures.traversal(studio(images=[7], dimensions=[4, 2]))["traversal.png"]
    assert [row.label for row in chosen] == [rows[3].label, rows[0].label]
    torch.testing.assert_close(chosen[1].images, rows[0].images, atol=0.02, rtol=0.2)  # the spread is drawn


def test_what_has_no_kl_of_one_dimension_is_sorted_by_the_variance_of_its_means(studio):
    made = studio(images=[7])
    made.vae.prior = prior_of("mixture")
    _, *rows = pictures.traversal(made)["traversal.png"]
    variance = code(ready(Four).x("train")).var(0)
    assert [row.label for row in rows[:2]] == [f"z{d + 1}   {variance[d]:.2f} variance" for d in (1, 0)]


def test_the_nearest_training_images_are_those_of_a_search_by_hand(studio):
    rows = pictures.nearest(studio(n=4))["nearest.png"]
    known = ready(Four).x("train")
    assert len(rows) == 4
    for row in rows:
        far = [
            math.sqrt(sum((a - b) ** 2 for a, b in zip(x, row.images[0].flatten().tolist(), strict=True)) / 4)
            for x in known.flatten(1).tolist()
        ]
        order = sorted(range(len(far)), key=lambda i: far[i])[:6]
        torch.testing.assert_close(row.images[1:], known[order])
        assert list(row.captions) == ["sample", *(f"{far[i]:.2f}" for i in order)]


def test_distances_are_root_mean_squares_over_pixels_and_channels():
    rng = torch.manual_seed(0)
    shown, pixels = torch.rand(3, 2, 4, 5, generator=rng), torch.randint(256, (7, 2, 4, 5), generator=rng).byte()
    far = (shown.numpy()[:, None] - pixels.numpy() / 255) ** 2
    np.testing.assert_allclose(pictures.distances(shown, pixels), far.mean((2, 3, 4)) ** 0.5, atol=1e-5)


def test_a_walk_stops_at_drawn_codes(studio):
    torch.manual_seed(3)
    film = pictures.walk(studio(n=6))["walk.gif"]
    torch.manual_seed(3)
    codes = studio().drawn(5 * 6).view(5, 6, 4)
    assert film.shape == (80, 6, *SHAPE)
    torch.testing.assert_close(film[::16].flatten(2), codes.sigmoid())


def test_a_walk_is_not_of_a_crowd(studio):
    with pytest.raises(UserError, match="n=37: expected 36"):
        pictures.walk(studio(n=37))


def test_arithmetic_is_of_the_mean_codes_of_labels_or_of_images(studio):
    ((images, captions, *_),) = pictures.arithmetic(studio(arithmetic=[2, 0, 1]))["arithmetic.png"]
    data = ready(Four)
    x, labels = data.x("train"), data.images["train"].labels
    a, b, c = (code(x[labels == kind]).mean(0) for kind in (2, 0, 1))
    torch.testing.assert_close(images.flatten(1), torch.stack([a, b, c, a - b + c]).sigmoid())
    assert captions == ["all of 2", "\N{MINUS SIGN} all of 0", "+ all of 1", "="]
    with pytest.raises(UserError, match=r"arithmetic=5: expected a label of training images, such as \[0, 1, 2\]"):
        pictures.arithmetic(studio(arithmetic=[2, 0, 5]))


def test_a_manifold_is_of_two_dimensions(studio):
    with pytest.raises(UserError, match=r"what=manifold: expected a run with latent_dim=2, .* here it is 4"):
        pictures.manifold(studio())


@pytest.mark.parametrize(("name", "by_codes"), [("standard_normal", False), ("mixture", True)])
def test_a_manifold_is_of_the_prior_where_its_quantiles_are_known(name, by_codes, studio, monkeypatch):
    made = studio()
    made.vae.prior = prior_of(name)
    made.__dict__["known"] = torch.randn(9, 2)
    monkeypatch.setattr(pictures.figures, "manifold", lambda _, codes: codes)
    found = pictures.manifold(made)["manifold.png"]
    assert found is (made.known if by_codes else None)


def test_a_manifold_of_another_prior_goes_through_the_quantiles_of_the_codes(monkeypatch):
    monkeypatch.setattr(pictures, "png", lambda picture: picture)
    seen = []
    vae = VAE(nn.Identity(), Halves(), Pixels(), Bernoulli(), StandardNormal(2, SHAPE))
    monkeypatch.setattr(vae, "picture", lambda z: seen.append(z) or torch.zeros(len(z), *SHAPE))
    codes = torch.stack([torch.linspace(0, 1, 401) ** 2 * 8, torch.linspace(-1, 0, 401)], 1)
    pictures.figures.manifold(vae, 2, codes)
    expected = [[0.25**2 * 8, -0.25], [0.75**2 * 8, -0.25], [0.25**2 * 8, -0.75], [0.75**2 * 8, -0.75]]
    torch.testing.assert_close(seen[0], torch.tensor(expected))
