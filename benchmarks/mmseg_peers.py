# SPDX-License-Identifier: Apache-2.0
"""mmsegmentation's model of the same architecture as one of our configs.

mmsegmentation has an environment of its own, so that the project's keeps its packages. It finds
torch, detectron2 and the project where they are, in SITE, the site-packages of the project's
environment (``python -c "import site; print(site.getsitepackages()[0])"`` there):

    python -m venv peers
    echo "import site; site.addsitedir('SITE')" > peers/lib/python3.11/site-packages/project.pth
    peers/bin/pip install mmsegmentation==1.2.2 mmcv-lite==2.1.0 mmengine==0.10.7 ftfy regex
"""

import contextlib
import io
import re
import sys
import types
from pathlib import Path
from typing import Any, ClassVar

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn

# Head -> timm's name of the backbone without its weights -> mmsegmentation's config.
CONFIGS = {
    "FCNHead": {
        "resnet50c": "fcn/fcn_r50-d8_4xb4-160k_ade20k-512x512",
        "resnet101c": "fcn/fcn_r101-d8_4xb4-160k_ade20k-512x512",
        "resnest101e": "resnest/resnest_s101-d8_fcn_4xb4-160k_ade20k-512x512",
    },
    "PSPHead": {
        "resnet50c": "pspnet/pspnet_r50-d8_4xb4-160k_ade20k-512x512",
        "resnet101c": "pspnet/pspnet_r101-d8_4xb4-160k_ade20k-512x512",
    },
    "SeparableDeepLabV3PlusHead": {
        "resnet50c": "deeplabv3plus/deeplabv3plus_r50-d8_4xb4-160k_ade20k-512x512",
        "resnet101c": "deeplabv3plus/deeplabv3plus_r101-d8_4xb4-160k_ade20k-512x512",
        "resnest101e": "resnest/resnest_s101-d8_deeplabv3plus_4xb4-160k_ade20k-512x512",
    },
    "OCRHead": {
        "hrnet_w18": "ocrnet/ocrnet_hr18_4xb4-160k_ade20k-512x512",
        "hrnet_w48": "ocrnet/ocrnet_hr48_4xb4-160k_ade20k-512x512",
    },
    "UPerHead": {
        "resnet50c": "upernet/upernet_r50_4xb4-160k_ade20k-512x512",
        "resnet101c": "upernet/upernet_r101_4xb4-160k_ade20k-512x512",
        "swin_tiny_patch4_window7": (
            "swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512"
        ),
        "swin_base_patch4_window12": (
            "swin/swin-base-patch4-window12-in22k-384x384-pre_upernet_8xb2-160k_ade20k-512x512"
        ),
        "beit_large_patch16": "beit/beit-large_upernet_8xb1-amp-160k_ade20k-640x640",
    },
}


