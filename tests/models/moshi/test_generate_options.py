"""Rows A6, G4, G10, G11, G16, K14, K18, K19: sampling, streamers, extra outputs and refusals of `generate`."""

import json

import pytest
import torch
from transformers import GenerationConfig

from aizuchi import AudioStreamer, MoshiForConditionalGeneration
from tests.models.moshi.reference import prompt, tiny_model

A, V, K = 64, 60, 4
GREEDY = dict(do_sample=False, return_audio_codes=True)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def sample(model, seed, **options):
    torch.manual_seed(seed)
    settings = dict(
        do_sample=True, top_k=40, depth_do_sample=True, return_audio_codes=True, max_new_tokens=15
    )
    return model.generate(**(settings | options))


def test_K19_seeds_reproduce(model):
    a, b, c = sample(model, 1), sample(model, 1), sample(model, 2)
    assert torch.equal(a.audio_codes, b.audio_codes) and torch.equal(a.sequences, b.sequences)
    assert not torch.equal(a.audio_codes, c.audio_codes)


def test_A6_K18_depth_prefix_in_both_spellings(model):
    """The text's do_sample does not reach the depth decoder, its own does."""
    greedy = model.generate(**GREEDY, max_new_tokens=15)
    for prefix in ("depth_", "depth_decoder_"):
        torch.manual_seed(5)
        options = {prefix + "do_sample": True, prefix + "top_k": 30, prefix + "temperature": 1.5}
        out = model.generate(do_sample=False, return_audio_codes=True, max_new_tokens=15, **options)
        assert not torch.equal(out.audio_codes, greedy.audio_codes)
        one = model.generate(**GREEDY, max_new_tokens=15, **{prefix + "do_sample": True, prefix + "top_k": 1})
        assert torch.equal(one.audio_codes, greedy.audio_codes)
    with pytest.raises(ValueError, match="`depth_tempo`"):
        model.generate(max_new_tokens=2, depth_tempo=1)


def published(folder):
    """The generation config of converted checkpoints, as published."""
    text = {
        "do_sample": True,
        "temp": 0.7,
        "top_k": 25,
        "cache_implementation": "sliding_window",
        "pad_token_id": V,
        "bos_token_id": V,
        "depth_decoder_config": {
            "do_sample": True,
            "temperature": 0.8,
            "top_k": 250,
            "min_length": 5,
            "max_length": 5,
            "cache_implementation": "sliding_window",
            "transformers_version": "4.46.0.dev0",
        },
        "transformers_version": "4.46.0.dev0",
    }
    (folder / "generation_config.json").write_text(json.dumps(text))


def test_G10_temp_of_a_published_generation_config_is_the_temperature(model, tmp_path, monkeypatch):
    model.save_pretrained(tmp_path)
    published(tmp_path)
    loaded = MoshiForConditionalGeneration.from_pretrained(tmp_path)
    seen = []
    multinomial = torch.multinomial
    monkeypatch.setattr(torch, "multinomial", lambda p, *a, **k: seen.append(p) or multinomial(p, *a, **k))
    out = loaded.generate(
        max_new_tokens=6,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        return_audio_codes=True,
    )
    for scores, logits in zip(out.scores, out.logits, strict=True):
        kept = scores.isfinite()
        assert kept.sum() == 25
        assert torch.allclose(scores[kept], logits[kept] / 0.7, atol=1e-5)
    # text, then the codebooks at their own temperature: (1, V), 4 x (1, A) for each of the six frames
    assert [p.shape[1] for p in seen] == [V, A, A, A, A] * 6
    plain = loaded.generate(
        max_new_tokens=2,
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
        temperature=1.0,
        top_k=0,
    )
    assert torch.allclose(plain.scores[0], plain.logits[0])
    given = loaded.generate(
        generation_config=GenerationConfig(max_new_tokens=2, do_sample=True),
        return_dict_in_generate=True,
        output_scores=True,
        output_logits=True,
    )
    ratio = (given.scores[0] / given.logits[0])[given.scores[0].isfinite()]
    assert torch.allclose(ratio, torch.tensor(1 / 0.7), atol=1e-3)


def test_G10_depth_temperature_of_a_published_generation_config(model, tmp_path):
    from aizuchi.models.moshi.choosing import depth_settings

    model.save_pretrained(tmp_path)
    published(tmp_path)
    loaded = MoshiForConditionalGeneration.from_pretrained(tmp_path)
    settings = depth_settings(loaded, loaded.generation_config, {})
    assert (settings["do_sample"], settings["temperature"], settings["top_k"]) == (True, 0.8, 250)
    settings = depth_settings(loaded, loaded.generation_config, {"temperature": 0.5})
    assert (settings["temperature"], settings["top_k"]) == (0.5, 250)


