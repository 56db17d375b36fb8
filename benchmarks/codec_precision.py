"""What bfloat16 weights change of a codec's frames: code agreement, PESQ and mel distance against the recording.

  python -m benchmarks.codec_precision CODEC_FOLDER RECORDING...

The codec streams the recordings frame by frame, once with each form of its weights; activations are float32 in both.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import torch
from torch import Tensor


@torch.inference_mode()
def streamed(codec: Any, wave: Tensor, weights: torch.dtype, quantizers: int) -> tuple[Tensor, Tensor]:
    """(channels, samples) -> codes (K, frames) and samples (frames * frame_size,)."""
    size = codec.config.frame_size
    encoder = codec.init_encoder_state(1, weights=weights)
    decoder = codec.init_decoder_state(1, weights=weights)
    codes, said = [], []
    for start in range(0, wave.shape[-1] - size + 1, size):
        code = codec.encode_step(wave[None, :, start : start + size], encoder, None, quantizers)
        codes.append(code[0])
        said.append(codec.decode_step(code, decoder)[0, 0])
    return torch.cat(codes, -1), torch.cat(said)


def mel_distance(said: Tensor, heard: Tensor) -> float:
    """Mean absolute difference of log-mel spectra (80 bands, windows of 1024 samples)."""
    import librosa

    def mel(wave: Tensor) -> Any:
        spectrum = librosa.feature.melspectrogram(
            y=wave.numpy(), sr=24_000, n_fft=1024, hop_length=256, n_mels=80
        )
        return librosa.power_to_db(spectrum, ref=1.0, amin=1e-5)

    return float(abs(mel(said) - mel(heard)).mean())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codec")
    parser.add_argument("recordings", nargs="+")
    args = parser.parse_args()
    import soxr
    from pesq import pesq

    from aizuchi.audio import read_audio
    from aizuchi.models.mimi import MimiModel

    codec = MimiModel.from_pretrained(args.codec).float().eval()
    quantizers = min(8, codec.config.num_quantizers)
    totals: dict[str, list[float]] = {
        name: [] for name in ("agreement", "pesq32", "pesq16", "mel32", "mel16")
    }
    for path in args.recordings:
        wave = torch.as_tensor(read_audio(path, mono=True)).view(1, -1)
        results = [streamed(codec, wave, kind, quantizers) for kind in (torch.float32, torch.bfloat16)]
        totals["agreement"].append((results[0][0] == results[1][0]).double().mean().item())
        heard = wave[0, : len(results[0][1])]
        for name, (_, said) in zip(("32", "16"), results, strict=True):
            narrow = [soxr.resample(x.numpy(), 24_000, 16_000) for x in (heard, said)]
            totals[f"pesq{name}"].append(pesq(16_000, *narrow, "wb"))
            totals[f"mel{name}"].append(mel_distance(said, heard))
    means = {name: sum(values) / len(values) for name, values in totals.items()}
    print(
        json.dumps(
            {"recordings": len(args.recordings), **{k: round(v, 4) for k, v in means.items()}}, indent=2
        )
    )


if __name__ == "__main__":
    main()
