# SPDX-License-Identifier: Apache-2.0
"""Values that no run can work with end in a line that names key, value, and what is right."""

import pytest

from longtail.config import load_config
from longtail.config.checks import RULES, check_config, near_keys

BAD = {
    "SOLVER.IMS_PER_BATCH": ["0", "-4"],
    "SOLVER.MAX_ITER": ["0", "-1"],
    "SOLVER.CHECKPOINT_PERIOD": ["0"],
    "SOLVER.WARMUP_ITERS": ["-3"],
    "SOLVER.WARMUP_METHOD": ["sudden", ""],
    "SOLVER.WARMUP_FACTOR": ["-1.0"],
    "MODEL.PIXEL_STD": ["[1.0]", "[1.0, 0.0, 1.0]"],
    "MODEL.PIXEL_MEAN": ["[1.0]", "[1.0, 2.0, 3.0, 4.0]"],
    "SOLVER.BASE_LR": ["-1.0", "1e+30"],
    "SOLVER.MOMENTUM": ["1.5"],
    "MODEL.POST_HOC.TAU": ["1e+30", "-1.0"],
    "MODEL.DEVICE": ["cuda:7", "foo", ""],
    "INPUT.CROP.SIZE": ["[0, 0]", "[5]", "[]"],
    "INPUT.FORMAT": ["XYZ", "rgb"],
    "DATALOADER.NUM_WORKERS": ["-1"],
    "INPUT.MIN_SIZE_TRAIN": ["(0,)"],
}


@pytest.mark.parametrize(("key", "value"), [(k, v) for k, values in BAD.items() for v in values])
def test_bad_values(key, value, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(ValueError) as raised:
        load_config("", [key, value])
    message = str(raised.value)
    assert key in message and value.strip("[](),") in message and "\n" not in message


def test_nan_is_no_number(monkeypatch):
    cfg = load_config("")
    for key in ("SOLVER.BASE_LR", "SOLVER.WEIGHT_DECAY", "MODEL.POST_HOC.LAMBDA"):
        changed = cfg.clone()
        changed.merge_from_list([key, float("nan")])
        with pytest.raises(ValueError, match=key):
            check_config(changed)


def test_defaults_are_right():
    check_config(load_config(""))
    assert len(RULES) > 30


def test_a_near_key_is_proposed():
    cfg = load_config("")
    assert near_keys(cfg, "SOLVER.MAX_ITERS")[0] == "SOLVER.MAX_ITER"
    assert near_keys(cfg, "XYZ") == []
    with pytest.raises(ValueError) as raised:
        load_config("", ["SOLVER.MAX_ITERS", "5"])
    assert "SOLVER.MAX_ITERS" in str(raised.value) and "SOLVER.MAX_ITER," in str(raised.value)


def test_a_sequence_without_a_comma():
    with pytest.raises(ValueError) as raised:
        load_config("", ["DATASETS.TRAIN", "('x')"])
    assert "DATASETS.TRAIN" in str(raised.value) and "('name',)" in str(raised.value)


def test_a_base_that_leads_back(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"_BASE_: {base}.yaml\n")
    with pytest.raises(ValueError, match="_BASE_"):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_byte_order_mark_is_no_part_of_a_key(tmp_path, encoding):
    (tmp_path / "base.yaml").write_text("SOLVER:\n  MAX_ITER: 77\n", encoding=encoding)
    (tmp_path / "a.yaml").write_text("_BASE_: base.yaml\nSEED: 5\n", encoding=encoding)
    cfg = load_config(str(tmp_path / "a.yaml"))
    assert (cfg.SOLVER.MAX_ITER, cfg.SEED) == (77, 5)


def test_whole_numbers_are_floats_where_the_config_has_one():
    cfg = load_config("", ["SOLVER.BASE_LR", "1", "MODEL.POST_HOC.TAU", 0, "SOLVER.MAX_ITER", "7"])
    values = (cfg.SOLVER.BASE_LR, cfg.MODEL.POST_HOC.TAU, cfg.SOLVER.MAX_ITER)
    assert values == (1.0, 0.0, 7) and [type(v) for v in values] == [float, float, int]
    with pytest.raises(ValueError, match=r"SOLVER\.MAX_ITER"):
        load_config("", ["SOLVER.MAX_ITER", "7.0"])
    with pytest.raises(ValueError, match=r"SOLVER\.BASE_LRS"):
        load_config("", ["SOLVER.BASE_LRS", "1"])
