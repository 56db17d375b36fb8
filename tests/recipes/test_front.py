"""Parts of the small codec: acoustic codebooks, what begins with another's, what ships."""

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from recipes.mini import front
from recipes.mini.package import _same_codes


def test_acoustic_codebooks_tell_the_spectrum_and_leave_the_semantic_codes():
    generator = torch.Generator().manual_seed(0)
    codec = front.make_codec(None)
    latents = torch.randn(3000, 24, generator=generator) @ torch.randn(24, 192, generator=generator)
    spectrum = latents @ torch.randn(192, 192, generator=generator) / 14
    spectrum = spectrum / spectrum.std()
    before = torch.stack(codec.quantizer.semantic_residual_vector_quantizer.encode(latents.T[None], 2), 1)
    front.begin_acoustic(codec, latents, spectrum, np.random.default_rng(0))
    codes = codec.quantizer.encode(latents.T[None])
    assert torch.equal(codes[:, :2], before)
    missed = [
        float((codec.quantizer.decode(codes[:, :count])[0].T - spectrum).square().mean())
        for count in (2, 3, 4, 8)
    ]
    # six codebooks, of what two have left; it was seven, of what one had
    assert missed == sorted(missed, reverse=True) and missed[-1] < 0.4 * missed[0]


def test_a_codec_begins_with_what_fits_of_another(tmp_path):
    first = front.make_codec(None)
    first.save_pretrained(tmp_path)
    second = front.make_codec(tmp_path)
    assert torch.equal(first.decoder.layers[0].conv.weight, second.decoder.layers[0].conv.weight)
    assert not torch.equal(
        first.encoder_transformer.layers[0].mlp.fc1.weight,
        second.encoder_transformer.layers[0].mlp.fc1.weight,
    )


def test_a_model_ships_with_its_codes_alone():
    ours, theirs = front.make_codec(None), front.make_codec(None)
    theirs.load_state_dict(ours.state_dict())
    with torch.no_grad():
        theirs.decoder.layers[0].conv.weight.add_(1)
    _same_codes(ours, theirs, new_front=False)
    with torch.no_grad():
        theirs.encoder.layers[0].conv.weight.add_(1)
    _same_codes(ours, theirs, new_front=True)
    with pytest.raises(AizuchiError, match="encoder.layers.0"):
        _same_codes(ours, theirs, new_front=False)
    with torch.no_grad():
        theirs.encoder.layers[10].block[1].conv.weight.add_(1)
    with pytest.raises(AizuchiError, match="encoder.layers.10"):  # the ear's own convolutions
        _same_codes(ours, theirs, new_front=True)
    theirs.encoder.load_state_dict(ours.encoder.state_dict())
    with torch.no_grad():
        theirs.encoder_transformer.layers[0].mlp.fc1.weight.add_(1)
    with pytest.raises(AizuchiError, match="encoder_transformer"):
        _same_codes(ours, theirs, new_front=True)
