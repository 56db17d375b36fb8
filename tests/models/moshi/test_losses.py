"""Rows T1-T10: training by `forward`, with labels that are columns and are shifted inside."""

import pytest
import torch
import torch.nn.functional as F

from aizuchi import MoshiForConditionalGeneration
from tests.models.moshi.reference import random_frames, tiny_config, tiny_model

A, V, K, T = 64, 60, 4, 10


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def inputs(model):
    frames = random_frames(model.config, 2, T)
    return dict(input_ids=frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:])


def with_labels(inputs, **changes):
    labels = dict(text_labels=inputs["input_ids"], audio_labels=inputs["moshi_audio_codes"])
    return inputs | labels | changes


def depth_rows(out):
    """audio_logits as (B, T - 1, K, A)."""
    return out.audio_logits.unflatten(0, (2, T - 1))


@torch.no_grad()
def test_T1_hidden_t_predicts_column_t_plus_1(model, inputs):
    """Each depth row is what inference computes: the hidden state of column t with the text of column t + 1."""
    out = model(**with_labels(inputs))
    for t in range(T - 1):
        tokens = torch.cat(
            [inputs["input_ids"][:, t + 1, None], inputs["moshi_audio_codes"][:, : K - 1, t + 1]], dim=1
        )
        expected = model.depth_decoder(tokens, out.last_hidden_state[:, t, None]).logits
        assert torch.allclose(depth_rows(out)[:, t], expected, atol=1e-5)
    targets = inputs["moshi_audio_codes"][:, :, 1:].transpose(1, 2)  # (B, T - 1, K)
    assert torch.allclose(
        out.depth_loss, F.cross_entropy(depth_rows(out).flatten(0, 2), targets.flatten()), atol=1e-6
    )
    expected = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), inputs["input_ids"][:, 1:])
    assert torch.allclose(out.text_loss, expected, atol=1e-6)


@torch.no_grad()
def test_T1_a_target_is_never_in_its_own_input(model, inputs):
    """A changed code of column t reaches its own row only behind itself, and the rows after it."""
    base = depth_rows(model(**with_labels(inputs)))
    t, k = 5, 1
    codes = inputs["moshi_audio_codes"].clone()
    codes[:, k, t] = (codes[:, k, t] + 1) % A
    out = depth_rows(model(**with_labels(inputs, moshi_audio_codes=codes)))
    differs = (out != base).any(-1).any(0)  # (T - 1, K)
    assert not differs[: t - 1].any()
    assert differs[t - 1].tolist() == [False, False, True, True]  # row t - 1 predicts column t
    assert differs[t:].all()


@torch.no_grad()
def test_T2_columns_of_inputs_and_labels_agree(model):
    """From time-aligned frames: the initial column, delays, and labels with nothing to learn at initial tokens."""
    frames = random_frames(model.config, 2, T)
    prepared = model.prepare_training_inputs(
        text_ids=frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:]
    )
    assert prepared.input_ids.shape == (2, T + 1) and (prepared.input_ids[:, 0] == V).all()
    assert (prepared.text_labels[:, 0] == -100).all()
    for codes, stream in ((prepared.moshi_audio_codes, 1), (prepared.user_audio_codes, 5)):
        for k in range(K):
            delay = min(k, 1)
            assert (codes[:, k, : 1 + delay] == A).all()
            assert torch.equal(codes[:, k, 1 + delay :], frames[:, stream + k, : T - delay])
    shown = prepared.audio_labels != -100
    assert torch.equal(prepared.audio_labels[shown], prepared.moshi_audio_codes[shown])
    assert torch.equal(shown, prepared.moshi_audio_codes != A)
    # labels = inputs says the same: initial tokens are never learned
    own = model(**(prepared | dict(text_labels=prepared.input_ids, audio_labels=prepared.moshi_audio_codes)))
    assert torch.equal(own.loss, model(**prepared).loss)


