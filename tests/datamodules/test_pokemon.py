"""Pokemon, from a generated package in the format of pokesprite-images."""

import itertools
import json
import tarfile
import threading
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, prepare
from PIL import Image

from datamodules import pokemon
from datamodules.fetch import file_checksum, npz_checksum
from datamodules.pokemon import Pokemon, center_on_canvas
from vae.errors import UserError

SPECIES = {"bulbasaur": 1, "mr-mime": 122, "mew": 151, "chikorita": 152, "wooper": 194}
FORMS = {
    "bulbasaur": ["$"],
    "mr-mime": ["$", "galar"],
    "mew": ["$"],
    "chikorita": ["$"],
    "wooper": ["$", "paldea", "none"],
}


def make_sprite(seed, mode):
    """Return a 68 x 56 sprite, and its RGBA array: an opaque block, 10 x 8 or larger, in transparent colours."""
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
    """Write the files of the package into `folder`; return the RGBA arrays of the sprites, by path."""
    sprites, modes = {}, ["RGBA", "P", "LA"]
    for shiny in ("regular", "shiny"):
        directory = folder / sub / "pokemon-gen8" / shiny
        directory.mkdir(parents=True)
        for species, forms in FORMS.items():
            for form in forms:
                if form == "none" and shiny == "regular":
                    continue
                name = species if form == "$" else f"{species}-{form}"
                picture, rgba = make_sprite(len(sprites), modes[len(sprites) % 3])
                picture.save(directory / f"{name}.png")
                sprites[f"{shiny}/{name}"] = rgba
    species_table = {
        f"{number:03}": {
            "slug": {"eng": species},
            "gen-7": {},
            "gen-8": {"forms": {form: {} for form in FORMS[species]}},
        }
        for species, number in SPECIES.items()
    }
    (folder / sub / "data").mkdir()
    (folder / sub / "data" / "pokemon.json").write_text(json.dumps(species_table))
    return sprites


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write the archive of the package to tmp_path; return its sprites. npm and the CDN are unavailable."""
    sprites = write_package(tmp_path)
    archive = tmp_path / pokemon.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "package", "package")
    monkeypatch.setattr(pokemon, "ARCHIVE_SHA256", file_checksum(archive, "sha256"))
    pokemon.write_npz(tmp_path / "package", tmp_path)
    monkeypatch.setattr(pokemon, "SHA256", npz_checksum(tmp_path / "sprites.npz"))
    for cdn in ("CDN", "TYPES_CDN"):
        monkeypatch.setattr(pokemon, cdn, (tmp_path / "nowhere/").as_uri())
    monkeypatch.setenv("PATH", str(tmp_path))
    return sprites


def make_pokemon(folder, **changes):
    options = {
        "val_size": 1,
        "test_size": 2,
        "size": 48,
        "generation": None,
        "shiny": False,
        "flips": False,
        "recolour": 0.0,
        "shift": 0,
    }
    return Pokemon(data_dir=str(folder), **(DEFAULTS | options | changes))


def add_archive(tmp_path):
    """Move the archive to where users add it; return the data folder."""
    (tmp_path / "data" / "pokemon").mkdir(parents=True)
    (tmp_path / pokemon.ARCHIVE).rename(tmp_path / "data" / "pokemon" / pokemon.ARCHIVE)
    return tmp_path / "data"


def crop_on_white(rgba):
    """Return the bounding box of the opaque pixels on white, (h, w, 3)."""
    opaque = rgba[..., 3:] > 0
    ys, xs = np.nonzero(opaque[..., 0])
    return np.where(opaque, rgba[..., :3], 255)[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]


def test_sprites_of_every_mode_are_centred_on_white_without_resampling(tmp_path, package):
    data = prepare(make_pokemon(add_archive(tmp_path), shiny=True))
    for images in data.images.values():
        for pixels, name in zip(images.pixels.permute(0, 2, 3, 1).numpy(), images.names, strict=True):
            ys, xs = np.nonzero((pixels != 255).any(-1))
            candidates = [crop_on_white(rgba) for path, rgba in package.items() if path.endswith(f"/{name}")]
            shown = pixels[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
            assert any(np.array_equal(shown, sprite) for sprite in candidates)
            assert abs(ys.min() + ys.max() - 47) <= 1
            assert abs(xs.min() + xs.max() - 47) <= 1


def test_a_sprite_larger_than_the_canvas_loses_only_its_edges():
    rgba = np.random.default_rng(0).integers(0, 255, (56, 68, 4)).astype(np.uint8)
    rgba[..., 3] = 255
    (cut,) = center_on_canvas(rgba[None], (40, 60))
    np.testing.assert_array_equal(cut, rgba[8:48, 4:64, :3])
    (padded,) = center_on_canvas(rgba[None], (60, 70))
    np.testing.assert_array_equal(padded[2:58, 1:69], rgba[..., :3])
    assert (padded[:2] == 255).all()


@pytest.mark.usefixtures("package")
def test_forms_of_a_species_share_a_split_and_shiny_sprites_are_only_trained_on(tmp_path):
    folder = add_archive(tmp_path)
    for split_seed in range(5):
        data = prepare(make_pokemon(folder, split_seed=split_seed, shiny=True))
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
def test_generation_selects_the_first_forms_of_its_species(tmp_path):
    data = prepare(make_pokemon(add_archive(tmp_path), generation=1, test_size=0))
    assert {name for images in data.images.values() for name in images.names} == {"bulbasaur", "mr-mime", "mew"}


@pytest.mark.usefixtures("package")
def test_the_colour_channels_of_a_fraction_of_the_images_are_permuted(tmp_path):
    pixels = torch.randint(0, 256, (1, 3, 4, 6), dtype=torch.uint8).expand(6000, -1, -1, -1)
    out = make_pokemon(add_archive(tmp_path), recolour=0.5).augment(pixels, torch.Generator().manual_seed(0))
    for order in itertools.permutations(range(3)):
        expected = 1 / 12 + (order == (0, 1, 2)) / 2
        assert (out == pixels[:, order]).flatten(1).all(1).float().mean().item() == pytest.approx(expected, abs=0.03)


@pytest.mark.usefixtures("package")
def test_flips_mirror_half_of_the_images(tmp_path):
    folder = add_archive(tmp_path)
    pixels = torch.randint(0, 256, (400, 3, 4, 6), dtype=torch.uint8)
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(make_pokemon(folder).augment(pixels, rng), pixels)
    out = make_pokemon(folder, flips=True).augment(pixels, rng)
    mirrored = [torch.equal(a, b.flip(-1)) for a, b in zip(out, pixels, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, out, pixels, strict=True))
    assert 160 < sum(mirrored) < 240


@pytest.mark.usefixtures("package")
def test_shift_moves_images_by_every_offset_and_pads_with_white(tmp_path):
    pixels = torch.full((900, 3, 9, 11), 255, dtype=torch.uint8)
    pixels[:, :, 4, 5] = torch.tensor([1, 2, 3])
    moved = make_pokemon(add_archive(tmp_path), shift=2).augment(pixels, torch.Generator().manual_seed(0))
    assert (moved.flatten(2) != 255).sum(2).eq(1).all()
    assert moved.flatten(2).amin(2).unique(dim=0).tolist() == [[1, 2, 3]]
    positions = [divmod(index, 11) for index in moved[:, 0].flatten(1).argmin(1).tolist()]
    count = {position: positions.count(position) for position in set(positions)}
    assert set(count) == {(y, x) for y in range(2, 7) for x in range(3, 8)}
    assert min(count.values()) > 15


@contextmanager
def serve(folder):
    """Serve a folder by HTTP; yield its URL."""
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.usefixtures("package")
def test_the_cdn_and_the_package_give_the_same_sprites(tmp_path, monkeypatch):
    with serve(tmp_path / "package") as url:
        monkeypatch.setattr(pokemon, "CDN", url)
        data = prepare(make_pokemon(tmp_path / "data"))
    assert sum(len(images.pixels) for images in data.images.values()) == 7


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"message": "log in"}', '{"001": {"slug": {"eng": "mew"}}}', "<html>"]
)
@pytest.mark.usefixtures("package")
def test_unexpected_content_from_the_cdn_is_rejected(content, tmp_path, monkeypatch):
    (tmp_path / "package" / "data" / "pokemon.json").write_text(content)
    with serve(tmp_path / "package") as url:
        monkeypatch.setattr(pokemon, "CDN", url)
        with pytest.raises(UserError, match="its copy on jsDelivr: "):
            make_pokemon(tmp_path / "data").prepare_data()


@pytest.mark.usefixtures("package")
def test_a_missing_or_changed_sprite_from_the_cdn_is_rejected(tmp_path, monkeypatch):
    path = tmp_path / "package" / "pokemon-gen8" / "shiny" / "mew.png"
    for damage in (lambda: make_sprite(99, "RGBA")[0].save(path), path.unlink):
        damage()
        with serve(tmp_path / "package") as url:
            monkeypatch.setattr(pokemon, "CDN", url)
            with pytest.raises(UserError, match=r"jsDelivr: sprites.npz: wrong checksum"):
                make_pokemon(tmp_path / "data").prepare_data()
        assert [file.name for file in (tmp_path / "data" / "pokemon").iterdir()] == [".lock"]


@pytest.mark.usefixtures("package")
def test_a_changed_archive_is_rejected_and_the_message_names_the_file_to_add(tmp_path):
    folder = add_archive(tmp_path)
    archive = folder / "pokemon" / pokemon.ARCHIVE
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError) as error:
        make_pokemon(folder).prepare_data()
    assert f"{archive} damaged" in str(error.value)
    assert [path.name for path in archive.parent.glob("*.tgz*")] == [f"{pokemon.ARCHIVE}.damaged"]
    assert "npm is not on the PATH" in str(error.value)
    assert f"{archive}  (sha256 " in str(error.value)


TYPES = {
    "bulbasaur": ["Grass", "Poison"],
    "mrmime": ["Psychic", "Fairy"],
    "mrmimegalar": ["Ice", "Psychic"],
    "mew": ["Psychic"],
    "chikorita": ["Grass"],
    "wooper": ["Water", "Ground"],
    "wooperpaldea": ["Poison", "Ground"],
    "woopernon": ["Fire"],  # no form of a sprite: a part of the name wooper-none, but not up to a hyphen
}
LABELS = {
    "bulbasaur": "grass",
    "mr-mime": "psychic",
    "mr-mime-galar": "ice",
    "mew": "psychic",
    "chikorita": "grass",
    "wooper": "water",
    "wooper-paldea": "poison",
    "wooper-none": "water",
}


@pytest.fixture
def types(tmp_path, monkeypatch):
    """Write the archive of the package with the types to tmp_path, and return its path."""
    table = tmp_path / "types" / "package" / pokemon.TYPES
    table.parent.mkdir(parents=True)
    latest = {name: {"num": 1, "types": given} for name, given in TYPES.items()}
    earlier = {name: {"num": 1, "types": ["Normal"]} for name in [*TYPES, "woopernone"]}
    table.write_text(json.dumps({"7": earlier, "8": latest}))
    archive = tmp_path / pokemon.TYPES_ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "types" / "package", "package")
    pokemon.write_types(tmp_path / "types" / "package", tmp_path)
    monkeypatch.setattr(pokemon, "TYPES_ARCHIVE_SHA256", file_checksum(archive, "sha256"))
    monkeypatch.setattr(pokemon, "TYPES_SHA256", npz_checksum(tmp_path / "types.npz"))
    return archive


def label_names(data):
    """Return the label of each sprite, by name; the regular and the shiny sprite have the same."""
    pairs = {
        (name, images.label_name(label))
        for images in data.images.values()
        for name, label in zip(images.names, images.labels.tolist(), strict=True)
    }
    names = dict(pairs)
    assert len(names) == len(pairs)
    return names


@pytest.mark.usefixtures("package")
def test_labels_are_the_first_types_of_forms_and_do_not_change_the_images(tmp_path, types, caplog):
    folder = add_archive(tmp_path)
    without = prepare(make_pokemon(folder, shiny=True))
    assert [record.message for record in caplog.records] == [
        f"could not download {pokemon.TYPES_PACKAGE}, the types of Pokemon: labels are Pokedex numbers"
    ]
    assert label_names(without)["mr-mime-galar"] == "122"
    types.rename(folder / "pokemon" / types.name)
    data = make_pokemon(folder, shiny=True)
    data.conditional = True
    prepare(data)
    assert label_names(data).items() <= LABELS.items()
    for split, images in data.images.items():
        assert images.classes == ["grass", "ice", "poison", "psychic", "water"]
        assert torch.equal(images.pixels, without.images[split].pixels)
        assert images.names == without.images[split].names


@pytest.mark.usefixtures("package")
def test_types_are_fetched_with_the_sprites_from_the_archives_or_the_cdn(tmp_path, types, monkeypatch):
    folder = add_archive(tmp_path)
    with serve(tmp_path / "types" / "package") as url:
        monkeypatch.setattr(pokemon, "TYPES_CDN", url)
        data = prepare(make_pokemon(folder))
    assert label_names(data).items() <= LABELS.items()
    types.write_text("not read")
    assert label_names(prepare(make_pokemon(folder))) == label_names(data)


@pytest.mark.usefixtures("package")
def test_damaged_types_are_not_read_and_a_conditional_model_fetches_them_again(tmp_path, types):
    folder = add_archive(tmp_path)
    types.rename(folder / "pokemon" / types.name)
    names = label_names(prepare(make_pokemon(folder)))
    np.savez(folder / "pokemon" / "types.npz", names=list(TYPES), types=["fire"] * len(TYPES))
    assert label_names(prepare(make_pokemon(folder))) == {
        name: str(number) for name in names for species, number in SPECIES.items() if name.startswith(species)
    }
    data = make_pokemon(folder)
    data.conditional = True
    assert label_names(prepare(data)) == names


@pytest.mark.usefixtures("package", "types")
def test_only_a_conditional_model_needs_the_types(tmp_path, monkeypatch):
    folder = add_archive(tmp_path)
    prepare(make_pokemon(folder))
    with monkeypatch.context() as patch:
        patch.setattr(Pokemon, "fetch_types", lambda _self: pytest.fail("the types are fetched again"))
        prepare(make_pokemon(folder))
    data = make_pokemon(folder)
    data.conditional = True
    with pytest.raises(UserError) as error:
        data.prepare_data()
    assert f"{folder / 'pokemon' / pokemon.TYPES_ARCHIVE}  (sha256 " in str(error.value)
