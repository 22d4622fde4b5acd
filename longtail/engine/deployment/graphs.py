# SPDX-License-Identifier: Apache-2.0
"""Models as graphs that take batches: ONNX, and torch.export's format; each is compared first.

Shape alphabet:
    N: images of the batch
    K: classes
    h, w: height and width of the images that the graph reads
"""

import contextlib
import importlib.util
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import IO

import torch
import torch.nn.functional as F
from detectron2.modeling import SemanticSegmentor
from timm.layers import padding
from torch import Tensor, nn

from longtail.engine.deployment.export import TOLERANCE, random_images, relative_difference
from longtail.modeling.classification import ImageClassifier
from longtail.modeling.sem_seg.base import SemSegHead
from longtail.modeling.sem_seg.blocks import resize
from longtail.modeling.sem_seg.wrapping import innermost
from longtail.utils.errors import first_line
from longtail.utils.io import atomic_write

# onnxruntime has convolutions of its own, which add up in another order.
ONNX_TOLERANCE = 1e-4
OPSET = 17
INPUT = "images"
OUTPUT = "output"
# What a graph is: from (N, 3, h, w) uint8 to (N, ...).
Graph = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        difference: largest one of an output, relative to the largest output.
        any_size: whether it takes images of other sizes than it was made with.
        size: h = w that it was made with.
    """

    difference: float
    any_size: bool
    size: int

    def __str__(self) -> str:
        """One line about it."""
        sizes = "any size" if self.any_size else f"{self.size} x {self.size} pixels alone"
        return (
            f"largest relative difference {self.difference:.2g}; takes batches of any number of "
            f"images, of {sizes}"
        )


class BatchToTensor(nn.Module):
    """A segmentor or classifier as a function of a batch of images to one tensor."""

    def __init__(self, model: nn.Module) -> None:
        """Wrap a model.

        Args:
            model: an image classifier or a semantic segmentor, in evaluation mode.

        Raises:
            ValueError: another model.
        """
        super().__init__()
        if not isinstance(model, (ImageClassifier, SemanticSegmentor)):
            raise ValueError(
                f"a {type(model).__name__} cannot be exported in this format: it is for semantic "
                "segmentation and image classification; take --format torchscript"
            )
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        """Run the model.

        Args:
            images: (N, 3, h, w) uint8, of the size and channel order that the model is tested with.

        Returns:
            Of a segmentor (N, K, h, w) logits, of a classifier (N, K) probabilities.
        """
        model = self.model
        x = (images.float() - model.pixel_mean) / model.pixel_std
        if isinstance(model, ImageClassifier):
            logits = model.class_logits(model.backbone(x)["pooled"])
            return model.class_loss.probabilities(logits.float())
        height, width = x.shape[-2:]
        pad = getattr(model, "pad_to_stride", True)
        if pad and (stride := model.backbone.size_divisibility) > 1:
            # As multiples of the stride: the sizes behind that are short then. Of remainders they
            # become so long that torch.export takes many minutes for a deep backbone.
            tall, wide = ((side + stride - 1) // stride * stride for side in (height, width))
            x = F.pad(x, (0, wide - width, 0, tall - height))
        features = model.backbone(x)
        head = innermost(model.sem_seg_head)
        if not isinstance(head, SemSegHead):
            return _crop(model.sem_seg_head(features)[0], height, width)
        maps = model.sem_seg_head.layers(features)
        if not pad:
            return resize(maps, size=(height, width))
        return _crop(resize(maps, scale_factor=head.common_stride), height, width)


def _crop(maps: Tensor, height: int, width: int) -> Tensor:
    # Of a slice torch.export asks whether it is the whole, and the graph is for that answer alone.
    rows, columns = (torch.arange(side, device=maps.device) for side in (height, width))
    return maps.index_select(-2, rows).index_select(-1, columns)


def write_onnx(output: str, model: nn.Module, size: int) -> Written:
    """Write a model as ONNX, run the file, and compare it with the model.

    Args:
        output: the file; it is not there, or as it was, if an error is raised.
        model: what was trained, in evaluation mode.
        size: h = w of the images that it is made with.

    Raises:
        ValueError: the model cannot be exported, or the file computes something else.
        ImportError: a package of the extra ``onnx`` is missing.
    """
    require_onnx()
    return _write(output, model, size, (_onnx_of_any_size, _onnx_of_one_size), ONNX_TOLERANCE)


def write_exported_program(output: str, model: nn.Module, size: int) -> Written:
    """Write a model as torch.export's program, read it back, and compare it with the model.

    Args:
        output: as of :func:`write_onnx`.
        model: likewise.
        size: likewise.

    Raises:
        ValueError: likewise.
    """
    return _write(output, model, size, (_program_of_any_size, _program_of_one_size), TOLERANCE)


def require_onnx() -> None:
    """Say in one line what ONNX files need and is missing.

    Raises:
        ImportError: a package is missing.
    """
    missing = [n for n in ("onnx", "onnxruntime") if importlib.util.find_spec(n) is None]
    if missing:
        raise ImportError(
            f"ONNX files need {' and '.join(missing)}: pip install 'detectron2-longtail[onnx]'"
        )


def _write(
    output: str,
    model: nn.Module,
    size: int,
    ways: Sequence[Callable[[nn.Module, Tensor, IO[bytes]], Graph]],
    tolerance: float,
) -> Written:
    adapter = BatchToTensor(model).eval()
    # Not square, and not a multiple of a stride.
    other = (3 * size // 4 + 5, 5 * size // 4 + 3)
    of_one_size = [torch.stack(random_images([(size, size)] * n, model.device)) for n in (2, 3)]
    of_other_size = torch.stack(random_images([other], model.device))
    reason = ""
    sizes = (True, False)
    if isinstance(model, ImageClassifier):
        # Its images are of one size.
        ways, sizes = ways[:1], (False,)
    for way, any_size in zip(ways, sizes, strict=True):
        tested = [of_one_size[1], of_one_size[0][:1]] + [of_other_size] * any_size
        with contextlib.suppress(_UnequalError), atomic_write(output, "wb") as file:
            try:
                with torch.no_grad(), _quiet():
                    graph = way(adapter, of_one_size[0], file)
            # Which error it is, is up to the layer that cannot be exported.
            except Exception as error:
                reason = first_line(error)
                raise _UnequalError from error
            difference = max(_difference(model, graph, images) for images in tested)
            # Not "difference > tolerance": that would let NaN pass.
            if not difference <= tolerance:
                reason = f"it differs by {difference:.2g} of the largest output"
                raise _UnequalError
            return Written(difference, any_size, size)
    raise ValueError(
        f"a {type(model).__name__} with this config cannot be exported in this format: "
        f"{reason:.200}; nothing was written"
    )


class _UnequalError(Exception):
    """This way of writing a graph does not do for this model."""


@torch.no_grad()
def _difference(model: nn.Module, graph: Graph, images: Tensor) -> float:
    """Of a graph from the model itself, image by image; infinite where it does not run."""
    expected = [next(iter(model([{"image": image}])[0].values())) for image in images]
    try:
        found = graph(images)
    # onnxruntime's errors are of its own type.
    except Exception:
        return math.inf
    return relative_difference(torch.stack(expected).cpu(), found.cpu())


def _onnx_of_any_size(adapter: nn.Module, images: Tensor, file: IO[bytes]) -> Graph:
    axes = {0: "batch"}
    if isinstance(adapter.model, SemanticSegmentor):
        axes |= {2: "height", 3: "width"}
    torch.onnx.export(
        *(adapter, (images,), file.name),
        **{"dynamo": False, "opset_version": OPSET},
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_axes={INPUT: axes, OUTPUT: axes},
    )
    return _onnx_graph(file.name)


def _onnx_of_one_size(adapter: nn.Module, images: Tensor, file: IO[bytes]) -> Graph:
    """By torch's newer exporter, which takes minutes, but more operators."""
    program = torch.onnx.export(
        *(adapter, (images,)),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        verbose=False,
    )
    program.save(file.name, external_data=False)
    return _onnx_graph(file.name)


