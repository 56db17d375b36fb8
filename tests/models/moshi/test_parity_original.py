"""Parity with the `moshi` package: logits, losses, gradients and greedy dialogues of every family, in float32.

Both models hold the same weights. The tolerance of logits is 1e-5; measured differences are below 1e-6.
"""

import warnings

import pytest
import torch
import torch.nn.functional as F

from aizuchi.checkpoints.moshi_layout import moshi_groups
from aizuchi.engine import tokens as engine_tokens
from aizuchi.engine.sampling import Sampling
from aizuchi.engine.tokens import Guidance, TokenLoop
from aizuchi.models.moshi.conditions import Conditions
from aizuchi.models.moshi.delays import delay_frames
from tests.models.moshi.reference import random_frames, reference_of, tiny_model

CONDITIONS = {
    "conditioners": {
        "speaker_wavs": {"type": "tensor", "tensor": {"dim": 10}},
        "cfg": {
            "type": "lut",
            "lut": {"n_bins": 7, "dim": 5, "tokenizer": "noop", "possible_values": ["1.0", "2.0"]},
        },
    },
    "fuser": {
        "sum": ["cfg"],
        "cross": ["speaker_wavs"],
        "prepend": [],
        "cross_attention_pos_emb": True,
        "cross_attention_pos_emb_scale": 1.0,
    },
}
TTS = dict(
    CONDITIONS,
    cross_attention=True,
    demux_second_text_stream=True,
    num_input_codebooks=4,
    num_generated_codebooks=4,
    delays=[0, 0, 2, 2, 2],
    depth=dict(weights_per_step_schedule=[0, 1, 2, 2], low_rank_embeddings=8),
)
FAMILIES = {
    "moshiko": {},
    "delays_0_2": dict(delays=[0, 0, 2, 2, 2, 0, 2, 2, 2]),
    "three_codebooks": dict(num_codebooks=3),
    "six_codebooks": dict(num_codebooks=6, mimi=dict(codebook_size=32)),
    "personaplex": dict(num_generated_codebooks=8),
    "stt": dict(num_generated_codebooks=0, num_input_codebooks=4, delays=[0] * 5, extra_heads_num_heads=4),
    "tts": TTS,
    "kv_repeat": dict(num_key_value_heads=2, depth=dict(num_key_value_heads=1)),
    "schedule_low_rank_norms": dict(
        depth=dict(weights_per_step_schedule=[0, 1, 2, 2], low_rank_embeddings=8, output_norm="layer_norm")
    ),
    "depth_norms_f32": dict(depth=dict(output_norm="layer_norm_f32")),  # its RMS norm has no 2D path
    "rope_concat_layer_norm": dict(
        rope_interleaved=False,
        rope_theta=20000.0,
        norm_type="layer_norm",
        rms_norm_eps=1e-5,
        depth=dict(norm_type="layer_norm", rms_norm_eps=1e-5),
    ),
}
ROWS, LENGTH = 2, 20


def frames_of(config, length=LENGTH, seed=0):
    """Random frames; with muxed text, both one and two tokens occur."""
    frames = random_frames(config, ROWS, length, seed)
    if config.demux_second_text_stream:
        generator = torch.Generator().manual_seed(seed + 1)
        size = config.vocab_size + 1
        frames[:, 0] = torch.randint(0, size * config.vocab_size, (ROWS, length), generator=generator)
        frames[:, 0, ::3] %= config.vocab_size
    return frames


def conditions_of(model, reference, words=("2.0", None)):
    """The same conditions for both, a row each: a word and a voice, or nothing."""
    if model.condition_provider is None:
        return None, None
    from moshi.conditioners import ConditionAttributes, TensorCondition

    voices = torch.randn(len(words), 6, 10, generator=torch.Generator().manual_seed(3))
    given = torch.tensor([word is not None for word in words])
    theirs = [
        ConditionAttributes(
            text={"cfg": word},
            tensor={
                "speaker_wavs": TensorCondition(voices[i : i + 1] * (word is not None), given[i].expand(1, 6))
            },
        )
        for i, word in enumerate(words)
    ]
    ours = [
        {"cfg": word, "speaker_wavs": None if word is None else voices[i]} for i, word in enumerate(words)
    ]
    return model.prepare_conditions(ours), reference.condition_provider.prepare_and_provide(theirs)


