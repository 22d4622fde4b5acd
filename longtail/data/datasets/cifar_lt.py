# SPDX-License-Identifier: Apache-2.0
"""CIFAR-10-LT and CIFAR-100-LT: CIFAR with an exponential profile of training images.

Of the class with the number c, in the official order, n_c = floor(n_max (1 / IF)^(c / (K - 1)))
images are for training: n_max is 5,000 and 500, IF the imbalance factor. The test set stays
balanced.

root/cifar100_lt/images/{train,test}/<class>/0000.png
root/cifar100_lt/cifar100_lt_{if10_train,if50_train,if100_train,if200_train,balanced,test}.txt

K classes.
"""

import os
from dataclasses import dataclass

from longtail.data.datasets.image_list import register_image_list

IMBALANCE_FACTORS = (10, 50, 100, 200)


@dataclass(frozen=True)
class Cifar:
    """One of the two data sets.

    Attributes:
        num_classes: K.
        train_images: of each class, in the official archive.
        test_images: of each class.
        archive: name of the binary version.
        label_bytes: in front of an image in it; the last one is the class.
        names_file: the list of class names in it.
    """

    num_classes: int
    train_images: int
    test_images: int
    archive: str
    label_bytes: int
    names_file: str

    def profile(self, imbalance: float) -> list[int]:
        """Number the training images of each of the K classes.

        Args:
            imbalance: images of the first class over those of the last one, at least 1.
        """
        steps = range(self.num_classes)
        last = self.num_classes - 1
        return [int(self.train_images * (1 / imbalance) ** (c / last)) for c in steps]


CIFARS = {
    "cifar10_lt": Cifar(10, 5000, 1000, "cifar-10-binary.tar.gz", 1, "batches.meta.txt"),
    "cifar100_lt": Cifar(100, 500, 100, "cifar-100-binary.tar.gz", 2, "fine_label_names.txt"),
}


def training_sets(name: str) -> dict[str, float]:
    """The imbalance factor of each list of training images, by its name; 1 for the balanced one."""
    sets: dict[str, float] = {f"{name}_if{factor}_train": factor for factor in IMBALANCE_FACTORS}
    return {**sets, f"{name}_balanced": 1}


def list_file(root: str, name: str, dataset: str) -> str:
    """Name a list under the folder of all data sets."""
    return os.path.join(root, name, f"{dataset}.txt")


def register_cifar_lt(root: str) -> None:
    """Register ``cifar100_lt_if100_train``, ``..._balanced`` and so on, and ``cifar100_lt_test``.

    The test set is the same for all factors: whose training images tell many, medium and few is
    told by DATASETS.TRAIN. The balanced images, for the empirical bound, are the same as well; but
    each of their names belongs to a factor, whose training set tells.

    Args:
        root: the folder that holds the data sets.
    """
    for name, cifar in CIFARS.items():
        files = {f"{name}_test": f"{name}_test"}
        for factor in IMBALANCE_FACTORS:
            part = f"{name}_if{factor}"
            files |= {f"{part}_train": f"{part}_train", f"{part}_balanced": f"{name}_balanced"}
        for dataset, file in files.items():
            balanced = dataset.endswith("_balanced")
            register_image_list(
                dataset,
                list_file(root, name, file),
                os.path.join(root, name),
                training_set=dataset.replace("_balanced", "_train") if balanced else None,
                num_classes=cifar.num_classes,
                every_class=not dataset.endswith("_test"),
                hint=f"make it with: longtail prepare {name} --source FOLDER",
            )