@torch.no_grad()
def test_T2_waveforms_lengths_and_other_delays(model):
    frames = random_frames(model.config, 2, T)
    waves = torch.randn(2, 2, 1, 1920 * T, generator=torch.Generator().manual_seed(1))
    prepared = model.prepare_training_inputs(
        frames[:, 0], moshi_input_values=waves[0], user_input_values=waves[1], lengths=torch.tensor([T, 6])
    )
    codes = [model.audio_encoder.encode(wave, num_quantizers=K).audio_codes for wave in waves]
    by_codes = model.prepare_training_inputs(
        frames[:, 0], moshi_audio_codes=codes[0], user_audio_codes=codes[1], lengths=torch.tensor([T, 6])
    )
    assert all(torch.equal(prepared[name], by_codes[name]) for name in prepared)
    assert (prepared.text_labels[1, 7:] == -100).all() and (prepared.audio_labels[1, 1:, 8:] == -100).all()
    assert (prepared.audio_labels[1, 0, 7:] == -100).all() and (
        prepared.audio_labels[1, 0, 1:7] != -100
    ).all()
    alone = model.prepare_training_inputs(
        frames[1:, 0, :6], moshi_audio_codes=codes[0][1:, :, :6], user_audio_codes=codes[1][1:, :, :6]
    )
    short = {name: value[1:, ..., :7] for name, value in by_codes.items()}
    assert torch.allclose(model(**short).loss, model(**alone).loss, atol=1e-6)
    later = model.prepare_training_inputs(
        frames[:, 0],
        moshi_audio_codes=codes[0],
        user_audio_codes=codes[1],
        delays=[0, 0, 2, 2, 2, 0, 2, 2, 2],
    )
    assert torch.equal(later.moshi_audio_codes[:, 1, 3:], codes[0][:, 1, : T - 2])


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_T3_T4_a_mask_and_the_attention_change_nothing_in_the_depth_decoder(model, inputs, implementation):
    model.set_attn_implementation(implementation)
    try:
        base = model(**with_labels(inputs))
        ones = model(**with_labels(inputs), attention_mask=torch.ones(2, T))
        assert torch.allclose(ones.loss, base.loss, atol=1e-6)
        mask = torch.ones(2, T)
        mask[0, :4] = 0
        labels = inputs["moshi_audio_codes"].clone()
        labels[0, :, :5] = -100
        text = inputs["input_ids"].clone()
        text[0, :5] = -100
        padded = model(**with_labels(inputs, text_labels=text, audio_labels=labels), attention_mask=mask)
        assert padded.loss.isfinite()
        row = {name: value[:1, ..., 4:] for name, value in inputs.items()}
        alone = model(**row)
        assert torch.allclose(padded.logits[0, 4:], alone.logits[0], atol=1e-5)
    finally:
        model.set_attn_implementation("sdpa")


@torch.no_grad()
def test_T3_model_is_causal_under_eager_without_a_mask(model, inputs):
    model.set_attn_implementation("eager")
    try:
        base = model(**inputs).logits
        ids = inputs["input_ids"].clone()
        ids[:, 6] = (ids[:, 6] + 1) % V
        differs = (model(**(inputs | {"input_ids": ids})).logits != base).any(-1).any(0)
        assert differs.tolist() == [t >= 6 for t in range(T)]
    finally:
        model.set_attn_implementation("sdpa")


@pytest.mark.parametrize("ignored", [-100, -1, "initial"])
@torch.no_grad()
def test_T5_ignored_labels_are_not_learned_and_inputs_stay(model, inputs, ignored):
    """Labels say what is learned; what the depth decoder reads comes from the inputs."""
    text, audio = inputs["input_ids"].clone(), inputs["moshi_audio_codes"].clone()
    text[0, 3] = V if ignored == "initial" else ignored
    audio[1, 2, 7] = A if ignored == "initial" else ignored
    base, out = (
        model(**with_labels(inputs)),
        model(**with_labels(inputs, text_labels=text, audio_labels=audio)),
    )
    assert torch.equal(out.audio_logits, base.audio_logits) and torch.equal(out.logits, base.logits)
    each = F.cross_entropy(base.logits[:, :-1].transpose(1, 2), inputs["input_ids"][:, 1:], reduction="none")
    kept = torch.ones(2, T - 1, dtype=torch.bool)
    kept[0, 2] = False
    assert torch.allclose(out.text_loss, each[kept].mean(), atol=1e-6)
    targets = inputs["moshi_audio_codes"][:, :, 1:].transpose(1, 2)
    each = F.cross_entropy(depth_rows(base).movedim(-1, 1), targets, reduction="none")
    kept = torch.ones(2, T - 1, K, dtype=torch.bool)
    kept[1, 6, 2] = False
    assert torch.allclose(out.depth_loss, each[kept].mean(), atol=1e-6)


