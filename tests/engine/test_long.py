"""Long runs: conversations that come and go for 500 ticks, and memory over 10,000."""

import gc

import pytest
import torch

from aizuchi.engine import DuplexEngine, Sampling, TokenLoop
from tests.engine.test_duplex import frame, speech
from tests.models.moshi.reference import tiny_model


@pytest.mark.slow
def test_500_ticks_of_comings_and_goings():
    """Joining, leaving, pausing and resuming at random, sampled and greedy: each bit-equal to the same one alone."""
    model, rows, ticks = tiny_model(), 4, 500
    generator = torch.Generator().manual_seed(8)

    def number(low, high):
        return int(torch.randint(low, high, (1,), generator=generator))

    wave = speech(rows, ticks, seed=9)
    plan = torch.zeros(ticks, rows, dtype=torch.bool)
    events = []  # (begin, end, row, sampling)
    for row in range(rows):
        tick = number(0, 12)
        while tick < ticks - 10:
            end = min(tick + number(20, 120), ticks)
            seed = 100 * row + len(events)
            sampling = Sampling(seed=seed, top_k=30) if number(0, 4) else Sampling.greedy(seed=seed)
            events.append((tick, end, row, sampling))
            plan[tick:end, row] = torch.rand(end - tick, generator=generator) < 0.8
            tick = end + number(1, 9)

    def run(wanted):
        engine = DuplexEngine(model, rows)
        said = {event[:3]: [] for event in wanted}
        for tick in range(min(event[0] for event in wanted), max(event[1] for event in wanted)):
            for _, end, row, _ in wanted:
                if tick == end:
                    engine.leave(row)
            for begin, _, row, sampling in wanted:
                if tick == begin:
                    engine.join(row, sampling)
            out = engine.step(frame(wave, tick), plan[tick])
            for begin, end, row, _ in wanted:
                if begin <= tick < end and plan[tick, row]:
                    said[begin, end, row].append(
                        (out.waveform[row].clone(), int(out.text[row]), out.codes[row].tolist())
                    )
        return said

    together = run(events)
    assert len(events) > 20
    for event in events:
        alone = run([event])[event[:3]]
        assert len(alone) == len(together[event[:3]]) > 0
        for (wave1, *tokens1), (wave2, *tokens2) in zip(alone, together[event[:3]], strict=True):
            assert tokens1 == tokens2 and torch.equal(wave1, wave2)


def resident():
    """Bytes of this process in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


@pytest.mark.slow
def test_10_000_ticks_take_no_more_memory():
    model = tiny_model()
    loop = TokenLoop(model, 2)
    for row in range(2):
        loop.configure(row, Sampling(seed=row))
    codes = torch.zeros(2, model.config.num_user_codebooks, 1, dtype=torch.long)
    with torch.inference_mode():
        loop.start(loop.everyone)
        for tick in range(10_000):
            loop.step(codes)
            if tick == 2000:
                gc.collect()
                before = resident()
    gc.collect()
    assert resident() - before < 2 * 2**20
