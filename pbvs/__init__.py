"""From the archives of the PBVS MAVIC-T challenge to a scored, valid submission.

>>> import pbvs
>>> scores = pbvs.score("demo")                                                           # doctest: +SKIP
>>> scores.images.nlargest(5, "score")                                                    # doctest: +SKIP

The commands are functions of the same names: see docs/python.md, or `help(pbvs.score)`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pbvs.api import Run, build_pairs, calibrate, compare, load_model, package, plan, predict, score
    from pbvs.errors import PbvsError, UsageError
    from pbvs.recipe import Recipe, load_recipe

__version__ = "0.1.0"
__all__ = [
    "PbvsError",
    "Recipe",
    "Run",
    "UsageError",
    "__version__",
    "build_pairs",
    "calibrate",
    "compare",
    "load_model",
    "load_recipe",
    "package",
    "plan",
    "predict",
    "score",
]


def __getattr__(name: str) -> object:
    """Load what is public when it is first used, so that `import pbvs` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'pbvs' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module("pbvs.errors" if name.endswith("Error") else "pbvs.api"), name)
