"""Checkpoints: find a model, read and write the original's layout, convert both ways.

Importing this package teaches `from_pretrained` of our classes the original's layout.
"""

from ..models.loading import FOREIGN_LOADERS
from .find import Checkpoint, find
from .generation_config import kyutai_option
from .load import Loaded, load, load_kyutai
from .tensors import CheckpointError

if load_kyutai not in FOREIGN_LOADERS:
    FOREIGN_LOADERS.append(load_kyutai)

__all__ = ["Checkpoint", "CheckpointError", "Loaded", "find", "kyutai_option", "load", "load_kyutai"]
