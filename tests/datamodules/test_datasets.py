"""Frey faces, Pokemon, Fashion-MNIST, digits and a folder, from files in their real formats made on the spot."""

import gzip
import json
import logging
import os
import pickle
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_dataset
from PIL import Image
from scipy.io import savemat

from datamodules import fashion_mnist, frey, pokemon
from datamodules.digits import Digits
from datamodules.fashion_mnist import FashionMNIST
from datamodules.fetch import content, digest
from datamodules.folder import Folder
from datamodules.frey import Frey
from datamodules.pokemon import Pokemon, canvas
from vae.errors import UserError

SHARED = {"batch_size": 20, "seed": 0, "split_seed": 0, "binarize": "none"}


def ready(data):
    data.prepare_data()
    data.setup()
    return data


def rows(images):
    return {p.numpy().tobytes() for p in images.pixels}


# Frey faces

FACES = np.random.default_rng(0).integers(8, 239, (1965, 560)).astype(np.uint8)


def pickled(array):
    """[array] as the file that goes round has it: protocol 0, written by Python 2."""
    rows, columns = array.shape
    return (
        b"(lp0\ncnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n"
        b"(I1\n(I%d\nI%d\ntp7\ncnumpy\ndtype\np8\n(S'u1'\np9\nI0\nI1\ntp10\nRp11\n"
        b"(I3\nS'|'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\nS%s\np14\ntp15\nba."
        % (rows, columns, repr(array.tobytes())[1:].encode())
    )


@pytest.fixture
def faces(tmp_path, monkeypatch):
    """A folder for data; FACES count as the Frey faces, and no address answers."""
    folder = tmp_path / "data"
    (folder / "frey").mkdir(parents=True)
    np.savez(tmp_path / "faces.npz", faces=FACES)
    monkeypatch.setattr(frey, "SHA256", content(tmp_path / "faces.npz"))
    monkeypatch.setattr(frey, "URLS", {"a mirror": (tmp_path / "nowhere" / "freyfaces.pkl").as_uri()})
    return folder


def frey_faces(folder, split="random"):
    return Frey(data_dir=str(folder), val_size=200, test_size=200, split=split, **SHARED)


@pytest.mark.parametrize("place", ["frey", "."])
@pytest.mark.parametrize("name", ["freyfaces.pkl", "frey_rawface.mat"])
def test_frey_faces_put_there_by_hand_are_found(name, place, faces):
    path = faces / place / name
    savemat(path, {"ff": FACES.T}) if name.endswith("mat") else path.write_bytes(pickled(FACES))
    data = ready(frey_faces(faces))
    assert data.shape == (1, 28, 20)
    assert {split: len(images.pixels) for split, images in data.images.items()} == {
        "train": 1565,
        "val": 200,
        "test": 200,
    }
    everyone = torch.cat([images.pixels for images in data.images.values()])
    assert {p.numpy().tobytes() for p in everyone} == {face.tobytes() for face in FACES}
    path.unlink()
    ready(frey_faces(faces))  # from what was kept


def test_frey_faces_in_the_order_of_the_video(faces):
    (faces / "freyfaces.pkl").write_bytes(pickled(FACES))
    data = ready(frey_faces(faces, "sequential"))
    for split, frames in (("train", FACES[:1565]), ("val", FACES[1565:1765]), ("test", FACES[1765:])):
        assert rows(data.images[split]) == {face.tobytes() for face in frames}