@torch.no_grad()
def test_T5_masked_text_is_the_zero_token_and_its_audio_is_learned(model, inputs):
    ids = inputs["input_ids"].clone()
    ids[:, 4] = -1
    out = model(**with_labels(inputs | {"input_ids": ids}, text_labels=ids))
    assert out.depth_loss.isfinite()
    embeds = model.decoder.model.embed_tokens(ids)
    assert bool((embeds[:, 4] == 0).all()) and bool((embeds[:, 3] != 0).any())
    rows = depth_rows(out)[:, 3]
    tokens = torch.cat([ids[:, 4, None], inputs["moshi_audio_codes"][:, : K - 1, 4]], 1)
    assert torch.allclose(
        rows, model.depth_decoder(tokens, out.last_hidden_state[:, 3, None]).logits, atol=1e-5
    )


def test_T6_each_label_alone_gives_its_own_loss(model, inputs):
    both = model(**with_labels(inputs))
    text = model(**inputs, text_labels=inputs["input_ids"])
    audio = model(**inputs, audio_labels=inputs["moshi_audio_codes"])
    assert torch.equal(text.loss, both.text_loss) and text.depth_loss is None and text.audio_logits is None
    assert torch.equal(audio.loss, both.depth_loss) and audio.text_loss is None
    assert torch.equal(both.loss, both.text_loss + both.depth_loss)


def test_T7_logits_and_hidden_states_keep_their_shapes_with_labels(model, inputs):
    plain, out = model(**inputs), model(**with_labels(inputs))
    assert torch.equal(plain.last_hidden_state, out.last_hidden_state) and torch.equal(
        plain.logits, out.logits
    )
    assert out.audio_logits.shape == (2 * (T - 1), K, A)


@torch.no_grad()
def test_T8_weights_of_padding_and_of_codebooks(inputs):
    model = tiny_model(text_padding_weight=0.5, codebook_weights=[100.0, 1.0, 1.0, 1.0])
    ids = inputs["input_ids"].clone()
    ids[:, 2:5], ids[:, 6] = 3, 0
    out = model(**with_labels(inputs | {"input_ids": ids}))
    each = F.cross_entropy(out.logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    weights = torch.where((ids[:, 1:] == 3) | (ids[:, 1:] == 0), 0.5, 1.0)
    assert torch.allclose(out.text_loss, (each * weights).sum() / weights.sum(), atol=1e-6)
    targets = inputs["moshi_audio_codes"][:, :, 1:].transpose(1, 2)
    each = F.cross_entropy(depth_rows(out).movedim(-1, 1), targets, reduction="none")
    weights = torch.tensor([100.0, 1, 1, 1]).expand_as(each)
    assert torch.allclose(out.depth_loss, (each * weights).sum() / weights.sum(), atol=1e-5)


def test_T8_the_user_s_stream_can_be_a_target(inputs):
    """With 2K written codebooks the depth decoder learns the user's codes too."""
    model = tiny_model(num_generated_codebooks=2 * K)
    labels = torch.cat([inputs["moshi_audio_codes"], inputs["user_audio_codes"]], dim=1)
    out = model(**inputs, audio_labels=labels)
    assert out.audio_logits.shape == (2 * (T - 1), 2 * K, A)
    labels = labels.clone()
    labels[:, :K] = -100
    user_only = model(**inputs, audio_labels=labels).depth_loss
    targets = inputs["user_audio_codes"][:, :, 1:].transpose(1, 2)
    expected = F.cross_entropy(depth_rows(out)[:, :, K:].flatten(0, 2), targets.flatten())
    assert torch.allclose(user_only, expected, atol=1e-6)


def test_T8_nothing_to_learn_is_a_loss_of_zero(model, inputs):
    nothing = torch.full_like(inputs["input_ids"], -100)
    out = model(**with_labels(inputs, text_labels=nothing))
    assert out.text_loss == 0 and torch.equal(out.loss, out.depth_loss)


def test_T8_gradients_reach_every_trainable_parameter():
    model = tiny_model(cross_attention=False).train()
    frames = random_frames(model.config, 4, 60)
    prepared = model.prepare_training_inputs(
        text_ids=frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:]
    )
    model.freeze_audio_encoder()
    model(**prepared).loss.backward()
    for name, parameter in model.named_parameters():
        if name.startswith("audio_encoder"):
            assert parameter.grad is None
        else:
            assert parameter.grad is not None and bool(parameter.grad.abs().sum() > 0), name


