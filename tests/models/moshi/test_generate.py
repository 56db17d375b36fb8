"""Rows K13-K21, C7-C10, G1, G2, G7, G8: what `generate` of the whole model computes and returns.

The tiny model's Mimi has codebooks spread like its latents, so that codes and waveforms differ.
"""

import math

import pytest
import torch
from transformers.generation.utils import GenerateDecoderOnlyOutput

from aizuchi import MoshiConditionalGenerationGenerateOutput
from aizuchi.engine.sampling import Sampling
from aizuchi.engine.tokens import TokenLoop
from tests.models.moshi.reference import prompt, random_frames, tiny_model

A, V, K = 64, 60, 4
GREEDY = dict(do_sample=False, return_audio_codes=True)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_K13_K14_K16_shapes_with_a_prompt(model):
    """api of 4.46.2: T frames and N tokens give 1 + T + N texts, T + N - 1 frames, 1920 samples each."""
    out = model.generate(**prompt(model, rows=2), **GREEDY, max_new_tokens=9)
    assert isinstance(out, MoshiConditionalGenerationGenerateOutput)
    assert out.sequences.shape == (2, 1 + 6 + 9) and out.sequences.dtype == torch.long
    assert (out.sequences[:, 0] == V).all()
    assert torch.equal(out.sequences[:, 1:7], prompt(model, rows=2)["input_ids"])
    assert out.audio_codes.shape == (2, K, 6 + 9 - 1)
    assert torch.equal(out.audio_codes[:, :, :6], prompt(model, rows=2)["moshi_audio_codes"])
    assert out.audio_sequences.shape == (2, 1, 1920 * 14)
    assert bool((out.audio_codes >= 0).all()) and bool((out.audio_codes < A).all())
    decoded = model.audio_encoder.decode(out.audio_codes).audio_values
    assert torch.equal(decoded, out.audio_sequences)


def test_K17_without_the_initial_column(model):
    out = model.generate(**prompt(model), **GREEDY, max_new_tokens=9, concat_unconditional_inputs=False)
    assert out.sequences.shape == (1, 6 + 9) and out.audio_codes.shape == (1, K, 14)
    assert torch.equal(out.sequences[:, :6], prompt(model)["input_ids"])


def test_K20_shapes_without_any_input(model):
    out = model.generate(**GREEDY, max_new_tokens=9)
    assert out.sequences.shape == (1, 1 + 9) and out.sequences[0, 0] == V
    assert out.audio_codes.shape == (1, K, 8) and out.audio_sequences.shape == (1, 1, 1920 * 8)


def test_K15_what_is_returned(model):
    ids = model.generate(**prompt(model), do_sample=False, max_new_tokens=4, return_audio_waveforms=False)
    assert isinstance(ids, torch.Tensor) and ids.shape == (1, 11)
    out = model.generate(
        **prompt(model),
        do_sample=False,
        max_new_tokens=4,
        return_audio_waveforms=False,
        return_dict_in_generate=True,
    )
    assert isinstance(out, GenerateDecoderOnlyOutput) and torch.equal(out.sequences, ids)
    only_codes = model.generate(**prompt(model), **GREEDY, max_new_tokens=4, return_audio_waveforms=False)
    assert only_codes.audio_sequences is None and only_codes.audio_codes.shape == (1, K, 9)
    only_waves = model.generate(**prompt(model), do_sample=False, max_new_tokens=4)
    assert only_waves.audio_codes is None and only_waves.audio_sequences.shape == (1, 1, 1920 * 9)


@pytest.mark.parametrize("new_tokens", [1, 2])
def test_K16_few_tokens(model, new_tokens):
    """One token completes no frame of its own: its acoustic codes would come with the next."""
    out = model.generate(**GREEDY, max_new_tokens=new_tokens)
    assert out.audio_codes.shape == (1, K, new_tokens - 1)
    assert out.audio_sequences.shape == (1, 1, 1920 * (new_tokens - 1))


