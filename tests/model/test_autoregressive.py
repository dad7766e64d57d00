"""Autoregressive likelihoods: masses sum to one, pixels depend on earlier ones only, and samples follow the mass."""

import math
from itertools import product
from types import SimpleNamespace

import pytest
import torch

from vae.errors import UserError
from vae.model.autoregressive import PixelCNN, PixelCNNLogistic
from vae.model.estimator import summarize
from vae.model.pixel_art import PixelArt

OPTIONS = {"h_channels": 3, "radius": 2, "width": 6, "dilations": [1, 2], "context_swap": 0.0, "temperature": 0.5}
KINDS = {
    "pixel_art": (lambda: PixelArt(latent_dim=2, palette=4, background=1.0, **OPTIONS), 3),
    "pixelcnn": (lambda: PixelCNN(**OPTIONS), 1),
    "pixelcnn_logistic": (lambda: PixelCNNLogistic(K=3, **OPTIONS), 1),
}


def build_likelihood(kind, channels=None):
    torch.manual_seed(0)
    make, default_channels = KINDS[kind]
    likelihood = make()
    likelihood.build(channels or default_channels)
    for parameter in likelihood.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return likelihood.double()


def random_h(*shape, requires_grad=False):
    """Return h with three channels and a latent of two numbers, which only pixel art uses: (..., 5, H, W)."""
    *batch, height, width = shape
    channels = torch.randn(*batch, 3, height, width, dtype=torch.float64)
    z = torch.randn(*batch, 2, 1, 1, dtype=torch.float64).expand(*batch, 2, height, width)
    return torch.cat([channels, z], -3).requires_grad_(requires_grad)


def images(kind, n, height, width, channels):
    """Return random images of the kind: binary, or with colours that repeat."""
    if kind == "pixelcnn":
        return torch.bernoulli(torch.rand(n, channels, height, width)).double()
    colours = torch.tensor([[255, 255, 255], [0, 255, 0], [16, 40, 200], [17, 40, 200]])[:, :channels].double() / 255
    return colours[torch.randint(4, (n, height, width))].movedim(-1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_outputs_do_not_depend_on_the_pixel_itself_or_later_ones(kind):
    likelihood = build_likelihood(kind)
    c = likelihood.channels
    x = images(kind, 1, 5, 6, c).requires_grad_()
    out = likelihood.network_outputs(x, random_h(1, 5, 6))
    reached = torch.zeros(30, 30, dtype=torch.bool)
    for i in range(30):
        gradient = torch.autograd.grad(out.flatten(2)[0, :, i].sum(), x, retain_graph=True)[0]
        reached[i] = (gradient[0] != 0).any(0).flatten()
    assert not reached.triu().any()
    assert reached[8, 7]
    assert reached[8, 2]


@pytest.mark.parametrize("kind", KINDS)
def test_h_affects_only_its_own_pixel_and_later_ones(kind):
    likelihood = build_likelihood(kind)
    x, h = images(kind, 1, 4, 4, likelihood.channels), random_h(1, 4, 4, requires_grad=True)
    out = likelihood.network_outputs(x, h)
    for i in range(16):
        gradient = torch.autograd.grad(out.flatten(2)[0, :, i].sum(), h, retain_graph=True)[0]
        assert not (gradient[0] != 0).any(0).flatten()[i + 1 :].any()
        assert (gradient[0] != 0).any(0).flatten()[i]


@pytest.fixture
def three_levels(monkeypatch):
    """Use the levels 0, 1/2 and 1 instead of 256, so that all images can be enumerated."""
    monkeypatch.setattr("vae.model.autoregressive.LEVELS", 3)
    monkeypatch.setattr("vae.model.pixel_art.LEVELS", 3)
    monkeypatch.setattr("vae.model.pixel_distributions.HALF_STEP", 0.25)


def every_image(levels, channels, height, width):
    """Return all images of this size with these levels, (N, C, H, W)."""
    colours = torch.tensor(list(product(levels, repeat=channels)), dtype=torch.float64)
    which = torch.cartesian_prod(*[torch.arange(len(colours))] * (height * width)).view(-1, height, width)
    return colours[which].movedim(-1, 1)


TINY = {
    "pixel_art": [(1, 2, 2), (2, 2, 2), (3, 1, 3)],
    "pixelcnn": [(1, 3, 3), (2, 2, 2)],
    "pixelcnn_logistic": [(1, 2, 2), (2, 2, 2)],
}


@pytest.mark.parametrize(("kind", "shape"), [(kind, shape) for kind in TINY for shape in TINY[kind]])
@pytest.mark.usefixtures("three_levels")
def test_mass_of_all_images_sums_to_one(kind, shape):
    likelihood = build_likelihood(kind, shape[0])
    x = every_image([0.0, 1.0] if kind == "pixelcnn" else [0.0, 0.5, 1.0], *shape)
    for h in random_h(3, *shape[1:]):
        with torch.no_grad():
            total = likelihood(h).log_prob(x).logsumexp(0)
        torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-9, rtol=0)


