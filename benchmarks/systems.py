"""The systems that are timed beside each other, all on the weights of one of our models.

Each gives a function that runs one step: the language model's frame, or the codec's frame there and back.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Step = Callable[[], None]
# The duplex step of the comparison: K = 8, the published codec's codebooks and vocabulary.
LM = dict(
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    ffn_dim=2816,
    sliding_window=750,
    depth_decoder_config=dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=4, ffn_dim=1408),
)
CODEBOOKS = 8


def duplex_model(seed: int = 0) -> Any:
    """A model of the comparison's sizes with random weights."""
    from aizuchi.models.moshi import MoshiConfig, MoshiForConditionalGeneration

    torch.manual_seed(seed)
    return MoshiForConditionalGeneration(MoshiConfig(**LM)).eval()


def large_model(preset: str, kind: str | None = None) -> Any:
    """A preset's language model in bfloat16 (``kind``: its matrices in int8 or int4), made in seconds: every tensor
    repeats the same noise. Its codec stays without memory."""
    from aizuchi.models.moshi import MoshiForConditionalGeneration
    from aizuchi.models.presets import preset_config
    from aizuchi.models.quantized import quantize_model

    with torch.device("meta"):
        model = MoshiForConditionalGeneration(preset_config(preset)).to(torch.bfloat16)
        if kind is not None:
            quantize_model(model, kind)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1 << 20, generator=generator) * 0.02
    bits = torch.randint(-128, 128, (1 << 20,), dtype=torch.int8, generator=generator)
    for part in (model.embed_tokens, model.decoder, model.depth_decoder):
        part.to_empty(device="cpu")
        for tensor in (*part.parameters(), *part.buffers()):
            source = noise.to(tensor.dtype) if tensor.is_floating_point() else bits.view(tensor.dtype)
            for chunk in tensor.detach().view(-1).split(len(source)):
                chunk.copy_(source[: len(chunk)])
    return model.eval()


def codec_model(seed: int = 0) -> Any:
    """The published Mimi's sizes with random weights."""
    from aizuchi.models.mimi import MimiConfig, MimiModel

    torch.manual_seed(seed)
    return MimiModel(MimiConfig()).eval()


def frames(config: Any, seed: int = 0) -> Iterator[Tensor]:
    """The user's codes (1, K, 1), frame after frame, the same for everybody."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randint(
            0, config.audio_vocab_size, (1, config.num_user_codebooks, 1), generator=generator
        )


def our_lm(model: Any, rows: int = 1, **options: Any) -> Step:
    """One step of the engine's token loop, sampled."""
    from aizuchi.engine import Sampling, TokenLoop

    loop = TokenLoop(model, rows, **options)
    for row in range(rows):
        loop.configure(row, Sampling(seed=row))
    user = frames(model.config)

    @torch.inference_mode()
    def step() -> None:
        loop.step(next(user).expand(rows, -1, -1))

    with torch.inference_mode():
        loop.start(loop.everyone)
    return step


def moshi_lm(model: Any, dtype: torch.dtype) -> Step:
    """LMGen of the `moshi` package, sampled, with its defaults."""
    from moshi.models import loaders
    from moshi.models.lm import LMGen

    from aizuchi.checkpoints.kyutai_config import kyutai_config
    from aizuchi.checkpoints.moshi_layout import moshi_groups

    raw = kyutai_config(model.config)
    assert raw is not None
    raw = {
        key: value for key, value in raw.items() if key in loaders._lm_kwargs or key.startswith("depformer")
    }
    original = loaders.get_moshi_lm(None, {**loaders._lm_kwargs, **raw}, dtype=dtype).eval()
    ours = model.state_dict()
    weights: dict[str, Tensor] = {}
    for group in moshi_groups(model.config):
        values = group.to_theirs([ours[name] for name in group.ours])
        weights |= dict(zip(group.theirs, values, strict=True))
    original.load_state_dict(weights)
    generator = LMGen(original)
    generator.streaming_forever(1)
    user = frames(model.config)

    @torch.no_grad()
    def step() -> None:
        generator.step(next(user))

    return step


def transformers_lm(model: Any, length: int = 12) -> Step:
    """`length` frames of transformers' generate, sampled, without its codec. Divide the time by ``length``."""
    from transformers import MoshiConfig, MoshiForConditionalGeneration

    with tempfile.TemporaryDirectory() as folder:
        model.config.save_pretrained(folder)
        theirs = MoshiForConditionalGeneration(MoshiConfig.from_pretrained(folder)).eval()
    theirs.load_state_dict(model.state_dict(), strict=False)
    own = torch.zeros(1, CODEBOOKS, 1, dtype=torch.long)

    @torch.no_grad()
    def step() -> None:
        theirs.generate(
            input_ids=torch.zeros(1, 1, dtype=torch.long),
            moshi_audio_codes=own,
            user_audio_codes=own.clone(),
            max_new_tokens=length,
            min_new_tokens=length,
            do_sample=True,
            return_audio_waveforms=False,
            concat_unconditional_inputs=False,
        )

    return step


def waves(frame: int = 1920, seed: int = 0) -> Iterator[Tensor]:
    """(1, 1, frame) samples of noise, frame after frame."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(1, 1, frame, generator=generator) * 0.1


def our_mimi(codec: Any, rows: int = 1, weights: torch.dtype = torch.float32) -> Step:
    """Encode and decode one frame of every row; ``weights``: the dtype in which they are read."""
    encoder = codec.init_encoder_state(rows, weights=weights)
    decoder = codec.init_decoder_state(rows, weights=weights)
    heard = waves()

    @torch.inference_mode()
    def step() -> None:
        wave = next(heard).expand(rows, -1, -1)
        codec.decode_step(codec.encode_step(wave, encoder, None, CODEBOOKS), decoder)

    return step


def _kyutai_file(model: Any, folder: str) -> Path:
    from safetensors.torch import save_file

    from aizuchi.checkpoints.mimi_layout import hf_to_kyutai

    config = model.config
    tensors = hf_to_kyutai(model.state_dict(), config.num_attention_heads, config.num_key_value_heads)
    path = Path(folder) / "mimi.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    return path


def moshi_mimi(model: Any) -> Step:
    """The `moshi` package's codec."""
    from moshi.models import loaders

    with tempfile.TemporaryDirectory() as folder:
        original = loaders.get_mimi(_kyutai_file(model, folder), num_codebooks=CODEBOOKS)
    original.streaming_forever(1)
    heard = waves()

    @torch.no_grad()
    def step() -> None:
        original.decode(original.encode(next(heard)))

    return step


def rust_mimi(model: Any) -> Step:
    """rustymimi's codec."""
    import rustymimi

    with tempfile.TemporaryDirectory() as folder:
        codec = rustymimi.Tokenizer(str(_kyutai_file(model, folder)), num_codebooks=CODEBOOKS)
    heard = waves()

    def step() -> None:
        codec.decode_step(codec.encode_step(next(heard).numpy()))

    return step


def quiet_peers(threads: int) -> None:
    """Before anything is imported: as many threads for everybody, and the peers' compilers off (they only stall)."""
    os.environ["OMP_NUM_THREADS"] = os.environ["RAYON_NUM_THREADS"] = str(threads)
    os.environ.setdefault("NO_TORCH_COMPILE", "1")
    os.environ.setdefault("NO_CUDA_GRAPH", "1")
