# SPDX-License-Identifier: Apache-2.0
"""Whether our models compute what mmsegmentation's do with the same weights, at full size.

    peers/bin/python benchmarks/peer_parity.py

How to make the environment ``peers`` is said in mmseg_peers.py.

For every architecture of the papers the real peer gets random weights and batch statistics; ours
gets them through ``longtail.modeling.conversion``, and every tensor has to find its place. All is
float64, so that what differs is not rounding. Compared are, at sizes that are multiples of the
strides and at others,

- the backbone's maps, and the logits of the head, its first stage and its auxiliary head at the
  size of their maps;
- the whole model: from an image in [0, 255] over normalization to logits at the size of an original
  image, at once and in sliding windows.

Images are not padded (``MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE False``). Figures are
max |ours - peer| / max |peer|.
"""

import argparse
import gc
import math
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from common import ROOT, save_result
from detectron2.config import CfgNode
from mmseg_peers import build_peer, peer_config, predict
from torch import Tensor, nn

from longtail.config import load_config
from longtail.engine import Trainer
from longtail.engine.inference.sliding_window import SlidingWindowInference
from longtail.modeling.conversion import from_peer, to_peer

CONFIGS = ROOT / "configs" / "ADE20K"
# The tables of BEiT fix the size of its images. At 640, the papers', one convolution of UPerHead
# would unfold 7.5 GB in float64; the size changes no layer but these tables.
PLAIN_SIZE = 160
TOLERANCE = 1e-8
UNALIGNED = ((153, 153), (117, 186))


class Sizes(NamedTuple):
    """Heights and widths of images."""

    aligned: tuple[int, int]
    unaligned: tuple[tuple[int, int], ...] = UNALIGNED
    # An image, windows in it and their distances.
    slide: tuple[tuple[int, int], ...] = ((101, 186), (101, 117), (67, 78))
    # What mmsegmentation does not take.
    refused: tuple[tuple[int, int], ...] = ()


def image_sizes(name: str) -> Sizes:
    """Sizes for a backbone by timm's name."""
    if name.startswith("beit"):
        # mmsegmentation's tables fit one grid of patches; pixels that fill no patch are left out.
        return Sizes(
            aligned=(PLAIN_SIZE, PLAIN_SIZE),
            unaligned=((165, 170),),
            slide=((160, 250), (160, 163), (107, 109)),
            refused=UNALIGNED,
        )
    if name.startswith("swin"):
        # All maps are whole windows, and the last is a single one.
        side = 32 * int(name.partition("window")[2].partition("_")[0])
        return Sizes(aligned=(side, side))
    return Sizes(aligned=(128, 160))


def randomize(model: nn.Module) -> None:
    """Random weights, statistics and tables that keep activations near 1 in deep models."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        last = name.rpartition(".")[2]
        if not tensor.is_floating_point():
            continue
        if last == "running_var" or (tensor.ndim == 1 and last in ("weight", "gamma_1", "gamma_2")):
            tensor.uniform_(0.2, 0.8, generator=generator)
        else:
            scale = tensor[0].numel() ** -0.5 if last == "weight" else 0.2
            tensor.normal_(0, scale, generator=generator)


def difference(own: Tensor, peer: Tensor) -> float:
    """Largest difference, max |own - peer| / max |peer|."""
    if own.shape != peer.shape:
        raise ValueError(f"ours is {tuple(own.shape)}, the peer's {tuple(peer.shape)}")
    relative = ((own - peer).abs().max() / peer.abs().max()).item()
    # Comparisons with NaN are false, so that a maximum may hide it.
    if not math.isfinite(relative):
        raise ValueError(f"the difference is {relative}: random weights gave values out of range")
    return relative


def own_logits(head: nn.Module, maps: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our head's logits at the size of its maps, by part."""
    features, earlier = head.stages(maps)
    logits = {"logits": head.predictor(features)}
    if "loss_coarse" in earlier:
        logits["first stage"] = earlier["loss_coarse"]
    if head.auxiliary is not None:
        logits["auxiliary"] = head.auxiliary.predictor(head.auxiliary.pixel_features(maps))
    return logits


def peer_logits(model: nn.Module, maps: list[Tensor]) -> dict[str, Tensor]:
    """The peer's, with the same keys."""
    if isinstance(model.decode_head, nn.ModuleList):
        first, second = model.decode_head
        coarse = first(maps)
        return {"logits": second(maps, coarse), "first stage": coarse}
    logits = {"logits": model.decode_head(maps)}
    if model.with_auxiliary_head:
        logits["auxiliary"] = model.auxiliary_head(maps)
    return logits


def compare_parts(own: nn.Module, peer: nn.Module, size: tuple[int, int]) -> dict[str, float]:
    """Relative differences of maps and of logits at their size."""
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1)).double()
    expected_maps = list(peer.extract_feat(image))
    maps = own.backbone(image)
    figures = {level: difference(maps[level], expected_maps[int(level[3:]) - 2]) for level in maps}
    expected = peer_logits(peer, expected_maps)
    logits = own_logits(own.sem_seg_head, maps)
    if logits.keys() != expected.keys():
        raise ValueError(f"we have {sorted(logits)}, the peer has {sorted(expected)}")
    return figures | {part: difference(logits[part], expected[part]) for part in expected}


