"""The duplex engine: waveforms in and out, rows that come and go, snapshots."""

import subprocess
import sys
import textwrap

import pytest
import torch

from aizuchi.engine import DuplexEngine, Sampling, reply
from aizuchi.engine.snapshot import export_row, import_row, load_row, save_row
from aizuchi.engine.tokens import Guidance
from aizuchi.errors import AizuchiError
from tests.models.moshi.reference import tiny_model

FRAME = 1920


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def speech(rows, ticks, seed=0):
    """(rows, 1, ticks * FRAME) noise with a changing level."""
    generator = torch.Generator().manual_seed(seed)
    wave = torch.randn(rows, 1, ticks * FRAME, generator=generator) * 0.3
    return wave * torch.rand(rows, 1, ticks, generator=generator).repeat_interleave(FRAME, dim=2)


def frame(wave, tick):
    return wave[:, :, tick * FRAME : (tick + 1) * FRAME]


def test_rows_join_pause_leave_without_touching_the_others(model):
    """Random comings and goings, sampled: each conversation is bit-equal to the same one alone."""
    rows, ticks = 3, 50
    generator = torch.Generator().manual_seed(1)
    events = []  # (tick, row, seed) of conversations, and their active ticks
    plan = torch.zeros(ticks, rows, dtype=torch.bool)
    for row in range(rows):
        tick = int(torch.randint(0, 8, (1,), generator=generator))
        while tick < ticks - 8:
            length = int(torch.randint(8, 20, (1,), generator=generator))
            events.append((tick, min(tick + length, ticks), row, 100 + len(events)))
            end = min(tick + length, ticks)
            plan[tick:end, row] = torch.rand(end - tick, generator=generator) < 0.75
            tick = end + int(torch.randint(1, 6, (1,), generator=generator))
    wave = speech(rows, ticks)

    def run(wanted):
        engine = DuplexEngine(model, rows)
        said = {seed: [] for *_, seed in wanted}
        for tick in range(min(begin for begin, *_ in wanted), max(end for _, end, *_ in wanted)):
            for _, end, row, _ in wanted:
                if tick == end:
                    engine.leave(row)
            for begin, _, row, seed in wanted:
                if tick == begin:
                    engine.join(row, Sampling(seed=seed, top_k=30))
            out = engine.step(frame(wave, tick), plan[tick])
            for begin, end, row, seed in wanted:
                if begin <= tick < end and plan[tick, row]:
                    assert bool(out.valid[row])
                    said[seed].append(
                        (out.waveform[row].clone(), out.text[row].item(), out.codes[row].tolist())
                    )
        return said

    together = run(events)
    assert len(events) > 5
    for event in events:
        alone = run([event])[event[3]]
        assert len(alone) == len(together[event[3]])
        for (wave1, *tokens1), (wave2, *tokens2) in zip(alone, together[event[3]], strict=True):
            assert tokens1 == tokens2 and torch.equal(wave1, wave2)


def test_a_snapshot_goes_on_bit_for_bit_in_another_row_and_process(model, tmp_path):
    ticks = 32
    wave = speech(2, ticks, seed=2)
    engine = DuplexEngine(model, 2)
    engine.join(0, Sampling(seed=5))
    for tick in range(20):
        engine.step(frame(wave, tick))
    save_row(engine, 0, tmp_path / "row.safetensors")
    bookmark = export_row(engine, 0)

    def go_on(engine, row):
        said = []
        for tick in range(20, ticks):
            heard = torch.zeros(2, 1, FRAME)
            heard[row] = frame(wave, tick)[0]
            out = engine.step(heard)
            said.append(torch.cat([out.waveform[row].flatten(), out.codes[row].float()]))
        return torch.stack(said)

    straight = go_on(engine, 0)
    other = DuplexEngine(model, 2)
    import_row(other, 1, bookmark)
    assert torch.equal(go_on(other, 1), straight)
    engine.leave(0)
    load_row(engine, 0, tmp_path / "row.safetensors")  # back to the bookmark
    assert torch.equal(go_on(engine, 0), straight)

    torch.save((wave, straight), tmp_path / "expected.pt")
    script = textwrap.dedent(f"""
        import torch
        from aizuchi.engine import DuplexEngine
        from aizuchi.engine.snapshot import load_row
        from tests.models.moshi.reference import tiny_model
        wave, straight = torch.load({str(tmp_path / "expected.pt")!r})
        engine = DuplexEngine(tiny_model(), 2)
        load_row(engine, 1, {str(tmp_path / "row.safetensors")!r})
        said = []
        for tick in range(20, {ticks}):
            heard = torch.zeros(2, 1, {FRAME})
            heard[1] = wave[0, :, tick * {FRAME} : (tick + 1) * {FRAME}]
            out = engine.step(heard)
            said.append(torch.cat([out.waveform[1].flatten(), out.codes[1].float()]))
        assert torch.equal(torch.stack(said), straight)
    """)
    subprocess.run([sys.executable, "-c", script], check=True)