class Evil:
    """Would write a file when unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_that_builds_anything_but_arrays_is_refused(tmp_path):
    mine = Evil(str(tmp_path / "owned"))
    for evil in (mine, [mine], {"a": slice(1)}):
        for protocol in range(6):
            (tmp_path / "evil").write_bytes(pickle.dumps(evil, protocol))
            with pytest.raises(pickle.UnpicklingError, match="it wants"):
                frey.from_pickle(tmp_path / "evil")
    inside = pickled(FACES).replace(
        b"I00\nS", b"I00\ncos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntRS"
    )
    (tmp_path / "evil").write_bytes(inside)
    with pytest.raises(pickle.UnpicklingError, match=r"it wants os.system"):
        frey.from_pickle(tmp_path / "evil")
    assert not (tmp_path / "owned").exists()


def test_a_pickle_builds_no_array_of_its_own_making(tmp_path, faces):
    """numpy.ndarray((1,), 'O', address) would point where the pickle likes."""
    (faces / "freyfaces.pkl").write_bytes(
        b"]cnumpy\nndarray\nK\x01\x85X\x01\x00\x00\x00OC\x08\x01\x02\x03\x04\x05\x06\x07\x08\x87Ra."
    )
    with pytest.raises(RuntimeError, match=r"freyfaces.pkl cannot be read"):
        frey.decode(faces / "freyfaces.pkl", tmp_path)


@pytest.mark.parametrize("name", ["freyfaces.pkl", "frey_rawface.mat"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "other faces"])
def test_a_damaged_frey_file_is_named_and_set_aside_and_another_taken(name, damage, faces, caplog):
    path, other = faces / name, FACES.copy()
    other[3, 4] ^= 1
    savemat(path, {"ff": other.T}) if name.endswith("mat") else path.write_bytes(pickled(other))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    with pytest.raises(UserError, match=name):
        frey_faces(faces).prepare_data()
    assert f"{name} is damaged" in caplog.text
    assert [p.name for p in faces.glob("*.damaged")] == [f"{name}.damaged"]
    (faces / "frey" / "freyfaces.pkl").write_bytes(pickled(FACES))
    ready(frey_faces(faces))


def test_without_a_source_the_frey_message_says_what_was_tried_and_what_to_put_where(faces):
    with pytest.raises(UserError) as error:
        frey_faces(faces).prepare_data()
    message = str(error.value)
    assert "by hand: none" in message
    assert "a mirror: " in message
    assert f"{faces / 'frey' / 'freyfaces.pkl'} or {faces / 'frey' / 'frey_rawface.mat'}" in message
    assert [path.name for path in (faces / "frey").iterdir()] == [".lock"]


def test_frey_faces_come_from_an_address(faces, tmp_path, monkeypatch):
    (tmp_path / "freyfaces.pkl").write_bytes(pickled(FACES))
    monkeypatch.setattr(frey, "URLS", frey.URLS | {"another": (tmp_path / "freyfaces.pkl").as_uri()})
    ready(frey_faces(faces))
    assert sorted(path.name for path in (faces / "frey").iterdir()) == [".lock", "frey.npz"]


def test_what_was_kept_of_the_faces_is_verified(faces):
    (faces / "freyfaces.pkl").write_bytes(pickled(FACES))
    ready(frey_faces(faces))
    kept = faces / "frey" / "frey.npz"
    kept.write_bytes(kept.read_bytes()[:-2000])
    ready(frey_faces(faces))
    assert kept.with_name("frey.npz.damaged").exists()


# Pokemon

SPECIES = {"bulbasaur": 1, "mr-mime": 122, "mew": 151, "chikorita": 152, "wooper": 194}
FORMS = {
    "bulbasaur": ["$"],
    "mr-mime": ["$", "galar"],
    "mew": ["$"],
    "chikorita": ["$"],
    "wooper": ["$", "paldea", "none"],
}


def sprite(seed, mode):
    """A 68 x 56 sprite, a block of at least 10 x 8 with colours hidden under the transparent rest; and its RGBA."""
    rng = np.random.default_rng(seed)
    palette, index = rng.integers(0, 255, (200, 3)), rng.integers(0, 200, (56, 68))
    if mode == "LA":
        palette = palette[:, :1].repeat(3, 1)
    top, left = rng.integers(0, 30, 2)
    alpha = np.zeros((56, 68, 1))
    alpha[top : top + 8 + seed % 10, left : left + 10 + seed % 10] = 255
    alpha[top + 2 : top + 5, left + 3] = 0  # a hole
    rgba = np.concatenate([palette[index], alpha], -1).astype(np.uint8)
    if mode == "P":
        picture = Image.fromarray(np.where(alpha[..., 0] > 0, index, 200).astype(np.uint8))
        picture.putpalette([*palette.ravel().tolist(), 90, 60, 30])
        picture.info["transparency"] = 200
    else:
        picture = Image.fromarray(rgba).convert(mode)
    return picture, rgba


def write_package(folder, sub="package/"):
    """The package in `folder`; the RGBA of its sprites by path."""
    found, modes = {}, ["RGBA", "P", "LA"]
    for shiny in ("regular", "shiny"):
        place = folder / sub / "pokemon-gen8" / shiny
        place.mkdir(parents=True)
        for species, forms in FORMS.items():
            for form in forms:
                if form == "none" and shiny == "regular":
                    continue
                name = species if form == "$" else f"{species}-{form}"
                picture, rgba = sprite(len(found), modes[len(found) % 3])
                picture.save(place / f"{name}.png")
                found[f"{shiny}/{name}"] = rgba
    about = {
        f"{number:03}": {
            "slug": {"eng": species},
            "gen-7": {},
            "gen-8": {"forms": {form: {} for form in FORMS[species]}},
        }
        for species, number in SPECIES.items()
    }
    (folder / sub / "data").mkdir()
    (folder / sub / "data" / "pokemon.json").write_text(json.dumps(about))
    return found


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The package as an archive in tmp_path; nothing answers."""
    sprites = write_package(tmp_path)
    archive = tmp_path / pokemon.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    monkeypatch.setattr(pokemon, "ARCHIVE_SHA256", digest(archive, "sha256"))
    pokemon.pack(tmp_path / "package", tmp_path)
    monkeypatch.setattr(pokemon, "SHA256", content(tmp_path / "sprites.npz"))
    monkeypatch.setattr(pokemon, "CDN", (tmp_path / "nowhere/").as_uri())
    monkeypatch.setenv("PATH", str(tmp_path))
    return sprites