def compare_whole(
    own: nn.Module,
    peer: nn.Module,
    size: tuple[int, int],
    windows: tuple[tuple[int, int], ...] = (),
) -> float:
    """Relative difference of the logits at the size of an original image.

    Args:
        own: our model.
        peer: mmsegmentation's.
        size: height and width of the image that is read.
        windows: of sliding windows their size and distance; none for the image at once.
    """
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)
    original = size[0] + 31, 2 * size[1] - 7
    test_cfg = {"mode": "whole"}
    if windows:
        own = SlidingWindowInference(own, *windows)
        test_cfg = dict(zip(("mode", "crop_size", "stride"), ("slide", *windows), strict=True))
    record = {"image": image, "height": original[0], "width": original[1]}
    return difference(own([record])[0]["sem_seg"], predict(peer, image, original, test_cfg))


def compare(own: nn.Module, peer: nn.Module, sizes: Sizes) -> dict[str, dict[str, float]]:
    """Relative differences by size and part."""
    figures = {}
    for size in (sizes.aligned, *sizes.unaligned):
        # What is not seen in the whole: auxiliary heads, and where a difference begins.
        parts = {} if size == UNALIGNED[0] else compare_parts(own, peer, size)
        parts["whole model"] = compare_whole(own, peer, size)
        kind = "aligned" if size == sizes.aligned else "unaligned"
        figures[f"{kind}, {size[0]} x {size[1]}"] = parts
    size, *windows = sizes.slide
    figures["windows of {} x {} every {} x {} in {} x {}".format(*sum((*windows, size), ()))] = {
        "whole model": compare_whole(own, peer, size, tuple(windows))
    }
    return figures


def check_refused(peer: nn.Module, sizes: Sizes) -> list[str]:
    """The sizes that the peer does not take; it is an error if it takes one."""
    for size in sizes.refused:
        try:
            peer.extract_feat(torch.zeros(1, 3, *size).double())
        except RuntimeError:
            continue
        raise ValueError(f"the peer takes images of {size[0]} x {size[1]}: compare them")
    return [f"{height} x {width}" for height, width in sizes.refused]


def check_names(own: nn.Module, peer: nn.Module) -> None:
    """Load the peer's tensors; every one has to come back as it was."""
    state = peer.state_dict()
    own_state = own.state_dict()
    own.load_state_dict(from_peer(state, own_state))
    back = to_peer(own.state_dict())
    # The peer computes them from its sizes and stores them all the same.
    lost = {k for k in state if not k.endswith("relative_position_index")} ^ back.keys()
    lost |= {k for k in back.keys() & state.keys() if not torch.equal(back[k], state[k])}
    if lost:
        raise ValueError(f"{len(lost)} tensors do not come back, such as {sorted(lost)[:3]}")


@torch.no_grad()
def measure(cfg: CfgNode) -> dict:
    """Parameters and differences of one architecture."""
    peer = build_peer(cfg)
    randomize(peer)
    peer = peer.double().eval()
    own = Trainer.build_model(cfg).double().eval()
    check_names(own, peer)
    counts = [sum(p.numel() for p in model.parameters()) for model in (own, peer)]
    sizes = image_sizes(cfg.MODEL.TIMM.NAME)
    figures = compare(own, peer, sizes)
    refused = check_refused(peer, sizes)
    # What agrees to the last bit might also be compared with itself.
    next(iter(peer.state_dict().values())).mul_(1.01)
    changed = compare_whole(own, peer, sizes.unaligned[0])
    if changed < TOLERANCE:
        raise ValueError(f"a changed weight of the peer changes its outputs by {changed:.0e} alone")
    return {
        "peer": peer_config(cfg),
        "parameters": counts[0],
        "parameters of the peer": counts[1],
        "differences": figures,
        "sizes that the peer does not take": refused,
        "largest": max(max(parts.values()) for parts in figures.values()),
        "with the peer's first tensor times 1.01": changed,
    }


def load(path: Path) -> CfgNode:
    """A config of ours with what does not fit a machine without GPU replaced."""
    return load_config(
        str(path),
        # Weights come from the peer.
        [
            *("MODEL.WEIGHTS", "", "MODEL.TIMM.PRETRAINED", "", "MODEL.DEVICE", "cpu"),
            *("MODEL.TIMM.IMAGE_SIZE", str(PLAIN_SIZE)),
            *("MODEL.SEM_SEG_HEAD.PAD_TO_STRIDE", "False"),
        ],
    )


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="part of the name of a config; nothing is saved")
    arguments = parser.parse_args()
    paths = [path for path in sorted(CONFIGS.glob("*_160k.yaml")) if arguments.only in path.stem]
    rows = {}
    for path in paths:
        rows[path.stem] = row = measure(load(path))
        print(
            f"{path.stem:28} {row['parameters'] / 1e6:8.3f} M "
            f"{row['parameters of the peer'] / 1e6:8.3f} M  {row['largest']:.1e}",
            flush=True,
        )
        gc.collect()
    if not rows:
        raise ValueError(f"no config in {CONFIGS} has {arguments.only!r} in its name")
    largest = max(row["largest"] for row in rows.values())
    print(f"largest relative difference: {largest:.1e} (target: at most {TOLERANCE:.0e})")
    if not arguments.only:
        save_result(
            "peer_parity",
            {
                "peer": "mmsegmentation 1.2.2, float64, random weights and statistics",
                "figure": "max |ours - peer| / max |peer|",
                "largest": largest,
                "target": f"at most {TOLERANCE:.0e}",
                "models": rows,
            },
        )


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