class NoOps(types.ModuleType):
    """Stands for mmcv's compiled operators, each an empty class under its name."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        """An empty class."""
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def peer_config(cfg: CfgNode) -> str:
    """Name of mmsegmentation's config for the architecture of ``cfg``.

    Raises:
        ValueError: none is known.
    """
    head = cfg.MODEL.SEM_SEG_HEAD.NAME
    if head == "RegionRebalanceHead":
        head = cfg.MODEL.REGION_REBALANCE.BASE_HEAD_NAME
    # timm's names end with what the weights were trained on: the size of images, .the data.
    backbone = re.sub(r"(_\d+)?(\..+)?$", "", cfg.MODEL.TIMM.NAME)
    if backbone not in CONFIGS.get(head, {}):
        raise ValueError(
            f"no model of mmsegmentation is known for MODEL.SEM_SEG_HEAD.NAME {head} on "
            f"MODEL.TIMM.NAME {backbone}: add its config to CONFIGS in {Path(__file__).name}"
        )
    return CONFIGS[head][backbone] + ".py"


def build_peer(cfg: CfgNode) -> nn.Module:
    """Build mmsegmentation's ``EncoderDecoder`` with the classes and the image size of ``cfg``.

    It has random weights and plain batch normalization (that over several processes needs a GPU).
    Called as a module its input is a normalised (N, 3, h, w) batch; its ``test_step`` begins with
    images as they are read, see :func:`predict`.

    Raises:
        ValueError: mmsegmentation is not installed, or has no such model.
    """
    _, mmseg = import_mmseg()
    model = _read_config(cfg).model
    model.pretrained = None
    model.backbone.init_cfg = None
    if model.backbone.type == "BEiT":
        model.backbone.img_size = (cfg.MODEL.TIMM.IMAGE_SIZE,) * 2
        model.neck.norm_cfg = {"type": "BN"}
    _plain_norms(model)
    _set_classes(model, cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES)
    return mmseg.registry.MODELS.build({**model, "type": f"mmseg.{model.type}"})


def build_peer_optimizer(cfg: CfgNode, peer: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of mmsegmentation's config, by its own constructor.

    Args:
        cfg: our config.
        peer: what :func:`build_peer` gave.

    Raises:
        ValueError: mmsegmentation is not installed.
    """
    mmengine, _ = import_mmseg()
    wrapper = _read_config(cfg).optim_wrapper
    # Mixed precision needs a GPU, and is none of the optimizer's concern.
    wrapper.type = "OptimWrapper"
    # It prints every parameter.
    with contextlib.redirect_stdout(io.StringIO()):
        return mmengine.optim.build_optim_wrapper(peer, wrapper).optimizer


def predict(
    peer: nn.Module, image: Tensor, size: tuple[int, int], test_cfg: dict | None = None
) -> Tensor:
    """Logits of an image by mmsegmentation, from its preprocessing to the original size.

    Args:
        peer: what :func:`build_peer` gave, in evaluation mode.
        image: (3, h, w) in [0, 255], RGB.
        size: height and width of the original image.
        test_cfg: how it is tested, instead of as its config says.

    Returns:
        (K, *size).
    """
    from mmseg.structures import SegDataSample

    # What mmsegmentation's pipeline says of an image that it has read and resized.
    shapes = {"ori_shape": tuple(size), "img_shape": tuple(image.shape[1:])}
    own = peer.test_cfg
    if test_cfg is not None:
        peer.test_cfg = type(own)(test_cfg)
    try:
        # It reads images in BGR.
        batch = {"inputs": [image.flip(0)], "data_samples": [SegDataSample(metainfo=shapes)]}
        return peer.test_step(batch)[0].seg_logits.data
    finally:
        peer.test_cfg = own


def _read_config(cfg: CfgNode) -> Any:
    mmengine, mmseg = import_mmseg()
    folder = Path(mmseg.__file__).parent / ".mim" / "configs"
    return mmengine.Config.fromfile(str(folder / peer_config(cfg)))


def import_mmseg() -> tuple[Any, Any]:
    """Import mmengine and mmsegmentation, whose names mmcv-lite does not have all.

    Raises:
        ValueError: it is not installed.
    """
    # mmcv-lite has no compiled operators, but some modules of mmsegmentation import them by name.
    # None of the models here uses one.
    for name in ("mmcv.ops", "mmcv.ops.point_sample"):
        sys.modules.setdefault(name, NoOps(name))
    try:
        import mmengine.optim
        import mmseg.engine
        import mmseg.models
    except ImportError as error:
        raise ValueError(
            f"mmsegmentation cannot be imported ({error}): install it as the head of "
            f"benchmarks/{Path(__file__).name} says, and run this with its environment's python"
        ) from None
    mmengine.registry.init_default_scope("mmseg")
    # It logs every parameter of an optimizer.
    mmengine.logging.MMLogger.get_current_instance().setLevel("WARNING")
    return mmengine, mmseg


def _plain_norms(node: Any) -> None:
    if isinstance(node, dict):
        if node.get("type") == "SyncBN":
            node["type"] = "BN"
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for child in node:
            _plain_norms(child)


def _set_classes(model: Any, classes: int) -> None:
    heads = model.decode_head if isinstance(model.decode_head, list) else [model.decode_head]
    for head in [*heads, *([model.auxiliary_head] if "auxiliary_head" in model else [])]:
        head.num_classes = classes
