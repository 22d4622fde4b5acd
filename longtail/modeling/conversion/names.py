# SPDX-License-Identifier: Apache-2.0
"""Names that other libraries give the tensors of our models.

A model is given by the names in its state dict, ``backbone.*`` and ``sem_seg_head.*``. The rules
lead from our names to the others; the way back is the inverted dictionary, so that the two
directions cannot disagree.
"""

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

# (pattern, replacement) as for re.sub.
Rules = tuple[tuple[str, str | Callable[[re.Match], str]], ...]

# timm's feature model in a backbone, also in one with a feature pyramid network.
BODY = re.compile(r"backbone\.(?:bottom_up\.)?model\.(.+)")
HEAD = "sem_seg_head."
OUTPUT_NORMS = "backbone.norms."
# The style of whole models.
PEER = "mmsegmentation"


def _numbered(name: str, *, factor: int = 1, plus: int = 0) -> Callable[[re.Match], str]:
    """A replacement: ``name`` with the number in the pattern's first group times and plus those."""
    return lambda match: name.format(factor * int(match[1]) + plus)


# Backbones: from the names in timm's feature model to the peer's without "backbone."; all rules in
# order.
_PATCHES: Rules = ((r"^patch_embed\.proj\.", "patch_embed.projection."),)
_MLP: Rules = ((r"\.mlp\.fc1\.", ".ffn.layers.0.0."), (r"\.mlp\.fc2\.", ".ffn.layers.1."))
# A stem of three 3x3 convolutions, whose last norm timm keeps apart.
_DEEP_STEM: Rules = ((r"^conv1\.", "stem."), (r"^bn1\.", "stem.7."))
_SWIN: Rules = (
    *_PATCHES,
    # timm merges patches where a stage begins, the peer where the one before it ends.
    (r"^layers_(\d+)\.downsample\.", _numbered("stages.{}.downsample.", plus=-1)),
    (r"^layers_(\d+)\.", r"stages.\1."),
    (r"\.attn\.", ".attn.w_msa."),
    *_MLP,
)
_BEIT: Rules = (
    *_PATCHES,
    (r"^blocks\.(\d+)\.norm(\d)\.", r"layers.\1.ln\2."),
    (r"^blocks\.", "layers."),
    *_MLP,
)


class Family(NamedTuple):
    """Backbones of one naming, which the peer has too."""

    name: str
    # Pattern of a tensor's name in any library, which no family further down has.
    sign: str
    rules: Rules


FAMILIES = (
    Family("HRNet", r"transition1\.0\.0\.weight", ()),
    Family("ResNeSt", r"layer1\.0\.conv2\.fc1\.weight", _DEEP_STEM),
    Family("ResNet with a deep stem", r"(conv1|stem)\.6\.weight", _DEEP_STEM),
    Family("ResNet", r"layer1\.0\.conv1\.weight", ()),
    Family("Swin", r"(layers[._]\d|stages\.\d|features)\.(downsample|2)\.reduction\.weight", _SWIN),
    Family("BEiT", r"(blocks|layers)\.0\.attn\.relative_position_bias_table", _BEIT),
)
# What our backbones have besides timm's model.
_BESIDES: Rules = (
    (r"backbone\.norms\.res(\d)\.(.+)", lambda m: f"backbone.norm{int(m[1]) - 2}.{m[2]}"),
    (r"backbone\.neck\.res2\.(.+)", r"neck.upsample_4x.\1"),
    (r"backbone\.neck\.res3\.(.+)", r"neck.upsample_2x.0.\1"),
)

# Backbones alone, in other styles than the peer's; again from timm's feature model.
# It joins the first two parts of some names by "_", where timm's classifiers have a dot.
_TIMM: Rules = ((r"^([a-z]+)_(\d+)\.", r"\1.\2."),)
BACKBONE_STYLES: dict[str, Rules] = {
    "timm": _TIMM,
    "torchvision": (
        (r"^patch_embed\.proj\.", "features.0.0."),
        (r"^patch_embed\.norm\.", "features.0.2."),
        (r"^layers_(\d+)\.downsample\.", _numbered("features.{}.", factor=2)),
        (r"^layers_(\d+)\.blocks\.", _numbered("features.{}.", factor=2, plus=1)),
        (r"\.mlp\.fc1\.", ".mlp.0."),
        (r"\.mlp\.fc2\.", ".mlp.3."),
    ),
    "Swin's authors": (
        (r"^layers_(\d+)\.downsample\.", _numbered("layers.{}.downsample.", plus=-1)),
        *_TIMM,
    ),
}

