"""The codec against the `moshi` package with the same weights: codes, samples, and streams past the window.

In float64 codes are identical. In float32 the two round differently, and where a frame's codes differ, the first
that does must have been a near tie.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aizuchi.checkpoints.mimi_layout import hf_to_kyutai, is_kyutai, kyutai_to_hf
from aizuchi.models.mimi import MimiModel
from tests.models.mimi.helpers import FRAME, NARROW, TINY, cut, fit_codebooks, make_model, reference, speech

pytest.importorskip("moshi")

SECONDS = 30
TIE = 1e-5  # relative gap of distances
FRAMES_IN_1000 = 5


@pytest.fixture(scope="module")
def narrow() -> tuple[MimiModel, torch.nn.Module, Tensor]:
    """The published structure at an eighth of its width, the reference's twin, and 30 s of speech."""
    model = make_model(fit_seconds=SECONDS, **NARROW)
    return model, reference(model), speech(24_000 * SECONDS)


@torch.no_grad()
def check_near_ties(model: MimiModel, waves: Tensor, ours: Tensor, theirs: Tensor) -> int:
    """Assert that codes (1, K, F) differ only after near ties; returns in how many frames they do."""
    frames = (ours != theirs).any(1)[0].nonzero()[:, 0]
    assert len(frames) <= FRAMES_IN_1000 * ours.shape[-1] / 1000, f"codes differ in {len(frames)} frames"
    if not len(frames):
        return 0
    latents = model.encode_latent(waves).double()
    quantizer = model.quantizer
    branches = [quantizer.semantic_residual_vector_quantizer, quantizer.acoustic_residual_vector_quantizer]
    for frame in frames.tolist():
        k = int((ours != theirs)[0, :, frame].long().argmax())
        branch, first = (
            (branches[0], 0) if k < quantizer.num_semantic else (branches[1], quantizer.num_semantic)
        )
        weight = branch.input_proj.weight[..., 0].double()
        residual = weight @ latents[0, :, frame]
        for level in range(first, k):  # up to here both chose alike
            residual = residual - branch.codebooks()[level - first].embed[ours[0, level, frame]].double()
        entries = branch.codebooks()[k - first].embed.double()
        a, b = ((residual - entries[codes[0, k, frame]]).norm() for codes in (ours, theirs))
        assert abs(a - b) / max(a, b) < TIE, f"frame {frame}, codebook {k}: no tie, {a} and {b}"
    return len(frames)


def distinct(codes: Tensor) -> int:
    """The smallest number of distinct codes that a codebook has."""
    return min(codes[:, k].unique().numel() for k in range(codes.shape[1]))


