"""Streams: any chunking equals the whole, rows don't touch each other, steps have fixed shapes and never wait."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from aizuchi.models.mimi import MimiConfig, MimiModel, modeling
from tests.models.mimi.helpers import FRAME, TINY, cut, make_model, speech

FRAMES = 45  # 90 positions: nine windows of 10, and several wraps of the ring of 11


@pytest.fixture(scope="module")
def model() -> MimiModel:
    return make_model(fit_seconds=8, **TINY)


@pytest.fixture(scope="module")
def exact() -> tuple[MimiModel, Tensor, Tensor, Tensor]:
    """A model in float64, a signal that ends within a frame, and its codes and samples as a whole."""
    model = make_model(fit_seconds=8, **TINY).double()
    waves = torch.cat([speech(FRAMES * FRAME - 700), speech(FRAMES * FRAME - 700, start=50_000)]).double()
    with torch.no_grad():
        codes = model.encode(waves).audio_codes
        return model, waves, codes, model.decode(codes).audio_values


def encode_chunks(model: MimiModel, chunks: list[Tensor], **options: str) -> Tensor:
    state = model.init_encoder_state(chunks[0].shape[0], **options)
    codes = [model.encode(chunk, state=state).audio_codes for chunk in chunks[:-1]]
    return torch.cat([*codes, model.encode(chunks[-1], state=state, final=True).audio_codes], -1)


class TestAnyChunking:
    @settings(max_examples=12)
    @given(sizes=st.lists(st.integers(1, 9 * FRAME), min_size=1, max_size=4))
    def test_encode(self, exact: tuple, sizes: list[int]) -> None:
        model, waves, codes, _ = exact
        if sum(sizes) < 800:  # thousands of chunks of a few samples teach nothing that dozens don't
            sizes = [*sizes, 7919]
        assert torch.equal(encode_chunks(model, cut(waves, sizes)), codes)

    @settings(max_examples=12)
    @given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
    def test_X1_decode(self, exact: tuple, sizes: list[int]) -> None:
        model, _, codes, samples = exact
        state = model.init_decoder_state(2)
        streamed = [model.decode(chunk, state=state).audio_values for chunk in cut(codes, sizes)]
        torch.testing.assert_close(torch.cat(streamed, -1), samples, rtol=0, atol=1e-12)

    def test_X1_decode_float32(self, model: MimiModel) -> None:
        codes = model.encode(speech(FRAMES * FRAME)).audio_codes
        state = model.init_decoder_state(1)
        streamed = torch.cat([model.decode_step(frame, state) for frame in codes.split(1, -1)], -1)
        with torch.no_grad():
            whole = model.decode(codes).audio_values
        torch.testing.assert_close(streamed, whole, rtol=0, atol=1e-5)

    def test_an_encoder_deeper_than_the_decoder(self) -> None:
        model = make_model(fit_seconds=8, **TINY, num_encoder_hidden_layers=4)
        assert len(model.encoder_transformer.layers) == 4 and len(model.decoder_transformer.layers) == 2
        waves = speech(FRAMES * FRAME)
        with torch.no_grad():
            codes = model.encode(waves).audio_codes
        state = model.init_encoder_state(1)
        steps = [model.encode_step(frame, state) for frame in waves.split(FRAME, -1)]
        assert torch.equal(torch.cat(steps, -1), codes)
        deepest = model.encoder_transformer.layers[-1].mlp_layer_scale.scale
        with torch.no_grad():
            deepest.zero_()
            assert not torch.equal(model.encode(waves).audio_codes, codes)  # the last layer has a say
        with pytest.raises(ValueError, match="another configuration"):
            make_model(fit_seconds=8, **TINY).encode_step(waves[..., :FRAME], state)

    def test_a_decoder_of_its_own_sizes(self) -> None:
        sizes = {"decoder_channels": [24, 20, 12, 10, 6], "num_decoder_residual_layers": 2}
        model = make_model(fit_seconds=8, **TINY, **sizes)
        convs = [m for m in model.decoder.modules() if isinstance(m, torch.nn.ConvTranspose1d)]
        blocks = [m.conv.dilation for m in model.decoder.modules() if getattr(m, "conv", None) is not None]
        assert (2,) in blocks  # of every second one
        assert [(c.in_channels, c.out_channels) for c in convs] == [(24, 20), (20, 12), (12, 10), (10, 6)]
        codes = model.encode(speech(FRAMES * FRAME)).audio_codes
        state = model.init_decoder_state(1)
        streamed = torch.cat([model.decode_step(frame, state) for frame in codes.split(1, -1)], -1)
        with torch.no_grad():
            torch.testing.assert_close(streamed, model.decode(codes).audio_values, rtol=0, atol=1e-5)
        with pytest.raises(ValueError, match="another configuration"):
            make_model(fit_seconds=8, **TINY).decode_step(codes[..., :1], state)

    def test_steps_of_several_frames(self, exact: tuple) -> None:
        model, waves, codes, samples = exact
        for frames in (1, 2, 3, 9):
            state, decoder = model.init_encoder_state(2), model.init_decoder_state(2)
            whole = waves[..., : waves.shape[-1] // (frames * FRAME) * frames * FRAME]
            steps = [model.encode_step(chunk, state) for chunk in whole.split(frames * FRAME, -1)]
            assert torch.equal(torch.cat(steps, -1), codes[..., : whole.shape[-1] // FRAME])
            out = torch.cat([model.decode_step(step, decoder) for step in steps], -1)
            torch.testing.assert_close(out, samples[..., : out.shape[-1]], rtol=0, atol=1e-12)

    def test_flush_and_empty_chunks(self, exact: tuple) -> None:
        model, waves, codes, _ = exact
        state = model.init_encoder_state(2)
        nothing = model.encode(waves[..., :0], state=state).audio_codes
        assert nothing.shape == (2, 8, 0)
        assert model.encode(waves[..., :1919], state=state).audio_codes.shape == (2, 8, 0)
        assert state.pending_length.tolist() == [1919, 1919]
        first = model.encode(waves[..., 1919:1920], state=state).audio_codes
        assert torch.equal(first, codes[..., :1])
        # nothing is held back, so there is nothing to flush
        assert model.encode(waves[..., :0], state=state, final=True).audio_codes.shape == (2, 8, 0)
        rest = model.encode(waves[..., 1920:], state=state, final=True).audio_codes
        assert torch.equal(rest, codes[..., 1:])
        assert state.pending_length.tolist() == [0, 0]

    def test_long_signals_run_in_blocks(self, exact: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
        model, waves, codes, samples = exact
        monkeypatch.setattr(modeling, "BLOCK_FRAMES", 7)
        assert torch.equal(model.encode(waves).audio_codes, codes)
        with torch.no_grad():
            torch.testing.assert_close(model.decode(codes).audio_values, samples, rtol=0, atol=1e-12)
        state = model.init_encoder_state(2)
        assert torch.equal(model.encode(waves, state=state, final=True).audio_codes, codes)

    def test_X7_window_holds(self, exact: tuple) -> None:
        """What lies further back than all layers' windows changes nothing."""
        model, waves, codes, _ = exact
        changed = waves.clone()
        changed[..., :100] += 0.3
        other = model.encode(changed).audio_codes
        # two layers of 10 positions and a few of convolution, two positions a frame
        assert not torch.equal(other[..., :5], codes[..., :5])
        assert torch.equal(other[..., 14:], codes[..., 14:])


