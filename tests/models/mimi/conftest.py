"""A tiny codec whose codebooks fit speech, and two stretches of speech."""

import pytest
import torch
from torch import Tensor

from aizuchi.models.mimi import MimiModel
from tests.models.mimi.helpers import TINY, make_model, speech


@pytest.fixture(scope="module")
def model() -> MimiModel:
    return make_model(fit_seconds=8, **TINY)


@pytest.fixture(scope="module")
def waves() -> Tensor:
    return torch.cat([speech(20_000), speech(20_000, start=50_000)])
