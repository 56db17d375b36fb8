"""Keys and values in 8 bits: rounded once, read as rounded by every query, and as exact about rows as ever."""

import json

import pytest
import torch

from aizuchi.cli import main
from aizuchi.engine import DuplexEngine, Sampling
from aizuchi.engine.measure import step_floor
from aizuchi.engine.memory import need
from aizuchi.engine.snapshot import load_row, save_row
from aizuchi.errors import AizuchiError
from aizuchi.models.cache import RingCache, RingPlan
from aizuchi.models.quantized import to_int8
from aizuchi.serve.scheduler import Scheduler
from tests.engine.test_duplex import frame, speech
from tests.models.moshi.reference import tiny_model
from tests.models.moshi.test_sinks import CHUNKS, LENGTH, Masked, make, stream


def rounded(x):
    """What is read back of x (..., head_dim): 127 steps to the largest number, for each head and position."""
    scale = (x.float().abs().amax(-1, keepdim=True) / 127).bfloat16().to(x.dtype)
    return (x / scale).round().clamp(-127, 127) * scale


class Rounded(Masked):
    """The whole sequence under an explicit mask, all keys and values rounded."""

    kept = staticmethod(rounded)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 60, (2, LENGTH), generator=torch.Generator().manual_seed(4))


@pytest.mark.parametrize("sinks", [0, 2])
@torch.no_grad()
def test_a_stream_equals_the_whole_sequence_with_rounded_keys_and_values(ids, sinks):
    """In float64, where the last bit of a sum does not decide between two levels."""
    model = make(torch.float64)
    whole = Rounded(model, sinks).logits(ids)
    for sizes in ("steps", "chunks", "one chunk"):
        state = model.init_state(2, chunk=4, sinks=sinks, kv="int8")
        torch.testing.assert_close(stream(model, ids, CHUNKS[sizes], state), whole, atol=2e-5, rtol=0)
    exact = stream(model, ids, [LENGTH], model.init_state(2, sinks=sinks))
    assert 1e-3 < (exact - whole).abs().max() < 0.2 * exact.abs().max()


def test_what_is_held_takes_a_byte_and_is_half_a_step_away():
    ring = RingCache.create(3, 2, 4, 16, window=5, chunk=2, dtype=torch.float32, kv="int8")
    plain = RingCache.create(3, 2, 4, 16, window=5, chunk=2, dtype=torch.float32)
    numbers = 2 * 2 * 3 * 4 * 6 * 16
    assert plain.kv_bytes == 4 * numbers and ring.kv_bytes == numbers + 2 * numbers // 16
    assert isinstance(ring.begin(1), RingPlan)
    ring.reset()
    new = torch.randn(3, 4, 2, 16, generator=torch.Generator().manual_seed(1))
    new[1, 2] = 0
    keys, values = ring.plan(2).append(1, new, 3 * new)
    for read, given in ((keys, new), (values, 3 * new)):
        _, scale = to_int8(given)
        # The largest number of a head may be cut off by the scale's own rounding, by half of 1/256.
        limit = torch.maximum(scale / 2, given.abs().amax(-1) / 400)[..., None]
        assert ((read[:, :, :2] - given).abs() <= limit * 1.001).all()
    assert not keys[:, :, 2:].any() and not ring.keys[0].any()


def test_rows_snapshots_and_resets_in_the_engine(tmp_path):
    """With sinks too: a row goes on bit for bit in another row, and a new conversation finds nothing of the old one."""
    model = tiny_model(sliding_window=6)
    options = {"kv": "int8", "sinks": 2}
    wave = speech(2, 24, seed=3)

    def said(engine, row, ticks):
        out = []
        for tick in ticks:
            heard = torch.zeros(2, 1, engine.frame_size)
            heard[row] = frame(wave, tick)[0]
            result = engine.step(heard)
            assert not result.failed.any()
            out.append(torch.cat([result.waveform[row].flatten(), result.codes[row].float()]))
        return torch.stack(out)

    engine = DuplexEngine(model, 2, **options)
    engine.join(0, Sampling(seed=5))
    first = said(engine, 0, range(14))
    save_row(engine, 0, tmp_path / "row.safetensors")
    straight = said(engine, 0, range(14, 24))
    other = DuplexEngine(model, 2, **options)
    load_row(other, 1, tmp_path / "row.safetensors")
    assert torch.equal(said(other, 1, range(14, 24)), straight)
    engine.leave(0)
    assert not any(scales[0].any() for scales in engine.state.tokens.ring.key_scales)
    engine.join(0, Sampling(seed=5))
    assert torch.equal(said(engine, 0, range(14)), first)
    with pytest.raises(AizuchiError, match="does not fit"):
        load_row(DuplexEngine(model, 2), 1, tmp_path / "row.safetensors")


@pytest.mark.parametrize("options", [{"kv": "int8"}, {"sinks": 3}, {"kv": "int8", "sinks": 3}])
def test_the_arithmetic_of_memory_and_of_the_floor_knows_them(options):
    model = tiny_model()
    engine = DuplexEngine(model, 2, **options)
    expected = need(model.config, **options)
    assert 2 * expected.row == engine.state.nbytes()
    assert step_floor(engine).keys_values == engine.state.tokens.ring.kv_bytes
    config = model.config
    each = config.head_dim + 2 if options.get("kv") else 4 * config.head_dim
    slots = config.sliding_window + options.get("sinks", 0)
    heads = config.num_hidden_layers * config.num_key_value_heads
    assert step_floor(engine).keys_values == 2 * 2 * heads * slots * each


def test_commands_take_them(monkeypatch, tmp_path, capsys):
    model = tiny_model()
    monkeypatch.setattr("aizuchi.models.presets.random_model", lambda name, dtype=None: model)
    monkeypatch.setattr("aizuchi.engine.measure.measure_bandwidth", lambda device: 1e9)
    path = tmp_path / "bench.json"
    assert main(["bench", "--rows=1", "--steps=2", "--kv=int8", "--sinks=3", f"--json={path}"]) == 0
    record = json.loads(path.read_text())
    assert record["kv"] == "int8" and record["sinks"] == 3
    assert "keys and values int8" in capsys.readouterr().out
    assert main(["bench", "--sinks=-1"]) == 2
    assert "--sinks must lie between" in capsys.readouterr().err
    ring = Scheduler(model, None, 1, engine={"kv": "int8", "sinks": 2}).engine.state.tokens.ring
    assert ring.sinks == 2 and ring.keys[0].dtype == torch.int8


def test_an_unknown_kind_is_refused():
    with pytest.raises(AizuchiError, match="'int8'"):
        DuplexEngine(tiny_model(), 1, kv="int4")