def columns_of(model, frames):
    """What `forward` takes for these frames: one column more, the initial one first."""
    config = model.config
    columns = delay_frames(frames, config.delays, model.initial_tokens)
    own = config.num_model_codebooks
    return dict(
        input_ids=columns[:, 0],
        moshi_audio_codes=columns[:, 1 : 1 + own] if own else None,
        user_audio_codes=columns[:, 1 + own :] if config.num_user_codebooks else None,
        audio_labels=columns[:, 1 : 1 + config.num_generated_codebooks] if own else None,
    )


def by_codebook(model, audio_logits, length=LENGTH):
    """audio_logits (B * T, K, A) -> for each codebook (B, T - delay, A), aligned with the frames."""
    logits = audio_logits.unflatten(0, (ROWS, length))
    return [logits[:, delay:, k] for k, delay in enumerate(model.config.delays[1 : 1 + logits.shape[2]])]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_equal_the_original_s(family):
    model = tiny_model(**FAMILIES[family])
    reference = reference_of(model)
    frames = frames_of(model.config)
    ours, theirs = conditions_of(model, reference)
    output = model(**columns_of(model, frames), conditions=ours)
    if model.depth_decoder is None:  # the original's forward can't do without one
        columns = delay_frames(frames, model.config.delays, model.initial_tokens)
        hidden, text = reference.forward_text(columns[:, :, :-1])
        for mine, head in zip(output.extra_logits, reference.extra_heads, strict=True):
            assert torch.allclose(mine[:, :-1], head(hidden), atol=1e-5)
        assert len(output.extra_logits) == 4 and output.audio_logits is None
    else:
        expected = reference(frames, theirs)
        text = expected.text_logits
        mine = by_codebook(model, output.audio_logits)
        assert len(mine) == model.config.num_generated_codebooks
        for k, logits in enumerate(mine):
            valid = expected.logits[:, k, : logits.shape[1]]
            assert expected.mask[:, k].sum() == valid.shape[0] * valid.shape[1]  # all that the original has
            assert torch.allclose(logits, valid, atol=1e-5, rtol=0), (k, (logits - valid).abs().max())
            assert logits.std() > 0.05
    assert torch.allclose(output.logits[:, :-1], text[:, 0], atol=1e-5, rtol=0)
    assert output.logits.std() > 0.3


def finetuning_losses(output, frames, config, padding_weight, first_weight):
    """The reference's finetuning losses of an LMModel.forward (written after training.md's description)."""
    text_targets = frames[:, 0][output.text_mask[:, 0]]
    weights = torch.ones_like(text_targets, dtype=torch.float32)
    weights[(text_targets == 3) | (text_targets == 0)] = padding_weight
    each = F.cross_entropy(
        output.text_logits[:, 0][output.text_mask[:, 0]].float(), text_targets, reduction="none"
    )
    text = (each * weights).sum() / weights.sum()
    generated = frames[:, 1 : 1 + config.num_generated_codebooks]
    audio_weights = torch.ones_like(generated, dtype=torch.float32)
    audio_weights[:, 0] *= first_weight
    mask = output.mask
    each = F.cross_entropy(output.logits[mask].float(), generated[mask], reduction="none")
    audio = (each * audio_weights[mask]).sum() / audio_weights[mask].sum()
    return text, audio


def split_projections(packed, parameters):
    """Our packed projections under the names of the package's modules."""
    out = {}
    for name, tensor in packed.items():
        for packed_end, split in ((".in_proj_weight", ".in_projs"), (".out_proj.weight", ".out_projs")):
            if name.endswith(packed_end):
                stem = name.removesuffix(packed_end) + split
                names = [n for n in parameters if n.startswith(stem + ".") and "lora" not in n]
                out |= dict(zip(sorted(names, key=lambda n: int(n.split(".")[-2])), tensor.chunk(len(names))))
                break
        else:
            out[name] = tensor
    return out


