"""The documented methods: shapes, masks, transformers' names for state, loading, casting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor

from aizuchi.models.mimi import MimiConfig, MimiModel
from tests.models.mimi.helpers import FRAME, TINY, make_model, speech


class TestDocumented:
    def test_shapes(self, model: MimiModel, waves: Tensor) -> None:
        encoded = model.encode(waves)
        assert encoded.audio_codes.shape == (2, 8, 11) and encoded.audio_codes.dtype == torch.long
        assert encoded.padding_cache is None and encoded.encoder_past_key_values is None
        assert model.encode(waves, None, 3).audio_codes.shape == (2, 3, 11)
        assert model.decode(encoded.audio_codes).audio_values.shape == (2, 1, 11 * FRAME)
        assert model.decode(encoded.audio_codes[:, :3]).audio_values.shape == (2, 1, 11 * FRAME)

    def test_return_dict_false(self, model: MimiModel, waves: Tensor) -> None:
        (codes,) = model.encode(waves, return_dict=False)
        assert torch.equal(codes, model.encode(waves, None, None, None, True).audio_codes)
        (samples,) = model.decode(codes, return_dict=False)
        out = model(waves, return_dict=False)
        assert torch.equal(out[0], codes) and torch.equal(out[1], samples[..., :20_000])

    def test_forward(self, model: MimiModel, waves: Tensor) -> None:
        out = model(waves)
        assert torch.equal(out.audio_codes, model.encode(waves).audio_codes)
        assert out.audio_values.shape == waves.shape
        assert torch.equal(out.audio_values, model.decode(out.audio_codes).audio_values[..., :20_000])
        given = model(audio_codes=out.audio_codes[:, :4])
        assert torch.equal(given.audio_values, model.decode(out.audio_codes[:, :4]).audio_values)
        few = model(waves, num_quantizers=2)
        assert torch.equal(few.audio_codes, out.audio_codes[:, :2])

    def test_feature_extractor(self, model: MimiModel) -> None:
        extractor = transformers.EncodecFeatureExtractor(feature_size=1, sampling_rate=24_000)
        raw = [speech(9_000)[0, 0].numpy(), speech(5_500)[0, 0].numpy()]
        inputs = extractor(raw_audio=raw, sampling_rate=24_000, padding=True, return_tensors="pt")
        out = model(**inputs)
        mask = model.get_audio_codes_mask(inputs["padding_mask"])
        assert mask.sum(-1).tolist() == [5, 3]
        alone = model.encode(speech(5_500)).audio_codes
        assert torch.equal(out.audio_codes[1:, :, mask[1]], alone)

    def test_encoded_length(self, model: MimiModel) -> None:
        lengths = torch.tensor([1, 1919, 1920, 1921, 24_000])
        assert model.get_encoded_length(lengths).tolist() == [1, 1, 1, 2, 13]
        assert model.get_encoded_length(5000) == 3
        for length in lengths.tolist():
            assert model.encode(speech(length)).audio_codes.shape[-1] == model.get_encoded_length(length)

    def test_codes_mask(self, model: MimiModel) -> None:
        mask = torch.zeros(2, 5000, dtype=torch.int32)
        mask[0], mask[1, :1920] = 1, 1
        assert model.get_audio_codes_mask(mask).tolist() == [[True] * 3, [True, False, False]]
        assert model.get_audio_codes_mask(mask[:, None], "left").tolist() == [
            [True] * 3,
            [False, False, True],
        ]
        with pytest.raises(ValueError, match="`padding_side`"):
            model.get_audio_codes_mask(mask, "middle")


class TestX3Padding:
    """Rows of different lengths, padded at either side, give what each gives alone."""

    LENGTHS = (20_000, 7_001, 1_920, 11_521)

    @pytest.mark.parametrize("side", ["right", "left"])
    @pytest.mark.parametrize("channel_axis", [False, True])
    def test_as_alone(self, side: str, channel_axis: bool) -> None:
        rows = [speech(length, start=31_000 * i)[0, 0] for i, length in enumerate(self.LENGTHS)]
        model = make_model(fit_seconds=8, **TINY).double()
        total = max(self.LENGTHS)
        batch = torch.full((4, 1, total), 0.7).double()  # padding that is not even silent
        mask = torch.zeros(4, total, dtype=torch.int32)
        for i, row in enumerate(rows):
            place = slice(0, len(row)) if side == "right" else slice(total - len(row), total)
            batch[i, 0, place] = row.double()
            mask[i, place] = 1
        given = mask[:, None] if channel_axis else mask
        with torch.no_grad():
            out = model(batch, given)
            codes_mask = model.get_audio_codes_mask(mask, side)
            for i, row in enumerate(rows):
                alone = model(row[None, None].double())
                assert torch.equal(out.audio_codes[i : i + 1, :, codes_mask[i]], alone.audio_codes)
                samples = out.audio_values[i, :, mask[i].bool()]
                torch.testing.assert_close(samples, alone.audio_values[0], rtol=0, atol=1e-12)
                assert not out.audio_values[i, :, ~mask[i].bool()].any()

    def test_mask_without_padding(self, model: MimiModel, waves: Tensor) -> None:
        codes = model.encode(waves, torch.ones(2, 20_000)).audio_codes
        assert torch.equal(codes, model.encode(waves).audio_codes)

    def test_bad_masks(self, model: MimiModel, waves: Tensor) -> None:
        mask = torch.ones(2, 20_000)
        mask[1, 500:600] = 0
        with pytest.raises(ValueError, match="`padding_mask` has padding between the samples of row 1"):
            model.encode(waves, mask)
        mask[0] = 0
        with pytest.raises(ValueError, match="`padding_mask` leaves row 0 without a sample"):
            model.encode(waves, mask)
        with pytest.raises(ValueError, match="`padding_mask` has shape"):
            model.encode(waves, torch.ones(2, 100))
        mask = torch.ones(2, 20_000)
        mask[1, 9000:] = 0
        codes = model.encode(waves, mask).audio_codes
        with pytest.raises(ValueError, match="`padding_mask` covers 20000 samples = 11 frames"):
            model.decode(codes[..., :5], mask)
        with pytest.raises(ValueError, match="`padding_mask`.*stream"):
            model.encode(waves, mask, state=model.init_encoder_state(2))


class TestTransformersNames:
    """X2: `use_streaming`, `padding_cache` and the two `past_key_values` carry our state."""

    def test_encode(self, model: MimiModel, waves: Tensor) -> None:
        whole = model.encode(waves[..., : 10 * FRAME]).audio_codes
        first = model.encode(waves[..., :3000], use_streaming=True)
        second = model.encode(waves[..., 3000:9000], padding_cache=first.padding_cache)
        third = model.encode(
            waves[..., 9000 : 10 * FRAME],
            encoder_past_key_values=second.encoder_past_key_values,
            padding_cache=second.padding_cache,
            use_streaming=True,
        )
        codes = torch.cat([first.audio_codes, second.audio_codes, third.audio_codes], -1)
        assert codes.shape == whole.shape and (codes != whole).float().mean() < 0.02  # float32: near ties

    def test_X1_decode(self, model: MimiModel, waves: Tensor) -> None:
        codes = model.encode(waves).audio_codes
        first = model.decode(codes[..., :4], use_streaming=True)
        second = model.decode(codes[..., 4:], decoder_past_key_values=first.decoder_past_key_values)
        with torch.no_grad():
            whole = model.decode(codes).audio_values
        out = torch.cat([first.audio_values, second.audio_values], -1)
        torch.testing.assert_close(out, whole, rtol=0, atol=1e-5)

    def test_forward(self, model: MimiModel, waves: Tensor) -> None:
        encoder, decoder = model.init_encoder_state(2), model.init_decoder_state(2)
        out = [
            model(chunk, encoder_past_key_values=encoder, decoder_past_key_values=decoder).audio_values
            for chunk in waves.split(3000, -1)
        ]
        with torch.no_grad():
            whole = model(waves[..., : 10 * FRAME]).audio_values
        torch.testing.assert_close(torch.cat(out, -1), whole, rtol=0, atol=1e-4)

    def test_config_use_streaming(self, waves: Tensor) -> None:
        model = make_model(**{**TINY, "use_streaming": True})
        assert model.encode(waves).padding_cache is not None
        assert model.encode(waves, use_streaming=False).padding_cache is None

    def test_foreign_caches(self, model: MimiModel, waves: Tensor) -> None:
        cache = transformers.DynamicCache()
        with pytest.raises(ValueError, match=r"DynamicCache.*init_encoder_state"):
            model.encode(waves, encoder_past_key_values=cache)
        with pytest.raises(ValueError, match=r"DynamicCache.*init_decoder_state"):
            model.decode(model.encode(waves).audio_codes, decoder_past_key_values=cache)
        with pytest.raises(ValueError, match="`state` and `padding_cache` are different"):
            model.encode(waves, state=model.init_encoder_state(2), padding_cache=model.init_encoder_state(2))


class TestWeights:
    def test_X5_loading_after_use(self, model: MimiModel, waves: Tensor) -> None:
        """Codebooks are never remembered from before: by loading, editing in place, or through `.data`."""
        used, other = make_model(seed=1, **TINY), make_model(seed=2, fit_seconds=8, **TINY)
        state = used.init_encoder_state(2)
        used.decode(used.encode(waves).audio_codes)
        used.encode_step(waves[..., :FRAME], state)
        used.load_state_dict(other.state_dict())
        assert torch.equal(used.encode(waves).audio_codes, other.encode(waves).audio_codes)
        for codebook in used.quantizer.codebooks():
            codebook.embed_sum.data.mul_(-1)
            codebook.cluster_usage.data.mul_(3)
        for codebook in other.quantizer.codebooks():
            codebook.embed_sum = -codebook.embed_sum / 3
        codes = other.encode(waves).audio_codes
        assert (used.encode(waves).audio_codes == codes).float().mean() > 0.98
        torch.testing.assert_close(used.decode(codes).audio_values, other.decode(codes).audio_values)
        state.reset()
        fresh = other.init_encoder_state(2)
        assert torch.equal(
            used.encode_step(waves[..., :FRAME], state), other.encode_step(waves[..., :FRAME], fresh)
        )

    def test_X5_casting_after_use(self, waves: Tensor) -> None:
        model = make_model(fit_seconds=8, **TINY)
        codes = model.encode(waves).audio_codes
        model.to(torch.bfloat16)
        assert model.decode(codes).audio_values.dtype == torch.bfloat16
        assert model.encode(waves).audio_codes.shape == codes.shape
        model.to(torch.float64)
        assert model.encode(waves).audio_codes.shape == codes.shape

    def test_X8_half_precisions(self, waves: Tensor) -> None:
        model = make_model(fit_seconds=8, **TINY)
        with torch.no_grad():
            codes = model.encode(waves).audio_codes
            samples = model.decode(codes).audio_values
            for dtype in (torch.bfloat16, torch.float16):
                half = make_model(fit_seconds=8, **TINY).to(dtype)
                assert (half.encode(waves).audio_codes[:, 0] == codes[:, 0]).float().mean() > 0.6
                error = half.decode(codes).audio_values.float() - samples
                assert error.norm() / samples.norm() < 0.05

    def test_X6_codebooks_are_not_zero(self, waves: Tensor) -> None:
        """A fresh model, as it comes, gives many codes, not code 0 for everything."""
        torch.manual_seed(0)
        model = MimiModel(MimiConfig(**TINY)).eval()
        for codebook in model.quantizer.codebooks():
            assert codebook.embed.std() > 0.1 and torch.equal(codebook.cluster_usage, torch.ones(64))
        codes = model.encode(speech(100 * FRAME)).audio_codes
        assert all(codes[:, k].unique().numel() > 10 for k in range(8))

    def test_ties_and_dead_entries(self, model: MimiModel) -> None:
        """Equal distances give the first entry, as `cdist` and `argmin` do; entries never used are zero vectors."""
        codebook = make_model(**TINY).quantizer.codebooks()[0]
        codebook.embed_sum[40:] = codebook.embed_sum[10:34].clone()
        codebook.embed_sum[5], codebook.cluster_usage[5] = 0, 0
        vectors = torch.cat([codebook.embed[:60], torch.zeros(1, 16), torch.randn(500, 16)])
        codes = codebook.encode(vectors)
        assert torch.equal(codes, torch.cdist(vectors, codebook.embed).argmin(-1))
        assert codes[:60].tolist() == [*range(40), *range(10, 30)] and codes[60] == 5
        assert not codebook.decode(codes[60]).any()

    def test_X9_names_are_flat(self, model: MimiModel, tmp_path: Path) -> None:
        """The module tree is the published layout, which transformers reads and writes."""
        from safetensors import safe_open

        model.save_pretrained(tmp_path / "ours")
        with safe_open(tmp_path / "ours" / "model.safetensors", "pt") as file:
            names = set(file.keys())
        assert names == set(model.state_dict())
        theirs = transformers.MimiModel.from_pretrained(tmp_path / "ours")
        theirs.save_pretrained(tmp_path / "theirs")
        with safe_open(tmp_path / "theirs" / "model.safetensors", "pt") as file:
            assert set(file.keys()) == names
        back = MimiModel.from_pretrained(tmp_path / "theirs")
        for name, tensor in model.state_dict().items():
            assert torch.equal(back.state_dict()[name], tensor), name
        assert back.config.frame_rate == 12.5

    def test_incomplete_checkpoints(self, model: MimiModel, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        model.save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        weights = load_file(file)
        gone = weights.pop("downsample.conv.weight")
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(ValueError, match=r"downsample\.conv\.weight"):
            MimiModel.from_pretrained(tmp_path)
        save_file({**weights, "downsample.conv.weight": gone[:3].clone()}, file, {"format": "pt"})
        with pytest.raises(
            ValueError, match=r"downsample\.conv\.weight' has shape \(3, 32, 4\).*\(32, 32, 4\)"
        ):
            MimiModel.from_pretrained(tmp_path)
        MimiModel.from_pretrained(tmp_path, ignore_mismatched_sizes=True)

    def test_dtype_of_from_pretrained(self, model: MimiModel, tmp_path: Path) -> None:
        model.save_pretrained(tmp_path)
        assert MimiModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16
        assert json.loads((tmp_path / "config.json").read_text())["frame_rate"] == 12.5