# Heads: from our modules to the peer's; the first rule whose pattern is the whole name.
_SEPARABLE = ((0, "depthwise_conv"), (1, "pointwise_conv"))
_HEAD: Rules = (
    (r"predictor", "conv_seg"),
    (r"convs\.(\d+)", r"convs.\1"),
    (r"join", "conv_cat"),
    (r"pyramid_pooling\.pools\.(\d+)", r"psp_modules.\1.1"),
    (r"(?:pyramid_pooling\.)?bottleneck", "bottleneck"),
    (r"laterals\.(\d+)", r"lateral_convs.\1"),
    (r"outputs\.(\d+)", r"fpn_convs.\1"),
    (r"fusion", "fpn_bottleneck"),
    (r"image_pool\.1", "image_pool.1"),
    (r"branches\.(\d+)", r"aspp_modules.\1"),
    *((rf"branches\.(\d+)\.{i}", rf"aspp_modules.\1.{part}") for i, part in _SEPARABLE),
    (r"reduce_low", "c1_bottleneck"),
    *((rf"decoder\.(\d+)\.{i}", rf"sep_bottleneck.\1.{part}") for i, part in _SEPARABLE),
)
# The peer's cascade is two heads.
_CONTEXT = "1.object_context_block"
_CASCADE: Rules = (
    (r"coarse_conv", "0.convs.0"),
    (r"coarse_predictor", "0.conv_seg"),
    (r"predictor", "1.conv_seg"),
    (r"reduce", "1.bottleneck"),
    (r"(query|key)\.(\d+)", rf"{_CONTEXT}.\1_project.\2"),
    (r"value", f"{_CONTEXT}.value_project"),
    (r"project", f"{_CONTEXT}.out_project"),
    (r"fusion", f"{_CONTEXT}.bottleneck"),
)
# A part of the peer's names that tells its heads apart, the first that is found.
_HEAD_SIGNS = {
    "OCRNet": "decode_head.1.object_context_block.",
    "UPerNet": "decode_head.fpn_bottleneck.",
    "PSPNet": "decode_head.psp_modules.",
    "DeepLabV3+": "decode_head.c1_bottleneck.",
    "FCN": "decode_head.conv_cat.",
    "another head": "decode_head.",
}


def peer_names(own: Iterable[str]) -> dict[str, str]:
    """The peer's names of the tensors of a segmentor of ours.

    Args:
        own: the names in the model's state dict, without those that only training has.

    Raises:
        ValueError: the peer does not have such a backbone, head or tensor.
    """
    own = list(own)
    family = family_of(own)
    if family is None:
        raise ValueError(
            f"{PEER} has no such backbone: expected one of timm, "
            f"{', '.join(f.name for f in FAMILIES)}; got the tensors {', '.join(own[:3])}"
        )
    is_cascade = "sem_seg_head.coarse_predictor.weight" in own
    names = {
        name: _peer_head_name(name.removeprefix(HEAD), is_cascade)
        if name.startswith(HEAD)
        else _peer_backbone_name(name, family)
        for name in own
    }
    nowhere = [name for name, other in names.items() if not other]
    if nowhere:
        raise ValueError(f"{PEER} has no place for {listed('of the tensors', nowhere)}")
    return names


def backbone_styles(own: Iterable[str]) -> dict[str, dict[str, str]]:
    """List, in every style that there is, the names of a backbone's tensors in a file of its own.

    Args:
        own: the names in our model's state dict; heads do not count, nor does a neck.

    Raises:
        ValueError: the model's backbone is none of timm.
    """
    own = list(own)
    body = {name: match[1] for name in own if (match := BODY.fullmatch(name))}
    if not body:
        raise ValueError(
            "the model has no backbone of timm, whose tensors begin with backbone.model: it has "
            f"{', '.join(own[:3])}"
        )
    styles = {
        style: {name: _rename(other, rules) for name, other in body.items()}
        for style, rules in BACKBONE_STYLES.items()
    }
    if family := family_of(own):
        norms = [name for name in own if name.startswith(OUTPUT_NORMS)]
        styles[PEER] = {
            name: _peer_backbone_name(name, family).removeprefix("backbone.")
            for name in [*body, *norms]
        }
    return styles


def family_of(names: Iterable[str]) -> Family | None:
    """The backbone's family by the names in a model of any library; None for an unknown one."""
    text = "\n".join(names)
    return next((family for family in FAMILIES if re.search(family.sign, text)), None)


def describe(names: Iterable[str]) -> str:
    """Describe a model by its names in any library, such as ``PSPNet on ResNet``."""
    names = list(names)
    family = family_of(names)
    backbone = family.name if family else "an unknown backbone"
    for head, sign in _HEAD_SIGNS.items():
        if any(name.startswith(sign) for name in names):
            return f"{head} on {backbone}"
    return backbone


def listed(what: str, names: list[str]) -> str:
    """``3 missing (a, b, c)``: a count and the first names, for a message of one line."""
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({first})" if names else "")


def _rename(name: str, rules: Rules) -> str:
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


def _rename_whole(name: str, rules: Rules) -> str:
    """The result of the first rule whose pattern is the whole name; "" without one."""
    for pattern, replacement in rules:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return ""


def _peer_backbone_name(name: str, family: Family) -> str:
    match = BODY.fullmatch(name)
    if match:
        return "backbone." + _rename(match[1], family.rules)
    return _rename_whole(name, _BESIDES)


def _peer_head_name(name: str, is_cascade: bool) -> str:
    prefix, rules = "decode_head", _CASCADE if is_cascade else _HEAD
    if name.startswith("auxiliary."):
        prefix, rules, name = "auxiliary_head", _HEAD, name.removeprefix("auxiliary.")
    module, _, tensor = name.rpartition(".")
    # Our convolution holds its norm; in the peer they stand side by side.
    child = "bn" if module.endswith(".norm") else "conv"
    renamed = _rename_whole(module.removesuffix(".norm"), rules)
    if not renamed:
        return ""
    is_classifier = renamed.endswith("conv_seg")
    return ".".join([prefix, renamed, *([] if is_classifier else [child]), tensor])