def pokemons(folder, **changes):
    options = {
        "val_size": 1,
        "test_size": 2,
        "size": 48,
        "generation": None,
        "shiny": False,
        "flips": False,
        "shift": 0,
    }
    return Pokemon(data_dir=str(folder), **(SHARED | options | changes))


def put_archive(tmp_path):
    (tmp_path / "data" / "pokemon").mkdir(parents=True)
    (tmp_path / pokemon.ARCHIVE).rename(tmp_path / "data" / "pokemon" / pokemon.ARCHIVE)
    return tmp_path / "data"


def on_white(rgba):
    inside = rgba[..., 3:] > 0
    ys, xs = np.nonzero(inside[..., 0])
    return np.where(inside, rgba[..., :3], 255)[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def test_sprites_of_every_mode_are_pixel_for_pixel_on_white(tmp_path, package):
    data = ready(pokemons(put_archive(tmp_path), shiny=True))
    for images in data.images.values():
        for pixels, name in zip(images.pixels.permute(0, 2, 3, 1).numpy(), images.names, strict=True):
            ys, xs = np.nonzero((pixels != 255).any(-1))
            candidates = [on_white(rgba) for path, rgba in package.items() if path.endswith(f"/{name}")]
            shown = pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            assert any(np.array_equal(shown, sprite) for sprite in candidates)
            assert abs(ys.min() + ys.max() - 47) <= 1
            assert abs(xs.min() + xs.max() - 47) <= 1


def test_what_is_larger_than_the_canvas_loses_its_edges_alone():
    rgba = np.random.default_rng(0).integers(0, 255, (56, 68, 4)).astype(np.uint8)
    rgba[..., 3] = 255
    (cut,) = canvas(rgba[None], (40, 60))
    np.testing.assert_array_equal(cut, rgba[8:48, 4:64, :3])
    (padded,) = canvas(rgba[None], (60, 70))
    np.testing.assert_array_equal(padded[2:58, 1:69], rgba[..., :3])
    assert (padded[:2] == 255).all()


@pytest.mark.usefixtures("package")
def test_forms_of_a_species_stay_together_and_shinies_only_train(tmp_path):
    folder = put_archive(tmp_path)
    for split_seed in range(5):
        data = ready(pokemons(folder, split_seed=split_seed, shiny=True))
        species = {split: set(images.labels.tolist()) for split, images in data.images.items()}
        assert {split: len(found) for split, found in species.items()} == {"train": 2, "val": 1, "test": 2}
        assert set.union(*species.values()) == set(SPECIES.values())
        for split, images in data.images.items():
            count = {name: list(images.names).count(name) for name in images.names if name != "wooper-none"}
            assert set(count.values()) == ({2} if split == "train" else {1})
            assert ("wooper-none" in images.names) == (split == "train" and "wooper" in images.names)
            for name, number in zip(images.names, images.labels.tolist(), strict=True):
                assert any(name.startswith(species) for species, n in SPECIES.items() if n == number)


@pytest.mark.usefixtures("package")
def test_generation_one_is_the_original_forms_of_its_species(tmp_path):
    data = ready(pokemons(put_archive(tmp_path), generation=1, test_size=0))
    assert {name for images in data.images.values() for name in images.names} == {"bulbasaur", "mr-mime", "mew"}


@pytest.mark.usefixtures("package")
def test_flips_mirror_half_of_the_training_images(tmp_path):
    folder = put_archive(tmp_path)
    pixels = torch.randint(0, 256, (400, 3, 4, 6), dtype=torch.uint8)
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(pokemons(folder).augment(pixels, rng), pixels)
    out = pokemons(folder, flips=True).augment(pixels, rng)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, pixels, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, out, pixels, strict=True))
    assert 160 < sum(mirrored) < 240


