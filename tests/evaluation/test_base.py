# SPDX-License-Identifier: Apache-2.0
"""The part that the evaluators share: look-ups of the data set, and gathering."""

import json

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from longtail.evaluation.base import LongTailEvaluator
from tests.processes import run_in_two_processes

NAME = "test_base_evaluator"


class ToyEvaluator(LongTailEvaluator):
    """Messages name the evaluator that is used."""


@pytest.fixture
def name():
    DatasetCatalog.register(NAME, list)
    MetadataCatalog.get(NAME).set(classes=["a"], empty=[])
    yield NAME
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def test_the_data_set_must_be_registered():
    with pytest.raises(ValueError, match=r"ToyEvaluator: .*'nowhere'"):
        ToyEvaluator("nowhere")


def test_registered_data_sets_need_no_other_import():
    ToyEvaluator("camvid_sem_seg_val")


def test_metadata_that_is_needed(name):
    evaluator = ToyEvaluator(name)
    assert evaluator.needed_metadata("classes", "class names") == ["a"]
    for key in ("empty", "absent"):
        with pytest.raises(ValueError, match=f"ToyEvaluator: .*'{NAME}' .* {key}; .*class names"):
            evaluator.needed_metadata(key, "class names")


def test_alone_there_is_nothing_to_gather(name):
    evaluator, mine = ToyEvaluator(name), {"a": 1}
    assert evaluator.is_alone
    (given,) = evaluator.gather(mine)
    assert given is mine


def gather_in_process(rank, folder):
    DatasetCatalog.register(NAME, list)
    together = ToyEvaluator(NAME)
    apart = ToyEvaluator(NAME, distributed=False)
    found = [together.is_alone, together.gather({"rank": rank}), apart.is_alone, apart.gather(rank)]
    (folder / f"{rank}.json").write_text(json.dumps(found))


def test_two_processes(tmp_path):
    run_in_two_processes(gather_in_process, tmp_path)
    main, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert main == [False, [{"rank": 0}, {"rank": 1}], True, [0]]
    assert other == [False, None, True, [1]]
