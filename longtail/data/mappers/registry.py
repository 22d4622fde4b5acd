# SPDX-License-Identifier: Apache-2.0
"""The registry of mappers that a config may name at INPUT.MAPPER."""

from detectron2.utils.registry import Registry

MAPPER_REGISTRY = Registry("MAPPER")
MAPPER_REGISTRY.__doc__ = """
Registry of mappers: callables ``Mapper(cfg, is_train)`` of a config that return a function from a
record of a data set to the input of a model, as those of this package do.
"""