def greedy_by_forward(model, inputs, steps, silence):
    """The dialogue as the documented forward computes it: whole columns anew for every frame."""
    config = model.config
    text = torch.cat([torch.full((1, 1), V), inputs["input_ids"]], 1)
    codes = torch.cat([inputs["moshi_audio_codes"], inputs["user_audio_codes"][..., : text.shape[1] - 1]], 1)
    future = inputs["user_audio_codes"]
    columns = torch.full((1, 8, text.shape[1] + steps + 2), A)
    for k in range(8):
        delay = config.delays[1 + k]
        frames = codes[:, k]
        if k >= K:
            rest = silence[k - K].expand(1, columns.shape[2])
            frames = torch.cat([future[:, k - K], rest], 1)[:, : columns.shape[2] - 1 - delay]
        columns[:, k, 1 + delay : 1 + delay + frames.shape[1]] = frames
    given = 1 + codes.shape[2]  # columns of the model's first codebook that are given
    for _ in range(steps):
        here = text.shape[1]
        out = model(text, moshi_audio_codes=columns[:, :K, :here], user_audio_codes=columns[:, K:, :here])
        token = out.logits[:, -1].argmax(-1)
        text = torch.cat([text, token[:, None]], 1)
        ids = [token]
        for k in range(K):
            logits = model.depth_decoder(torch.stack(ids, 1), out.last_hidden_state[:, -1:]).logits[:, -1]
            code = logits.argmax(-1)
            if here < given + config.delays[1 + k]:
                code = columns[:, k, here]
            columns[:, k, here] = code
            ids.append(code)
    frames = text.shape[1] - 2
    aligned = [columns[:, k, 1 + config.delays[1 + k] :][:, :frames] for k in range(K)]
    return text, torch.stack(aligned, 1)


@pytest.mark.parametrize("delays", [None, [0, 0, 2, 2, 2, 0, 2, 2, 2]])
@torch.no_grad()
def test_C7_every_frame_is_what_forward_says(delays):
    """Also the prompt's delayed ends, the user's future at its time, and silence behind it."""
    model = tiny_model(delays=delays)
    inputs = prompt(model, length=5, future=4)
    steps = 12
    out = model.generate(**inputs, **GREEDY, max_new_tokens=steps)
    text, codes = greedy_by_forward(model, inputs, steps, model.silence_codes(K))
    assert torch.equal(out.sequences, text)
    frames = out.audio_codes.shape[2]
    assert frames == 5 + steps - model.config.max_delay
    assert torch.equal(out.audio_codes, codes[:, :, :frames])


@torch.no_grad()
def test_no_frame_is_lost_and_the_user_s_future_is_heard_at_its_time(model, monkeypatch):
    """`generate` with the user's future equals the engine's rows token for token."""
    frames = 30
    heard = random_frames(model.config, 2, frames, 3)[:, 5:]
    loop = TokenLoop(model, 2)
    for row in range(2):
        loop.configure(row, Sampling.greedy())
    loop.start(loop.everyone)
    outs = [loop.step(heard[:, :, n : n + 1]) for n in range(frames)]
    assert all(bool(out.valid.all()) for out in outs[1:])
    text = torch.stack([out.text for out in outs if out.valid.all()], 1)
    codes = torch.stack([out.codes for out in outs if out.valid.all()], 2)
    blank = model.get_unconditional_inputs(2)
    blank["user_audio_codes"] = torch.cat([blank.user_audio_codes, heard], dim=2)
    out = model.generate(**blank, **GREEDY, max_new_tokens=frames + 1)
    assert torch.equal(out.sequences[:, 1 : 1 + text.shape[1]], text)
    assert torch.equal(out.audio_codes[:, :, : codes.shape[2]], codes)
    assert codes.shape[2] == frames == out.audio_codes.shape[2]
    assert codes.unique().numel() > 30
    silences = []
    monkeypatch.setattr(
        type(model), "silence_codes", lambda *args: silences.append(args) or torch.zeros(K).long()
    )
    # the initial column may be left to `generate` when the user is a stream of its own
    blank["user_audio_codes"] = heard
    again = model.generate(**blank, **GREEDY, max_new_tokens=frames + 1)
    assert torch.equal(again.audio_codes, out.audio_codes)
    assert not silences  # none was needed, so none was encoded
    # frame 0 of the user matters: it is in column 1
    changed = heard.clone()
    changed[:, :, 0] = (changed[:, :, 0] + 1) % A
    blank["user_audio_codes"] = changed
    other = model.generate(
        **blank, **GREEDY, max_new_tokens=4, return_dict_in_generate=True, output_logits=True
    )
    same = model.generate(
        **(dict(blank) | {"user_audio_codes": heard}),
        **GREEDY,
        max_new_tokens=4,
        return_dict_in_generate=True,
        output_logits=True,
    )
    assert torch.equal(other.logits[0], same.logits[0]) and not torch.allclose(
        other.logits[1], same.logits[1]
    )


