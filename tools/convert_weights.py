"""Convert ImageNet weights of a ResNet-50 or -101 v1c, named as by open-mmlab, to a checkpoint.

python tools/convert_weights.py resnet50_v1c.pth weights/resnet50c_imagenet.pth

MODEL.WEIGHTS may then name the result; the classifier (fc) is left out. The two families of names
differ in the stem alone, and the models in nothing: stem of three 3x3 convolutions, the stride of
a stage in its 3x3 convolution.
"""

import argparse
import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from longtail.engine.checkpoint import load_tensors
from longtail.modeling.backbone.timm_backbone import TimmBackbone
from longtail.utils.io import atomic_write

# Stem in open-mmlab's ResNetV1c: one Sequential of convolution, norm and ReLU, three times. timm
# keeps the last norm apart.
STEM = {
    "stem.0": "conv1.0",
    "stem.1": "conv1.1",
    "stem.3": "conv1.3",
    "stem.4": "conv1.4",
    "stem.6": "conv1.6",
    "stem.7": "bn1",
}
# timm's model by the number of blocks in layer3.
MODELS = {6: "resnet50c", 23: "resnet101c"}
STEPS = "num_batches_tracked"


def read_state(path: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint without the prefix ``backbone.``; no code in it is run.

    Args:
        path: a file of ``torch.save``, the tensors at the top or under ``state_dict``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, holds more than tensors and plain values, or holds no tensors.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"the weights {path} do not exist: name a downloaded checkpoint")
    loaded = load_tensors(path)
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else None
    tensors = {}
    if isinstance(state, Mapping):
        items = ((str(key), value) for key, value in state.items())
        tensors = {k.removeprefix("backbone."): v for k, v in items if isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors by name, neither at the top nor under 'state_dict': "
            "expected the weights of a ResNet v1c"
        )
    return tensors


def convert(state: Mapping[str, Tensor]) -> tuple[str, dict[str, Tensor], list[str]]:
    """Rename the tensors of a ResNet v1c for :class:`TimmBackbone`.

    Args:
        state: tensors by open-mmlab's names.

    Returns:
        timm's name of the model; all tensors of the backbone by the names that they have in our
        models (``backbone.model.conv1.0.weight``, ...); the names in ``state`` that were not
        needed. Where the source has no step counters of batch normalisation (PyTorch wrote none
        before 0.4.1), they are 0: with a fixed momentum nothing reads them.

    Raises:
        ValueError: it is no ResNet-50 or -101 v1c, or tensors are missing or of another shape.
    """
    name = _model_name(state)
    found = {_timm_name(key): (key, tensor) for key, tensor in state.items()}
    converted, missing, wrong = {}, [], []
    for full_name, own in TimmBackbone(name=name).state_dict().items():
        timm_name = full_name.removeprefix("model.")
        default = torch.zeros_like(own) if timm_name.endswith(STEPS) else None
        _, tensor = found.pop(timm_name, ("", default))
        if tensor is None:
            missing.append(timm_name)
        elif tensor.shape != own.shape:
            wrong.append(f"{timm_name} is {tuple(tensor.shape)}, expected {tuple(own.shape)}")
        else:
            converted[f"backbone.{full_name}"] = tensor
    left_over = [key for key, _ in found.values()]
    if missing or wrong:
        raise ValueError(
            f"not the weights of a {name}, by timm's names: {_listed('missing', missing)}, "
            f"{_listed('of another shape', wrong)}, {_listed('left over', left_over)}"
        )
    return name, converted, left_over


def _model_name(state: Mapping[str, Tensor]) -> str:
    if "stem.0.weight" not in state:
        raise ValueError(
            "no ResNet v1c: there is no stem.0.weight, which open-mmlab's resnet50_v1c and "
            f"resnet101_v1c have; the names start with {', '.join(list(state)[:3])}"
        )
    blocks = len({key.split(".")[1] for key in state if key.startswith("layer3.")})
    if blocks not in MODELS:
        raise ValueError(
            f"no ResNet-50 or -101: layer3 has {blocks} blocks, expected "
            f"{' or '.join(str(number) for number in MODELS)}"
        )
    return MODELS[blocks]


def _timm_name(key: str) -> str:
    module, _, tensor = key.rpartition(".")
    return f"{STEM.get(module, module)}.{tensor}"


def _listed(what: str, names: Sequence[str]) -> str:
    first = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({first})" if names else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="INPUT", help="downloaded checkpoint")
    parser.add_argument("output", metavar="OUTPUT", help="checkpoint to write")
    options = parser.parse_args(arguments)
    try:
        state = read_state(options.input)
        try:
            name, converted, left_over = convert(state)
        except ValueError as error:
            raise ValueError(f"{options.input}: {error}") from None
        with atomic_write(options.output, "wb") as file:
            torch.save({"model": converted}, file)
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{options.output}: {name}, {len(converted)} tensors; {_listed('left over', left_over)}")


if __name__ == "__main__":
    main()