def test_foreign_snapshots_are_refused_and_change_nothing(model, tmp_path):
    engine = DuplexEngine(model, 2)
    engine.join(0)
    save_row(engine, 0, tmp_path / "row.safetensors")
    with pytest.raises(AizuchiError, match="taken"):
        load_row(engine, 0, tmp_path / "row.safetensors")
    with pytest.raises(AizuchiError, match="2 rows, this one has 3"):
        load_row(DuplexEngine(model, 3), 0, tmp_path / "row.safetensors")
    with pytest.raises(AizuchiError, match="another configuration"):
        load_row(DuplexEngine(tiny_model(num_codebooks=3), 2), 0, tmp_path / "row.safetensors")
    data = (tmp_path / "row.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    before = {name: tensor.clone() for name, tensor, _ in engine.state.leaves()}
    with pytest.raises(AizuchiError, match="damaged"):
        load_row(engine, 1, tmp_path / "cut.safetensors")
    with pytest.raises(AizuchiError, match="does not exist"):
        load_row(engine, 1, tmp_path / "none.safetensors")
    assert all(torch.equal(before[name], tensor) for name, tensor, _ in engine.state.leaves())


def test_settings_change_live(model):
    wave = speech(1, 12, seed=3)

    def run(change_at):
        engine = DuplexEngine(model, 1)
        engine.join(0, Sampling(seed=1))
        said = []
        for tick in range(12):
            if tick == change_at:
                engine.configure(0, Sampling(seed=99))
            said.append(engine.step(frame(wave, tick)).codes[0].tolist())
        return said

    plain, changed = run(None), run(6)
    assert plain[:6] == changed[:6] and plain[7:] != changed[7:]


def test_reply_is_aligned_with_what_it_hears(model):
    """As long as the input, to the sample; equal to stepping by hand; the first frame is the first said."""
    wave = speech(1, 9)[0, :, : 9 * FRAME - 700]
    result = reply(model, wave, Sampling(seed=2))
    assert result.waveform.shape == wave.shape and result.text.shape == (9,) and result.codes.shape == (4, 9)
    decoded = model.audio_encoder.decode(result.codes[None]).audio_values[0, :, : wave.shape[1]]
    assert (decoded - result.waveform).abs().max() < 1e-5


def test_reply_of_a_family_with_longer_delays_loses_no_frame():
    model = tiny_model(delays=[0, 0, 2, 2, 2, 0, 2, 2, 2])
    wave = speech(1, 7)[0]
    result = reply(model, wave, Sampling.greedy())
    assert result.codes.shape == (4, 7) and result.waveform.shape == wave.shape
    assert DuplexEngine(model).lag == 1


@pytest.mark.parametrize(
    ("wave", "message"),
    [
        (torch.zeros(1, 0), "empty"),
        (torch.full((1, 100), float("nan")), "NaN"),
        (torch.zeros(2, 100), "samples"),
        (torch.zeros(100), "samples"),
    ],
)
def test_bad_waves_are_refused(model, wave, message):
    with pytest.raises(ValueError, match=message):
        reply(model, wave)


def test_a_row_with_nan_fails_alone(model):
    """It is reported at once, the others go on bit for bit, and the row is as new for the next caller."""
    wave = speech(2, 12, seed=4)
    broken = wave.clone()
    broken[0, :, 4 * FRAME + 7] = float("nan")

    def run(wave):
        engine = DuplexEngine(model, 2)
        for row in range(2):
            engine.join(row, Sampling(seed=row))
        outputs = [engine.step(frame(wave, tick)) for tick in range(8)]
        engine.leave(0)
        engine.join(0, Sampling(seed=7))
        return outputs, [engine.step(frame(speech(2, 12, seed=4), tick)) for tick in range(8, 12)]

    (good, after), (bad, after_bad) = run(wave), run(broken)
    assert [out.failed.tolist() for out in bad[:5]] == [[False, False]] * 4 + [[True, False]]
    for one, other in zip(good + after, bad + after_bad, strict=True):
        assert torch.equal(one.waveform[1], other.waveform[1]) and torch.equal(one.codes[1], other.codes[1])
    for one, other in zip(after, after_bad, strict=True):
        assert torch.equal(one.waveform, other.waveform) and not other.failed.any()


def test_weights_that_are_not_finite_are_told(model):
    broken = tiny_model()
    with torch.no_grad():
        broken.decoder.lm_head.weight[5] = float("nan")
    with pytest.raises(AizuchiError, match="not finite"):
        reply(broken, speech(1, 2)[0])


def test_misuse_is_named(model):
    engine = DuplexEngine(model, 1)
    with pytest.raises(ValueError, match="`row`"):
        engine.join(1)
    with pytest.raises(ValueError, match="no conversation"):
        engine.leave(0)
    engine.join()
    with pytest.raises(ValueError, match="taken"):
        engine.join()
    with pytest.raises(ValueError, match="one frame"):
        engine.step(torch.zeros(1, 1, 100))
    with pytest.raises(ValueError, match="`waveform`"):
        engine.step()
    with pytest.raises(ValueError, match="training mode"):
        DuplexEngine(tiny_model().train())
    with pytest.raises(ValueError, match="`rows`"):
        DuplexEngine(model, 0)


def test_a_guided_row_that_is_taken_again_knows_nothing_of_the_one_before(model):
    """Both halves of it are wiped, and neither is in a snapshot, which would hold only one."""

    def engine():
        return DuplexEngine(model, 2, guidance=Guidance(2.0, masked_until=torch.tensor([50, 50])))

    def hear(guided, wave):
        guided.join(1, Sampling.greedy())
        return [guided.step(frame(wave, tick)) for tick in range(8)]

    used, fresh = engine(), engine()
    hear(used, speech(2, 8, seed=1))
    with pytest.raises(AizuchiError, match="guided"):
        export_row(used, 1)
    used.leave(1)
    wave = speech(2, 8, seed=2)
    for one, other in zip(hear(used, wave), hear(fresh, wave), strict=True):
        assert torch.equal(one.text[1], other.text[1]) and torch.equal(one.codes[1], other.codes[1])
    assert all(
        torch.equal(a[[1, 3]], b[[1, 3]])
        for a, b in zip(used.state.tokens.ring.keys, fresh.state.tokens.ring.keys, strict=True)
    )
