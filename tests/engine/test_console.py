# SPDX-License-Identifier: Apache-2.0
"""What of the log the console shows."""

import logging

import pytest

from longtail.engine.console import ShownOnConsole


@pytest.mark.parametrize(
    ("name", "level", "message", "shown"),
    [
        ("detectron2", logging.INFO, "Command line arguments: Namespace(...)", False),
        ("detectron2", logging.WARNING, "a warning", True),
        ("detectron2.engine.defaults", logging.INFO, "Model:\nA(\n  (b): B()\n)", False),
        ("detectron2.engine.defaults", logging.ERROR, "an\nerror\nof\nmany lines", True),
        ("detectron2.data.build", logging.INFO, "Removed 3 images", True),
        ("detectron2.data.common", logging.INFO, "Serializing 3 elements", False),
        ("detectron2.evaluation.coco_evaluation", logging.INFO, "AP\n|1|\n|2|\n|3|", True),
        ("fvcore.common.checkpoint", logging.INFO, "many\nnames\nof\ntensors", False),
        ("longtail.evaluation.lvis.evaluator", logging.INFO, "AP\n|1|\n|2|\n|3|", True),
        ("longtail_extension", logging.INFO, "one\ntwo\nthree\nfour", True),
    ],
)
def test_what_is_shown(name, level, message, shown):
    record = logging.LogRecord(name, level, "file", 1, message, (), None)
    assert ShownOnConsole().filter(record) == shown