@pytest.mark.usefixtures("package")
def test_shift_moves_images_on_white_by_every_step_up_to_it(tmp_path):
    pixels = torch.full((900, 3, 9, 11), 255, dtype=torch.uint8)
    pixels[:, :, 4, 5] = torch.tensor([1, 2, 3])
    moved = pokemons(put_archive(tmp_path), shift=2).augment(pixels, torch.Generator().manual_seed(0))
    assert (moved.flatten(2) != 255).sum(2).eq(1).all()
    assert moved.flatten(2).amin(2).unique(dim=0).tolist() == [[1, 2, 3]]
    places = [divmod(place, 11) for place in moved[:, 0].flatten(1).argmin(1).tolist()]
    count = {place: places.count(place) for place in set(places)}
    assert set(count) == {(y, x) for y in range(2, 7) for x in range(3, 8)}
    assert min(count.values()) > 15


@contextmanager
def serving(folder):
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.usefixtures("package")
def test_the_cdn_gives_the_same_sprites_as_the_package(tmp_path, monkeypatch):
    with serving(tmp_path / "package") as url:
        monkeypatch.setattr(pokemon, "CDN", url)
        data = ready(pokemons(tmp_path / "data"))
    assert sum(len(images.pixels) for images in data.images.values()) == 7


@pytest.mark.parametrize("odd", ["[]", "{}", '{"message": "log in"}', '{"001": {"slug": {"eng": "mew"}}}', "<html>"])
@pytest.mark.usefixtures("package")
def test_a_cdn_that_gives_something_else_is_refused(odd, tmp_path, monkeypatch):
    (tmp_path / "package" / "data" / "pokemon.json").write_text(odd)
    with serving(tmp_path / "package") as url:
        monkeypatch.setattr(pokemon, "CDN", url)
        with pytest.raises(UserError, match="its copy on jsDelivr: "):
            pokemons(tmp_path / "data").prepare_data()


@pytest.mark.usefixtures("package")
def test_a_cdn_that_lacks_or_alters_a_sprite_is_refused(tmp_path, monkeypatch):
    victim = tmp_path / "package" / "pokemon-gen8" / "shiny" / "mew.png"
    for damage in (lambda: sprite(99, "RGBA")[0].save(victim), victim.unlink):
        damage()
        with serving(tmp_path / "package") as url:
            monkeypatch.setattr(pokemon, "CDN", url)
            with pytest.raises(UserError, match=r"jsDelivr: sprites.npz came damaged"):
                pokemons(tmp_path / "data").prepare_data()
        assert [path.name for path in (tmp_path / "data" / "pokemon").iterdir()] == [".lock"]


@pytest.mark.usefixtures("package")
def test_a_tampered_archive_is_refused_and_the_message_says_what_to_put_where(tmp_path):
    folder = put_archive(tmp_path)
    archive = folder / "pokemon" / pokemon.ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError) as error:
        pokemons(folder).prepare_data()
    assert f"{archive} damaged" in str(error.value)
    assert [path.name for path in archive.parent.glob("*.tgz*")] == [f"{pokemon.ARCHIVE}.damaged"]
    assert "npm is not on the PATH" in str(error.value)
    assert f"{archive}  (sha256 " in str(error.value)


# Fashion-MNIST and digits


