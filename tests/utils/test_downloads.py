# SPDX-License-Identifier: Apache-2.0
"""From the network comes what was expected, or what was asked for unseen."""

import hashlib
import logging
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from detectron2.utils.file_io import Detectron2Handler, PathManager
from torch import nn

from longtail.config import load_config
from longtail.engine.checkpoint import Checkpointer
from tests.messages import raises_naming


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def host(tmp_path, monkeypatch):
    """The address of a host on this machine, and the folder of its files."""
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "host"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    server.server_close()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_a_checksum(host):
    address, folder = host
    (folder / "a.pth").write_bytes(b"weights")
    right, wrong = sha256(b"weights"), sha256(b"others")
    url = f"{address}/a.pth"
    with open(PathManager.get_local_path(f"{url}#sha256={right.upper()}"), "rb") as file:
        assert file.read() == b"weights"
    # Also if the file is in the cache; it is out of it then.
    with raises_naming(ValueError, url, right, wrong):
        PathManager.get_local_path(f"{url}#sha256={wrong}")
    (folder / "a.pth").write_bytes(b"others")
    PathManager.get_local_path(f"{url}#sha256={wrong}")


@pytest.mark.parametrize("mark", ["", "#", "#sha256=12", "#verified", "#sha256=" + "x" * 64])
def test_nothing_is_fetched_without_a_checksum(host, mark):
    address, folder = host
    url = f"{address}/a.pth"
    with raises_naming(ValueError, f"{url}#sha256=", f"{url}#unverified"):
        PathManager.get_local_path(url + mark)
    assert not (folder.parent / "cache").exists()


def test_what_is_taken_unseen_is_told(host, caplog):
    address, folder = host
    (folder / "a.pth").write_bytes(b"weights")
    with caplog.at_level(logging.WARNING):
        PathManager.get_local_path(f"{address}/a.pth#unverified")
    assert f"{address}/a.pth#sha256={sha256(b'weights')}" in caplog.text


def test_the_model_zoo_has_no_checksums(host, monkeypatch):
    address, folder = host
    (folder / "R-50.pkl").write_bytes(b"weights")
    monkeypatch.setattr(Detectron2Handler, "S3_DETECTRON2_PREFIX", f"{address}/")
    PathManager.get_local_path("detectron2://R-50.pkl")
    with raises_naming(ValueError, sha256(b"weights"), sha256(b"x")):
        PathManager.get_local_path(f"detectron2://R-50.pkl#sha256={sha256(b'x')}")


def test_a_host_that_does_not_answer_is_named(host):
    address, _ = host
    url = f"{address}/missing.pth"
    with raises_naming(OSError, url, "404"):
        PathManager.get_local_path(f"{url}#unverified")
    with raises_naming(OSError, "http://127.0.0.1:9/a.pth", "network"):
        PathManager.get_local_path("http://127.0.0.1:9/a.pth#unverified")


def test_weights_and_bases(host, tmp_path):
    address, folder = host
    torch.save(nn.Linear(2, 2).state_dict(), folder / "a.pth")
    (folder / "base.yaml").write_text("VERSION: 2\nSOLVER: {MAX_ITER: 7}\n")
    marks = {f.name: f"#sha256={sha256(f.read_bytes())}" for f in folder.iterdir()}
    model, config = nn.Linear(2, 2), tmp_path / "derived.yaml"
    with raises_naming(ValueError, f"{address}/a.pth"):
        Checkpointer(model).load(f"{address}/a.pth")
    Checkpointer(model).load(f"{address}/a.pth{marks['a.pth']}")
    assert torch.equal(model.weight, torch.load(folder / "a.pth", weights_only=True)["weight"])
    config.write_text(f"_BASE_: {address}/base.yaml\n")
    with raises_naming(ValueError, str(config), f"{address}/base.yaml"):
        load_config(str(config))
    config.write_text(f"_BASE_: {address}/base.yaml{marks['base.yaml']}\n")
    assert load_config(str(config)).SOLVER.MAX_ITER == 7
