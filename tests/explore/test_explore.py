"""The HTTP server of vae.explore, without a browser, and the command."""

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
from explore_client import (
    NAMES,
    TO_CODE,
    TO_LOGIT,
    Drafting,
    Named,
    all_means,
    encode_file,
    explorer,
    picture,
    served,
)
from PIL import Image
from torch.distributions import Bernoulli, Independent, Normal

from datamodules.base import Images
from vae.errors import UserError
from vae.explore import __main__ as explore
from vae.explore import explorer as explorer_module
from vae.model.interpolation import spherical


@pytest.fixture(scope="module")
def address():
    with served(explorer()) as address:
        yield address


def client(address):
    """Return fetch(path, body=None, host=None), which returns (status, body as bytes)."""

    def fetch(path, body=None, host=None):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        connection.request("GET" if body is None else "POST", path, body, {"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read()

    return fetch


@pytest.fixture
def fetch(address):
    return client(address)


def message(response):
    status, body = response
    assert status == 422
    return json.loads(body)["message"]


def test_dimensions_are_sorted_by_kl(fetch):
    about = json.loads(fetch("/about")[1])
    data = explorer().model.data
    mean = data.x("train").flatten(1) @ TO_CODE
    sd = (torch.tensor([-1.0, -2.0, -4.0]) / 2).exp()
    kl = torch.distributions.kl_divergence(Normal(mean, sd), Normal(0.0, 1.0)).mean(0)
    assert [row["d"] for row in about["dimensions"]] == kl.argsort(descending=True).tolist()
    for row in about["dimensions"]:
        assert abs(row["information"] - kl[row["d"]].item()) < 0.006
        width = (mean[:, row["d"]].var() + sd[row["d"]] ** 2) ** 0.5
        assert abs((row["high"] - row["low"]) / (7 * width) - 1) < 0.35
    np.testing.assert_allclose(about["mean_code"], mean.mean(0), atol=1e-5)


class Numbered(Named):
    def load(self):
        parts = super().load().items()
        return {split: Images(it.pixels, torch.arange(len(it.pixels)), it.names) for split, it in parts}


def test_few_labels_are_classes_with_colours():
    assert explorer().about["classes"] == [0, 1, 2]
    assert explorer().about["colours"] == ["#1f77b4", "#ff7f0e", "#2ca02c"]  # tab10, as in latents.png
    many = explorer(Numbered).about
    assert many["classes"] == []
    assert [many["colours"][0], many["colours"][-1]] == ["#440154", "#fde725"]  # viridis, as in latents.png


class NamedLabels(Named):
    def load(self):
        return {split: it._replace(classes=["cat", "<b>ox</b>", "ant"]) for split, it in super().load().items()}


def test_labels_have_their_names():
    named = explorer(NamedLabels)
    assert named.about["class_names"] == {0: "cat", 1: "<b>ox</b>", 2: "ant"}
    assert {label for _, _, label in named.search("ANT")} == {2}
    assert explorer().about["class_names"] is None


def test_map_shows_the_first_two_principal_components(fetch):
    about = json.loads(fetch("/about")[1])
    mean = all_means()
    assert [name for name, _, _ in about["images"]][7:9] == ["test/7", "val/0"]
    _, _, directions = np.linalg.svd(mean - mean.mean(0), full_matrices=False)
    expected = (mean - mean.mean(0)) @ directions[:2].T
    np.testing.assert_allclose(np.abs(about["points"]), np.abs(expected), atol=1e-3)


def test_codes_are_decoded_to_rgba_bytes(fetch):
    codes = [[0.5, -1.0, 2.0], [0.0, 0.25, -0.5]]
    status, body = fetch("/decode", json.dumps({"codes": codes}))
    assert status == 200
    found = np.frombuffer(body, np.uint8).reshape(2, 14, 10, 4).astype(float)
    for grey, code in zip(found, codes, strict=True):
        for channel in range(3):
            np.testing.assert_allclose(grey[..., channel], picture(code), atol=1)
    assert (found[..., 3] == 255).all()


def test_a_draft_is_made_from_the_previous_picture():
    drafting = explorer(likelihood=Drafting)
    assert drafting.about["has_drafts"]
    assert not explorer().about["has_drafts"]
    code = [[0.5, -1.0, 2.0]]
    exact = drafting.decode(code)
    inverted = np.frombuffer(drafting.decode(code, previous=exact), np.uint8).reshape(-1, 4)
    np.testing.assert_array_equal(inverted[:, :3], 255 - np.frombuffer(exact, np.uint8).reshape(-1, 4)[:, :3])
    assert explorer().decode(code, previous=exact) == exact
    with pytest.raises(UserError, match="previous: expected 560 bytes; got 3"):
        drafting.decode(code, previous=b"abc")


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ('{"codes": [[1, 2, 3]], "previous": "AAAA"}', "previous: expected 560 bytes; got 3"),
        ('{"codes": [[1, 2, 3]], "previous": "?"}', "previous"),
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
def test_invalid_codes_are_an_error(fetch, body, part):
    assert part in message(fetch("/decode", body))


def test_interpolation_starts_and_ends_with_the_codes_of_the_images(fetch):
    data = explorer().model.data
    codes = np.array(json.loads(fetch("/interpolate?first=test/0&second=train/3")[1]))
    a, b = data.x("test")[0].flatten() @ TO_CODE, data.x("train")[3].flatten() @ TO_CODE
    np.testing.assert_allclose(codes[[0, -1]], torch.stack([a, b]), atol=1e-4)
    np.testing.assert_allclose(codes[25], spherical(a, b, torch.tensor([0.5]))[0], atol=1e-4)


def test_images_are_found_by_name_label_and_number(fetch):
    def search(text):
        return [title for _, title, _ in json.loads(fetch(f"/search?q={text}")[1])]

    assert search("char") == ["charizard", "charmander"]
    assert search("ZARD") == ["charizard"]
    assert search("mew")[:2] == ["mew", "mewtwo"]
    assert len(search("")) == 8
    assert all(title.startswith("other") for title in search("o")), "titles that begin with the text come before mewtwo"
    assert search("missingno") == []
    assert search("2")[0] not in NAMES[:2]
    assert all(label == 2 for _, _, label in json.loads(fetch("/search?q=2")[1])[:8])


def test_image_is_a_png_of_the_model_input(fetch):
    status, body = fetch("/image/test/3.png")
    assert status == 200
    image = np.asarray(Image.open(io.BytesIO(body)).convert("L"))
    np.testing.assert_array_equal(image, explorer().model.data.images["test"].pixels[3, 0])


@pytest.mark.parametrize(
    "path",
    [
        "/encode/test/8",
        "/encode/test/-1",
        "/encode/../../etc/passwd",
        "/encode/test/0/../../../etc/passwd",
        "/image/..%2f..%2f..%2fetc/passwd.png",
        "/interpolate?first=/etc/passwd&second=test/0",
        "/interpolate",
    ],
)
def test_images_are_not_requested_by_path(fetch, path):
    assert "expected a split and a row such as test/0" in message(fetch(path))


@pytest.mark.parametrize("path", ["/../server.py", "/%2e%2e/server.py", "/..%2fserver.py", "//etc/passwd", "/page.py"])
def test_only_files_of_the_page_are_served(fetch, path):
    assert fetch(path)[0] == 404


def test_other_hosts_are_rejected(fetch):
    assert fetch("/about", host="evil.example")[0] == 400
    assert fetch("/", host="127.0.0.1:1")[0] == 200


@pytest.mark.parametrize("path", ["/encode", "/decode"])
def test_a_page_of_another_origin_cannot_post(path, address):
    def post(origin):
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        connection.request("POST", path, b"", {"Origin": origin} if origin else {})
        return connection.getresponse().status

    assert [post(origin) for origin in ("http://evil.example", "null", "http://127.0.0.1:1")] == [403] * 3
    assert [post(origin) for origin in (address, None)] == [422] * 2


def test_uploads_are_decoded_one_at_a_time(monkeypatch):
    it, decoding, most = explorer(), [], []

    def decode(*arguments):
        decoding.append(1)
        most.append(len(decoding))
        threading.Event().wait(0.05)  # time for another thread to begin
        decoding.pop()
        return read(*arguments)

    read = explorer_module.read_image_file
    monkeypatch.setattr(explorer_module, "read_image_file", decode)
    content = encode_file(Image.new("L", (28, 28)))
    threads = [threading.Thread(target=it.uploaded_image, args=[content, False]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 4


def test_all_hosts_are_allowed_with_0_0_0_0():
    with served(explorer(), ["0.0.0.0"]) as address:
        assert client(address)("/about", host="other.example")[0] == 200


def test_score_is_log_px_by_importance_sampling(fetch):
    image = json.loads(fetch("/encode/test/1")[1])
    x = explorer().model.data.x("test")[1].flatten()
    np.testing.assert_allclose(image["z"], x @ TO_CODE, atol=1e-4)
    torch.manual_seed(0)
    q = Normal(x @ TO_CODE, (torch.tensor([-1.0, -2.0, -4.0]) / 2).exp())
    z = q.sample([20_000])
    p = Independent(Bernoulli(logits=z @ TO_LOGIT, validate_args=False), 1)
    log_w = p.log_prob(x) + Normal(0.0, 1.0).log_prob(z).sum(-1) - q.log_prob(z).sum(-1)
    exact = (log_w.logsumexp(0) - np.log(20_000)).item()
    few = torch.stack([part.logsumexp(0) - np.log(20) for part in log_w.split(20)])
    assert abs(image["score"] - few.mean()) < 4 * few.std()
    assert image["score"] < exact + 4 * few.std()
    reference = json.loads(fetch("/reference_scores")[1])
    assert reference == sorted(reference)
    assert len(reference) == 8
    assert min(abs(np.array(reference) - image["score"])) < 4 * few.std()


def test_score_does_not_depend_on_concurrent_requests():
    it = explorer()
    x = it.model.data.x("test", slice(1))
    undisturbed = it.scores(x)
    drawn = []
    drawing = threading.Thread(target=lambda: drawn.extend(it.sample_prior() for _ in range(3)))

    def start_drawing(*_):
        if not drawing.ident:
            drawing.start()
            drawing.join(0.2)  # long enough for a thread that does not wait for the lock

    it.model.vae.encoder.register_forward_hook(start_drawing)
    assert it.scores(x) == undisturbed
    drawing.join()
    assert len(drawn) == 3
    assert it.sample_prior() not in drawn


def test_without_a_bound_on_log_px_the_score_is_the_reconstruction_error():
    it = explorer(bounded=False)
    x = it.model.data.x("test")[2].flatten()
    error = (torch.sigmoid(x @ TO_CODE @ TO_LOGIT) - x).square()
    assert it.dataset_image("test/2")["score"] == pytest.approx(-error.sum().item(), rel=1e-4)
    assert it.about["score"] == "reconstruction"


def test_uploaded_picture_is_cropped_scaled_and_encoded(fetch):
    pixels = np.random.default_rng(0).integers(0, 256, (14, 10), np.uint8)
    image = json.loads(fetch("/encode", encode_file(Image.fromarray(pixels)))[1])
    np.testing.assert_allclose(image["z"], torch.from_numpy(pixels / 255).float().flatten() @ TO_CODE, atol=1e-4)
    assert image["remarks"] == []
    large = np.kron(pixels, np.ones((30, 30), np.uint8))
    image = json.loads(fetch("/encode", encode_file(Image.fromarray(large).convert("RGB"), "JPEG", quality=95))[1])
    assert image["title"] == "your picture"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not a PNG, JPEG"),
        (b"not a picture", "not a PNG, JPEG"),
        (encode_file(Image.effect_noise((28, 28), 50))[:200], "expected a picture; image file is truncated"),
        (encode_file(Image.new("L", (1, 1))), "1 x 1 pixels: expected at least 4 per side"),
        (encode_file(Image.new("L", (3000, 1))), "3000 x 1 pixels"),
        (encode_file(Image.new("1", (8_000, 8_000))), "8000 x 8000 pixels: expected at most 25 million"),
        (encode_file(Image.new("1", (20_000, 20_000))), "too many pixels"),
        (bytes(17_000_000), "17.0 MB: expected at most 16 MB"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\n", "not a PNG, JPEG"),
    ],
)
def test_invalid_picture_is_an_error_and_the_next_one_is_encoded(fetch, content, part):
    assert part in message(fetch("/encode", content))
    assert fetch("/encode", encode_file(Image.new("L", (28, 28))))[0] == 200


def test_a_body_of_a_hundred_megabytes_is_an_error(fetch):
    assert "100.0 MB: expected at most 16 MB" in message(fetch("/encode", bytes(100_000_000)))


def test_dark_on_light_picture_is_inverted_for_a_dataset_on_black(fetch):
    pixels = np.full((14, 10), 250, np.uint8)
    pixels[4:9, 4:6] = 20
    image = json.loads(fetch("/encode", encode_file(Image.fromarray(pixels)))[1])
    assert image["remarks"] == ["inverted, because the images of this dataset have a dark background"]
    np.testing.assert_allclose(image["z"], torch.tensor((255 - pixels) / 255.0).float().flatten() @ TO_CODE, atol=1e-4)


def test_first_frame_of_an_animation_is_encoded(fetch):
    first, second = (Image.fromarray(np.full((14, 10), level, np.uint8)) for level in (100, 10))
    image = json.loads(fetch("/encode", encode_file(first, "GIF", save_all=True, append_images=[second]))[1])
    assert image["remarks"] == ["animated image: the first of 2 frames is used"]
    np.testing.assert_allclose(image["z"], 100 / 255 * TO_CODE.sum(0), atol=1e-3)


def test_unreadable_drawing_is_an_error(fetch):
    truncated = encode_file(Image.effect_noise((28, 28), 50))[:200]
    for content in (truncated, encode_file(Image.new("LAB", (20, 20)), "TIFF")):
        assert "cannot be read as an image" in message(fetch("/encode?drawn", content))


@pytest.fixture
def run_command(module_cli):
    return module_cli(explore)


def test_invalid_arguments_are_one_line(run_command, cli):
    assert cli("trainer.max_epochs=1")[0] == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for argument, part in {
            "run=nowhere": "run=nowhere: expected the folder of a finished run",
            "port=70000": "port=70000: expected a whole number, 0 (any free port) to 65535",
            "prot=1": "did you mean port?",
            "map=tsne": "map=tsne: expected 'pca' or 'umap'",
            "browser=maybe": "browser=maybe: expected true or false",
            f"port={taken.getsockname()[1]}": "Address already in use; expected an address of this",
            "host=192.0.2.1": "host=192.0.2.1 port=8765: ",
            "host=no.such.host.invalid": "host=no.such.host.invalid port=8765: ",
        }.items():
            code, out, err = run_command("browser=false", argument)
            assert (code, out) == (2, "")
            assert part in err
            assert err.count("\n") == 1


def test_command_serves_the_page_until_ctrl_c(cli, runs):
    assert cli("trainer.max_epochs=1")[0] == 0
    line = [sys.executable, "-m", "vae.explore", f"run={runs()[0]}", "browser=false", "port=0", "trust=true"]
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        line, env=os.environ | path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = threading.Timer(120, process.kill)
        deadline.daemon = True
        deadline.start()
        address = process.stdout.readline().split()[0]
        fetch = client(address)
        slow = socket.create_connection(address.removeprefix("http://").split(":"))
        slow.sendall(b"POST /encode HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nand")
        about = json.loads(fetch("/about", host="localhost")[1])  # the slow request has arrived by now
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
        assert process.stderr.read() == "encoding images ...\nstopped\n"
        slow.close()
        deadline.cancel()
    assert about["title"].endswith("latent_dim=3")
    assert len(about["dimensions"]) == 3
    assert about["score"] == "log_px"
