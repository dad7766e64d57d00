"""What the page of vae.explore asks for, over HTTP and without a browser; and the command."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from explore_client import NAMES, TO_CODE, TO_LOGIT, Named, explorer, file, picture, served
from fakes import load_data
from PIL import Image, ImageDraw
from torch.distributions import Bernoulli, Independent, Normal

from datamodules.base import Images
from vae.errors import UserError
from vae.explore import __main__ as explore
from vae.explore import image_input
from vae.generate.interpolation import spherical


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


def asking(address):
    """ask(path, body=None, host=None) -> (status, body), as bytes."""

    def ask(path, body=None, host=None):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        connection.request("GET" if body is None else "POST", path, body, {"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read()

    return ask


@pytest.fixture
def ask(address):
    return asking(address)


def message(answer):
    status, body = answer
    assert status == 422
    return json.loads(body)["message"]


def test_the_dimensions_are_by_what_they_carry(ask):
    about = json.loads(ask("/about")[1])
    data = explorer().studio.data
    mean = data.x("train").flatten(1) @ TO_CODE
    sd = (torch.tensor([-1.0, -2.0, -4.0]) / 2).exp()
    kl = torch.distributions.kl_divergence(Normal(mean, sd), Normal(0.0, 1.0)).mean(0)
    assert [row["d"] for row in about["dimensions"]] == kl.argsort(descending=True).tolist()
    for row in about["dimensions"]:
        assert abs(row["amount"] - kl[row["d"]].item()) < 0.006
        width = (mean[:, row["d"]].var() + sd[row["d"]] ** 2) ** 0.5
        assert abs((row["high"] - row["low"]) / (7 * width) - 1) < 0.35
    np.testing.assert_allclose(about["home"], mean.mean(0), atol=1e-5)


class Numbered(Named):
    def load(self):
        parts = super().load().items()
        return {split: Images(it.pixels, torch.arange(len(it.pixels)), it.names) for split, it in parts}


def test_labels_have_names_in_the_legend_where_they_are_few():
    assert explorer().about["kinds"] == [0, 1, 2]
    assert explorer(Numbered).about["kinds"] == []


def test_the_map_is_of_the_first_two_principal_components(ask):
    about = json.loads(ask("/about")[1])
    data = explorer().studio.data
    mean = (torch.cat([data.x(split) for split in ("test", "val", "train")]).flatten(1) @ TO_CODE).double().numpy()
    assert [name for name, _, _ in about["images"]][7:9] == ["test/7", "val/0"]
    _, _, directions = np.linalg.svd(mean - mean.mean(0), full_matrices=False)
    expected = (mean - mean.mean(0)) @ directions[:2].T
    np.testing.assert_allclose(np.abs(about["points"]), np.abs(expected), atol=1e-3)


def test_codes_are_decoded_to_the_bytes_of_canvases(ask):
    codes = [[0.5, -1.0, 2.0], [0.0, 0.25, -0.5]]
    status, body = ask("/decode", json.dumps({"codes": codes}))
    assert status == 200
    found = np.frombuffer(body, np.uint8).reshape(2, 14, 10, 4).astype(float)
    for grey, code in zip(found, codes, strict=True):
        for channel in range(3):
            np.testing.assert_allclose(grey[..., channel], picture(code), atol=1)
    assert (found[..., 3] == 255).all()


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ('{"codes": [[1, 2]]}', "expected 3 numbers"),
        ('{"codes": [[1, 2, NaN]]}', "finite"),
        ('{"codes": [[1, 2, 1e999]]}', "finite"),
        ('{"codes": []}', "at least 1"),
        (json.dumps({"codes": [[0, 0, 0]] * 65}), "at most 64"),
        ('{"codes": [["a", 2, 3]]}', "number"),
        ("[0", "body: Invalid JSON"),
        ("{}", "codes"),
        (b"\xff\xfe", "JSON"),
    ],
)
def test_what_are_no_codes_is_refused(ask, body, part):
    assert part in message(ask("/decode", body))


def test_the_way_between_two_images_begins_and_ends_with_their_codes(ask):
    data = explorer().studio.data
    codes = np.array(json.loads(ask("/between?first=test/0&second=train/3")[1]))
    a, b = data.x("test")[0].flatten() @ TO_CODE, data.x("train")[3].flatten() @ TO_CODE
    np.testing.assert_allclose(codes[[0, -1]], torch.stack([a, b]), atol=1e-4)
    np.testing.assert_allclose(codes[25], spherical(a, b, torch.tensor([0.5]))[0], atol=1e-4)


def test_images_are_found_by_name_label_and_number(ask):
    def found(words):
        return [title for _, title, _ in json.loads(ask(f"/search?q={words}")[1])]

    assert found("char") == ["charizard", "charmander"]
    assert found("ZARD") == ["charizard"]
    assert found("mew")[:2] == ["mew", "mewtwo"]
    assert len(found("")) == 8
    assert all(title.startswith("other") for title in found("o")), "not mewtwo, which only has it"
    assert found("missingno") == []
    assert found("2")[0] not in NAMES[:2]
    assert all(label == 2 for _, _, label in json.loads(ask("/search?q=2")[1])[:8])


def test_an_image_is_a_png_of_what_the_model_is_fed(ask):
    status, body = ask("/image/test/3.png")
    assert status == 200
    seen = np.asarray(Image.open(io.BytesIO(body)).convert("L"))
    np.testing.assert_array_equal(seen, explorer().studio.data.images["test"].pixels[3, 0])


@pytest.mark.parametrize(
    "path",
    [
        "/seen/test/8",
        "/seen/test/-1",
        "/seen/../../etc/passwd",
        "/seen/test/0/../../../etc/passwd",
        "/image/..%2f..%2f..%2fetc/passwd.png",
        "/between?first=/etc/passwd&second=test/0",
        "/between",
    ],
)
def test_no_image_goes_by_a_path(ask, path):
    assert "expected one such as test/0" in message(ask(path))


@pytest.mark.parametrize("path", ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/page.py"])
def test_no_file_beside_the_page_is_served(ask, path):
    assert ask(path)[0] == 404


def test_the_page_is_this_machine_s_alone(ask):
    assert ask("/about", host="evil.example")[0] == 400
    assert ask("/", host="127.0.0.1:1")[0] == 200


def test_the_page_is_anybody_s_if_asked_for():
    with served(explorer(), ["0.0.0.0"]) as address:
        assert asking(address)("/about", host="anybody.example")[0] == 200


def test_log_px_is_that_of_importance_samples(ask):
    seen = json.loads(ask("/seen/test/1")[1])
    x = explorer().studio.data.x("test")[1].flatten()
    np.testing.assert_allclose(seen["z"], x @ TO_CODE, atol=1e-4)
    torch.manual_seed(0)
    q = Normal(x @ TO_CODE, (torch.tensor([-1.0, -2.0, -4.0]) / 2).exp())
    z = q.sample([20_000])
    p = Independent(Bernoulli(logits=z @ TO_LOGIT, validate_args=False), 1)
    log_w = p.log_prob(x) + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    exact = (log_w.logsumexp(0) - np.log(20_000)).item()
    few = torch.stack([part.logsumexp(0) - np.log(20) for part in log_w.split(20)])
    assert abs(seen["score"] - few.mean()) < 4 * few.std()
    assert seen["score"] < exact + 4 * few.std()
    others = json.loads(ask("/others")[1])
    assert others == sorted(others)
    assert len(others) == 8
    assert min(abs(np.array(others) - seen["score"])) < 4 * few.std()


def test_a_score_is_the_same_whatever_is_asked_for_meanwhile():
    it = explorer()
    x = it.studio.data.x("test", slice(1))
    undisturbed = it.scores(x)
    drawn = []
    drawing = threading.Thread(target=lambda: drawn.extend(it.drawn() for _ in range(3)))

    def begin(*_):
        if not drawing.ident:
            drawing.start()
            drawing.join(0.2)  # long enough for whoever does not have to wait

    it.studio.vae.encoder.register_forward_hook(begin)
    assert it.scores(x) == undisturbed
    drawing.join()
    assert len(drawn) == 3
    assert it.drawn() not in drawn


def test_where_nothing_bounds_log_px_images_are_compared_by_their_reconstructions():
    it = explorer(bounded=False)
    x = it.studio.data.x("test")[2].flatten()
    error = (torch.sigmoid(x @ TO_CODE @ TO_LOGIT) - x).square()
    assert it.known("test/2")["score"] == pytest.approx(-error.sum().item(), rel=1e-4)
    assert it.about["score"] == "reconstruction"


def test_a_picture_is_cut_and_scaled_and_seen(ask):
    pixels = np.random.default_rng(0).integers(0, 256, (14, 10), np.uint8)
    seen = json.loads(ask("/seen", file(Image.fromarray(pixels)))[1])
    np.testing.assert_allclose(seen["z"], torch.from_numpy(pixels / 255).float().flatten() @ TO_CODE, atol=1e-4)
    assert seen["remarks"] == []
    large = np.kron(pixels, np.ones((30, 30), np.uint8))
    seen = json.loads(ask("/seen", file(Image.fromarray(large).convert("RGB"), "JPEG", quality=95))[1])
    assert seen["title"] == "your picture"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "no picture that can be read"),
        (b"not a picture", "no picture that can be read"),
        (file(Image.effect_noise((28, 28), 50))[:200], "expected a picture; image file is truncated"),
        (file(Image.new("L", (1, 1))), "1 x 1 pixels: expected 4 or more a side"),
        (file(Image.new("L", (3000, 1))), "3000 x 1 pixels"),
        (file(Image.new("1", (8_000, 8_000))), "8000 x 8000 pixels: expected 4 or more a side, and at most 50 million"),
        (file(Image.new("1", (20_000, 20_000))), "far too many pixels"),
        (bytes(17_000_000), "17.0 MB: expected 16 MB at most"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n", "no picture that can be read"),
    ],
)
def test_what_is_no_picture_is_refused_and_the_next_is_seen(ask, content, part):
    assert part in message(ask("/seen", content))
    assert ask("/seen", file(Image.new("L", (28, 28))))[0] == 200


def test_a_hundred_megabytes_are_not_kept(ask):
    assert "100.0 MB: expected 16 MB at most" in message(ask("/seen", bytes(100_000_000)))


def test_of_what_moves_the_first_frame_is_seen(ask):
    first, second = (Image.fromarray(np.full((14, 10), level, np.uint8)) for level in (200, 10))
    seen = json.loads(ask("/seen", file(first, "GIF", save_all=True, append_images=[second]))[1])
    assert seen["remarks"] == ["it moves: of its 2 frames, this is the first"]
    np.testing.assert_allclose(seen["z"], 200 / 255 * TO_CODE.sum(0), atol=1e-3)


class Square(Named):
    """As MNIST: 28 x 28; on white if `light`."""

    light = False

    def load(self):
        pixels = torch.zeros(60, 1, 28, 28, dtype=torch.uint8)
        pixels[:, :, 6:20, 6:20] = 200
        pixels = 255 - pixels if self.light else pixels
        return self.split_off(Images(pixels)) | {"test": Images(pixels[:8])}


class Light(Square):
    light = True


class Grey(Square):
    def load(self):
        return {split: Images(images.pixels // 2 + 60) for split, images in super().load().items()}


class Colour(Square):
    def load(self):
        return {split: Images(images.pixels.expand(-1, 3, -1, -1)) for split, images in super().load().items()}


@pytest.mark.parametrize(("kind", "ground"), [(Square, "dark"), (Light, "light"), (Grey, None), (Colour, None)])
def test_things_are_drawn_on_plain_ground_alone(kind, ground):
    assert image_input.on_plain_ground(load_data(kind)) == ground


@pytest.mark.parametrize("kind", [Square, Light])
def test_a_drawing_lies_where_a_digit_of_mnist_would(kind):
    drawing = Image.new("L", (280, 280))
    ImageDraw.Draw(drawing).rectangle([10, 20, 29, 99], fill=255)  # 20 wide, 80 high, in a corner
    found = np.asarray(Image.open(image_input.centred(file(drawing), load_data(kind)))).astype(float)
    found = 255 - found if kind is Light else found
    assert found.shape == (28, 28)
    rows, columns = (np.flatnonzero(found.sum(axis) > 500) for axis in (1, 0))
    assert (len(rows), len(columns)) == (20, 5)
    assert abs(np.average(np.arange(28) + 0.5, weights=found.sum(1)) - 14) <= 0.5
    assert abs(np.average(np.arange(28) + 0.5, weights=found.sum(0)) - 14) <= 0.5


def test_nothing_drawn_is_said():
    dots = Image.new("L", (2000, 2000))
    for at in [(0, 0), (1999, 1999)]:
        dots.putpixel(at, 60)
    for drawing in (Image.new("L", (280, 280)), dots):
        with pytest.raises(UserError, match="nothing is drawn yet"):
            image_input.centred(file(drawing), load_data(Square))


def test_a_drawing_that_cannot_be_read_is_refused(ask):
    for content in (file(Image.effect_noise((28, 28), 50))[:200], file(Image.new("LAB", (20, 20)), "TIFF")):
        assert "no picture that can be read" in message(ask("/seen?drawn", content))


@pytest.fixture
def command(command_of):
    return command_of(explore)


def test_bad_arguments_are_one_line(command, cli):
    assert cli("trainer.max_epochs=1")[0] == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for argument, part in {
            "run=nowhere": "run=nowhere: expected the folder of a finished run",
            "port=70000": "port=70000: expected a whole number, 0 (any that is free) to 65535",
            "prot=1": "did you mean port?",
            "map=tsne": "map=tsne: expected 'pca' or 'umap'",
            "browser=maybe": "browser=maybe: expected true or false",
            f"port={taken.getsockname()[1]}": "Address already in use; expected an address of this",
            "host=192.0.2.1": "host=192.0.2.1 port=8765: ",
            "host=no.such.host.invalid": "host=no.such.host.invalid port=8765: ",
        }.items():
            code, out, err = command("browser=false", argument)
            assert (code, out) == (2, "")
            assert part in err
            assert err.count("\n") == 1


def test_the_page_of_a_run_until_ctrl_c(cli, runs):
    assert cli("trainer.max_epochs=1")[0] == 0
    line = [sys.executable, "-m", "vae.explore", f"run={runs()[0]}", "browser=false", "port=0"]
    found = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        line, env=os.environ | found, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        late = threading.Timer(120, process.kill)
        late.daemon = True  # nor does it hold up whoever runs the tests
        late.start()
        address = process.stdout.readline().split()[0]
        ask = asking(address)
        slow = socket.create_connection(address.removeprefix("http://").split(":"))
        slow.sendall(b"POST /seen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nand")
        about = json.loads(ask("/about", host="localhost")[1])  # by when the slow one is heard too
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "encoding images ...\nended\n"
        slow.close()
        late.cancel()
    assert about["title"].endswith("latent_dim=3")
    assert len(about["dimensions"]) == 3
    assert about["score"] == "log_px"
