# SPDX-License-Identifier: Apache-2.0
"""Bad configs and overrides, for benchmarks/bad_inputs.py."""

from bad_input_stage import Case, Place

from longtail.config import get_config_file

# Key: values that no run can work with. The line has to name the key.
PIXEL_VALUES = {
    "SOLVER.IMS_PER_BATCH": ("0", "-4", "2.5"),
    "SOLVER.CHECKPOINT_PERIOD": ("0", "-1"),
    "SOLVER.CHECKPOINT_MINUTES": ("-1.0",),
    "SOLVER.CHECKPOINT_KEEP": ("-2",),
    "SOLVER.MAX_ITER": ("0", "-1", "many"),
    "SOLVER.WARMUP_ITERS": ("-3",),
    "SOLVER.WARMUP_METHOD": ("sudden",),
    "SOLVER.WARMUP_FACTOR": ("-1.0",),
    "SOLVER.BASE_LR": ("-1.0", "1e30", "1e400", "fast"),
    "SOLVER.MOMENTUM": ("1.5", "-0.1"),
    "SOLVER.WEIGHT_DECAY": ("-1.0", "1e30"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupSineLR", ""),
    "SOLVER.OPTIMIZER": ("Adam",),
    "SOLVER.ACCUMULATION_STEPS": ("0", "3"),
    "SOLVER.HANG_MINUTES": ("-1.0",),
    "SOLVER.NO_DECAY_PARAMS": ("['gama']",),
    "SOLVER.MAX_ITERS": ("5",),
    "SOLVERS.MAX_ITER": ("5",),
    "MODEL.DEVICE": ("cuda:7", "foo", "", "cpu:x"),
    "MODEL.META_ARCHITECTURE": ("Segmentor", ""),
    "MODEL.BACKBONE.NAME": ("TimBackbone",),
    "MODEL.TIMM.FREEZE_AT": ("-1", "99"),
    "MODEL.TIMM.NAME": ("resnet51", ""),
    "MODEL.TIMM.PRETRAINED": ("yes",),
    "MODEL.TIMM.DROP_PATH": ("1.5", "-0.1"),
    "MODEL.TIMM.OUTPUT_STRIDE": ("0", "7"),
    "MODEL.PIXEL_STD": ("[0.0, 0.0, 0.0]", "[1.0]"),
    "MODEL.PIXEL_MEAN": ("[1.0]", "['a', 'b', 'c']"),
    "MODEL.SEM_SEG_HEAD.NAME": ("FNCHead",),
    "MODEL.SEM_SEG_HEAD.NUM_CLASSES": ("0", "-3", "5", "9"),
    "MODEL.SEM_SEG_HEAD.IGNORE_VALUE": ("-1", "300"),
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": ("-1.0",),
    "MODEL.SEM_SEG_HEAD.PIXEL_LOSS": ("lovasz",),
    "MODEL.SEM_SEG_HEAD.IN_FEATURES": ("['res9']", "[]"),
    "MODEL.SEM_SEG_HEAD.CONVS_DIM": ("0", "-8"),
    "MODEL.REGION_REBALANCE.BASE_HEAD_NAME": ("FNCHead",),
    "MODEL.COMPILE": ("perhaps",),
    "INPUT.FORMAT": ("XYZ", ""),
    "INPUT.CROP.SIZE": ("[0, 0]", "[-5, 5]", "[5]", "5"),
    "INPUT.MIN_SIZE_TRAIN": ("(0,)", "()", "(-5,)"),
    "INPUT.MAX_SIZE_TRAIN": ("0",),
    "INPUT.MIN_SIZE_TEST": ("-1",),
    "INPUT.MAX_SIZE_TEST": ("0",),
    "INPUT.RESIZE_SCALE_RANGE": ("(2.0, 0.5)", "(0.0, 1.0)"),
    "DATALOADER.NUM_WORKERS": ("-1",),
    "DATALOADER.SAMPLER_TRAIN": ("RandomSampler",),
    "DATASETS.TRAIN": ("('nowhere',)", "()", "('synthetic_sem_seg_train')", "('x')"),
    "DATASETS.TEST": ("('nowhere',)", "('x')"),
    "TEST.SEM_SEG.MODE": ("tiles",),
    "TEST.SEM_SEG.CROP_SIZE": ("[0, 0]",),
    "TEST.EVAL_PERIOD": ("-1",),
    "SEED": ("1.5",),
    "INPUT.RESIZE_FILTER": ("nearest",),
    "INPUT.COPY_PASTE.PROBABILITY": ("1.5", "-0.1"),
    "SOLVER.FSDP.ENABLED": ("perhaps",),
    "MODEL.TIMM.LORA.ENABLED": ("perhaps",),
    "MODEL.CLASS_LOSS.SEESAW_P": ("-1.0",),
}
BOX_VALUES = {
    "MODEL.ROI_HEADS.NUM_CLASSES": ("0", "7"),
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": ("0",),
    "MODEL.ROI_HEADS.NAME": ("Heads",),
    "DATALOADER.REPEAT_THRESHOLD": ("-1.0",),
    "TEST.DETECTIONS_PER_IMAGE": ("0",),
    "INPUT.COPY_PASTE.PROBABILITY": ("1.5",),
}
IMAGE_VALUES = {
    "MODEL.CLASSIFIER.NUM_CLASSES": ("0", "7"),
    "MODEL.CLASSIFIER.LOSS": ("seesaws",),
    "INPUT.CLASSIFICATION.SIZE": ("0",),
    "INPUT.CLASSIFICATION.CROP_SCALE": ("(2.0, 3.0)",),
    "DATALOADER.RANDOM_SUBSET_RATIO": ("0.0", "2.0"),
    "DATALOADER.RARE_CLASS_TEMPERATURE": ("0.0",),
}


# Without these the key is not read.
READ_WITH = {
    "TEST.SEM_SEG.CROP_SIZE": ("TEST.SEM_SEG.MODE", "slide"),
    "DATALOADER.RANDOM_SUBSET_RATIO": ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"),
    "DATALOADER.RARE_CLASS_TEMPERATURE": ("DATALOADER.SAMPLER_TRAIN", "RareClassTrainingSampler"),
    "MODEL.CLASS_LOSS.SEESAW_P": ("MODEL.SEM_SEG_HEAD.PIXEL_LOSS", "seesaw"),
}


def _value(kind: str, key: str, value: str) -> Case:
    # What is written last counts.
    def make(place: Place) -> list[str]:
        return place.train(kind, *READ_WITH.get(key, ()), key, value)

    # A missing data set is known by its name, a missing level by the head that wants it.
    names = {
        "SOLVERS.MAX_ITER": "SOLVER.MAX_ITER",
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": "IN_FEATURES",
    }
    name = "nowhere" if value == "('nowhere',)" else names.get(key, key)
    return Case(f"{kind}: {key} {value or repr(value)}", (name,), make)


def _config(name: str, text: str, *expect: str, base: bool = True, crafted: bool = False) -> Case:
    """A config file; with a base it is a tiny training but for what is wrong."""

    def make(place: Place) -> list[str]:
        head = f"_BASE_: {get_config_file('quickstart/deeplabv3plus_lite0_rr.yaml')}\n"
        content = text.replace("MARKER", str(place.marker))
        place.write("bad.yaml", (head if base else "") + content)
        argv = place.train("pixels")
        argv[argv.index("--config-file") + 1] = str(place.folder / "bad.yaml")
        return argv

    return Case(f"config: {name}", expect, make, crafted=crafted)


def _cyclic(place: Place) -> list[str]:
    place.write("a.yaml", "_BASE_: b.yaml\nVERSION: 2\n")
    return ["train", "--config-file", place.write("b.yaml", "_BASE_: a.yaml\nVERSION: 2\n")]


CODE = "!!python/object/apply:os.system ['touch MARKER']"
CONFIG_CASES = [
    *(_value("pixels", key, value) for key, values in PIXEL_VALUES.items() for value in values),
    *(_value("boxes", key, value) for key, values in BOX_VALUES.items() for value in values),
    *(_value("images", key, value) for key, values in IMAGE_VALUES.items() for value in values),
    _config("empty", "", "bad.yaml", base=False),
    _config("a list", "- SOLVER\n", "bad.yaml", base=False),
    _config("a number", "5\n", "bad.yaml", base=False),
    _config("binary", "\x00\x01\x02", "bad.yaml", base=False),
    _config("broken", "SOLVER: [1,\n", "bad.yaml"),
    _config("tabs", "SOLVER:\n\tMAX_ITER: 3\n", "bad.yaml"),
    _config("unknown key", "SOLVER: {MAX_ITERS: 3}\n", "SOLVER.MAX_ITERS", "SOLVER.MAX_ITER"),
    _config("a section that is a number", "SOLVER: 3\n", "SOLVER"),
    _config("a value that is a section", "SOLVER: {MAX_ITER: {A: 1}}\n", "MAX_ITER"),
    _config("null", "SOLVER: {BASE_LR: null}\n", "SOLVER.BASE_LR"),
    _config("NaN", "SOLVER: {BASE_LR: .nan}\n", "SOLVER.BASE_LR"),
    _config("infinite", "SOLVER: {BASE_LR: .inf}\n", "SOLVER.BASE_LR"),
    _config("nested", "A: " + "[" * 3000 + "]" * 3000 + "\n", "bad.yaml"),
    _config("version", "VERSION: 9\n", "v9"),
    _config("no base", "_BASE_: nowhere.yaml\n", "nowhere.yaml", base=False),
    _config("base is a folder", "_BASE_: .\n", "base_is_a_folder", base=False),
    _config("base is a number", "_BASE_: 5\n", "bad.yaml", base=False),
    _config("base from the network", "_BASE_: http://127.0.0.1:9/x.yaml\n", "sha256", base=False),
    _config(
        "base from a network that is down",
        f"_BASE_: http://127.0.0.1:9/x.yaml#sha256={'0' * 64}\n",
        *("http://127.0.0.1:9/x.yaml", "fetched"),
        base=False,
    ),
    _config("code", f"OUTPUT_DIR: {CODE}\n", "python/object", crafted=True),
    _config(
        "code, new",
        "OUTPUT_DIR: !!python/object/new:os.system ['touch MARKER']\n",
        "python/object",
        crafted=True,
    ),
    _config("code in a list", f"DATASETS: {{TRAIN: [{CODE}]}}\n", "python/object", crafted=True),
    Case("config: base leads back", ("_BASE_",), _cyclic),
]