def test_mass_of_256_levels_sums_to_one():
    likelihood = build_likelihood("pixel_art", 1)
    pair = torch.cartesian_prod(torch.arange(256), torch.arange(256)).double()[:, None, None] / 255
    with torch.no_grad():
        total = likelihood(random_h(1, 2)).log_prob(pair).logsumexp(0)
    torch.testing.assert_close(total, torch.zeros_like(total), atol=1e-9, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("three_levels")
def test_frequencies_of_samples_follow_the_mass(kind):
    likelihood = build_likelihood(kind, 1)
    x = every_image([0.0, 1.0] if kind == "pixelcnn" else [0.0, 0.5, 1.0], 1, 2, 2)
    p = likelihood(random_h(2, 2))
    n = 20_000
    torch.manual_seed(1)
    drawn = p.sample((n,))
    base = (3 ** torch.arange(4)).view(2, 2)
    number = lambda images: ((2 * images).round().long()[:, 0] * base).sum((-2, -1))  # noqa: E731
    counts = torch.bincount(number(drawn), minlength=81)[number(x)]
    expected = n * p.log_prob(x).exp().detach()
    often = expected >= 5
    chi2 = ((counts - expected).square() / expected)[often].sum()
    df = int(often.sum()) - 1
    assert df >= 8
    assert chi2 < df + 4 * (2 * df) ** 0.5
    assert counts.sum() == n


@pytest.mark.parametrize("size", [(2, 2), (7, 3), (4, 12)])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_during_sampling_equal_those_of_one_pass(kind, size, monkeypatch):
    likelihood = build_likelihood(kind)
    outputs = []
    sample_pixel = likelihood.sample_pixel

    def recording(out, *args, **kwargs):
        outputs.append(out)
        return sample_pixel(out, *args, **kwargs)

    monkeypatch.setattr(likelihood, "sample_pixel", recording)
    h = random_h(4, *size)
    samples = likelihood(h).seeded_samples(1.0, [0])[0]
    whole = likelihood.network_outputs(samples, h).detach()
    found = torch.cat(outputs)  # by pixel, in the order of sampling
    assert len(found) == size[0] * size[1]
    key = lambda rows: rows[:, 0, 0].argsort()  # noqa: E731
    expected = whole.flatten(2).permute(2, 0, 1)
    torch.testing.assert_close(found[key(found)], expected[key(expected)])
    assert likelihood.support.check(samples.float()).all()


def log_mass_by_hand(likelihood, x, h):
    """Return log p(x|z) of one image of pixel art, computed pixel by pixel in plain Python."""
    out = likelihood.network_outputs(x[None], h[None])[0].double().detach()
    loc, log_s = (part[0].detach() for part in likelihood.image_parameters(h[None]))
    colours, (height, width) = (x * 255).round().long(), x.shape[1:]
    cdf = lambda value, mean, s: 1 / (1 + math.exp(-max(-500, min(500, (value - mean) / s))))  # noqa: E731
    total = 0.0
    for i, j in product(range(height), range(width)):
        here = colours[:, i, j].tolist()
        p = out[:, i, j].softmax(0).tolist()
        mass = p[0] * (here == [255, 255, 255])
        for n, (up, left) in enumerate([(0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0)], 1):
            inside = i + up >= 0 and 0 <= j + left < width
            other = colours[:, i + up, j + left].tolist() if inside else [255, 255, 255]
            mass += p[n] * (here == other)
        for k in range(likelihood.K):
            new = 1.0
            for c in range(3):
                mean, s = loc[k, c].item(), log_s[k, c].exp().item()
                low = 0.0 if here[c] == 0 else cdf((here[c] - 0.5) / 255, mean, s)
                high = 1.0 if here[c] == 255 else cdf((here[c] + 0.5) / 255, mean, s)
                new *= high - low
            mass += p[7 + k] * new
        total += math.log(mass)
    return total


def test_pixel_art_equals_its_mixture_computed_by_hand():
    likelihood = build_likelihood("pixel_art")
    x, h = images("pixel_art", 6, 5, 4, 3), random_h(6, 5, 4)
    found = likelihood(h).log_prob(x)
    expected = torch.tensor(
        [log_mass_by_hand(likelihood, *pair) for pair in zip(x, h, strict=True)], dtype=torch.float64
    )
    torch.testing.assert_close(found.detach(), expected)
    bits = summarize(found.detach(), SimpleNamespace(likelihood=likelihood), values=3 * 5 * 4)["bits_per_dim"]
    assert bits == pytest.approx((-expected / math.log(2)).mean().item() / (3 * 5 * 4))


def test_point_masses_on_one_colour_add_up():
    """If only the left and the upper neighbour have the colour of a pixel, its mass is the sum of their weights."""
    likelihood = build_likelihood("pixel_art")
    with torch.no_grad():
        likelihood.palette[-1].weight.zero_()
        likelihood.palette[-1].bias.copy_(torch.tensor([-9.0] * 12 + [-9.0] * 12))  # the palette is black
    x = torch.ones(1, 3, 2, 2, dtype=torch.float64)
    blue = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    x[0, :, 0, 1] = x[0, :, 1, 0] = x[0, :, 1, 1] = blue
    h = random_h(1, 2, 2)
    p = likelihood.network_outputs(x, h)[0, :, 1, 1].softmax(0)
    other = x.clone()
    other[0, :, 1, 1] = 1.0
    log_p, log_p_other = likelihood(h).log_prob(x), likelihood(h).log_prob(other)
    found = (log_p - log_p_other).exp()  # only the last pixel differs
    torch.testing.assert_close(found[0], (p[1] + p[2]) / (p[0] + p[3] + p[4] + p[5] + p[6]))


def test_the_most_likely_colour_has_the_largest_sum_of_weights():
    likelihood = build_likelihood("pixel_art", 1)
    out = torch.tensor([[[0.35, 0.15, 0.15, 0.15, 0.1, 0.05, 0.05, 0, 0, 0, 0]]], dtype=torch.float64).log()
    context = 2 * (torch.tensor([[[0.2, 1, 0.2, 1, 0.2, 1, 0.6, 1, 0.8, 1, 0.8, 1]]], dtype=torch.float64) - 1)
    palette = torch.zeros(1, 4, 1, dtype=torch.float64), torch.zeros(1, 4, 1, dtype=torch.float64)
    value = likelihood.sample_pixel(out, torch.zeros(1, 1, 12), context, palette)
    torch.testing.assert_close(value.item(), 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_seeded_sample_depends_on_its_seed_and_image_only(kind):
    likelihood = build_likelihood(kind).float()
    h = random_h(150, 6, 5).float()
    first, second = likelihood(h).seeded_samples(0.7, [0, 1])
    assert (first != second).any()
    for seed, together in enumerate([first, second]):
        alone = torch.cat([likelihood(one[None]).seeded_samples(0.7, [seed])[0] for one in h])
        torch.testing.assert_close(together, alone)
    likeliest = likelihood(h.view(3, 50, *h.shape[1:])).seeded_samples(0.0, range(2)).flatten(1, 2)
    torch.testing.assert_close(likeliest[0], likeliest[1])
    torch.testing.assert_close(
        likeliest[0], torch.cat([likelihood(one[None]).seeded_samples(0.0, [5])[0] for one in h])
    )


@pytest.mark.parametrize("kind", KINDS)
def test_repeated_drafts_end_at_the_seeded_sample(kind):
    likelihood = build_likelihood(kind)
    p_x = likelihood(random_h(3, 5, 6))
    image = p_x.seeded_samples(0.9, [0])[0]
    torch.testing.assert_close(p_x.draft(image, 0.9), image)
    first, draft = p_x.draft(1 - image, 0.9), 1 - image
    for _ in range(30):  # each makes at least one more pixel right
        draft = p_x.draft(draft, 0.9)
    assert not first.equal(image)
    torch.testing.assert_close(draft, image)
    assert likelihood.draft_image(p_x, 1 - image).equal(p_x.draft(1 - image, OPTIONS["temperature"]))


@pytest.mark.parametrize("kind", KINDS)
def test_log_prob_of_k_samples_equals_that_of_each(kind):
    likelihood = build_likelihood(kind)
    x, h = images(kind, 3, 4, 4, likelihood.channels), random_h(5, 3, 4, 4)
    found = likelihood(h).log_prob(x)
    expected = torch.stack([torch.stack([likelihood(h[k, b]).log_prob(x[b]) for b in range(3)]) for k in range(5)])
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_agrees_with_samples_and_has_no_gradient(kind):
    likelihood = build_likelihood(kind)
    p = likelihood(random_h(2, 4, 4))
    drawn = p.sample((2000,))
    assert ((drawn.mean(0) - p.mean).abs() <= 5 * drawn.std(0) / 16**0.5 + 1e-3).all()
    with pytest.raises(UserError, match="no gradient"):
        _ = likelihood(random_h(2, 4, 4, requires_grad=True)).mean


def test_a_swapped_context_is_that_of_another_image_in_training_only():
    torch.manual_seed(0)
    likelihood = PixelCNN(**OPTIONS | {"context_swap": 1 - 1e-9})
    likelihood.build(1)
    h, x = torch.randn(3, 3, 9, 20), (torch.rand(3, 1, 9, 20) < 0.5).float()
    swapped = likelihood.network_outputs(x, h)
    likelihood.eval()
    assert (swapped == likelihood.network_outputs(x[[2, 0, 1]], h)).all()
    assert (swapped != likelihood.network_outputs(x, h)).any()


def test_the_context_is_swapped_in_blocks():
    torch.manual_seed(0)
    likelihood = PixelCNN(**OPTIONS | {"context_swap": 0.3})
    likelihood.build(1)
    swapped = likelihood.network.swapped(torch.zeros(1000, 1, 16, 20)).float()
    assert swapped.shape == (1000, 1, 16, 20)
    assert swapped.mean().item() == pytest.approx(0.3, abs=0.02)
    for rows, columns in product((slice(8), slice(8, 16)), (slice(8), slice(8, 16), slice(16, 20))):
        block = swapped[..., rows, columns]
        assert (block.amin((-2, -1)) == block.amax((-2, -1))).all()
    means = swapped[:, 0, ::8, ::8].flatten(1).mT
    assert (torch.corrcoef(means) - torch.eye(6)).abs().max() < 0.15


@pytest.mark.parametrize("kind", ["pixel_art", "pixelcnn_logistic"])
def test_gradients_and_samples_are_finite_for_any_scale(kind):
    """Training drives the scales of some palette colours towards infinity."""
    likelihood = build_likelihood(kind).float()
    last = likelihood.palette[-1] if kind == "pixel_art" else likelihood.network.last
    n_scales = likelihood.K * likelihood.channels
    x, h = images(kind, 6, 5, 4, likelihood.channels).float(), random_h(6, 5, 4).float()
    for log_s in (-1000.0, 15.0, 1000.0):
        with torch.no_grad():
            last.bias[-n_scales:] = log_s
        log_p = likelihood(h).log_prob(x)
        gradients = torch.autograd.grad(log_p.sum(), list(likelihood.parameters()))
        assert all(value.isfinite().all() for value in (log_p, *gradients))
        assert likelihood.support.check(likelihood(h).sample((100,))).all()
