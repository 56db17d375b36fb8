"""What a codec refuses: waveforms, codes, configurations and files that are none of its own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aizuchi.models.mimi import MimiModel
from tests.models.mimi.helpers import FRAME, TINY, make_model


class TestBadInput:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            (torch.zeros(1, 2000), r"`input_values` has shape \(1, 2000\)"),
            (torch.zeros(1, 2, 2000), r"`input_values` has shape \(1, 2, 2000\)"),
            (torch.zeros(0, 1, 2000), "`input_values` has shape"),
            (torch.zeros(1, 1, 0), "`input_values` is empty"),
            (torch.zeros(1, 1, 2000, dtype=torch.int16), "`input_values` is torch.int16"),
            (torch.full((1, 1, 2000), torch.nan), "`input_values` contains NaN"),
            (torch.full((1, 1, 2000), torch.inf), "`input_values` contains NaN"),
            ([0.0] * 2000, "`input_values` must be a tensor"),
        ],
    )
    def test_waveforms(self, model: MimiModel, values: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            model.encode(values)

    @pytest.mark.parametrize(
        ("codes", "message"),
        [
            (torch.zeros(1, 8, 3), "`audio_codes` is torch.float32"),
            (torch.zeros(8, 3).long(), "`audio_codes` must be a tensor"),
            (torch.zeros(1, 8, 0).long(), "`audio_codes` is empty"),
            (torch.full((1, 8, 3), 64), "`audio_codes` holds 64; codes are 0 to 63"),
            (torch.full((1, 8, 3), -1), "`audio_codes` holds -1"),
            (torch.zeros(1, 9, 3).long(), "`audio_codes` asks for 9 codebooks; this model has 8"),
            (torch.zeros(1, 0, 3).long(), "`audio_codes` asks for 0 codebooks"),
        ],
    )
    def test_codes(self, model: MimiModel, codes: Tensor, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            model.decode(codes)

    def test_num_quantizers(self, model: MimiModel, waves: Tensor) -> None:
        for count in (0, 9, 2.5):
            with pytest.raises(ValueError, match="`num_quantizers`"):
                model.encode(waves, num_quantizers=count)

    def test_sampling_rate(self, model: MimiModel, waves: Tensor) -> None:
        model.encode(waves, sampling_rate=24_000)
        with pytest.raises(ValueError, match="`sampling_rate` is 16000"):
            model.encode(waves, sampling_rate=16_000)

    def test_nothing(self, model: MimiModel) -> None:
        with pytest.raises(ValueError, match="`input_values` and `audio_codes`"):
            model()

    def test_states(self, model: MimiModel, waves: Tensor) -> None:
        codes = model.encode(waves).audio_codes
        other = make_model(**{**TINY, "sliding_window": 12})
        calls = [
            (
                lambda state: model.encode(waves, state=state),
                model.init_encoder_state,
                other.init_encoder_state,
            ),
            (
                lambda state: model.encode_step(waves[..., :FRAME], state),
                model.init_encoder_state,
                other.init_encoder_state,
            ),
            (
                lambda state: model.decode(codes, state=state),
                model.init_decoder_state,
                other.init_decoder_state,
            ),
            (
                lambda state: model.decode_step(codes, state),
                model.init_decoder_state,
                other.init_decoder_state,
            ),
        ]
        for call, ours, theirs in calls:
            with pytest.raises(ValueError, match="`state` comes from a model of another configuration"):
                call(theirs(2))
            with pytest.raises(ValueError, match="`state` has 3 rows, the input has 2"):
                call(ours(3))
            with pytest.raises(ValueError, match="`state` holds torch.float64"):
                call(ours(2, dtype=torch.float64))
            with pytest.raises(ValueError, match="`state` is a"):
                call(
                    model.init_decoder_state(2)
                    if ours == model.init_encoder_state
                    else model.init_encoder_state(2)
                )

    def test_steps(self, model: MimiModel, waves: Tensor) -> None:
        encoder, decoder = model.init_encoder_state(2), model.init_decoder_state(2)
        with pytest.raises(ValueError, match="`pcm` holds 1000 samples, not a multiple"):
            model.encode_step(waves[..., :1000], encoder)
        with pytest.raises(ValueError, match="`pcm` has shape"):
            model.encode_step(waves[:, 0, :FRAME], encoder)
        with pytest.raises(ValueError, match="`active` must be a bool tensor"):
            model.encode_step(waves[..., :FRAME], encoder, torch.ones(2))
        with pytest.raises(ValueError, match="`codes` has shape"):
            model.decode_step(torch.zeros(2, 8).long(), decoder)
        with pytest.raises(ValueError, match="`codes` asks for 9"):
            model.decode_step(torch.zeros(2, 9, 1).long(), decoder)
        with pytest.raises(ValueError, match="`rows`"):
            model.init_encoder_state(0)
        with pytest.raises(ValueError, match="`ring` must be one of"):
            model.init_decoder_state(1, ring="round")

    def test_nothing_is_half_written(self, model: MimiModel, waves: Tensor) -> None:
        state = model.init_encoder_state(2)
        model.encode(waves, state=state)
        before = state.clone()
        bad = waves.clone()
        bad[1, 0, 7] = torch.nan
        with pytest.raises(ValueError):
            model.encode(bad, state=state)
        for (_, a, _), (_, b, _) in zip(state.leaves(), before.leaves(), strict=True):
            assert torch.equal(a, b)

    def test_rows_out_of_step(self, model: MimiModel, waves: Tensor) -> None:
        state = model.init_encoder_state(2)
        model.encode(waves[..., :1000], state=state)
        state.reset([1])
        with pytest.raises(
            ValueError, match=r"`state` holds back a different number of samples.*\[1000, 0\]"
        ):
            model.encode(waves[..., :1000], state=state)
