# SPDX-License-Identifier: Apache-2.0
"""Reading configs: defaults of longtail and of all projects, a file, then ``KEY VALUE`` pairs."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import detectron2.config
import torch
import yaml
from detectron2.config import CfgNode
from detectron2.modeling import SEM_SEG_HEADS_REGISTRY
from detectron2.projects.deeplab import add_deeplab_config
from detectron2.utils.file_io import PathManager

import longtail
from longtail.config.checks import check_config, near_keys
from longtail.config.keys import add_longtail_config
from longtail.config.own import check_imports, find_data_files, import_modules
from longtail.config.projects import get_value, installed_projects, set_value
from longtail.utils import downloads  # noqa: F401  (what _BASE_ may fetch)
from longtail.utils.errors import one_line
from longtail.utils.names import registered

_PACKAGE = Path(longtail.__file__).resolve().parent
# Inside the package where it is installed, beside it in a checkout.
CONFIGS = (_PACKAGE if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent) / "configs"
# What loaded configs asked for and did not get, until it is said.
_without_gpu: set[str] = set()


def get_cfg() -> CfgNode:
    """The default config: the keys of detectron2, longtail and all installed projects."""
    cfg = detectron2.config.get_cfg()
    add_deeplab_config(cfg)
    add_longtail_config(cfg)
    for project in installed_projects():
        project.add_config(cfg)
    return cfg


def find_config_file(name: str) -> str:
    """The path of a config: a file, or one that comes with the package.

    Args:
        name: a path, or the name of a packaged config, see :func:`get_config_file`.

    Raises:
        FileNotFoundError: there is neither.
    """
    return name if os.path.isfile(name) else get_config_file(name)


def get_config_file(name: str) -> str:
    """The path of a config that comes with the package.

    Args:
        name: below ``configs/``, such as ``ADE20K/deeplabv3plus_R_50c_160k_rr.yaml``.

    Raises:
        FileNotFoundError: there is no such config.
    """
    path = CONFIGS / name
    if not path.is_file():
        raise FileNotFoundError(
            f"the config file {name} does not exist, and {CONFIGS} holds none of that name"
        )
    return str(path)


def load_config(
    config_file: str,
    overrides: Sequence[str] | None = None,
    *,
    imports: Sequence[str] = (),
    register: bool = True,
) -> CfgNode:
    """The complete config: defaults, a file, then ``KEY VALUE`` pairs.

    On a machine without GPU the device becomes the CPU, see :func:`say_if_there_is_no_gpu`. The
    data sets that the files at DATASETS.FILES declare are registered; their paths become whole.

    Args:
        config_file: a YAML file, the name of a packaged one (see :func:`get_config_file`), or ""
            for the defaults. It is read as data, never executed.
        overrides: alternating keys and values.
        imports: modules to import before, from the working folder, too; those that the config
            names at IMPORTS must be among them.
        register: whether to register declared data sets; an image alone needs none.

    Raises:
        ValueError: a key that no project declares, a value of another type, or a data set that is
            declared badly.
        FileNotFoundError: no such file.
        ImportError: a module cannot be imported.
    """
    import_modules(imports)
    cfg = get_cfg()
    try:
        if config_file:
            _merge_file(cfg, find_config_file(config_file))
        cfg.merge_from_list(_whole_numbers_as_floats(cfg, list(overrides or [])))
    except (KeyError, AssertionError, ValueError, yaml.YAMLError, SyntaxError) as error:
        raise ValueError(f"config {config_file or 'options'}: {_problem(cfg, error)}") from None
    except RecursionError:
        raise ValueError(
            f"config {config_file}: _BASE_ leads back to itself, or values are nested too deeply"
        ) from None
    except (AttributeError, TypeError):
        raise ValueError(
            f"config {config_file}: expected KEY: VALUE pairs, got an empty file or something else"
        ) from None
    if not torch.cuda.is_available() and cfg.MODEL.DEVICE == "cuda":
        _without_gpu.add(cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    check_imports(cfg, config_file, imports)
    if register and cfg.DATASETS.FILES:
        _register_data_sets(cfg, config_file, overrides or [])
    return cfg


def config_chain(config_file: str) -> list[tuple[str, dict[str, Any]]]:
    """The files of a config and of its bases, with what they say themselves.

    A ``_BASE_`` is relative to its file, or the name of a packaged config. Other bases, such as
    addresses and lists of several, are left to detectron2: the chain ends there.

    Args:
        config_file: a YAML file.
    """
    chain: list[tuple[str, dict[str, Any]]] = []
    path: str | None = config_file
    while path is not None and path not in dict(chain):
        with PathManager.open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
        if not isinstance(content, dict):
            break
        chain.append((path, content))
        base = content.get("_BASE_")
        path = _base_file(path, base) if isinstance(base, str) else None
    return chain


def _base_file(path: str, base: str) -> str | None:
    own = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    if os.path.isfile(own):
        return own
    return str(CONFIGS / base) if (CONFIGS / base).is_file() else None


def _merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a file and its bases; detectron2 does, unless a base is a packaged config."""
    files = config_chain(path)
    depth = next((n for n, (file, content) in enumerate(files) if _is_packaged(file, content)), -1)
    if depth < 0:
        cfg.merge_from_file(path, allow_unsafe=False)
        return
    cfg.merge_from_file(files[depth + 1][0], allow_unsafe=False)
    for file, content in files[depth::-1]:
        version = content.get("VERSION", cfg.VERSION)
        if version != cfg.VERSION:
            raise ValueError(f"{file} is a v{version} config, expected v{cfg.VERSION}")
        own = {key: value for key, value in content.items() if key not in ("_BASE_", "VERSION")}
        cfg.merge_from_other_cfg(CfgNode(own))


