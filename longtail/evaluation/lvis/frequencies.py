# SPDX-License-Identifier: Apache-2.0
"""Rare, common and frequent categories where a file in LVIS's format does not say which are."""

import logging
from collections.abc import Sequence

from longtail.data.statistics.class_stats import get_class_stats
from longtail.data.statistics.counting import frequency_bounds
from longtail.data.statistics.groups import frequency_letter
from longtail.evaluation.lvis.annotations import LVISAnnotations


def derive_frequencies(
    annotations: LVISAnnotations, training_sets: Sequence[str], dataset_name: str
) -> None:
    """Let training images tell the frequency of the categories that are without, in place.

    Their counts of training images and instances come from there as well. Categories that nothing
    tells about stay without; a warning says so. The bounds are those of the data set's or the
    training sets' metadata, see :func:`~longtail.data.statistics.counting.frequency_bounds`.

    Args:
        annotations: their ``categories`` are changed.
        training_sets: registered data sets, whose classes have the names of the categories.
            Every process has to be here, see
            :func:`~longtail.data.statistics.class_stats.get_class_stats`.
        dataset_name: for the messages.

    Raises:
        ValueError: the training sets cannot be counted.
    """
    logger = logging.getLogger(__name__)
    unknown = [item for item in annotations.categories if item["frequency"] is None]
    if not unknown:
        return
    counted: dict[str, dict[str, int]] = {}
    if training_sets:
        try:
            rows = get_class_stats(training_sets).to_dict()["classes"]
            counted = {row["name"]: row for row in rows}
        except FileNotFoundError as error:
            logger.warning(f"{dataset_name}: the training set is not here ({error})")
    bounds = frequency_bounds([dataset_name, *training_sets])
    for item in unknown:
        if row := counted.get(item["name"]):
            item["image_count"] = row["image_count"]
            item["instance_count"] = row.get("instance_count")
            item["frequency"] = frequency_letter(item["image_count"], bounds)
    if counted:
        logger.info(f"{dataset_name}, by {', '.join(training_sets)}: {bounds}")
    left = [item["name"] for item in unknown if item["frequency"] is None]
    if left:
        logger.warning(
            f"{dataset_name}: {len(left)} categories (such as {left[0]!r}) have neither frequency "
            "nor image_count, and no training set counts them: they are in AP, but not in APr, "
            "APc and APf"
        )
