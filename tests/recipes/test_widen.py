"""A decoder with more channels and blocks says what it said (`recipes.mini.widen`)."""

import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.models.mimi import MimiModel
from aizuchi.train.checkpoints import save_model
from aizuchi.train.weight_norm import add_weight_norm
from recipes.mini.widen import main, widen
from tests.models.mimi.helpers import TINY, make_model

CHANNELS = [72, 40, 24, 14, 6]  # of 64, 32, 16, 8, 4


@pytest.fixture(scope="module")
def codec():
    return make_model(fit_seconds=4, **TINY)


def test_it_says_what_it_said_and_learns(codec):
    wide = widen(codec, CHANNELS, 3)
    convs = [m for m in wide.decoder.modules() if isinstance(m, torch.nn.ConvTranspose1d)]
    assert [c.in_channels for c in convs] == CHANNELS[:-1]
    assert len(wide.decoder.layers) == len(codec.decoder.layers) + 2 * len(convs)
    codes = torch.randint(0, codec.config.codebook_size, (2, codec.config.num_quantizers, 9))
    with torch.no_grad():
        said, wanted = wide.decode(codes).audio_values, codec.decode(codes).audio_values
        torch.testing.assert_close(widen(codec, CHANNELS, 1).decode(codes).audio_values, wanted)
    assert (said - wanted).abs().max() < 0.01 * wanted.abs().max()  # new blocks are faint
    rest = [name for name in wide.state_dict() if not name.startswith("decoder.")]
    assert all(torch.equal(wide.state_dict()[name], codec.state_dict()[name]) for name in rest)
    # with lengths and directions apart, as they are trained, no weight has a direction of nought
    add_weight_norm(wide.decoder)
    wide.decode(codes).audio_values.square().mean().backward()
    grads = [p.grad for p in wide.decoder.parameters()]
    assert all(g is not None and g.isfinite().all() for g in grads)
    assert sum(float(g.abs().max()) > 0 for g in grads) > len(grads) // 2


def test_it_does_not_shrink(codec, tmp_path, capsys):
    with pytest.raises(AizuchiError, match="--channels"):
        widen(codec, [64, 32, 16, 8, 2], 1)
    with pytest.raises(AizuchiError, match="--blocks"):
        widen(codec, CHANNELS, 0)
    save_model(codec, tmp_path / "codec")
    command = [
        "--codec",
        str(tmp_path / "codec"),
        "--out",
        str(tmp_path / "wide"),
        "--blocks",
        "2",
        "--channels",
    ]
    assert main([*command, *map(str, CHANNELS)]) == 0
    assert "M now" in capsys.readouterr().out
    assert MimiModel.from_pretrained(tmp_path / "wide").config.decoder_channels == CHANNELS
    assert main([*command, "64", "32"]) == 2
    assert "decoder_channels" in capsys.readouterr().err
