"""What a codec trainer needs: gradients through both halves, straight-through codes, inputs of every codebook."""

from __future__ import annotations

import copy

import pytest
import torch

from aizuchi.models.mimi import MimiModel
from aizuchi.models.mimi.conv import MimiConv1d, MimiConvTranspose1d
from tests.models.mimi.helpers import FRAME, TINY, make_model, speech


@pytest.fixture
def model() -> MimiModel:
    return make_model(fit_seconds=8, **TINY).train()


def test_gradients_reach_every_parameter(model: MimiModel) -> None:
    waves = speech(6 * FRAME - 100)
    out = model.quantize(model.encode_latent(waves))
    samples = model.decode_latent(out.latents)
    assert samples.shape == (1, 1, 6 * FRAME)
    (samples[..., : waves.shape[-1]] - waves).square().mean().add(out.commitment_loss).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_parts_equal_the_whole(model: MimiModel) -> None:
    model.eval()
    waves = speech(6 * FRAME - 100)
    with torch.no_grad():
        latents = model.encode_latent(waves)
        out = model.quantize(latents, 5)
        assert torch.equal(out.codes, model.encode(waves, num_quantizers=5).audio_codes)
        torch.testing.assert_close(out.latents, model.dequantize(out.codes), rtol=0, atol=1e-5)
        samples = model.decode_latent(model.dequantize(out.codes))
        assert torch.equal(samples, model.decode(out.codes).audio_values)


def test_straight_through(model: MimiModel) -> None:
    """The gradient of the input is that of projecting in and out, as if nothing had been quantized."""
    latents = torch.randn(1, 32, 4, requires_grad=True)
    model.quantize(latents).latents.sum().backward()
    twin = latents.detach().clone().requires_grad_()
    quantizer = model.quantizer
    total = sum(
        branch.output_proj(branch.input_proj(twin)).sum()
        for branch in (
            quantizer.semantic_residual_vector_quantizer,
            quantizer.acoustic_residual_vector_quantizer,
        )
    )
    total.backward()
    torch.testing.assert_close(latents.grad, twin.grad)


def test_codebook_inputs(model: MimiModel) -> None:
    """`inputs` and `codes` are what a moving-average update of the codebooks needs."""
    out = model.quantize(model.encode_latent(speech(6 * FRAME)))
    books = model.quantizer.codebooks()
    assert len(out.inputs) == len(books) == out.codes.shape[1] == 8
    for book, vectors, codes in zip(books, out.inputs, out.codes.unbind(1), strict=True):
        assert not vectors.requires_grad and vectors.shape == (1, 6, 16)
        assert torch.equal(torch.cdist(vectors[0], book.embed).argmin(-1), codes[0])
    losses = [
        (vectors - book.decode(codes)).square().mean()
        for book, vectors, codes in zip(books, out.inputs, out.codes.unbind(1), strict=True)
    ]
    torch.testing.assert_close(out.commitment_loss.detach(), torch.stack(losses).mean())
    # the acoustic branch quantizes the latents, not what the semantic one left over
    branch = model.quantizer.acoustic_residual_vector_quantizer
    latents = model.encode_latent(speech(6 * FRAME))
    torch.testing.assert_close(out.inputs[1], branch.input_proj(latents).transpose(1, 2).detach())
    torch.testing.assert_close(out.inputs[2], out.inputs[1] - books[1].decode(out.codes[:, 1]))


def test_decode_keeps_gradients(model: MimiModel) -> None:
    codes = model.encode(speech(5 * FRAME)).audio_codes
    model.decode(codes).audio_values.square().mean().backward()
    assert model.decoder.layers[0].conv.weight.grad.abs().sum() > 0
    assert model.upsample.conv.weight.grad.abs().sum() > 0


def test_gradient_checkpointing(model: MimiModel) -> None:
    waves = speech(5 * FRAME)
    model.decode_latent(model.encode_latent(waves)).square().mean().backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.encoder_transformer.layers)
    model.decode_latent(model.encode_latent(waves)).square().mean().backward()
    for name, parameter in model.named_parameters():
        if name in grads:
            torch.testing.assert_close(parameter.grad, grads[name], msg=name)


@pytest.mark.parametrize("channels, stride", [(16, 8), (16, 4), (32, 6)])
def test_strided_convolutions_in_bfloat16(channels: int, stride: int) -> None:
    """Values and gradients are float32's to bfloat16's precision, by autocast and by dtype (oneDNN's are not: AMX)."""
    torch.manual_seed(0)
    down = MimiConv1d(channels, 24, 2 * stride, stride=stride)
    up = MimiConvTranspose1d(24, channels, 2 * stride, stride=stride)
    x, weight = torch.randn(2, channels, 40 * stride), torch.randn(2, channels, 40 * stride)

    def both(layers: list[torch.nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
        x = x.clone().requires_grad_()
        y = layers[1](layers[0](x))
        parameters = [p for layer in layers for p in layer.parameters()]
        return [y, *torch.autograd.grad((y * weight.to(y)).float().sum(), [x, *parameters])]

    want = both([down, up], x)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = both([down, up], x)
    narrow = both([copy.deepcopy(down).bfloat16(), copy.deepcopy(up).bfloat16()], x.bfloat16())
    for a, b, c in zip(want, mixed, narrow):
        for other in (b, c):
            assert torch.cosine_similarity(a.flatten(), other.float().flatten(), dim=0) > 0.999
