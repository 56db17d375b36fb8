"""Trainings never mix what lies on the CPU and on a GPU, be it that no GPU is there to tell."""

import accelerate
import numpy as np
import pytest
import torch

from aizuchi.train import moshi
from aizuchi.train.checkpoints import random_state, restore_random_state
from tests.train import tiny, tiny_codec
from tests.train.pretend_gpu import CUDA, Misplaced, PretendGpu, is_there


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(accelerate.Accelerator, "device", property(lambda self: CUDA))
    monkeypatch.setattr(moshi, "measured_matmul_rate", lambda device, dtype: 1e9)
    return PretendGpu()


class HeardList(tiny.TokenList):
    """Dialogues that tell the user's words."""

    heard_classes = 9

    def read(self, index, start, stop, variant=0):
        read = super().read(index, start, stop, variant)
        read.heard = np.random.default_rng(start).integers(-1, 9, len(read.text)).astype(np.int32)
        return read


def test_moshi(gpu, tmp_path):
    config = tiny.config_of(
        tmp_path,
        **dict(data=dict(frames=12, user_codebooks=1), heard_text=dict(first=32, own=0.5)),
        **dict(user_mask=0.1, user_warp=0.1, text_mask=0.2, dropout=0.1),
        **dict(steps=2, eval_every=2, sample_every=2, samples=1, sample_seconds=0.4),
    )

    def trainer():
        sources = ([(HeardList(tiny.dialogues(count, seed=count)), 1.0)] for count in (4, 2))
        return moshi.MoshiTrainer(config, tiny.make_model(config), *sources)

    with gpu:
        first = trainer()
        assert all(is_there(p) for p in first.model.parameters())
        first.run()
        config.steps = 3  # from a checkpoint, too
        again = trainer()
        again.run()
        assert again.step == 3


@pytest.mark.parametrize(
    "changes",
    [
        dict(
            semantic=dict(teacher="labels", classes=6, delay=1),
            **dict(ema=0.99, discriminator=dict(start=1, windows=[256], filters=2, seconds=0.2)),
        ),
        dict(train="semantic", semantic=dict(teacher="clusters", classes=4), ema=0.99),
    ],
    ids=["all", "semantic"],
)
def test_mimi(gpu, tmp_path, changes):
    config = tiny_codec.config_of(
        tmp_path,
        **dict(data=dict(seconds=0.64, valid_items=4), loss=dict(windows=[256], bands=16, envelope=1.0)),
        **dict(steps=2, batch_size=2, eval_every=2, sample_every=2, samples=1),
        **changes,
    )
    with gpu:
        first = tiny_codec.trainer_of(config)
        assert all(is_there(x) for x in [*first.codec.parameters(), *first.codec.buffers()])
        first.run()
        config.steps = 3
        again = tiny_codec.trainer_of(config)
        again.run()
        assert again.step == 3


def test_a_checkpoint_of_more_gpus_goes_on_with_fewer(monkeypatch):
    restored = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", restored.extend)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["first", "second"])
    restore_random_state(random_state())
    assert restored == ["first"]


def test_what_a_gpu_refuses():
    with PretendGpu():
        here, there = torch.ones(3), torch.ones(3, device="cuda")
        assert there.device == CUDA and there.is_cuda and here.device.type == "cpu"
        assert (there[torch.tensor([0])] * torch.tensor(2.0)).device == CUDA
        for wrong in (
            lambda: here + there,
            lambda: torch.cat([here, there]),
            lambda: torch.nn.functional.mse_loss(there, here),
            lambda: here[there.long()],
            lambda: there.numpy(),
            lambda: torch.nn.Linear(3, 3).to("cuda")(here),
        ):
            with pytest.raises(Misplaced):
                wrong()
        assert (there.cpu() + here).device.type == "cpu" and (here.to(there) + there).is_cuda