class TestNarrow:
    """30 s of real speech, the published ratios, window, number of layers and size of codebooks."""

    def test_codes_float64(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = narrow
        model, original, waves = model.double(), original.double(), waves.double()
        try:
            ours = model.encode(waves).audio_codes
            with torch.no_grad():
                theirs = original.encode(waves)
            assert distinct(ours) >= 200
            assert torch.equal(ours, theirs)
            # every chunking gives the codes of the whole, past the window (250 positions) and wraps of it
            for sizes in ([4 * FRAME], [1777, 50_001, 13]):
                chunks = cut(waves, sizes)
                state = model.init_encoder_state(1)
                codes = [model.encode(chunk, state=state).audio_codes for chunk in chunks]
                codes.append(model.encode(waves[..., :0], state=state, final=True).audio_codes)
                assert torch.equal(torch.cat(codes, -1), ours), sizes
        finally:
            model.float(), original.float()

    def test_codes_float32(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, _ = narrow
        waves = speech(1000 * FRAME)  # 80 s
        ours = model.encode(waves).audio_codes
        with torch.no_grad():
            theirs = original.encode(waves)
        check_near_ties(model, waves, ours, theirs)
        state = model.init_encoder_state(1)
        chunks = waves[..., : 200 * FRAME].split(FRAME, -1)
        streamed = torch.cat([model.encode_step(chunk, state) for chunk in chunks], -1)
        check_near_ties(model, waves, ours[..., :200], streamed)

    def test_samples_float32(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = narrow
        with torch.no_grad():
            codes = model.encode(waves).audio_codes
            theirs = original.decode(codes)
            ours = model.decode(codes).audio_values
        assert ours.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        state = model.init_decoder_state(1)
        streamed = torch.cat([model.decode_step(frames, state) for frames in codes.split(3, -1)], -1)
        torch.testing.assert_close(streamed, theirs, rtol=0, atol=1e-5)

    def test_fewer_codebooks(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = narrow
        waves = waves[..., : 20 * FRAME]
        codes = model.encode(waves).audio_codes
        for count in (1, 2, 5):
            original.set_num_codebooks(count)
            try:
                with torch.no_grad():
                    assert torch.equal(
                        model.encode(waves, num_quantizers=count).audio_codes, codes[:, :count]
                    )
                    assert torch.equal(original.encode(waves), codes[:, :count])
                    ours, theirs = (
                        model.decode(codes[:, :count]).audio_values,
                        original.decode(codes[:, :count]),
                    )
            finally:
                original.set_num_codebooks(8)
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)

    def test_X4_partial_last_frame(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = narrow
        for samples in (1, 100, 1919, 1921, 5000):
            ours = model.encode(waves[..., :samples]).audio_codes
            assert ours.shape[-1] == -(-samples // FRAME)
            with torch.no_grad():
                assert torch.equal(ours, original.encode(waves[..., :samples])), samples


@pytest.fixture(scope="module")
def models() -> tuple[MimiModel, torch.nn.Module, Tensor]:
    """A tiny model whose window is full after 5 frames."""
    model = make_model(fit_seconds=6, **TINY).double()
    return model, reference(model), speech(30 * FRAME).double()


class TestOriginalRing:
    """The original server's window past 10 s, by option; the right one by default."""

    def stream(self, models: tuple[MimiModel, torch.nn.Module, Tensor], ring: str) -> tuple[Tensor, Tensor]:
        """Latents and samples of a stream, frame by frame."""
        model, _, waves = models
        state = model.init_encoder_state(1, ring=ring)
        decoder = model.init_decoder_state(1, ring=ring)
        with torch.no_grad():
            latents = torch.cat([model._encode_latent(chunk, state) for chunk in waves.split(FRAME, -1)], -1)
            codes = model.encode(waves).audio_codes
            samples = torch.cat([model.decode_step(frame, decoder) for frame in codes.split(1, -1)], -1)
        return latents, samples

    def theirs(self, models: tuple[MimiModel, torch.nn.Module, Tensor]) -> tuple[Tensor, Tensor]:
        model, original, waves = models
        codes = model.encode(waves).audio_codes
        with torch.no_grad(), original.streaming(1):
            latents = [original._encode_to_unquantized_latent(chunk) for chunk in waves.split(FRAME, -1)]
            samples = [original.decode(frame) for frame in codes.split(1, -1)]
        return torch.cat(latents, -1), torch.cat(samples, -1)

    def test_original(self, models: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        for ours, theirs in zip(self.stream(models, "original"), self.theirs(models), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)

    def test_chunking_does_not_change_it(self, models: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, _, waves = models
        codes = []
        for sizes in ([FRAME], [5 * FRAME], [1000, 7000]):
            state = model.init_encoder_state(1, ring="original")
            codes.append(torch.cat([model.encode(c, state=state).audio_codes for c in cut(waves, sizes)], -1))
        assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])

    def test_exact_differs_past_the_window(self, models: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = models
        latents, samples = self.stream(models, "exact")
        their_latents, their_samples = self.theirs(models)
        full = model.config.sliding_window // model.config.latent_stride  # frames that fill the window
        torch.testing.assert_close(latents[..., :full], their_latents[..., :full], rtol=0, atol=1e-6)
        assert (latents - their_latents)[..., full:].abs().max() > 1e-3
        assert (samples - their_samples)[..., full * FRAME :].abs().max() > 1e-3
        with torch.no_grad():  # the original's own offline path is what the exact ring equals
            torch.testing.assert_close(
                latents, original._encode_to_unquantized_latent(waves), rtol=0, atol=1e-6
            )


@pytest.mark.parametrize(
    "fields",
    [
        {"num_residual_layers": 2, "dilation_growth_rate": 3},
        {"use_conv_shortcut": True},
        {
            "upsampling_ratios": [8, 6, 5, 8],
            "frame_rate": 12.5,
        },  # no resampling between 1920 samples and a frame
        {"upsampling_ratios": [4, 4, 3, 10], "frame_rate": 6.25},
        {"num_semantic_quantizers": 2, "num_quantizers": 5},
        {"rope_theta": 500.0, "num_hidden_layers": 3},
        {"upsampling_ratios": [6, 5, 4], "frame_rate": 12.5, "audio_channels": 2},
    ],
    ids=lambda fields: " ".join(fields),
)
def test_other_sizes(fields: dict) -> None:
    """Ratios, resampling, dilations, shortcuts, channels, branches: what the configuration can say, the original
    says too."""
    model = make_model(**{**TINY, **fields}).double()
    channels = model.config.audio_channels
    waves = torch.cat([speech(22 * FRAME, start=7000 * c) for c in range(channels)], 1).double()
    fit_codebooks(model, waves)
    original = reference(model)
    codes = model.encode(waves).audio_codes
    with torch.no_grad():
        assert torch.equal(codes, original.encode(waves))
        torch.testing.assert_close(
            model.decode(codes).audio_values, original.decode(codes), rtol=0, atol=1e-5
        )
    state, decoder = model.init_encoder_state(1), model.init_decoder_state(1)
    steps = [model.encode_step(chunk, state) for chunk in waves.split(2 * FRAME, -1)]
    assert torch.equal(torch.cat(steps, -1), codes)
    samples = torch.cat([model.decode_step(frame, decoder) for frame in steps], -1)
    torch.testing.assert_close(samples, model.decode(codes).audio_values, rtol=0, atol=1e-12)


class TestLayout:
    """Kyutai's names and packing, and back, bit for bit."""

    def test_round_trip(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, _ = narrow
        ours = model.state_dict()
        theirs = hf_to_kyutai(ours, 4)
        assert is_kyutai(theirs) and not is_kyutai(ours)
        back = kyutai_to_hf(theirs, 4)
        assert back.keys() == ours.keys()
        assert all(torch.equal(back[name], ours[name]) for name in ours)
        again = hf_to_kyutai(back, 4)
        assert again.keys() == theirs.keys()
        assert all(torch.equal(again[name], theirs[name]) for name in theirs)

    def test_names_of_todays_modules(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, _ = narrow
        ours = kyutai_to_hf(original.state_dict(), 4)  # in_projs.0 instead of in_proj_weight
        assert ours.keys() == model.state_dict().keys()
        assert all(torch.equal(ours[name], tensor) for name, tensor in model.state_dict().items())

    def test_published_names(self) -> None:
        """The published file's names and shapes, at full size on the meta device."""
        from aizuchi.models.mimi import MimiConfig

        with torch.device("meta"):
            ours = MimiModel(MimiConfig()).state_dict()
        theirs = {name: tuple(tensor.shape) for name, tensor in hf_to_kyutai(ours).items()}
        assert len(theirs) == 318 and len(ours) == 350
        expected = {
            "encoder.model.0.conv.conv.weight": (64, 1, 7),
            "encoder.model.12.conv.conv.bias": (1024,),
            "encoder.model.14.conv.conv.weight": (512, 1024, 3),
            "encoder.model.1.block.3.conv.conv.weight": (64, 32, 1),
            "decoder.model.0.conv.conv.weight": (1024, 512, 7),
            "decoder.model.2.convtr.convtr.weight": (1024, 512, 16),
            "decoder.model.11.convtr.convtr.weight": (128, 64, 8),
            "decoder.model.12.block.1.conv.conv.bias": (32,),
            "decoder.model.14.conv.conv.weight": (1, 64, 3),
            "encoder_transformer.transformer.layers.7.self_attn.in_proj_weight": (1536, 512),
            "decoder_transformer.transformer.layers.0.self_attn.out_proj.weight": (512, 512),
            "decoder_transformer.transformer.layers.3.norm2.bias": (512,),
            "encoder_transformer.transformer.layers.3.linear1.weight": (2048, 512),
            "encoder_transformer.transformer.layers.3.layer_scale_2.scale": (512,),
            "quantizer.rvq_first.input_proj.weight": (256, 512, 1),
            "quantizer.rvq_rest.vq.layers.30._codebook.embedding_sum": (2048, 256),
            "quantizer.rvq_first.vq.layers.0._codebook._initialized": (1,),
            "downsample.conv.conv.conv.weight": (512, 512, 4),
            "upsample.convtr.convtr.convtr.weight": (512, 1, 4),
        }
        assert {name: theirs.get(name) for name in expected} == expected
        for name in (
            "encoder.layers.0.conv.weight",
            "encoder_transformer.layers.0.self_attn.q_proj.weight",
            "quantizer.acoustic_residual_vector_quantizer.layers.30.codebook.cluster_usage",
            "downsample.conv.weight",
            "upsample.conv.weight",
            "decoder.layers.14.conv.bias",
        ):
            assert name in ours

    def test_bad_names_and_shapes(self, narrow: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, _ = narrow
        theirs = hf_to_kyutai(model.state_dict(), 4)
        with pytest.raises(ValueError, match=r"'depformer_in.0.weight' is no weight of Mimi"):
            kyutai_to_hf({**theirs, "depformer_in.0.weight": torch.zeros(1)}, 4)
        with pytest.raises(ValueError, match="in_proj_weight' has 192 rows"):
            kyutai_to_hf(theirs, 5)
        ours = dict(model.state_dict())
        del ours["encoder_transformer.layers.2.self_attn.k_proj.weight"]
        with pytest.raises(ValueError, match=r"layers.2.self_attn.k_proj.weight' is missing"):
            hf_to_kyutai(ours, 4)


@pytest.fixture(scope="module")
def real() -> tuple[MimiModel, torch.nn.Module, Tensor]:
    """The published size with random weights."""
    model = make_model(fit_seconds=20, num_quantizers=8, layer_scale_initial_scale=0.1)
    return model, reference(model), speech(24_000 * SECONDS)


class TestRealSize:
    def test_codes_float32(self, real: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = real
        ours = model.encode(waves).audio_codes
        with torch.no_grad():
            theirs = original.encode(waves)
        assert distinct(ours) >= 200
        check_near_ties(model, waves, ours, theirs)

    def test_samples_float32(self, real: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = real
        with torch.no_grad():
            codes = model.encode(waves[..., : 40 * FRAME]).audio_codes
            ours, theirs = model.decode(codes).audio_values, original.decode(codes)
        assert ours.std() > 0.1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)

    @pytest.mark.slow
    def test_samples_30_s(self, real: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = real
        with torch.no_grad():
            codes = model.encode(waves).audio_codes
            ours, theirs = model.decode(codes).audio_values, original.decode(codes)
            state = model.init_decoder_state(1)
            streamed = torch.cat([model.decode_step(frame, state) for frame in codes.split(1, -1)], -1)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
        torch.testing.assert_close(streamed, theirs, rtol=0, atol=1e-5)

    @pytest.mark.slow
    def test_codes_float64(self, real: tuple[MimiModel, torch.nn.Module, Tensor]) -> None:
        model, original, waves = real
        model, original, waves = model.double(), original.double(), waves.double()
        try:
            ours = model.encode(waves).audio_codes
            with torch.no_grad():
                assert torch.equal(ours, original.encode(waves))
            state = model.init_encoder_state(1)
            codes = [model.encode(chunk, state=state).audio_codes for chunk in cut(waves, [2345, 30_000])]
            codes.append(model.encode(waves[..., :0], state=state, final=True).audio_codes)
            assert torch.equal(torch.cat(codes, -1), ours)
        finally:
            model.float(), original.float()
