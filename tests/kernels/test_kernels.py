"""The compiled library against torch's operators: the same numbers, whatever stands beside a row."""

import copy

import pytest
import torch
from torch import nn

from aizuchi.engine import Sampling, TokenLoop
from aizuchi.engine.sampling import RowSettings, choose, shape_text
from aizuchi.kernels import few, library
from aizuchi.models.layers import PerCodebookLinear
from aizuchi.models.quantized import QuantizedLinear
from tests.models.moshi.reference import tiny_model

needs_library = pytest.mark.skipif(library.load() is None, reason="no C++ compiler here")


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def torch_only(monkeypatch):
    """Take the library away from everything that asks for it from now on."""
    monkeypatch.setattr(few, "load", lambda: None)
    monkeypatch.setattr("aizuchi.kernels.stack.load", lambda: None)
    monkeypatch.setattr("aizuchi.kernels.convolve.load", lambda: None)


@needs_library
@pytest.mark.parametrize("width", [24, 128, 200])
@pytest.mark.parametrize("form", ["float32", "bfloat16", "int8", "int4"])
def test_products(form, width):
    """Each format, with widths that fill no register, for numbers of rows that fill no tile."""
    torch.manual_seed(0)
    linear = nn.Linear(width, 37, bias=False)
    if form in ("int8", "int4"):
        module = QuantizedLinear.of(linear, form)
        matrix = module.dequantized(torch.float32)
    else:
        module = linear.to(getattr(torch, form))
        matrix = module.weight.float()
    x = torch.randn(7, width)
    with torch.no_grad():
        out = few.few_rows(module, x)
        assert torch.equal(out[2:3], few.few_rows(module, x[2:3]))  # a row's result is its own
    torch.testing.assert_close(out, x @ matrix.T, rtol=1e-5, atol=1e-5)


def run(loop, model, ticks=12):
    """Forced streams through a loop: the text logits of every tick."""
    generator = torch.Generator().manual_seed(3)
    rows, config = loop.rows, model.config
    out = []
    with torch.no_grad():
        loop._run(loop.everyone, torch.ones(rows, loop.said, dtype=torch.long))
        for _ in range(ticks):
            user = torch.randint(0, 60, (rows, config.num_user_codebooks, 1), generator=generator)
            forced = torch.randint(0, 50, (rows, loop.said), generator=generator)
            out.append(loop.step(user, forced=forced).logits)
    return torch.stack(out)


@needs_library
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2, "sliding_window": 6}])
def test_a_step_is_that_of_the_modules(changes, monkeypatch):
    model = tiny_model(**changes)
    compiled = run(TokenLoop(model, 2), model)
    torch_only(monkeypatch)
    plain = TokenLoop(copy.deepcopy(model), 2)
    assert plain.state.ring.fused.get() is None
    torch.testing.assert_close(compiled, run(plain, model), rtol=1e-5, atol=1e-5)


@needs_library
def test_a_stack_sees_that_its_weights_changed(model):
    """Loading, editing in place and casting take effect in streams that run already."""
    model = copy.deepcopy(model)
    ring = model.init_state(1)
    x = torch.randn(1, 1, model.config.hidden_size)
    with torch.no_grad():
        before = model.temporal.run(x, ring.begin(1))[0]
        model.decoder.model.norm.weight.mul_(2)
        ring.reset()
        torch.testing.assert_close(model.temporal.run(x, ring.begin(1))[0], 2 * before)
        assert ring.fused.get() is not None


@needs_library
def test_choices_are_those_of_torch(monkeypatch):
    generator = torch.Generator().manual_seed(5)
    settings = (
        torch.tensor([0.8, 0.0, 1.3, 0.7]),
        torch.tensor([20, 25, 0, 5]),
        torch.tensor([1.0, 1.0, 0.9, 0.6]),
        torch.tensor([1, -5, 2**62, 7]),
        torch.tensor([0, 5, 100_000, 7]),
    )
    cases = [torch.randn(4, n, generator=generator) * 3 for n in (7, 64, 3000) for _ in range(10)]
    cases.append(torch.zeros(4, 64).index_fill_(1, torch.tensor([9]), -torch.inf))
    with torch.no_grad():
        compiled = [choose(logits, *settings, codebook=2) for logits in cases[:-1]]
        ids = choose(cases[-1], *settings, codebook=2)
        torch_only(monkeypatch)
        assert torch.equal(
            torch.stack(compiled),
            torch.stack([choose(logits, *settings, codebook=2) for logits in cases[:-1]]),
        )
    assert (ids != 9).all() and (ids >= 0).all() and (ids < 64).all()


@needs_library
def test_shaped_text_is_that_of_torch(monkeypatch):
    settings = RowSettings.create(2)
    settings.put(0, Sampling(padding_bonus=1.5, repetition_penalty=1.7, repetition_context=3))
    settings.put(1, Sampling(repetition_penalty=0.5, repetition_context=200))
    settings.history[:, -6:] = torch.tensor([[5, 9, 3, 9, 4, 0], [7, 7, 70, 0, 6, 2]])
    logits = torch.randn(2, 20)
    with torch.no_grad():
        compiled = shape_text(logits, settings, 3, (3, 0))
        torch_only(monkeypatch)
        torch.testing.assert_close(compiled, shape_text(logits, settings, 3, (3, 0)))


@needs_library
@pytest.mark.parametrize("pad_mode", ["constant", "replicate"])
def test_a_codec_frame_is_that_of_the_modules(pad_mode):
    codec = tiny_model(mimi={"pad_mode": pad_mode}).audio_encoder
    states = [
        (codec.init_encoder_state(2, weights=weights), codec.init_decoder_state(2, weights=weights))
        for weights in (torch.float32, None)
    ]
    assert all(part.fused.get() is not None for part in (states[0][0].seanet, states[0][0].transformer))
    generator = torch.Generator().manual_seed(1)
    for tick in range(14):  # past the attention window
        wave = torch.randn(2, 1, 1920, generator=generator)
        active = torch.tensor([True, tick % 3 != 1])
        with torch.no_grad():
            first, second = (codec._encode_latent(wave, encoder, active)[active] for encoder, _ in states)
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
            codes = codec.quantizer.encode(second, 8)
            both = torch.zeros(2, 8, 1, dtype=torch.long)
            both[active] = codes
            first, second = (codec.decode_step(both, decoder, active)[active] for _, decoder in states)
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)


def test_without_a_compiler_torch_does_it(monkeypatch, model, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert library.load.__wrapped__() is None
    monkeypatch.setenv(library.SWITCH, "0")
    assert library.load.__wrapped__() is None


def test_a_compiler_that_fails_is_told_and_does_no_harm(monkeypatch, tmp_path, caplog):
    broken = tmp_path / "g++"
    broken.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo broken && exit 0\necho no such thing >&2\nexit 1\n'
    )
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(library.SWITCH, raising=False)
    assert library.load.__wrapped__() is None
    assert "no such thing" in caplog.text


def test_stacked_matrices_are_quantized_one_by_one():
    torch.manual_seed(0)
    stacked = PerCodebookLinear(48, 24, 3, schedule=[0, 1, 2, 2])
    x = torch.randn(2, 4, 48)
    for kind, error in (("int8", 0.02), ("int4", 0.2)):
        quantized = QuantizedLinear.of(stacked, kind)
        out, expected = quantized(x), stacked(x)
        assert (out - expected).norm() < error * expected.norm()
        for step in range(4):
            torch.testing.assert_close(quantized(x[:, step : step + 1], first=step), out[:, step : step + 1])
