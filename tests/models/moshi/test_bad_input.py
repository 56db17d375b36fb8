"""Bad input: a ValueError that names the argument, and says what was expected."""

import pytest
import torch
from transformers import DynamicCache

from aizuchi.models.cache import RingCache
from tests.models.moshi.reference import prompt, random_frames, tiny_model

A, V, K = 64, 60, 4


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def inputs(model):
    return prompt(model, rows=2, length=6)


def both_ways(model, message, **inputs):
    """`forward` and `generate` refuse alike."""
    with pytest.raises(ValueError, match=message):
        model(**inputs)
    with pytest.raises(ValueError, match=message):
        model.generate(**inputs, max_new_tokens=2)


@pytest.mark.parametrize("stream", ["moshi_audio_codes", "user_audio_codes"])
def test_one_of_three_streams_is_missing(model, inputs, stream):
    both_ways(model, f"`{stream}`.* is missing", **{k: v for k, v in inputs.items() if k != stream})


def test_streams_are_not_synchronised(model, inputs):
    short = inputs | {"moshi_audio_codes": inputs["moshi_audio_codes"][..., :4]}
    both_ways(model, "synchronised", **short)
    with pytest.raises(ValueError, match="`input_ids`: 6, `moshi_audio_codes`: 4, `user_audio_codes`: 6"):
        model(**short)
    rows = inputs | {"user_audio_codes": inputs["user_audio_codes"][:1]}
    with pytest.raises(ValueError, match="batch sizes"):
        model(**rows)
    with pytest.raises(ValueError, match="`user_audio_codes` has 1 rows, `input_ids` 2"):
        model.generate(**rows)


@pytest.mark.parametrize("stream", ["moshi_audio_codes", "user_audio_codes"])
@pytest.mark.parametrize("value", [A + 1, -2, 10**9])
def test_codes_out_of_range(model, inputs, stream, value):
    wrong = inputs[stream].clone()
    wrong[1, 2, 3] = value
    both_ways(model, rf"`{stream}` holds {value}, outside of \[-1, {A}\]", **(inputs | {stream: wrong}))


@pytest.mark.parametrize("value", [V + 1, -2])
def test_text_ids_out_of_range(model, inputs, value):
    wrong = inputs["input_ids"].clone()
    wrong[0, 2] = value
    both_ways(model, rf"`input_ids` holds {value}, outside of \[-1, {V}\]", **(inputs | {"input_ids": wrong}))
    with pytest.raises(ValueError, match=rf"`input_ids` holds {value}"):
        model.decoder(wrong)


def test_codes_of_another_number_of_codebooks_or_type(model, inputs):
    few = inputs | {"moshi_audio_codes": inputs["moshi_audio_codes"][:, :3]}
    both_ways(model, r"`moshi_audio_codes` must have shape \(batch, 4 codebooks, length\)", **few)
    floats = inputs | {"user_audio_codes": inputs["user_audio_codes"].float()}
    both_ways(model, "`user_audio_codes` must hold integer ids, got torch.float32", **floats)


@pytest.mark.parametrize("stream", ["moshi_input_values", "user_input_values"])
@pytest.mark.parametrize(
    "wave, message",
    [
        (torch.full((2, 1, 1920 * 6), float("nan")), "holds NaN"),
        (torch.full((2, 1, 1920 * 6), float("inf")), "holds NaN or infinite"),
        (torch.zeros(2, 1, 0), "is empty"),
        (torch.zeros(2, 1920 * 6), r"must have shape \(batch, 1, samples\)"),
        (torch.zeros(2, 2, 1920 * 6), r"must have shape \(batch, 1, samples\)"),
        (torch.zeros(2, 1, 1920 * 6, dtype=torch.int16), "must hold float samples"),
    ],
    ids=["nan", "infinite", "empty", "no channel", "stereo", "integers"],
)
def test_audio_that_is_none(model, inputs, stream, wave, message):
    codes = stream.replace("input_values", "audio_codes")
    given = {k: v for k, v in inputs.items() if k != codes} | {stream: wave}
    both_ways(model, f"`{stream}`.*{message}", **given)