def test_fashion_mnist_comes_from_debian_s_files(tmp_path, monkeypatch):
    toy_dataset.write(tmp_path / "made")
    (tmp_path / "debian").mkdir()
    for path in (tmp_path / "made").iterdir():
        (tmp_path / "debian" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(
        FashionMNIST, "md5", {name: digest(tmp_path / "made" / name, "md5") for name in FashionMNIST.md5}
    )
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    data = ready(FashionMNIST(data_dir=str(tmp_path / "data"), val_size=60, **SHARED))
    assert {split: len(images.pixels) for split, images in data.images.items()} == {
        "train": 240,
        "val": 60,
        "test": 120,
    }
    cut = tmp_path / "debian" / "t10k-labels-idx1-ubyte.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    monkeypatch.setattr(FashionMNIST, "sources", {"Debian's package": FashionMNIST.sources["Debian's package"]})
    with pytest.raises(UserError, match=r"Debian's package: .*end"):
        FashionMNIST(data_dir=str(tmp_path / "other"), val_size=60, **SHARED).prepare_data()
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    with pytest.raises(RuntimeError, match="apt install dataset-fashion-mnist"):
        FashionMNIST.sources["Debian's package"](tmp_path)


def test_digits_are_scikit_learn_s():
    from sklearn.datasets import load_digits

    data = ready(Digits(data_dir="", val_size=0.1, test_size=297, **SHARED))
    assert {split: len(images.pixels) for split, images in data.images.items()} == {
        "train": 1320,
        "val": 180,
        "test": 297,
    }
    grey = {
        tuple(image.ravel().astype(int)): label
        for image, label in zip(load_digits().images, load_digits().target, strict=True)
    }
    for pixels, labels, _ in data.images.values():
        for image, label in zip(pixels, labels.tolist(), strict=True):
            assert grey[tuple((image.flatten() * (16 / 255)).round().int().tolist())] == label


# A folder

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


@pytest.fixture
def pictures(tmp_path):
    """Ten red pictures and ten blue ones, in two folders and several formats and sizes."""
    for colour, rgb in COLOURS.items():
        (tmp_path / "mine" / colour).mkdir(parents=True)
        for i, ending in enumerate(["png", "jpg", "bmp", "gif", "webp"] * 2):
            Image.new("RGB", (30 + i, 20), rgb).save(tmp_path / "mine" / colour / f"{i}.{ending}")
    return tmp_path / "mine"


def folder(path, tmp_path, **changes):
    options = {"path": str(path), "size": 8, "colour": "rgb", "val_size": 0.1, "test_size": 0.1}
    return Folder(data_dir=str(tmp_path / "data"), **(SHARED | options | changes))


def test_a_folder_of_pictures_becomes_images_with_labels_and_names(pictures, tmp_path):
    data = ready(folder(pictures, tmp_path, size=[6, 10]))
    assert data.shape == (3, 6, 10)
    assert {split: len(images.pixels) for split, images in data.images.items()} == {"train": 16, "val": 2, "test": 2}
    for images in data.images.values():
        for pixels, label, name in zip(*images, strict=True):
            colour = Path(name).parts[0]
            assert label == ["blue", "red"].index(colour)
            expected = torch.tensor(COLOURS[colour]).view(3, 1, 1).expand(3, 6, 10)
            torch.testing.assert_close(pixels.int(), expected.int(), atol=12, rtol=0)  # JPEG


def test_a_picture_is_cut_about_its_middle_and_turned_upright(tmp_path):
    """Four quarters of a wide picture, of which the middle is kept; by the camera it lies on its side."""
    (tmp_path / "mine").mkdir()
    wide = np.full((8, 16), 10, np.uint8)
    wide[:4, 4:8], wide[:4, 8:12], wide[4:, 4:8], wide[4:, 8:12] = 50, 100, 150, 200
    for i in range(4):
        Image.fromarray(wide).save(tmp_path / "mine" / f"{i}.PNG")
    turned = Image.fromarray(wide).transpose(Image.Transpose.ROTATE_90)
    orientation = Image.Exif()
    orientation[0x0112] = 6  # to be shown turned clockwise by a quarter
    turned.save(tmp_path / "mine" / "turned.PNG", exif=orientation)
    data = ready(folder(tmp_path / "mine", tmp_path, colour="grey", val_size=1, test_size=2))
    assert sum(len(images.pixels) for images in data.images.values()) == 5
    for images in data.images.values():
        for pixels in images.pixels:
            assert pixels[0, 1::4, 1::4].tolist() == [[50, 100], [150, 200]]


def test_folders_in_the_folder_may_be_links_and_even_turn_back(pictures, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "warm").symlink_to(pictures / "red")
    (tmp_path / "links" / "round").symlink_to(tmp_path / "links")
    data = ready(folder(tmp_path / "links", tmp_path, val_size=2, test_size=2))
    assert sum(len(images.pixels) for images in data.images.values()) == 10


def test_what_is_kept_of_a_folder_needs_no_writing(pictures, tmp_path, monkeypatch):
    ready(folder(pictures, tmp_path))
    monkeypatch.setattr("datamodules.folder.FileLock", lambda _path: pytest.fail("it writes"))
    ready(folder(pictures, tmp_path))


def test_a_folder_whose_data_folder_cannot_be_written_is_one_line(pictures, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(UserError, match=r"^data_dir: cannot write to .*data/folder: [^\n]*$"):
        folder(pictures, tmp_path).prepare_data()


def test_once_loaded_a_folder_is_not_looked_at_again(pictures, tmp_path):
    data = ready(folder(pictures, tmp_path))
    pictures.rename(tmp_path / "moved")
    ready(data)


def test_grey_pictures_of_every_mode(tmp_path):
    (tmp_path / "mine").mkdir()
    rgba = Image.new("RGBA", (8, 8), (200, 200, 200, 0))  # transparent: white
    modes = {
        "rgba": (rgba, 255),
        "deep": (Image.fromarray(np.full((8, 8), 100 * 256 + 255, np.uint16)), 100),
        "palette": (Image.new("RGB", (8, 8), (50, 50, 50)).quantize(4), 50),
        "one_pixel": (Image.new("L", (1, 1), 66), 66),
        "black_and_white": (Image.new("1", (8, 8), 1), 255),
        "grey": (Image.new("L", (8, 8), 77), 77),
    }
    for name, (picture, _) in modes.items():
        picture.save(tmp_path / "mine" / f"{name}.png")
    Image.new("CMYK", (8, 8), (0, 0, 0, 255)).save(tmp_path / "mine" / "cmyk.tif")
    (tmp_path / "mine" / "deep_map.pgm").write_bytes(b"P5 8 8 65535\n" + bytes([90, 200]) * 64)
    modes |= {"cmyk": (None, 0), "deep_map": (None, 90)}
    data = ready(folder(tmp_path / "mine", tmp_path, colour="grey", val_size=1, test_size=2))
    assert sum(len(images.pixels) for images in data.images.values()) == len(modes)
    for images in data.images.values():
        assert images.labels is None
        for pixels, name in zip(images.pixels, images.names, strict=True):
            assert (pixels == modes[Path(name).stem][1]).all(), name


def test_unreadable_pictures_are_named_and_left_out(pictures, tmp_path, caplog):
    whole = (pictures / "red" / "0.png").read_bytes()
    (pictures / "red" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (pictures / "broken.jpg").write_bytes(b"no picture")
    (pictures / "notes.txt").write_text("not meant as one")
    (pictures / "album.png").mkdir()
    (pictures / "gone.png").symlink_to(tmp_path / "nowhere")
    Image.fromarray(np.full((8, 8), 0.5, np.float32)).save(pictures / "real.tif")
    (pictures / os.fsdecode(b"caf\xe9.png")).write_bytes(b"neither")
    for _ in range(2):  # read, then from what was kept
        caplog.clear()
        data = ready(folder(pictures, tmp_path))
        assert sum(len(images.pixels) for images in data.images.values()) == 20
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert len(said) == 5
        for name in (
            "red/cut.png: ",
            "broken.jpg: ",
            "gone.png: ",
            "real.tif: it has 32 bits a pixel",
            "caf\N{REPLACEMENT CHARACTER}.png: ",
        ):
            assert any(name in line for line in said), name


def test_a_folder_is_read_once_and_anew_when_a_picture_changes(pictures, tmp_path, monkeypatch):
    read = []
    original = Folder.read
    monkeypatch.setattr(Folder, "read", lambda *args: read.append(1) or original(*args))
    ready(folder(pictures, tmp_path))
    ready(folder(pictures, tmp_path, seed=1))
    assert len(read) == 1
    Image.new("RGB", (9, 9), "green").save(pictures / "red" / "0.png")
    ready(folder(pictures, tmp_path))
    ready(folder(pictures, tmp_path, size=9))
    assert len(read) == 3
    for kept in (tmp_path / "data" / "folder").glob("*.npz"):
        kept.write_bytes(kept.read_bytes()[:-50])
    ready(folder(pictures, tmp_path))
    assert len(read) == 4


@pytest.mark.parametrize(
    ("made", "words"), [(None, "no such folder"), ("empty", "there is none in it"), ("broken", "none can be read")]
)
def test_a_folder_without_pictures_is_one_line(made, words, tmp_path):
    path = tmp_path / "mine"
    if made:
        path.mkdir()
    if made == "broken":
        (path / "a.png").write_bytes(b"")
    with pytest.raises(UserError, match=rf"^dataset.path={path}: .*{words}$"):
        folder(path, tmp_path).prepare_data()