@pytest.mark.parametrize("family", ["moshiko", "delays_0_2", "personaplex", "schedule_low_rank_norms"])
def test_losses_and_gradients_equal_the_original_s(family):
    weights = dict(text_padding_weight=0.5)
    model = tiny_model(**FAMILIES[family], **weights)
    codebooks = model.config.num_generated_codebooks
    model.config.codebook_weights = [100.0] + [1.0] * (codebooks - 1)
    reference = reference_of(model)
    frames = random_frames(model.config, ROWS, LENGTH)
    frames[:, 0, ::2] = 3
    frames[:, 0, 4] = 0
    frames[0, 0, 7:9] = -1  # masked text
    frames[1, 2, 5:8] = -1  # an acoustic code that is not there
    own = model.config.num_model_codebooks
    inputs = model.prepare_training_inputs(
        text_ids=frames[:, 0], moshi_audio_codes=frames[:, 1 : 1 + own], user_audio_codes=frames[:, 1 + own :]
    )
    output = model(**inputs)
    text, audio = finetuning_losses(reference(frames), frames, model.config, 0.5, 100.0)
    assert abs(output.text_loss - text) < 1e-5
    assert abs(output.depth_loss - audio) < 1e-5
    assert abs(output.loss - text - audio) < 1e-5

    output.loss.backward()
    (text + audio).backward()
    ours = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    packed = {}
    for group in moshi_groups(model.config):  # renaming, stacking and permuting hold for gradients too
        packed |= dict(zip(group.theirs, group.to_theirs([ours[name] for name in group.ours]), strict=True))
    theirs = dict(reference.named_parameters())
    mine = split_projections(packed, theirs)
    assert mine.keys() == theirs.keys()
    biggest = 0.0
    for name, parameter in theirs.items():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        assert torch.allclose(mine[name], expected, atol=1e-5, rtol=1e-4), name
        biggest = max(biggest, expected.abs().max().item())
    assert biggest > 0.05


class Choices:
    """Remembers how far the two likeliest tokens of each choice lie apart."""

    def __init__(self, monkeypatch):
        self.gaps = []  # of (step, codebook; 0 = text), in order
        original = engine_tokens.choose

        def choose(logits, *args, **kwargs):
            best = logits.topk(2).values
            self.gaps.append((args[5], (best[:, 0] - best[:, 1]).tolist()))
            return original(logits, *args, **kwargs)

        monkeypatch.setattr(engine_tokens, "choose", choose)


def assert_same_tokens(theirs, mine, choices, delays):
    """Equal token for token, (streams, frames); a first difference must be a tie, and is reported."""
    assert theirs.shape == mine.shape
    if torch.equal(theirs, mine):
        return
    frame, stream = min((f, s) for s, f in (theirs != mine).nonzero().tolist())
    step = frame + delays[stream]  # the column after this one was written here
    gaps = [gap for codebook, gap in choices.gaps if codebook == stream]
    where = f"frame {frame}, stream {stream}: {theirs[stream, frame]} / {mine[stream, frame]}"
    assert min(gaps[step]) < 1e-4, f"{where}, and no tie: the logits are {gaps[step]} apart"
    warnings.warn(f"Greedy dialogues part at a tie of {gaps[step]}: {where}", stacklevel=1)


DUPLEX = ["moshiko", "delays_0_2", "three_codebooks", "six_codebooks", "stt", "kv_repeat"]
DUPLEX += ["schedule_low_rank_norms", "rope_concat_layer_norm"]


@pytest.mark.parametrize("family", DUPLEX)
@torch.no_grad()
def test_greedy_dialogue_of_60_frames_equals_lmgen(family, monkeypatch):
    from moshi.models.lm import LMGen

    model = tiny_model(**FAMILIES[family])
    reference, config = reference_of(model), model.config
    choices = Choices(monkeypatch)
    frames = 60 if family in DUPLEX[:3] else 20
    heard = random_frames(config, 1, frames + config.max_delay, 5)[:, 1 + config.num_model_codebooks :]
    loop = TokenLoop(model, 1, lmgen_compatible=True)
    loop.configure(0, Sampling.greedy())
    generator = LMGen(reference, use_sampling=False)
    theirs, mine = [], []
    with generator.streaming(1):
        for n in range(heard.shape[2]):
            said = generator.step(heard[:, :, n : n + 1])
            out = loop.step(heard[:, :, n : n + 1])
            assert bool(out.valid[0]) == (said is not None)
            if said is not None:
                theirs.append(said[0, :, 0])
                mine.append(torch.cat([out.text] if out.codes is None else [out.text, out.codes[0]]))
    theirs, mine = torch.stack(theirs, 1), torch.stack(mine, 1)
    assert theirs.shape == (1 + config.num_generated_codebooks, frames)
    assert_same_tokens(theirs, mine, choices, config.delays)
    distinct = [stream.unique().numel() for stream in theirs]
    assert sum(distinct) >= (12 if frames == 60 else 8) * len(distinct), (
        f"{distinct} distinct tokens prove little"
    )