@torch.no_grad()
def test_G2_the_silent_user_is_a_running_silence(model):
    """Not the first frame of silence for ever; that is an option."""
    long = model.audio_encoder.encode(torch.zeros(1, 1, 1920 * 60), num_quantizers=K).audio_codes[0]
    steady, first = model.silence_codes(K), model.silence_codes(K, "first_frame")
    assert torch.equal(steady, long[:, -1]) and torch.equal(steady, long[:, -10])
    assert torch.equal(first, long[:, 0]) and not torch.equal(first, steady)
    inputs = prompt(model, length=5)
    silence = steady[None, :, None].expand(1, K, 20)
    spelled = inputs | {"user_audio_codes": torch.cat([inputs["user_audio_codes"], silence], 2)}
    out = model.generate(**inputs, **GREEDY, max_new_tokens=15)
    assert torch.equal(out.audio_codes, model.generate(**spelled, **GREEDY, max_new_tokens=15).audio_codes)
    with pytest.raises(ValueError, match="`user_silence`"):
        model.generate(**inputs, user_silence="loud", max_new_tokens=1)


def test_C9_waveforms_and_their_codes_are_the_same(model):
    generator = torch.Generator().manual_seed(0)
    user, moshi = (
        torch.randn(1, 1, 1920 * 9 - 300, generator=generator),
        torch.randn(1, 1, 1920 * 5, generator=generator),
    )
    ids = torch.full((1, 5), 3)
    waves = model.generate(ids, user_input_values=user, moshi_input_values=moshi, **GREEDY, max_new_tokens=8)
    codes = [model.audio_encoder.encode(wave, num_quantizers=K).audio_codes for wave in (user, moshi)]
    by_codes = model.generate(
        ids, user_audio_codes=codes[0], moshi_audio_codes=codes[1], **GREEDY, max_new_tokens=8
    )
    assert torch.equal(waves.audio_codes, by_codes.audio_codes)
    priority = model.generate(ids, user, codes[0], moshi * 0.1, codes[1], **GREEDY, max_new_tokens=8)
    assert torch.equal(priority.audio_codes, by_codes.audio_codes)


def test_C8_K21_streams_that_are_missing_or_not_synchronised(model):
    inputs = prompt(model)
    for left_out, message in (
        ("user_audio_codes", "`user_audio_codes` .* is missing"),
        ("moshi_audio_codes", "`moshi_audio_codes` .* is missing"),
        ("input_ids", "`input_ids` .* is missing"),
    ):
        rest = {name: value for name, value in inputs.items() if name != left_out}
        with pytest.raises(ValueError, match=message):
            model.generate(**rest, max_new_tokens=2)
    with pytest.raises(ValueError, match="`moshi` audio has 5 frames.*`input_ids` 6.*synchronised"):
        model.generate(**(inputs | {"moshi_audio_codes": inputs["moshi_audio_codes"][..., :5]}))
    with pytest.raises(ValueError, match="`user` audio has 5 frames"):
        model.generate(**(inputs | {"user_audio_codes": inputs["user_audio_codes"][..., :5]}))
    with pytest.raises(ValueError, match="`moshi` audio has 7 frames"):
        longer = torch.nn.functional.pad(inputs["moshi_audio_codes"], (0, 1))
        model.generate(**(inputs | {"moshi_audio_codes": longer}))


