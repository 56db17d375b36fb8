"""The configurations of docs/training.md are ones that the trainer takes."""

import re
from pathlib import Path

import pytest
import yaml

from aizuchi.train.config import build
from aizuchi.train.mimi_config import MimiTraining
from aizuchi.train.moshi_config import MoshiTraining, model_config

PAGE = Path(__file__).resolve().parents[2] / "docs/training.md"
BLOCKS = re.findall(r"^```yaml (\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("kind, text", BLOCKS, ids=[f"{kind}-{i}" for i, (kind, _) in enumerate(BLOCKS)])
def test_the_configurations_of_the_page_are_taken(kind, text):
    config = build({"moshi": MoshiTraining, "mimi": MimiTraining}[kind], yaml.safe_load(text))
    if kind == "mimi":
        from aizuchi.models.mimi import MimiConfig

        fields = config.model
        MimiConfig(
            num_key_value_heads=fields["num_attention_heads"], upsample_groups=fields["hidden_size"], **fields
        )
    elif config.model is not None:
        model_config(config)


def test_the_page_has_all_of_them():
    assert [kind for kind, _ in BLOCKS].count("moshi") >= 4 and "mimi" in dict(BLOCKS)
