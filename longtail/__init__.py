# SPDX-License-Identifier: Apache-2.0
"""Long-tailed recognition on detectron2: data, losses, models, evaluation, engine and commands.

``longtail.Predictor`` is :class:`longtail.engine.inference.predictor.Predictor`; it is imported
where it is first used, as it brings torch and detectron2.
"""

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    if name == "Predictor":
        from longtail.engine.inference.predictor import Predictor

        return Predictor
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