def _is_packaged(path: str, content: Mapping[str, Any]) -> bool:
    """Whether the base of a file is named as the package's configs are."""
    base = content.get("_BASE_")
    return isinstance(base, str) and _base_file(path, base) == str(CONFIGS / base)


def _register_data_sets(cfg: CfgNode, config_file: str, overrides: Sequence[str]) -> None:
    # Only where it is needed: reading a config takes no data sets otherwise.
    from longtail.data.datasets.declared import register_data_files

    chain = config_chain(find_config_file(config_file)) if config_file else []
    files = find_data_files(cfg, config_file, chain, overrides)
    register_data_files(files)
    # A run's config is read again in other folders.
    cfg.DATASETS.FILES = tuple(files)


def say_if_there_is_no_gpu() -> None:
    """Say once that models run on the CPU though a loaded config asked for a GPU.

    Whoever builds a model calls it; configs are also loaded to be compared, planned or printed.
    """
    while _without_gpu:
        logging.getLogger(__name__).warning(
            "MODEL.DEVICE %s: there is no GPU, running on the CPU", _without_gpu.pop()
        )


def _whole_numbers_as_floats(cfg: CfgNode, overrides: list) -> list:
    """``SOLVER.BASE_LR 1`` is meant as 1.0, which yacs takes for another type."""
    for index in range(0, len(overrides) - 1, 2):
        value = overrides[index + 1]
        whole = type(value) is int or (isinstance(value, str) and re.fullmatch(r"[+-]?\d+", value))
        if whole and isinstance(_declared(cfg, overrides[index]), float):
            overrides[index + 1] = float(value)
    return overrides


def _declared(cfg: CfgNode, key: object) -> object:
    try:
        return get_value(cfg, key)
    # Unknown keys are said by the merge itself.
    except (KeyError, AttributeError, TypeError):
        return None


def _problem(cfg: CfgNode, error: Exception) -> str:
    """What is wrong, and what may have been meant, where yacs only says the former."""
    message = one_line(error)
    unknown = re.search(r"Non-existent (?:config )?key: ([\w.]+)", message)
    if unknown and (near := near_keys(cfg, unknown[1])):
        return f"{message}; near names: {', '.join(near)}"
    mismatch = re.search(r"Type mismatch \(<class '(\w+)'> .*? for config key: ([\w.]+)", message)
    if not mismatch:
        return message
    kind, key = mismatch.groups()
    value = re.search(r"with values \(.* vs\. (.*)\) for config key", message)[1]
    return f"{key} must be of the type {kind}, such as {_example(cfg, key)}, got {value}"


def _example(cfg: CfgNode, key: str) -> str:
    """A value of the right form: the declared one."""
    value = _declared(cfg, key)
    return "('name',)" if value == () else repr(value)


def deployed_config(cfg: CfgNode) -> CfgNode:
    """The config of the model that is left for inference.

    Branches that only training has, class statistics of the training set and ImageNet weights
    serve training alone: without them an evaluation needs neither the training set nor a download.

    Args:
        cfg: a complete config; it is not changed.

    Raises:
        ValueError: a branch for training names a head that is not registered.
    """
    cfg = cfg.clone()
    cfg.defrost()
    projects = installed_projects()
    left = {head: key for project in projects for head, key in project.deployed_heads.items()}
    # What the head is called by itself, and inside a wrapper.
    keys = ("MODEL.SEM_SEG_HEAD.NAME", "MODEL.SECOND_STAGE.BASE_HEAD_NAME")
    for key in (*keys, *(key for p in projects for key in p.head_keys)):
        if (head := get_value(cfg, key)) in left:
            base = get_value(cfg, left[head])
            registered(SEM_SEG_HEADS_REGISTRY, base, left[head])
            set_value(cfg, key, base)
    cfg.MODEL.SEM_SEG_HEAD.PIXEL_LOSS = "cross_entropy"
    cfg.DATASETS.TRAIN = ()
    cfg.MODEL.TIMM.PRETRAINED = ""
    # Only training is compiled.
    cfg.MODEL.COMPILE = False
    cfg.freeze()
    return cfg


def flat_config(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten the nested values of a config.

    Args:
        config: a CfgNode, or what its YAML text holds; both give the same.
        prefix: of the keys.

    Returns:
        Values by full key, such as ``SOLVER.MAX_ITER``; sequences are lists.
    """
    values: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            values |= flat_config(value, f"{prefix}{key}.")
        else:
            values[f"{prefix}{key}"] = _listed(value)
    return values


def _listed(value: Any) -> Any:
    return [_listed(item) for item in value] if isinstance(value, (list, tuple)) else value