@pytest.mark.parametrize("std", [0.02, 0.07])
def test_T9_initial_weights_have_the_configured_scale(std):
    """The stacked weights too: transformers leaves them at 1.0."""
    torch.manual_seed(0)
    config = tiny_config(initializer_range=std, depth=dict(initializer_range=std), hidden_size=96)
    model = MoshiForConditionalGeneration(config)
    checked = 0
    for name, parameter in model.named_parameters():
        if name.startswith("audio_encoder") or "norm" in name:
            continue
        checked += 1
        assert abs(parameter.std() / std - 1) < 0.1, (name, parameter.std())
    assert checked > 30
    wide = MoshiForConditionalGeneration(
        tiny_config(initializer_range=5.0, depth=dict(initializer_range=5.0))
    )
    weight = wide.depth_decoder.input_projections.weight  # never above 1 / sqrt(fan-in)
    assert abs(weight.std() * 48**0.5 - 1) < 0.1


def test_T9_depth_decoder_starts_at_a_uniform_guess():
    torch.manual_seed(0)
    model = MoshiForConditionalGeneration(tiny_config())
    frames = random_frames(model.config, 2, T)
    out = model(
        input_ids=frames[:, 0],
        moshi_audio_codes=frames[:, 1:5],
        user_audio_codes=frames[:, 5:],
        text_labels=frames[:, 0],
        audio_labels=frames[:, 1:5],
    )
    assert abs(out.depth_loss - torch.tensor(float(A)).log()) < 0.05
    assert abs(out.text_loss - torch.tensor(float(V)).log()) < 0.2


def test_T10_text_loss_is_shifted_once(model, inputs):
    out = model(**inputs, text_labels=inputs["input_ids"])
    shifted = [
        F.cross_entropy(out.logits[:, : T - n].transpose(1, 2), inputs["input_ids"][:, n:]) for n in (0, 1, 2)
    ]
    assert torch.allclose(out.text_loss, shifted[1], atol=1e-6)
    assert abs(shifted[0] - shifted[1]) > 1e-2 and abs(shifted[2] - shifted[1]) > 1e-2


def test_gradient_checkpointing_gives_equal_gradients():
    gradients = []
    for on in (False, True):
        model = tiny_model().train()
        if on:
            model.gradient_checkpointing_enable()
            assert model.depth_decoder.gradient_checkpointing and model.decoder.model.gradient_checkpointing
        frames = random_frames(model.config, 2, T)
        prepared = model.prepare_training_inputs(
            frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:]
        )
        model(**prepared).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) > 40
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


def test_bfloat16_training_step_is_finite():
    model = tiny_model().to(torch.bfloat16).train()
    frames = random_frames(model.config, 2, T)
    prepared = model.prepare_training_inputs(
        frames[:, 0], moshi_audio_codes=frames[:, 1:5], user_audio_codes=frames[:, 5:]
    )
    out = model(**prepared)
    out.loss.backward()
    assert out.loss.dtype == torch.float32 and out.loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