class TestRows:
    """Rows join, pause, restart and leave, each as if it were alone. Bit-equal for a fixed number of rows."""

    # for each row: ticks at which it takes part, and ticks before which it starts anew
    SCHEDULE = [
        (set(range(30)), set()),
        (set(range(4, 30)) - {10, 11, 19}, {17}),
        ({0, 1, 2, 3, 9, 14, 15, 16, 17, 18, 25, 26, 27, 28, 29}, {9}),
    ]
    TICKS = 30

    def run(
        self, model: MimiModel, only: int | None, ring: str
    ) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Codes and samples of every row's own ticks, with rubbish in the rows that idle.

        With ``only`` just that row runs, and never pauses.
        """
        encoder, decoder = model.init_encoder_state(3, ring=ring), model.init_decoder_state(3, ring=ring)
        signals = [speech(self.TICKS * FRAME, start=60_000 * row)[0] for row in range(3)]
        clock = [0, 0, 0]
        codes: list[list[Tensor]] = [[], [], []]
        samples: list[list[Tensor]] = [[], [], []]
        for tick in range(self.TICKS):
            if only is not None and tick not in self.SCHEDULE[only][0]:
                continue
            restart = [tick in self.SCHEDULE[row][1] for row in range(3)]
            if any(restart):
                for state in (encoder, decoder):
                    state.reset(torch.tensor(restart))
            active = [tick in self.SCHEDULE[row][0] and only in (None, row) for row in range(3)]
            pcm = torch.full((3, 1, FRAME), float("nan"))
            for row in range(3):
                if active[row]:
                    pcm[row] = signals[row][:, clock[row] * FRAME :][:, :FRAME]
                    clock[row] += 1
            mask = torch.tensor(active)
            out = model.encode_step(pcm, encoder, mask)
            wav = model.decode_step(torch.where(mask[:, None, None], out, -1), decoder, mask)
            for row in range(3):
                if active[row]:
                    codes[row].append(out[row])
                    samples[row].append(wav[row])
        return codes, samples

    @pytest.mark.parametrize("ring", ["exact", "original"])
    def test_as_if_alone(self, model: MimiModel, ring: str) -> None:
        together = self.run(model, None, ring)
        for row in range(3):
            alone = self.run(model, row, ring)
            for ours, theirs in zip(together, alone, strict=True):
                assert len(ours[row]) == len(self.SCHEDULE[row][0])
                assert torch.equal(torch.cat(ours[row], -1), torch.cat(theirs[row], -1))

    def test_restart_is_a_first_frame(self, model: MimiModel) -> None:
        """A row that is reset replicates its own first frame again, whatever the others do."""
        waves = torch.cat([speech(8 * FRAME, start=90_000 * row) for row in range(2)]).double()
        model = make_model(fit_seconds=8, **TINY).double()
        state = model.init_encoder_state(2)
        for chunk in waves.split(FRAME, -1):
            model.encode_step(chunk, state)
        state.reset([1])
        second = speech(8 * FRAME, start=20_000).double()
        steps = [
            model.encode_step(torch.cat([waves[:1, :, :FRAME], chunk]), state)
            for chunk in second.split(FRAME, -1)
        ]
        assert torch.equal(torch.cat(steps, -1)[1:], model.encode(second).audio_codes)

    @pytest.mark.parametrize("side", ["encoder", "decoder"])
    def test_idle_rows_keep_their_state(self, model: MimiModel, side: str) -> None:
        waves = torch.cat([speech(20 * FRAME), speech(20 * FRAME, start=70_000)])
        if side == "encoder":
            state, step, inputs = model.init_encoder_state(2), model.encode_step, waves.split(FRAME, -1)
        else:
            codes = model.encode(waves).audio_codes
            state, step, inputs = model.init_decoder_state(2), model.decode_step, codes.split(1, -1)
        for chunk in inputs:
            step(chunk, state)
        before = state.export_row(1)
        step(inputs[7], state, torch.tensor([True, False]))
        after = state.export_row(1)
        offset = int(before["transformer.offset"])
        assert int(after["transformer.offset"]) == offset
        for name in before:
            if ".keys." in name or ".values." in name:  # only slots outside every window may be scratched
                seen = before["transformer.key_positions"] > offset - model.config.sliding_window
                assert torch.equal(before[name][:, seen], after[name][:, seen]), name
            else:
                assert torch.equal(before[name], after[name]), name

    def test_export_and_import(self, model: MimiModel) -> None:
        """A conversation moves to another row of another state, in the middle of a frame, and goes on."""
        waves = speech(20 * FRAME)
        whole = model.init_encoder_state(1)
        expected = torch.cat([model.encode(c, state=whole).audio_codes for c in cut(waves, [3000])], -1)
        first = model.init_encoder_state(1)
        chunks = cut(waves, [3000])
        codes = [model.encode(chunk, state=first).audio_codes for chunk in chunks[:6]]
        second = model.init_encoder_state(1)
        second.import_row(0, first.export_row(0))
        codes += [model.encode(chunk, state=second).audio_codes for chunk in chunks[6:]]
        assert torch.equal(torch.cat(codes, -1), expected)


class TestSteps:
    """What CUDA graphs and compilers ask of a step."""

    @pytest.mark.parametrize("ring", ["exact", "original"])
    def test_X8_compiles_whole(self, ring: str) -> None:
        torch._dynamo.reset()
        model = make_model(fit_seconds=4, **{**TINY, "num_hidden_layers": 1})
        encode = torch.compile(model.encode_step, fullgraph=True, backend="eager")
        decode = torch.compile(model.decode_step, fullgraph=True, backend="eager")
        options = {"ring": ring, "weights": None}  # torch's operators in both
        states = [
            (model.init_encoder_state(2, **options), model.init_decoder_state(2, **options)) for _ in "ab"
        ]
        waves = torch.cat([speech(8 * FRAME), speech(8 * FRAME, start=80_000)])
        for tick, chunk in enumerate(waves.split(FRAME, -1)):
            active = torch.tensor([True, tick % 3 > 0])
            codes = encode(chunk, states[0][0], active)
            plain = model.encode_step(chunk, states[1][0], active)
            assert torch.equal(codes, plain)
            assert torch.equal(
                decode(codes, states[0][1], active), model.decode_step(plain, states[1][1], active)
            )

    def test_no_waiting_for_the_device(self) -> None:
        """On the meta device any look at a value raises."""
        with torch.device("meta"):
            model = MimiModel(MimiConfig(**TINY)).eval()
        for ring in ("exact", "original"):
            encoder, decoder = model.init_encoder_state(2, ring=ring), model.init_decoder_state(2, ring=ring)
            active = torch.ones(2, dtype=torch.bool, device="meta")
            codes = model.encode_step(torch.zeros(2, 1, 2 * FRAME, device="meta"), encoder, active)
            assert codes.shape == (2, 8, 2)
            assert model.decode_step(codes, decoder, active).shape == (2, 1, 2 * FRAME)
            encoder.reset(active)

    def test_state_keeps_its_storage(self, model: MimiModel) -> None:
        state, decoder = model.init_encoder_state(2), model.init_decoder_state(2)
        tensors = [t for s in (state, decoder) for _, t, _ in s.leaves()]
        places = [t.data_ptr() for t in tensors]
        codes = model.encode_step(speech(FRAME).expand(2, -1, -1), state)
        model.decode_step(codes, decoder)
        state.reset(torch.tensor([True, False]))
        after = [t for s in (state, decoder) for _, t, _ in s.leaves()]
        assert [t.data_ptr() for t in after] == places
        assert all(t.shape[0] == 2 for t in after)
        assert not any(t.requires_grad for t in after)

    def test_num_quantizers(self, model: MimiModel) -> None:
        waves = speech(3 * FRAME)
        a, b = model.init_encoder_state(1), model.init_encoder_state(1)
        assert torch.equal(model.encode_step(waves, a, num_quantizers=3), model.encode_step(waves, b)[:, :3])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_half_precision(self, dtype: torch.dtype) -> None:
        model = make_model(fit_seconds=8, **TINY).to(dtype)
        state, decoder = model.init_encoder_state(1), model.init_decoder_state(1)
        for chunk in speech(8 * FRAME).split(FRAME, -1):
            samples = model.decode_step(model.encode_step(chunk, state), decoder)
            assert samples.dtype == dtype and samples.isfinite().all()
        assert decoder.seanet.layers[0].previous.dtype == dtype
