# SPDX-License-Identifier: Apache-2.0
"""One pass over a training set: what enters an image classifier's last layer.

Shape alphabet:
    N: images of the training set
    C: channels of the features
"""

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader

from longtail.data.mappers.classification import ClassificationDatasetMapper
from longtail.engine.training.data_sets import training_records
from longtail.modeling.classification import ImageClassifier

# No gradients are kept, and features are small: any number of images that fits a step does.
BATCH_SIZE = 64


@torch.no_grad()
def training_features(cfg: CfgNode, model: ImageClassifier) -> tuple[Tensor, Tensor]:
    """The features of the training images, transformed as in testing, without augmentation.

    Several processes share the images; all of them get the whole result.

    Args:
        cfg: read for DATASETS.TRAIN, INPUT and DATALOADER.NUM_WORKERS.
        model: its mode is as before afterwards.

    Returns:
        (N, C) features and (N,) labels, on the CPU, in the order of the data sets.

    Raises:
        ValueError: DATASETS.TRAIN is empty, or has another number of classes than the model.
        OSError: an image cannot be read.
    """
    records = training_records(cfg)
    mapper = ClassificationDatasetMapper(cfg, is_train=False)
    loader = DataLoader(
        MapDataset(DatasetFromList(records, copy=False), mapper),
        batch_size=BATCH_SIZE,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=list,
    )
    was_training = model.training
    model.eval()
    features, labels = [], []
    for batch in loader:
        features.append(model.features(batch).cpu())
        labels += [item["label"] for item in batch]
    model.train(was_training)
    parts = comm.all_gather((features, labels))
    return (
        torch.cat([part for features, _ in parts for part in features]),
        torch.tensor([label for _, labels in parts for label in labels]),
    )
