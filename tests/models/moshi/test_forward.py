"""Rows C1, C2, C7-C9, K6-K12, K22, K23, K25, A4, A5, T7: forward of the whole model."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from aizuchi import MoshiForConditionalGeneration
from aizuchi.models.moshi.delays import delay_frames, undelay_columns
from tests.models.moshi.reference import random_frames, tiny_config, tiny_model

A, V = 64, 60


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def columns(model, rows=2, length=12, seed=0):
    """Random columns as keyword arguments."""
    frames = random_frames(model.config, rows, length, seed)
    return dict(input_ids=frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:])


def labelled(model, **sizes):
    inputs = columns(model, **sizes)
    return inputs | dict(text_labels=inputs["input_ids"], audio_labels=inputs["moshi_audio_codes"])


def test_C1_C2_C7_every_stream_is_read(model):
    inputs = columns(model)
    base = model(**inputs).logits
    for name, change in inputs.items():
        streams = [()] if change.dim() == 2 else [(slice(None), k) for k in range(4)]
        for stream in streams:
            changed = change.clone()
            view = changed[stream][:, 5] if stream else changed[:, 5]
            view.add_(1).remainder_(V)
            differs = (model(**(inputs | {name: changed})).logits != base).any(-1).any(0)
            assert differs.tolist() == [False] * 5 + [True] * 7


def test_C9_codes_have_priority_over_waveforms(model):
    inputs = columns(model)
    noise = torch.randn(2, 1, 1920 * 12)
    out = model(**inputs, user_input_values=noise, moshi_input_values=noise)
    assert torch.equal(out.logits, model(**inputs).logits)


@torch.no_grad()
def test_K7_waveforms_are_encoded_and_delayed(model):
    """Laid out as `generate` does with concat_unconditional_inputs=False (transformers forgets the delays)."""
    inputs = columns(model)
    waves = torch.randn(2, 2, 1, 1920 * 11 + 500, generator=torch.Generator().manual_seed(0))  # 12 frames
    codes = [model.audio_encoder.encode(wave, num_quantizers=4).audio_codes for wave in waves]
    assert codes[0].shape == (2, 4, 12)
    initial = torch.full((4,), A)
    delayed = [delay_frames(c, [0, 1, 1, 1], initial, first_column=False) for c in codes]
    expected = model(inputs["input_ids"], moshi_audio_codes=delayed[0], user_audio_codes=delayed[1])
    found = model(inputs["input_ids"], moshi_input_values=waves[0], user_input_values=waves[1])
    assert torch.equal(found.logits, expected.logits)


def test_K6_attributes(model):
    config = model.config
    assert len(model.embed_tokens) == 8 and model.num_codebooks == 4
    assert all(table.weight.shape == (A + 1, config.hidden_size) for table in model.embed_tokens)
    assert model.decoder.model.embed_tokens.weight.shape == (V + 1, config.hidden_size)
    assert {"audio_encoder", "decoder", "depth_decoder"} <= {name for name, _ in model.named_children()}


def test_K6_moshi_codes_come_first(model):
    """embed_tokens 0 to K - 1 read the model's codes, K to 2K - 1 the user's."""
    inputs = columns(model)
    streams = torch.cat([inputs["moshi_audio_codes"], inputs["user_audio_codes"]], dim=1)
    embeds = model.decoder.model.embed_tokens(inputs["input_ids"])
    embeds = embeds + sum(table(streams[:, k]) for k, table in enumerate(model.embed_tokens))
    assert torch.allclose(model(inputs_embeds=embeds).logits, model(**inputs).logits, atol=1e-5)


def test_K8_A5_keyword_prefixes_reach_the_parts(model):
    inputs = labelled(model)
    out = model(
        **inputs,
        use_cache=True,
        decoder_output_hidden_states=True,
        depth_decoder_output_attentions=True,
        depth_output_hidden_states=True,
        depth_use_cache=True,
    )
    assert out.attentions is None and len(out.hidden_states) == 3
    assert len(out.depth_attentions) == 2 and len(out.depth_hidden_states) == 3
    assert out.depth_past_key_values is not None
    wave = torch.randn(2, 1, 1920 * 12)
    mask = torch.ones(2, 1920 * 12)
    mask[0, 1920 * 6 :] = 0
    streams = dict(input_ids=inputs["input_ids"], user_input_values=wave, moshi_input_values=wave)
    masked = model(**streams, audio_encoder_padding_mask=mask).logits
    assert masked.shape == (2, 12, V)
    assert torch.equal(
        model(**streams, audio_encoder_padding_mask=torch.ones_like(mask)).logits, model(**streams).logits
    )
    with pytest.raises((ValueError, TypeError), match="nonsense"):
        model(**streams, audio_encoder_nonsense=1)


def test_K8_logits_to_keep_is_handed_on(model):
    inputs = columns(model)
    full = model(**inputs).logits
    for name in ("num_logits_to_keep", "logits_to_keep", "decoder_logits_to_keep"):
        assert torch.allclose(model(**inputs, **{name: 2}).logits, full[:, -2:], atol=1e-6)


def test_K9_inputs_embeds_have_priority(model):
    embeds = torch.randn(2, 5, 48)
    out = model(**columns(model), inputs_embeds=embeds)
    assert torch.equal(out.logits, model(inputs_embeds=embeds).logits) and out.logits.shape == (2, 5, V)


def test_K10_T7_outputs_are_what_their_names_say(model):
    out = model(
        **labelled(model),
        use_cache=True,
        output_attentions=True,
        output_hidden_states=True,
        depth_use_cache=True,
    )
    assert out.logits.shape == (2, 12, V) and out.last_hidden_state.shape == (2, 12, 48)
    assert out.audio_logits.shape == (2 * 11, 4, A)
    assert [a.shape for a in out.attentions] == [(2, 4, 12, 12)] * 2
    assert [h.shape for h in out.hidden_states] == [(2, 12, 48)] * 3
    assert [a.shape for a in out.depth_attentions] == [(22, 2, 4, 4)] * 2
    assert [h.shape for h in out.depth_hidden_states] == [(22, 4, 24)] * 3
    assert out.depth_past_key_values is not out.past_key_values
    assert out.past_key_values.get_seq_length() == 12 and out.depth_past_key_values.get_seq_length() == 4
    assert out.text_loss.dim() == out.depth_loss.dim() == 0
    assert torch.equal(out.loss, out.text_loss + out.depth_loss)
    plain = model(**columns(model))
    assert plain.loss is plain.depth_loss is plain.audio_logits is plain.attentions is None


def test_K11_return_dict_false_gives_a_tuple(model):
    inputs = columns(model)
    out = model(**inputs, return_dict=False)
    assert isinstance(out, tuple) and torch.equal(out[0], model(**inputs).logits)


def test_K12_K22_unconditional_inputs(model):
    inputs = model.get_unconditional_inputs(num_samples=3)
    assert inputs.input_ids.tolist() == [[V]] * 3 and inputs.attention_mask.tolist() == [[1]] * 3
    for codes in (inputs.user_audio_codes, inputs.moshi_audio_codes):
        assert codes.shape == (3, 4, 1) and codes.dtype == torch.long and bool((codes == A).all())
    assert model(**inputs).logits.shape == (3, 1, V)


def test_K23_parts_and_freezing():
    model = tiny_model()
    assert model.get_depth_decoder() is model.depth_decoder
    assert model.get_audio_encoder() is model.audio_encoder
    assert model.get_decoder() is model.decoder
    assert model.get_input_embeddings() is model.decoder.model.embed_tokens
    assert model.get_output_embeddings() is model.decoder.lm_head
    table, head = torch.nn.Embedding(V + 1, 48), torch.nn.Linear(48, V, bias=False)
    model.set_input_embeddings(table)
    model.set_output_embeddings(head)
    assert model.get_input_embeddings() is table and model.get_output_embeddings() is head
    model.freeze_audio_encoder()
    model.freeze_depth_decoder()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("audio_encoder.", "depth_decoder."))
        assert parameter.requires_grad != frozen, name


def test_A4_missing_streams_are_named(model):
    inputs = columns(model)
    for left_out, named in (("moshi_audio_codes",) * 2, ("user_audio_codes",) * 2):
        rest = {k: v for k, v in inputs.items() if k != left_out}
        with pytest.raises(ValueError, match=f"`{named}`"):
            model(**rest)
    with pytest.raises(ValueError, match="No input was given"):
        model()
    text_free = {k: v for k, v in inputs.items() if k != "input_ids"}
    blank = torch.full_like(inputs["input_ids"], -1)  # audio alone is the zero token as text
    assert torch.equal(model(**text_free).logits, model(**(inputs | {"input_ids": blank})).logits)


@pytest.mark.parametrize("kind", ["dynamic", "static", "legacy"])
@torch.no_grad()
def test_K3_G12_chunks_of_columns_equal_the_whole(kind):
    model = tiny_model(sliding_window=5)
    inputs = columns(model, length=20)
    whole = model(**inputs).logits
    past = {
        "dynamic": lambda: DynamicCache(config=model.config),
        "static": lambda: StaticCache(config=model.config, max_cache_len=20),
        "legacy": lambda: tuple((torch.zeros(2, 4, 0, 12),) * 2 for _ in range(2)),
    }[kind]()
    logits, start = [], 0
    for size in (4, 1, 1, 7, 2, 5):
        chunk = {name: value[..., start : start + size] for name, value in inputs.items()}
        out = model(**chunk, past_key_values=past, use_cache=True)
        logits.append(out.logits)
        past, start = out.past_key_values, start + size
    assert torch.allclose(torch.cat(logits, 1), whole, atol=1e-5, rtol=0)


@torch.no_grad()
def test_K7_left_padding_does_not_reach_a_row(model):
    short, long = columns(model, rows=1, length=7), columns(model, rows=1, length=12, seed=1)
    padded = {name: torch.nn.functional.pad(value, (5, 0), value=1) for name, value in short.items()}
    batch = {name: torch.cat([padded[name], long[name]]) for name in short}
    mask = torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    out = model(**batch, attention_mask=mask).logits
    assert torch.allclose(out[0, 5:], model(**short).logits[0], atol=1e-5)
    assert torch.allclose(out[1], model(**long).logits[0], atol=1e-5)
    assert out.isfinite().all()


def test_delays_round_trip():
    frames = random_frames(tiny_config(), 2, 9)
    delays = [0, 0, 2, 2, 1, 0, 3, 1, 1]
    columns = delay_frames(frames, delays, torch.arange(100, 109))
    assert columns.shape == (2, 9, 10)
    for stream, delay in enumerate(delays):
        assert (columns[:, stream, : 1 + delay] == 100 + stream).all()
        assert torch.equal(columns[:, stream, 1 + delay :], frames[:, stream, : 9 - delay])
    assert torch.equal(undelay_columns(columns[:, :, 1:], delays), frames[:, :, :6])


@torch.no_grad()
def test_K25_save_load_dtype_and_attention(tmp_path, model):
    model.save_pretrained(tmp_path)
    inputs = columns(model)
    for spelling in ("dtype", "torch_dtype"):
        half = MoshiForConditionalGeneration.from_pretrained(tmp_path, **{spelling: torch.bfloat16})
        assert half.dtype == torch.bfloat16 and half.depth_decoder.dtype == torch.bfloat16
        assert half.audio_encoder.dtype == torch.float32  # X8: its codes would flip
        out = half(**inputs)
        assert out.logits.dtype == torch.bfloat16
        assert (out.logits.float() - model(**inputs).logits).abs().mean() < 0.05
    eager = MoshiForConditionalGeneration.from_pretrained(tmp_path, attn_implementation="eager")
    assert torch.allclose(eager(**inputs).logits, model(**inputs).logits, atol=1e-5)
    with pytest.raises(ValueError, match=r"lm_head.weight' has shape \(60, 48\).*expects \(61, 48\)"):
        MoshiForConditionalGeneration.from_pretrained(tmp_path, config=tiny_config(vocab_size=61))


def test_K25_G14_resized_model_still_talks():
    model = tiny_model()
    inputs = columns(model)
    before = model(**inputs).logits
    model.resize_token_embeddings(70)
    assert model.config.vocab_size == model.depth_decoder.config.vocab_size == 70
    assert model.depth_decoder.text_embed_tokens.weight.shape[0] == 71
    assert torch.allclose(model(**inputs).logits[..., :V], before, atol=1e-6)
    assert model.get_unconditional_inputs().input_ids.item() == 70
    out = model.generate(max_new_tokens=5, return_audio_codes=True)
    assert out.audio_codes.shape == (1, 4, 4)
    assert model(**labelled(model)).loss.isfinite()


def test_K25_tied_embeddings_of_the_whole_model(tmp_path):
    model = tiny_model(tie_word_embeddings=True)
    out = model(**labelled(model))
    assert out.logits.shape == (2, 12, V) and out.loss.isfinite()
    model.save_pretrained(tmp_path)
    again = MoshiForConditionalGeneration.from_pretrained(tmp_path)
    assert torch.equal(again(**columns(model)).logits, out.logits)


@torch.no_grad()
def test_compiles_without_a_graph_break():
    model = tiny_model(num_hidden_layers=1, num_codebooks=2, depth=dict(num_hidden_layers=1))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    frames = random_frames(model.config, 2, 6)
    inputs = dict(input_ids=frames[:, 0], moshi_audio_codes=frames[:, 1:3], user_audio_codes=frames[:, 3:])
    labels = dict(text_labels=frames[:, 0], audio_labels=frames[:, 1:3])
    assert torch.allclose(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5)
    assert torch.allclose(compiled(**inputs, **labels).loss, model(**inputs, **labels).loss, atol=1e-6)


def test_conditions_are_checked():
    lut = {"type": "lut", "lut": {"n_bins": 3, "dim": 4, "possible_values": ["calm", "loud"]}}
    model = tiny_model(conditioners={"mood": lut}, fuser={"sum": ["mood"]})
    inputs = columns(model)
    with pytest.raises(ValueError, match=r"needs `conditions`.*mood"):
        model(**inputs)
    with pytest.raises(ValueError, match=r"'mood' must be one of .*'sad'"):
        model(**inputs, conditions=[{"mood": "sad"}] * 2)
    with pytest.raises(ValueError, match=r"must name each of \['mood'\].*'tone'"):
        model(**inputs, conditions=[{"tone": "calm"}] * 2)
    with pytest.raises(ValueError, match="`conditions` are of 3 rows"):
        model(**inputs, conditions=[{"mood": "calm"}] * 3)
    calm = model(**inputs, conditions=[{"mood": "calm"}] * 2).logits
    shared = model(**inputs, conditions=[{"mood": "calm"}]).logits  # one row is everybody's
    assert torch.allclose(shared, calm, atol=1e-5)
    assert not torch.allclose(model(**inputs, conditions=[{"mood": None}] * 2).logits, calm, atol=1e-3)
    with pytest.raises(ValueError, match="`conditions` were given"):
        tiny_model()(**inputs, conditions=[{"mood": "calm"}] * 2)
