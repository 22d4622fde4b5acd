# SPDX-License-Identifier: Apache-2.0
"""Images and detections of several processes, joined and written."""

import json

from longtail.evaluation.lvis.gathering import Seen, join_seen, write_results
from longtail.evaluation.lvis.matches import unpack_bits
from tests.evaluation.lvis.by_hand import matches

FIRST = Seen(
    images=[4, 0],
    matches=[matches([(4, 1, 0.5, True, "right")]), matches([(0, 2, 0.25, False, "wrong")])],
    lines=[(4, b'{"a": 1}'), (0, b'{"b": 2}, {"b": 3}')],
)
SECOND = Seen(images=[2], matches=[], lines=[(2, b'{"c": 4}')], with_masks=True)


def test_joining_keeps_everything_in_the_order_of_the_processes():
    joined = join_seen([FIRST, SECOND])
    assert joined.images == [4, 0, 2]
    assert [len(part) for part in joined.matches] == [1, 1]
    assert [image for image, _ in joined.lines] == [4, 0, 2]
    assert joined.with_masks
    assert not join_seen([FIRST]).with_masks
    assert join_seen([FIRST]) == FIRST


def test_packing_joins_the_matches():
    (packed,) = FIRST.packed().matches
    assert packed.image.tolist() == [4, 0]
    assert unpack_bits(packed.false_positive["bbox"])[0].tolist() == [False, True]
    assert list(packed.true_positive) == ["bbox"]
    assert FIRST.packed().lines == FIRST.lines and FIRST.packed().images == FIRST.images
    assert len(FIRST.matches) == 2
    (nothing,) = SECOND.packed().matches
    assert len(nothing) == 0 and list(nothing.true_positive) == ["bbox", "segm"]


def test_results_are_one_list_by_image(tmp_path):
    write_results(tmp_path / "results.json", join_seen([FIRST, SECOND]).lines)
    found = json.loads((tmp_path / "results.json").read_text())
    assert found == [{"b": 2}, {"b": 3}, {"c": 4}, {"a": 1}]
    write_results(tmp_path / "none.json", [])
    assert json.loads((tmp_path / "none.json").read_text()) == []