def test_empty_inputs(model):
    nothing = torch.zeros(2, 0, dtype=torch.long)
    codes = torch.zeros(2, K, 0, dtype=torch.long)
    both_ways(
        model, "`input_ids` is empty", input_ids=nothing, moshi_audio_codes=codes, user_audio_codes=codes
    )
    both_ways(model, "`inputs_embeds` must have shape", inputs_embeds=torch.zeros(2, 0, 48))
    with pytest.raises(ValueError, match="No input was given"):
        model()
    with pytest.raises(ValueError, match="Exactly one of `input_ids` and `inputs_embeds`"):
        model.decoder()
    with pytest.raises(ValueError, match="Exactly one of `input_ids` and `inputs_embeds`"):
        model.decoder(torch.zeros(1, 2, dtype=torch.long), inputs_embeds=torch.zeros(1, 2, 48))


def test_embeds_of_another_width(model):
    both_ways(
        model,
        r"`inputs_embeds` must have shape \(batch, length, 48\), got \(2, 5, 40\)",
        inputs_embeds=torch.zeros(2, 5, 40),
    )


def test_generation_past_num_codebooks(model):
    ids, hidden = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, 48)
    with pytest.raises(ValueError, match=r"`num_codebooks=4`.*at most 4 codes"):
        model.depth_decoder.generate(ids, last_hidden_state=hidden, max_new_tokens=5)
    with pytest.raises(ValueError, match=r"`num_codebooks=4`"):
        model.depth_decoder(torch.zeros(2, 5, dtype=torch.long), hidden)
    assert model.depth_decoder.generate(ids, last_hidden_state=hidden, max_new_tokens=4).shape == (2, 5)


def test_depth_decoder_s_inputs(model):
    depth, hidden = model.depth_decoder, torch.zeros(2, 1, 48)
    with pytest.raises(ValueError, match="`last_hidden_state`"):
        depth(torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`last_hidden_state` must have shape \(batch, length, 48\)"):
        depth(torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, 24))
    with pytest.raises(ValueError, match="Exactly one of `input_ids` and `inputs_embeds`"):
        depth(last_hidden_state=hidden)
    with pytest.raises(ValueError, match=r"`input_ids` holds 61"):
        depth(torch.tensor([[61], [0]]), hidden)
    with pytest.raises(ValueError, match=r"`input_ids` holds 65"):
        depth(torch.tensor([[1, 65], [0, 0]]), hidden)
    with pytest.raises(ValueError, match=r"`labels` holds 65"):
        depth(torch.tensor([[1], [0]]), hidden, labels=torch.tensor([[65], [0]]))
    with pytest.raises(ValueError, match=r"`labels` \(2, 2\) must label each of the \(2, 1\) steps"):
        depth(torch.tensor([[1], [0]]), hidden, labels=torch.tensor([[5, 5], [0, 0]]))


OTHERS = {
    "layers": dict(num_hidden_layers=3),
    "fewer layers": dict(num_hidden_layers=1),
    "heads": dict(num_key_value_heads=2),
    "head size": dict(head_dim=16),
}


@pytest.mark.parametrize("kind", ["Cache", "legacy tuple"])
@pytest.mark.parametrize("other", OTHERS)
def test_cache_from_another_model(model, inputs, other, kind):
    other = tiny_model(**OTHERS[other])
    past = DynamicCache() if kind == "Cache" else None
    if kind == "legacy tuple":
        config = other.config
        empty = torch.zeros(2, config.num_key_value_heads, 0, config.head_dim)
        past = ((empty, empty),) * config.num_hidden_layers
    past = other(**inputs, past_key_values=past, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="`past_key_values`"):
        model(**inputs, past_key_values=past)


def test_cache_of_other_rows_and_what_is_no_cache(model, inputs):
    past = model(**inputs, use_cache=True).past_key_values
    one = {name: value[:1] for name, value in inputs.items()}
    with pytest.raises(ValueError, match="`past_key_values` holds 2 rows, the input has 1"):
        model(**one, past_key_values=past)
    with pytest.raises(ValueError, match="`past_key_values` must be a transformers Cache or a tuple"):
        model(**inputs, past_key_values={"keys": 1})
    with pytest.raises(ValueError, match="`past_key_values` is a ring: pass it as `state`"):
        model(**inputs, past_key_values=model.init_state(2))


@pytest.mark.parametrize("other", [*OTHERS, "rows", "window"])
def test_ring_from_another_model(model, other):
    options = OTHERS.get(other, dict(sliding_window=5) if other == "window" else {})
    state = tiny_model(**options).init_state(3 if other == "rows" else 2)
    ids = torch.zeros(2, 1, dtype=torch.long)
    with pytest.raises(ValueError, match="`state` is one of"):
        model.decoder(ids, state=state)
    with pytest.raises(ValueError, match="`state` must come from `init_state`"):
        model.decoder(ids, state=DynamicCache())
    with pytest.raises(ValueError, match="`state` holds past, mask and positions itself"):
        model.decoder(ids, state=model.init_state(2), attention_mask=torch.ones(2, 1))


