"""Fashion-MNIST, from generated files in the format of Debian's package."""

import gzip

import pytest
import toy_dataset
from dataset_helpers import DEFAULTS, prepare, split_sizes

from datamodules import fashion_mnist
from datamodules.fashion_mnist import FashionMNIST
from datamodules.fetch import file_checksum
from vae.errors import UserError


@pytest.fixture
def debian(tmp_path, monkeypatch):
    """Return the folder of an installed package of gzipped files."""
    toy_dataset.write_files(tmp_path / "made")
    (tmp_path / "debian").mkdir()
    for path in (tmp_path / "made").iterdir():
        (tmp_path / "debian" / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    monkeypatch.setattr(
        FashionMNIST, "md5", {name: file_checksum(tmp_path / "made" / name, "md5") for name in FashionMNIST.md5}
    )
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(FashionMNIST, "sources", {"Debian's package": FashionMNIST.sources["Debian's package"]})
    return tmp_path / "debian"


@pytest.mark.usefixtures("debian")
def test_files_of_debian_s_package_are_used(tmp_path):
    data = prepare(FashionMNIST(data_dir=str(tmp_path / "data"), val_size=60, **DEFAULTS))
    assert split_sizes(data) == {"train": 240, "val": 60, "test": 120}


def test_a_truncated_file_of_the_package_is_reported(tmp_path, debian):
    cut = debian / "t10k-labels-idx1-ubyte.gz"
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"Debian's package: .*end"):
        FashionMNIST(data_dir=str(tmp_path / "data"), val_size=60, **DEFAULTS).prepare_data()


def test_a_package_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "DEBIAN", tmp_path / "none")
    with pytest.raises(RuntimeError, match="apt install dataset-fashion-mnist"):
        FashionMNIST.sources["Debian's package"](tmp_path)