def _onnx_graph(path: str) -> Graph:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.cpu().numpy()})[0])


def _program_of_any_size(adapter: nn.Module, images: Tensor, file: IO[bytes]) -> Graph:
    auto = torch.export.Dim.AUTO
    sizes = {2: auto, 3: auto} if isinstance(adapter.model, SemanticSegmentor) else {}
    return _program(adapter, images, file, {0: auto, **sizes})


def _program_of_one_size(adapter: nn.Module, images: Tensor, file: IO[bytes]) -> Graph:
    return _program(adapter, images, file, {0: torch.export.Dim.AUTO})


def _program(adapter: nn.Module, images: Tensor, file: IO[bytes], shapes: dict) -> Graph:
    with _short_sizes():
        program = torch.export.export(adapter, (images,), dynamic_shapes=(shapes,))
    torch.export.save(program, file)
    file.flush()
    with open(file.name, "rb") as written:
        return torch.export.load(written).module()


@contextlib.contextmanager
def _short_sizes() -> Iterator[None]:
    """Padding "same" of timm in integers, whose sizes torch.export simplifies.

    Of timm's own, with a true division and its ceiling, each layer's size contains those before it
    several times: for tf_efficientnet_lite0 that does not end within ten minutes.
    """
    kept = padding.get_same_padding

    def padded(side: int, kernel_size: int, stride: int, dilation: int) -> int:
        steps = (side + stride - 1) // stride - 1
        return max(steps * stride + (kernel_size - 1) * dilation + 1 - side, 0)

    padding.get_same_padding = padded
    try:
        yield
    finally:
        padding.get_same_padding = kept


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the pages that exporters say about what is tried here anyway."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w", encoding="utf-8") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(nowhere):
                yield
    finally:
        logging.disable(logging.NOTSET)
