"""The `moshi` package's LMModel with the weights of one of our models: the reference of the parity tests."""

from __future__ import annotations

import os

os.environ.setdefault("NO_TORCH_COMPILE", "1")
os.environ.setdefault("NO_CUDA_GRAPH", "1")

import torch
from torch import Tensor

from aizuchi.checkpoints.moshi_layout import moshi_groups
from aizuchi.models.moshi import MoshiConfig, MoshiForConditionalGeneration

MIMI = dict(
    hidden_size=32,
    num_filters=8,
    codebook_size=64,
    codebook_dim=16,
    vector_quantization_hidden_dimension=16,
    num_quantizers=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=2,
    intermediate_size=64,
    upsample_groups=32,
    sliding_window=20,
)
DEPTH = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, ffn_dim=2 * (21 * 24 // 8))


def tiny_config(**changes) -> MoshiConfig:
    """A Moshi of some ten thousand parameters that keeps every structure of the real one."""
    depth = DEPTH | changes.pop("depth", {})
    mimi = MIMI | changes.pop("mimi", {})
    fields = dict(
        vocab_size=60,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        ffn_dim=2 * (21 * 48 // 8),
        num_codebooks=4,
        sliding_window=32,
        audio_encoder_config=mimi,
        depth_decoder_config=depth,
    )
    return MoshiConfig(**(fields | changes))


def tiny_model(seed: int = 0, scale: float = 3.0, **changes) -> MoshiForConditionalGeneration:
    """Random weights, scaled up so that logits differ clearly; norms are not all ones."""
    torch.manual_seed(seed)
    model = MoshiForConditionalGeneration(tiny_config(**changes)).eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("audio_encoder"):
                continue
            if "norm" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
            else:
                parameter.mul_(scale)
        randomize_codec(model.audio_encoder, generator)
        if model.condition_provider is not None:
            for conditioner in model.condition_provider.conditioners.values():
                conditioner.learnt_padding.normal_(generator=generator)
    return model


@torch.no_grad()
def randomize_codec(codec, generator: torch.Generator) -> None:
    """Biases, and entries spread like the latents of noise: silence has a beginning, and codes differ."""
    for name, parameter in codec.named_parameters():
        if name.endswith("bias"):
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
        elif "layer_scale" in name:
            parameter.fill_(0.3)
    wave = torch.randn(1, 1, 1920 * 64, generator=generator) * torch.linspace(0, 1, 1920 * 64)
    latents = codec.encode_latent(wave)
    for quantizer in (
        codec.quantizer.semantic_residual_vector_quantizer,
        codec.quantizer.acoustic_residual_vector_quantizer,
    ):
        residual = (latents if quantizer.input_proj is None else quantizer.input_proj(latents))[0].T
        for codebook in quantizer.codebooks():
            noise = torch.randn(codebook.embed_sum.shape, generator=generator)
            codebook.embed_sum.copy_(residual.mean(0) + residual.std(0) * noise)
            residual = residual - codebook.decode(codebook.encode(residual))


def lm_options(config: MoshiConfig) -> dict:
    """Arguments of the original's LMModel for one of our configurations."""
    depth = config.depth_decoder_config
    options = dict(
        delays=config.delays,
        n_q=config.num_input_codebooks,
        dep_q=config.num_generated_codebooks,
        card=config.audio_vocab_size,
        text_card=config.vocab_size,
        text_card_out=config.text_output_size,
        demux_second_text_stream=config.demux_second_text_stream,
        dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_layers=config.num_hidden_layers,
        hidden_scale=4,
        norm=config.norm_type,
        gating="silu",
        causal=True,
        context=config.sliding_window,
        max_period=config.rope_theta,
        positional_embedding="rope" if config.rope_interleaved else "rope_concat",
        kv_repeat=config.num_attention_heads // config.num_key_value_heads,
        cross_attention=config.cross_attention,
        extra_heads_num_heads=config.extra_heads_num_heads,
        extra_heads_dim=config.extra_heads_dim,
        depformer_multi_linear=True,
        depformer_weights_per_step=True,
        depformer_pos_emb="none",
    )
    if depth is not None:
        options |= dict(
            depformer_dim=depth.hidden_size,
            depformer_dim_feedforward=4 * depth.hidden_size,
            depformer_num_heads=depth.num_attention_heads,
            depformer_num_layers=depth.num_hidden_layers,
            depformer_low_rank_embeddings=depth.low_rank_embeddings,
            depformer_norm=depth.output_norm,
            depformer_weights_per_step_schedule=depth.weights_per_step_schedule,
        )
    return options


def original_weights(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    """The model's weights in the original's layout, packed as released."""
    ours = model.state_dict()
    theirs: dict[str, Tensor] = {}
    for group in moshi_groups(model.config):
        theirs |= dict(zip(group.theirs, group.to_theirs([ours[name] for name in group.ours]), strict=True))
    return theirs


def reference_of(model: MoshiForConditionalGeneration):
    """An LMModel with the same options and weights."""
    from moshi.models.lm import LMModel
    from moshi.models.loaders import get_condition_fuser, get_conditioner_provider

    config = model.config
    options = lm_options(config)
    if config.conditioners:
        import copy

        raw = {"conditioners": copy.deepcopy(config.conditioners), "fuser": config.fuser}
        options["condition_provider"] = get_conditioner_provider(config.hidden_size, "cpu", raw)
        options["fuser"] = get_condition_fuser(raw)
    reference = LMModel(device="cpu", dtype=torch.float32, **options).eval()
    reference.load_state_dict(original_weights(model), strict=True)
    return reference


def random_frames(config: MoshiConfig, rows: int, length: int, seed: int = 0) -> Tensor:
    """(rows, 1 + num_input_codebooks, length) random ids, time-aligned."""
    generator = torch.Generator().manual_seed(seed)
    text = torch.randint(0, config.vocab_size, (rows, 1, length), generator=generator)
    audio = torch.randint(
        0, config.audio_vocab_size, (rows, config.num_input_codebooks, length), generator=generator
    )
    return torch.cat([text, audio], dim=1)


def prompt(model, rows: int = 1, length: int = 6, seed: int = 0, future: int = 0) -> dict[str, Tensor]:
    """Arguments of `generate`: random time-aligned frames; the user's go on for ``future`` frames."""
    own = model.config.num_model_codebooks
    frames = random_frames(model.config, rows, length + future, seed)
    return dict(
        input_ids=frames[:, 0, :length],
        moshi_audio_codes=frames[:, 1 : 1 + own, :length],
        user_audio_codes=frames[:, 1 + own :],
    )