@torch.no_grad()
def test_G1_no_inputs_equal_unconditional_inputs(model):
    """Also with the published generation config, whose pad token is the initial token."""
    for pad in (None, V, 3):
        options = dict(
            GREEDY, max_new_tokens=8, pad_token_id=pad, return_dict_in_generate=True, output_logits=True
        )
        a, b = model.generate(**options), model.generate(**model.get_unconditional_inputs(), **options)
        assert torch.equal(a.audio_codes, b.audio_codes) and torch.equal(a.sequences, b.sequences)
        assert all(torch.equal(x, y) for x, y in zip(a.logits, b.logits, strict=True))
        first = model(**model.get_unconditional_inputs()).logits[:, -1]
        assert torch.allclose(a.logits[0], first, atol=1e-5)


def test_G1b_eos_and_pad_ids_without_a_mask(model):
    out = model.generate(**prompt(model), **GREEDY, max_new_tokens=4, eos_token_id=2, pad_token_id=V)
    assert out.sequences.shape[1] <= 11


def test_G7_max_length_counts_the_prompt(model):
    out = model.generate(**prompt(model, length=8), **GREEDY, max_length=12)
    assert out.sequences.shape == (1, 12)
    out = model.generate(
        **prompt(model, length=8), **GREEDY, max_length=12, concat_unconditional_inputs=False
    )
    assert out.sequences.shape == (1, 12)
    out = model.generate(
        **prompt(model, length=8), **GREEDY
    )  # neither given: 20 new ones, as for every model
    assert out.sequences.shape == (1, 9 + 20)


@torch.no_grad()
def test_G8_embeds_alone_and_beside_codes(model):
    inputs = prompt(model)
    plain = model.generate(**inputs, **GREEDY, max_new_tokens=10, concat_unconditional_inputs=False)
    columns = {k: v for k, v in inputs.items() if k != "input_ids"}
    for name in columns:  # the columns of that prompt, as generate lays them out
        delayed = torch.full_like(columns[name], A)
        delayed[:, 0], delayed[:, 1:, 1:] = columns[name][:, 0], columns[name][:, 1:, :-1]
        columns[name] = delayed
    stacked = torch.cat(
        [inputs["input_ids"][:, None], columns["moshi_audio_codes"], columns["user_audio_codes"]], 1
    )
    embeds = model.embed_columns(stacked)
    codes = {k: v for k, v in inputs.items() if k != "input_ids"}
    for cache in (True, False):
        both = model.generate(inputs_embeds=embeds, **codes, **GREEDY, max_new_tokens=10, use_cache=cache)
        assert torch.equal(both.sequences, plain.sequences[:, 6:])
        assert torch.equal(both.audio_codes, plain.audio_codes)
        with_ids = model.generate(
            inputs_embeds=embeds, **inputs, **GREEDY, max_new_tokens=10, use_cache=cache
        )
        assert torch.equal(with_ids.sequences, plain.sequences)
        alone = model.generate(inputs_embeds=embeds, **GREEDY, max_new_tokens=10, use_cache=cache)
        assert alone.sequences.shape == (1, 10) and alone.audio_codes.shape == (1, K, 9)
        assert alone.sequences[0, 0] == plain.sequences[0, 6]
    masked = model.generate(
        inputs_embeds=embeds, attention_mask=torch.ones(1, 6), **GREEDY, max_new_tokens=10
    )
    assert torch.equal(masked.sequences, alone.sequences)
    with pytest.raises(ValueError, match="`input_ids` .* as `inputs_embeds` are"):
        model.generate(inputs_embeds=embeds, input_ids=inputs["input_ids"][:, :4], max_new_tokens=2)


