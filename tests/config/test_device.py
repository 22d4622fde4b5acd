# SPDX-License-Identifier: Apache-2.0
"""Configs for a GPU on a machine without one."""

import pytest
import torch

from longtail.config import load_config, say_if_there_is_no_gpu
from longtail.engine import Trainer

TINY = ["MODEL.TIMM.PRETRAINED", ""]


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    # What other tests have left unsaid.
    say_if_there_is_no_gpu()


def test_loading_is_silent_and_the_first_model_says_it_once(caplog):
    caplog.clear()
    cfg = load_config("digits-LT/linear.yaml", TINY)
    load_config("digits-LT/cosine.yaml", TINY)
    assert cfg.MODEL.DEVICE == "cpu" and not caplog.messages
    Trainer.build_model(cfg)
    Trainer.build_model(cfg)
    assert [text for text in caplog.messages if "no GPU" in text] == [
        "MODEL.DEVICE cuda: there is no GPU, running on the CPU"
    ]


def test_who_asks_for_the_cpu_is_told_nothing(caplog):
    caplog.clear()
    Trainer.build_model(load_config("digits-LT/linear.yaml", [*TINY, "MODEL.DEVICE", "cpu"]))
    assert not [text for text in caplog.messages if "no GPU" in text]
