"""Frey faces, from generated files in the two published formats."""

import pickle

import numpy as np
import pytest
import torch
from dataset_helpers import DEFAULTS, image_bytes, prepare, split_sizes
from scipy.io import savemat

from datamodules import frey
from datamodules.fetch import npz_checksum
from datamodules.frey import Frey
from vae.errors import UserError

FACES = np.random.default_rng(0).integers(8, 239, (1965, 560)).astype(np.uint8)


def python2_pickle(array):
    """Return [array] pickled as in the published file: protocol 0, by Python 2."""
    rows, columns = array.shape
    return (
        b"(lp0\ncnumpy.core.multiarray\n_reconstruct\np1\n(cnumpy\nndarray\np2\n(I0\ntp3\nS'b'\np4\ntp5\nRp6\n"
        b"(I1\n(I%d\nI%d\ntp7\ncnumpy\ndtype\np8\n(S'u1'\np9\nI0\nI1\ntp10\nRp11\n"
        b"(I3\nS'|'\np12\nNNNI-1\nI-1\nI0\ntp13\nbI00\nS%s\np14\ntp15\nba."
        % (rows, columns, repr(array.tobytes())[1:].encode())
    )


@pytest.fixture
def data_dir(tmp_path, monkeypatch):
    """Return a data folder; FACES have the expected checksum, and the only URL does not exist."""
    folder = tmp_path / "data"
    (folder / "frey").mkdir(parents=True)
    np.savez(tmp_path / "faces.npz", faces=FACES)
    monkeypatch.setattr(frey, "SHA256", npz_checksum(tmp_path / "faces.npz"))
    monkeypatch.setattr(frey, "URLS", {"a mirror": (tmp_path / "nowhere" / "freyfaces.pkl").as_uri()})
    return folder


def make_frey(folder, split="random"):
    return Frey(data_dir=str(folder), val_size=200, test_size=200, split=split, **DEFAULTS)


@pytest.mark.parametrize("directory", ["frey", "."])
@pytest.mark.parametrize("name", ["freyfaces.pkl", "frey_rawface.mat"])
def test_manually_added_files_are_found(name, directory, data_dir):
    path = data_dir / directory / name
    savemat(path, {"ff": FACES.T}) if name.endswith("mat") else path.write_bytes(python2_pickle(FACES))
    data = prepare(make_frey(data_dir))
    assert data.shape == (1, 28, 20)
    assert split_sizes(data) == {"train": 1565, "val": 200, "test": 200}
    pixels = torch.cat([images.pixels for images in data.images.values()])
    assert {p.numpy().tobytes() for p in pixels} == {face.tobytes() for face in FACES}
    path.unlink()
    prepare(make_frey(data_dir))  # from frey.npz


def test_sequential_split_follows_the_order_of_the_video(data_dir):
    (data_dir / "freyfaces.pkl").write_bytes(python2_pickle(FACES))
    data = prepare(make_frey(data_dir, "sequential"))
    for split, frames in (("train", FACES[:1565]), ("val", FACES[1565:1765]), ("test", FACES[1765:])):
        assert image_bytes(data.images[split]) == {face.tobytes() for face in frames}


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_pickle_with_other_objects_than_arrays_is_rejected(tmp_path):
    malicious = Malicious(str(tmp_path / "written"))
    for content in (malicious, [malicious], {"a": slice(1)}):
        for protocol in range(6):
            (tmp_path / "pickle").write_bytes(pickle.dumps(content, protocol))
            with pytest.raises(pickle.UnpicklingError, match="is forbidden"):
                frey.read_pickle(tmp_path / "pickle")
    nested = python2_pickle(FACES).replace(
        b"I00\nS", b"I00\ncos\nsystem\n(S'touch " + str(tmp_path / "written").encode() + b"'\ntRS"
    )
    (tmp_path / "pickle").write_bytes(nested)
    with pytest.raises(pickle.UnpicklingError, match=r"global os\.system is forbidden"):
        frey.read_pickle(tmp_path / "pickle")
    assert not (tmp_path / "written").exists()


def test_a_pickle_cannot_call_ndarray(tmp_path, data_dir):
    """numpy.ndarray((1,), 'O', buffer) would read from an address that the pickle chooses."""
    (data_dir / "freyfaces.pkl").write_bytes(
        b"]cnumpy\nndarray\nK\x01\x85X\x01\x00\x00\x00OC\x08\x01\x02\x03\x04\x05\x06\x07\x08\x87Ra."
    )
    with pytest.raises(RuntimeError, match=r"cannot read freyfaces.pkl"):
        frey.convert(data_dir / "freyfaces.pkl", tmp_path)


@pytest.mark.parametrize("name", ["freyfaces.pkl", "frey_rawface.mat"])
@pytest.mark.parametrize("damage", ["truncated", "garbage", "other faces"])
def test_a_damaged_file_is_renamed_and_another_one_is_used(name, damage, data_dir, caplog):
    path, other = data_dir / name, FACES.copy()
    other[3, 4] ^= 1
    savemat(path, {"ff": other.T}) if name.endswith("mat") else path.write_bytes(python2_pickle(other))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "garbage":
        path.write_bytes(b"garbage")
    with pytest.raises(UserError, match=name):
        make_frey(data_dir).prepare_data()
    assert f"{name} is damaged" in caplog.text
    assert [p.name for p in data_dir.glob("*.damaged")] == [f"{name}.damaged"]
    (data_dir / "frey" / "freyfaces.pkl").write_bytes(python2_pickle(FACES))
    prepare(make_frey(data_dir))


def test_the_message_lists_the_sources_and_the_files_to_add(data_dir):
    with pytest.raises(UserError) as error:
        make_frey(data_dir).prepare_data()
    message = str(error.value)
    assert "manually added files: none found" in message
    assert "a mirror: " in message
    assert f"{data_dir / 'frey' / 'freyfaces.pkl'} or {data_dir / 'frey' / 'frey_rawface.mat'}" in message
    assert [path.name for path in (data_dir / "frey").iterdir()] == [".lock"]


def test_faces_are_downloaded_from_a_url(data_dir, tmp_path, monkeypatch):
    (tmp_path / "freyfaces.pkl").write_bytes(python2_pickle(FACES))
    monkeypatch.setattr(frey, "URLS", frey.URLS | {"another": (tmp_path / "freyfaces.pkl").as_uri()})
    prepare(make_frey(data_dir))
    assert sorted(path.name for path in (data_dir / "frey").iterdir()) == [".lock", "frey.npz"]


def test_a_damaged_frey_npz_is_replaced(data_dir):
    (data_dir / "freyfaces.pkl").write_bytes(python2_pickle(FACES))
    prepare(make_frey(data_dir))
    cached = data_dir / "frey" / "frey.npz"
    cached.write_bytes(cached.read_bytes()[:-2000])
    prepare(make_frey(data_dir))
    assert cached.with_name("frey.npz.damaged").exists()