def test_snapshot_from_another_model(model):
    own, other = model.init_state(2), tiny_model(head_dim=16).init_state(2)
    before = own.export_row(0)
    with pytest.raises(ValueError, match=r"`tensors\['keys.0'\]` is .*16.* holds .*12"):
        own.import_row(0, other.export_row(0))
    with pytest.raises(ValueError, match="lacks 'keys.1'"):
        own.import_row(0, {k: v for k, v in before.items() if k != "keys.1"})
    with pytest.raises(ValueError, match="unknown 'more'"):
        own.import_row(0, before | {"more": torch.zeros(1)})
    assert all(torch.equal(own.export_row(0)[name], before[name]) for name in before)
    assert isinstance(own, RingCache)


def test_attention_mask_of_another_length(model, inputs):
    with pytest.raises(ValueError, match="`attention_mask` covers 5 positions.* 0 cached and 6 new"):
        model(**inputs, attention_mask=torch.ones(2, 5))


def test_labels_that_do_not_fit(model, inputs):
    text, audio = inputs["input_ids"], inputs["moshi_audio_codes"]
    with pytest.raises(ValueError, match=r"`text_labels` \(2, 5\)"):
        model(**inputs, text_labels=text[:, :5])
    with pytest.raises(ValueError, match="`text_labels` holds 61"):
        model(**inputs, text_labels=text.masked_fill(text == text[0, 0], 61))
    with pytest.raises(ValueError, match="`audio_labels`: 5"):
        model(**inputs, audio_labels=audio[..., :5])
    with pytest.raises(ValueError, match="`audio_labels` must have shape"):
        model(**inputs, audio_labels=audio[:, :3])
    with pytest.raises(ValueError, match="`audio_labels` holds 65"):
        model(**inputs, audio_labels=audio + 65 - audio)
    with pytest.raises(ValueError, match="`audio_labels` need the columns"):
        model(inputs_embeds=torch.zeros(2, 6, 48), audio_labels=audio)
    one = {name: value[..., :1] for name, value in inputs.items()}
    with pytest.raises(ValueError, match="`audio_labels` need at least two columns"):
        model(**one, audio_labels=audio[..., :1])
    stt = tiny_model(num_generated_codebooks=0, num_input_codebooks=4, delays=[0] * 5)
    with pytest.raises(ValueError, match="no depth decoder"):
        stt(text, user_audio_codes=audio, audio_labels=audio)
    with pytest.raises(ValueError, match="`labels` need the logits of all positions"):
        model.decoder(text, labels=text, logits_to_keep=1)


def test_training_inputs_that_do_not_fit(model):
    frames = random_frames(model.config, 2, 6)
    text, moshi, user = frames[:, 0], frames[:, 1:5], frames[:, 5:]
    with pytest.raises(ValueError, match="`user_audio_codes` .* must be given"):
        model.prepare_training_inputs(text, moshi_audio_codes=moshi)
    with pytest.raises(ValueError, match="`text_ids`: 5"):
        model.prepare_training_inputs(text[:, :5], moshi_audio_codes=moshi, user_audio_codes=user)
    with pytest.raises(ValueError, match="`text_ids` holds 60"):
        model.prepare_training_inputs(text * 0 + V, moshi_audio_codes=moshi, user_audio_codes=user)
    with pytest.raises(ValueError, match="`moshi_audio_codes` holds 64"):  # frames hold no initial tokens
        model.prepare_training_inputs(text, moshi_audio_codes=moshi * 0 + A, user_audio_codes=user)
    with pytest.raises(ValueError, match="`lengths`"):
        model.prepare_training_inputs(
            text, moshi_audio_codes=moshi, user_audio_codes=user, lengths=torch.tensor([6, 7])
        )
    with pytest.raises(ValueError, match="`delays`"):
        model.prepare_training_inputs(text, moshi_audio_codes=moshi, user_audio_codes=user, delays=[0, 1])


def test_new_vocabulary_of_no_words(model):
    with pytest.raises(ValueError, match="`new_num_tokens=0`"):
        tiny_model().resize_token_embeddings(0)
