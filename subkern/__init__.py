"""Exact empirical neural tangent kernels of language models and of fine-tuning subspaces.

The public names stand in ``__init__.pyi`` and are loaded on first use: ``import subkern`` takes
milliseconds and does not import torch.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.2.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