@torch.no_grad()
def test_K14_scores_logits_attentions_hidden_states(model):
    for implementation in ("sdpa", "eager"):  # G16: not empty under sdpa
        model.set_attn_implementation(implementation)
        out = model.generate(
            **prompt(model, rows=2),
            **GREEDY,
            max_new_tokens=4,
            return_dict_in_generate=True,
            output_scores=True,
            output_logits=True,
            output_attentions=True,
            output_hidden_states=True,
        )
        model.set_attn_implementation("sdpa")
        assert len(out.scores) == len(out.logits) == len(out.attentions) == len(out.hidden_states) == 4
        assert all(x.shape == (2, V) for x in (*out.scores, *out.logits))
        assert [len(x) for x in out.attentions] == [2] * 4 and [len(x) for x in out.hidden_states] == [3] * 4
        assert out.attentions[0][0].shape == (2, 4, 7, 7)
        assert [step[1].shape for step in out.attentions[1:]] == [(2, 4, 1, 8 + n) for n in range(3)]
        assert out.hidden_states[0][0].shape == (2, 7, 48) and out.hidden_states[1][0].shape == (2, 1, 48)
        assert out.past_key_values.get_seq_length() == 10
        assert out.sequences_scores is out.beam_indices is None
        for step, logits in enumerate(out.logits):
            assert torch.equal(logits.argmax(-1), out.sequences[:, 7 + step])


def test_K19_logits_processors_shape_the_text(model):
    out = model.generate(**prompt(model), **GREEDY, max_new_tokens=10, suppress_tokens=list(range(10, V)))
    assert out.sequences[0, 7:].max() < 10
    out = model.generate(**prompt(model), **GREEDY, max_new_tokens=10, bad_words_ids=[[3]])
    assert (out.sequences[0, 7:] != 3).all()


@pytest.mark.parametrize(
    "options, named",
    [
        (dict(num_beams=2), "num_beams"),
        (dict(guidance_scale=2.0), "guidance_scale"),
        (dict(penalty_alpha=0.6), "penalty_alpha"),
        (dict(prompt_lookup_num_tokens=3), "prompt_lookup_num_tokens"),
        (dict(assistant_model="other"), "assistant_model"),
        (dict(depth_num_beams=2), "depth_num_beams"),
        (dict(past_key_values=((torch.zeros(1, 4, 3, 12),) * 2,) * 2), "past_key_values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_G4_G16_what_can_not_be_done_with_audio_is_refused(model, options, named):
    with pytest.raises(ValueError, match=f"`{named}"):
        model.generate(**prompt(model), max_new_tokens=2, **options)


def test_unknown_arguments_are_refused(model):
    with pytest.raises(ValueError, match="loudness"):
        model.generate(**prompt(model), max_new_tokens=2, loudness=3)


@torch.no_grad()
def test_C12_G11_two_runs_do_not_disturb_each_other(model):
    """Nothing is kept on the module: a run inside another's streamer changes neither."""
    inputs = prompt(model)
    expected = model.generate(**inputs, **GREEDY, max_new_tokens=8)
    before = set(vars(model))

    class Nested(AudioStreamer):
        inner = None

        def put_audio(self, codes, waveform):
            if self.inner is None:
                self.inner = model.generate(**GREEDY, max_new_tokens=6)

    streamer = Nested()
    out = model.generate(**inputs, **GREEDY, max_new_tokens=8, streamer=streamer)
    assert torch.equal(out.audio_codes, expected.audio_codes)
    assert torch.equal(streamer.inner.audio_codes, model.generate(**GREEDY, max_new_tokens=6).audio_codes)
    assert set(vars(model)) == before


class Recorder(AudioStreamer):
    def __init__(self):
        self.text, self.codes, self.waves, self.order, self.ended = [], [], [], [], 0

    def put(self, value):
        self.text.append(value)
        self.order.append("text")

    def put_audio(self, codes, waveform):
        self.codes.append(codes)
        self.waves.append(waveform)
        self.order.append("audio")

    def end(self):
        self.ended += 1


@pytest.mark.parametrize("rows", [1, 2])
def test_G11_streamer_hears_audio_frame_by_frame(model, rows):
    streamer = Recorder()
    inputs = prompt(model, rows=rows, length=5)
    out = model.generate(**inputs, **GREEDY, max_new_tokens=10, streamer=streamer)
    assert streamer.ended == 1
    assert torch.equal(streamer.text[0], out.sequences[:, :6])
    assert all(text.shape == (rows,) for text in streamer.text[1:])
    assert torch.equal(torch.stack(streamer.text[1:], 1), out.sequences[:, 6:])
    assert all(codes.shape == (rows, K, 1) for codes in streamer.codes)
    assert torch.equal(torch.cat(streamer.codes, 2), out.audio_codes)
    assert all(wave.shape == (rows, 1, 1920) for wave in streamer.waves)
    assert torch.allclose(torch.cat(streamer.waves, 2), out.audio_sequences, atol=1e-5)
    assert out.audio_sequences.abs().max() > 1e-3
    # the prompt's frames with the first new token, then one a frame, not all at the end
    assert streamer.order == ["text", "text"] + ["audio"] * 5 + ["text", "audio"] * 9


def test_G11_plain_text_streamers_work(model):
    class Text:
        def __init__(self):
            self.values = []

        def put(self, value):
            self.values.append(value)

        def end(self):
            self.values.append("end")

    streamer = Text()
    out = model.generate(**prompt(model), **GREEDY, max_new_tokens=4, streamer=streamer)
    assert streamer.values[-1] == "end"
    assert torch.equal(torch.cat(streamer.values[1:-1]), out.sequences[0, 7:])


def test_G11_padded_rows_can_not_be_streamed_as_audio(model):
    mask = torch.tensor([[0, 1, 1, 1, 1, 1], [1] * 6])
    with pytest.raises(ValueError, match="`streamer`.*same length"):
        model.generate(**prompt(model, rows=2), attention_mask=mask, max_new_tokens=2, streamer=Recorder())