def test_K19_use_cache_false_equals_use_cache(model):
    inputs = prompt(model, rows=2, length=5, future=3)
    a, b = (model.generate(**inputs, **GREEDY, max_new_tokens=12, use_cache=on) for on in (True, False))
    assert torch.equal(a.audio_codes, b.audio_codes) and torch.equal(a.sequences, b.sequences)


def test_K19_window_is_kept_past_several_wraps():
    model = tiny_model(sliding_window=6)
    inputs = prompt(model, length=9)
    found = [
        model.generate(**inputs, **GREEDY, max_new_tokens=30, **options).audio_codes
        for options in ({}, {"use_cache": False}, {"cache_implementation": "static"})
    ]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@torch.no_grad()
def test_bfloat16_generates(model):
    import copy

    half = copy.deepcopy(model).to(torch.bfloat16)
    out = half.generate(**prompt(model), **GREEDY, max_new_tokens=5)
    assert out.audio_codes.shape == (1, K, 10) and out.audio_sequences.isfinite().all()


@torch.no_grad()
def test_families_generate_too():
    """Recognition: text alone. PersonaPlex: both voices are written, the user's is what is heard."""
    stt = tiny_model(num_generated_codebooks=0, num_input_codebooks=4, delays=[0] * 5)
    heard = random_frames(stt.config, 1, 9)[:, 1:]
    blank = stt.get_unconditional_inputs()
    text = stt.generate(blank.input_ids, user_audio_codes=heard, do_sample=False, max_new_tokens=9)
    assert text.shape == (1, 10)
    loop = TokenLoop(stt, 1)
    loop.configure(0, Sampling.greedy())
    loop.start(loop.everyone)
    spoken = [loop.step(heard[:, :, n : n + 1]).newest_text for n in range(8)]
    assert torch.equal(text[0, 2:], torch.cat(spoken))
    persona = tiny_model(num_generated_codebooks=2 * K)
    out = persona.generate(**prompt(persona, length=5, future=6), **GREEDY, max_new_tokens=8)
    assert out.audio_codes.shape == (1, K, 12)
    lut = {"type": "lut", "lut": {"n_bins": 3, "dim": 4, "possible_values": ["calm", "loud"]}}
    hibiki = tiny_model(
        conditioners={"mood": lut}, fuser={"sum": ["mood"]}, delays=[0, 0, 2, 2, 2, 0, 2, 2, 2]
    )
    inputs = prompt(hibiki, rows=2, length=5, future=10)
    moods = [{"mood": "calm"}, {"mood": "loud"}]
    out = hibiki.generate(**inputs, conditions=moods, **GREEDY, max_new_tokens=8)
    assert out.audio_codes.shape == (2, K, 5 + 8 - 2)
    second = {name: value[1:] for name, value in inputs.items()}
    alone = hibiki.generate(**second, conditions=moods[1:], **GREEDY, max_new_tokens=8)
    assert torch.equal(out.audio_codes[1], alone.audio_codes[0])


def test_E4_lengths_of_the_documented_example(model):
    """Tokens of a waveform: ceil(samples * frame rate / sampling rate)."""
    samples = 24000 * 2 + 77
    tokens = math.ceil(samples * model.config.audio_encoder_config.frame_rate / model.config.sampling_rate)
    assert tokens == 26
    wave = torch.randn(1, 1, samples, generator=torch.Generator().manual_seed(0)) * 0.1
    ids = torch.full((1, tokens), 3)
    out = model.generate(
        input_ids=ids, user_input_values=wave, moshi_input_values=torch.zeros_like(wave), max_new_tokens=25
    )
    assert out.sequences.shape == (1, 1 + 26 + 25) and out.audio_sequences.shape == (1, 1, 1920 * 50)
