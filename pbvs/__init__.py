"""From the archives of the PBVS MAVIC-T challenge to a scored, valid submission.

The four commands are also functions: `pbvs.build_pairs`, `pbvs.predict`, `pbvs.score` and `pbvs.package`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

# Loaded when first used, so that `import pbvs` costs nothing.
_PUBLIC = {
    "build_pairs": "pbvs.data.build",
    "predict": "pbvs.pipeline",
    "score": "pbvs.evaluation.evaluate",
    "package": "pbvs.submission.package",
    "load_recipe": "pbvs.recipe",
    "PbvsError": "pbvs.errors",
    "UsageError": "pbvs.errors",
}
__all__ = ["PbvsError", "UsageError", "__version__", "build_pairs", "load_recipe", "package", "predict", "score"]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'pbvs' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)