GUIDANCE = {
    "plain": ({}, {}),
    "masked_until": ({"cfg_is_masked_until": [3]}, {"masked_until": torch.tensor([3])}),
    "no_text": ({"cfg_is_no_text": True}, {"no_text": True}),
}


@pytest.mark.parametrize("form", GUIDANCE)
@torch.no_grad()
def test_classifier_free_guidance_equals_lmgen(form, monkeypatch):
    """Text is put in its mouth (nobody is heard here, and small greedy models fall silent), codes are its own."""
    from moshi.models.lm import LMGen

    theirs_kwargs, our_kwargs = GUIDANCE[form]
    model = tiny_model(scale=4.0, **TTS)
    reference = reference_of(model)
    both, tensors = conditions_of(model, reference)
    first, second = (Conditions(both.sum[i : i + 1], both.cross[i : i + 1]) for i in range(2))
    steps = 32
    script = frames_of(model.config, steps, 7)[0, 0]
    logits = []
    generator = LMGen(
        reference,
        use_sampling=False,
        cfg_coef=2.5,
        condition_tensors=tensors,
        on_text_logits_hook=lambda x: logits.append(x.clone().flatten()),
        on_text_hook=lambda token: token.fill_(script[len(logits) - 1]),
        **theirs_kwargs,
    )
    choices = Choices(monkeypatch)
    loop = TokenLoop(
        model,
        1,
        conditions=first,
        lmgen_compatible=True,
        guidance=Guidance(2.5, conditions=second, **our_kwargs),
    )
    loop.configure(0, Sampling.greedy())
    theirs, mine = [], []
    nothing = torch.zeros(1, 0, 1, dtype=torch.long)
    with generator.streaming(1):
        for n in range(steps):
            said = generator.step(nothing)
            forced = torch.full((1, 5), engine_tokens.FREE)
            forced[0, 0] = script[n]
            out = loop.step(forced=forced)
            assert torch.allclose(out.logits.flatten(), logits[n], atol=2e-5, rtol=0), n
            if said is not None:
                theirs.append(said[0, :, 0])
                mine.append(torch.cat([out.text, out.codes[0]]))
    theirs, mine = torch.stack(theirs, 1), torch.stack(mine, 1)
    assert_same_tokens(theirs, mine, choices, model.config.delays)
    distinct = [stream.unique().numel() for stream in theirs[1:]]
    assert sum(distinct) >= 4 * len(distinct), f"{distinct} distinct tokens prove little"


@torch.no_grad()
def test_rows_are_reset_without_touching_the_others():
    """The original's LMGen can't (its frame counter is shared): a row that joins late equals a fresh dialogue."""
    model = tiny_model()
    heard = random_frames(model.config, 2, 30, 5)[:, 5:]
    loop = TokenLoop(model, 2)
    for row in range(2):
        loop.configure(row, Sampling.greedy())
    loop.start(loop.everyone)
    for n in range(10):
        loop.step(heard[:, :, n : n + 1])
    again = torch.tensor([False, True])
    settings = loop.state.settings.clone()
    loop.state.reset(again)
    loop.state.settings = settings
    loop.start(again)
    late = [loop.step(heard[:, :, n : n + 1]) for n in range(10, 30)]
    fresh = TokenLoop(model, 2)
    for row in range(2):
        fresh.configure(row, Sampling.greedy())
    fresh.start(fresh.everyone)
    for n, out in zip(range(10, 30), late):
        expected = fresh.step(heard[:, :, n : n + 1])
        assert out.text[1] == expected.text[1] and torch.equal(out.codes[1], expected.codes[1])
