# SPDX-License-Identifier: Apache-2.0
"""The order in which training images are drawn.

Shapes: N images, K classes.
"""

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence

import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from torch.utils.data import Sampler

# Those that detectron2 builds itself.
BUILT_BY_DETECTRON2 = (
    "TrainingSampler",
    "RepeatFactorTrainingSampler",
    "RandomSubsetTrainingSampler",
)


class ClassBalancedTrainingSampler(Sampler):
    """Endless image indices: a class is drawn, then one of its n_c images uniformly.

    The class is drawn with a probability proportional to n_c^q, here q = 0: uniformly.

    An image of several classes is in the list of each. All processes draw the same stream from
    the same seed, and process r takes its entries r, r + world size, ..., as with detectron2's
    samplers.
    """

    exponent = 0.0

    def __init__(
        self, images_by_class: Sequence[Sequence[int]], *, seed: int | None = None
    ) -> None:
        """Set the images and the seed of the stream.

        Args:
            images_by_class: for each class that occurs the indices (0..N-1) of its images, as
                :meth:`images_by_class_from_dataset_dicts` makes them.
            seed: of the stream, the same in every process; by default a random one that they
                share, for which they must all be here.

        Raises:
            ValueError: there is no class, or a class has no image.
        """
        if len(images_by_class) == 0 or any(len(images) == 0 for images in images_by_class):
            raise ValueError(
                f"{type(self).__name__} needs at least one class, and an image of every class: "
                "leave classes without images out"
            )
        self._images_by_class = images_by_class
        weights = (len(images) ** self.exponent for images in images_by_class)
        self._ends = list(itertools.accumulate(weights))
        self._seed = comm.shared_random_seed() if seed is None else int(seed)
        self._rank = comm.get_rank()
        self._world_size = comm.get_world_size()

    @classmethod
    def images_by_class_from_dataset_dicts(cls, dataset_dicts: Sequence[dict]) -> list[list[int]]:
        """List the images of every class that occurs, in ascending order of the classes.

        Args:
            dataset_dicts: N records in detectron2's format, with ``label`` or ``annotations``.
                Images with neither are in no list, so the sampler never draws them; nor do
                annotations with ``iscrowd`` = 1 count, which are not trained on.

        Returns:
            For each class the ascending indices of its images, each image once.

        Raises:
            ValueError: no record has a label or an annotation that counts.
        """
        images = defaultdict(list)
        for index, record in enumerate(dataset_dicts):
            for category in _classes(record):
                images[category].append(index)
        if not images:
            raise ValueError(
                f"{cls.__name__}: none of the {len(dataset_dicts)} images has a label or "
                "annotations to draw a class from; use DATALOADER.SAMPLER_TRAIN TrainingSampler"
            )
        return [images[category] for category in sorted(images)]

    def __iter__(self) -> Iterator[int]:
        """Yield the entries of the endless stream that belong to this process."""
        return itertools.islice(self._stream(), self._rank, None, self._world_size)

    def _stream(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)

        while True:
            place = torch.rand((), dtype=torch.float64, generator=generator).item()
            # At most the last: the product may round up to the end.
            drawn = bisect.bisect_right(self._ends, place * self._ends[-1], hi=len(self._ends) - 1)
            images = self._images_by_class[drawn]
            yield images[int(torch.randint(len(images), (), generator=generator))]


class SquareRootTrainingSampler(ClassBalancedTrainingSampler):
    """A class is drawn with q = 1/2, between balanced classes (0) and equal images (1)."""

    exponent = 0.5


OWN_SAMPLERS = {
    sampler.__name__: sampler
    for sampler in (ClassBalancedTrainingSampler, SquareRootTrainingSampler)
}


def _classes(record: dict) -> set[int]:
    """List the classes that an image counts for."""
    if "label" in record:
        return {record["label"]}
    instances = record.get("annotations") or ()
    return {a["category_id"] for a in instances if not a.get("iscrowd", 0)}


def build_train_sampler(cfg: CfgNode, dataset_dicts: Sequence[dict]) -> Sampler | None:
    """Build the sampler that ``DATALOADER.SAMPLER_TRAIN`` names, where detectron2 lacks it.

    Args:
        cfg: a complete config.
        dataset_dicts: the records that the loader gets as ``dataset``, in the same order: the
            sampler's indices are into this list.

    Returns:
        The argument ``sampler`` of ``build_detection_train_loader(cfg, dataset=dataset_dicts)``;
        None stands for the sampler of detectron2 that the config names.

    Raises:
        ValueError: no sampler has this name, or no record has what it draws by.
    """
    name = cfg.DATALOADER.SAMPLER_TRAIN
    known = [*BUILT_BY_DETECTRON2, *OWN_SAMPLERS]
    if name not in known:
        raise ValueError(f"DATALOADER.SAMPLER_TRAIN must be one of {known}, got {name!r}")
    if name == "RepeatFactorTrainingSampler":
        # detectron2 would only say: KeyError: 'annotations'.
        without = [r.get("file_name") for r in dataset_dicts if "annotations" not in r]
        if without:
            raise ValueError(
                f"{name} repeats images by their instances, but {len(without)} records (such as "
                f"{without[0]}) have no 'annotations'; use DATALOADER.SAMPLER_TRAIN TrainingSampler"
            )
    if name not in OWN_SAMPLERS:
        return None
    sampler = OWN_SAMPLERS[name]
    return sampler(sampler.images_by_class_from_dataset_dicts(dataset_dicts))
