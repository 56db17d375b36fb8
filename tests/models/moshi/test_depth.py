"""Rows C4, C5, G5, G13, T3 and E6: the depth decoder."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from aizuchi import MoshiDepthConfig, MoshiDepthDecoder
from tests.models.moshi.reference import DEPTH, tiny_model

K, A, V, H = 4, 64, 60, 48


@pytest.fixture(scope="module")
def depth():
    return tiny_model().depth_decoder


@pytest.fixture(scope="module")
def frame():
    """Ids (5, K): text, then codes; and the temporal hidden states (5, 1, H)."""
    generator = torch.Generator().manual_seed(2)
    ids = torch.cat(
        [
            torch.randint(0, V, (5, 1), generator=generator),
            torch.randint(0, A, (5, K - 1), generator=generator),
        ],
        1,
    )
    return ids, torch.randn(5, 1, H, generator=generator)


def test_C5_each_step_has_its_own_weights_and_embeddings(depth):
    shapes = {name: tuple(p.shape) for name, p in depth.named_parameters()}
    assert shapes["input_projections.weight"] == (K, 24, H)
    assert shapes["lm_heads.weight"] == (K, A, 24)
    layer = depth.layers[0]
    assert layer.self_attn.q_proj.linear.weight.shape == (K, 24, 24)
    assert layer.mlp.fc1.weight.shape == (K, DEPTH["ffn_dim"], 24)
    assert len(depth.embed_tokens) == K - 1 and all(e.weight.shape == (A + 1, 24) for e in depth.embed_tokens)
    assert depth.text_embed_tokens.weight.shape == (V + 1, 24)


def test_C4_G13_a_frame_ends_after_its_codebooks(depth, frame):
    ids, hidden = frame
    too_many = torch.cat([ids, ids[:, -1:]], dim=1)
    with pytest.raises(ValueError, match=r"num_codebooks=4.*step 5"):
        depth(too_many, hidden)
    past = depth(ids, hidden, use_cache=True).past_key_values
    with pytest.raises(ValueError, match=r"num_codebooks=4.*step 5"):
        depth(ids[:, -1:], hidden, past_key_values=past)
    with pytest.raises(ValueError, match=r"num_codebooks=4"):
        depth.generate(ids[:, :1], last_hidden_state=hidden, max_new_tokens=K + 1, do_sample=False)


@torch.no_grad()
def test_C4_generate_writes_a_frame_as_the_frame_step_does(depth, frame):
    ids, hidden = frame
    out = depth.generate(ids[:, :1], last_hidden_state=hidden, max_new_tokens=K, do_sample=False)
    codes = depth.write_frame(ids[:, 0], hidden, lambda logits, k: logits.argmax(-1))
    assert out.shape == (5, 1 + K) and torch.equal(out[:, 0], ids[:, 0]) and torch.equal(out[:, 1:], codes)
    assert codes.unique().numel() > 8
    default = depth.generate(ids[:, :1], last_hidden_state=hidden, do_sample=False, max_length=K + 1)
    assert torch.equal(default, out)


@pytest.mark.parametrize("cache", [None, DynamicCache, "of the config", "static", "legacy"])
@torch.no_grad()
def test_G5_every_codebook_step_by_step_equals_the_whole_frame(depth, frame, cache):
    ids, hidden = frame
    whole = depth(ids, hidden, use_cache=False)
    assert whole.past_key_values is None
    assert torch.allclose(whole.logits, depth.teacher_forced(ids, hidden), atol=1e-6)
    config = depth.config
    empty = torch.zeros(5, config.num_key_value_heads, 0, config.head_dim)
    past = {
        None: lambda: None,
        DynamicCache: DynamicCache,
        "of the config": lambda: DynamicCache(config=config),
        "static": lambda: StaticCache(config=config, max_cache_len=K),
        "legacy": lambda: tuple((empty, empty) for _ in range(config.num_hidden_layers)),
    }[cache]()
    for k in range(K):
        out = depth(ids[:, k : k + 1], hidden, past_key_values=past, use_cache=True)
        past = out.past_key_values
        assert isinstance(past, tuple) == (cache == "legacy")
        assert torch.allclose(out.logits[:, 0], whole.logits[:, k], atol=1e-5), k


@torch.no_grad()
def test_G5_frame_step_equals_the_whole_frame(depth, frame):
    ids, hidden = frame
    whole = depth.teacher_forced(ids, hidden)
    seen = []

    def choose(logits, k):
        seen.append(logits)
        return ids[:, k + 1] if k < K - 1 else logits.argmax(-1)

    state = depth.init_state(5)
    for tensor, _ in ((t, 0) for layer in (state.keys, state.values) for t in layer):
        tensor.fill_(1e4)  # what an earlier frame left behind must not matter
    depth.write_frame(ids[:, 0], hidden, choose, state)
    assert torch.allclose(torch.stack(seen, 1), whole, atol=1e-5)
    only = depth.write_frame(ids[:, 0], hidden, choose, state, steps=2)
    assert only.shape == (5, 2)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("mask", [None, "ones", "outer"])
@torch.no_grad()
def test_T3_depth_decoder_is_causal(depth, frame, implementation, mask):
    """A changed code changes later codebooks only, whatever the attention and the mask."""
    ids, hidden = frame
    given = {None: None, "ones": torch.ones_like(ids), "outer": torch.ones(1, 5 * K)}[mask]
    depth.config._attn_implementation, before = implementation, depth.config._attn_implementation
    try:
        base = depth(ids, hidden, attention_mask=given).logits
        for k in range(1, K):
            changed = ids.clone()
            changed[:, k] = (changed[:, k] + 1) % A
            differs = (depth(changed, hidden, attention_mask=given).logits != base).any(-1).any(0)
            assert differs.tolist() == [step >= k for step in range(K)]
    finally:
        depth.config._attn_implementation = before


@torch.no_grad()
def test_T3_eager_equals_sdpa(depth, frame):
    ids, hidden = frame
    base = depth(ids, hidden)
    with_weights = depth(ids, hidden, output_attentions=True, output_hidden_states=True)
    assert torch.allclose(with_weights.logits, base.logits, atol=1e-5)
    assert len(with_weights.attentions) == 2 and with_weights.attentions[0].shape == (5, 2, K, K)
    assert len(with_weights.hidden_states) == 3 and with_weights.hidden_states[0].shape == (5, K, 24)


def test_G13_one_codebook(frame):
    ids, hidden = frame
    torch.manual_seed(0)
    config = MoshiDepthConfig(**DEPTH, vocab_size=V, audio_vocab_size=A, input_size=H, num_codebooks=1)
    depth = MoshiDepthDecoder(config).eval()
    logits = depth(ids[:, :1], hidden).logits
    assert logits.shape == (5, 1, A)
    out = depth.generate(ids[:, :1], last_hidden_state=hidden, max_new_tokens=1, do_sample=False)
    assert torch.equal(out[:, 1], logits[:, 0].argmax(-1))


@torch.no_grad()
def test_G13_inputs_embeds_alone_and_untouched(depth, frame):
    ids, hidden = frame
    tables = [depth.text_embed_tokens, *depth.embed_tokens]
    embeds = torch.stack([table(ids[:, k]) for k, table in enumerate(tables)], 1)
    before = embeds.clone()
    out = depth(inputs_embeds=embeds, last_hidden_state=hidden)
    assert torch.allclose(out.logits, depth(ids, hidden).logits, atol=1e-6)
    assert torch.equal(embeds, before)


def test_labels_are_the_steps_own_and_skip_what_is_not_learned(depth, frame):
    ids, hidden = frame
    labels = torch.randint(0, A, (5, K), generator=torch.Generator().manual_seed(9))
    labels[0, 0], labels[1, 1], labels[2, 2] = -100, -1, A
    out = depth(ids, hidden, labels=labels)
    targets = labels.masked_fill((labels < 0) | (labels == A), -100)
    expected = torch.nn.functional.cross_entropy(out.logits.transpose(1, 2), targets)
    assert torch.allclose(out.loss, expected, atol=1e-6)


@pytest.mark.parametrize("schedule", [None, [0, 1, 1, 2]])
def test_sampling_parameters_reach_the_depth_decoder(frame, schedule):
    """`generate` of the depth decoder alone samples with transformers' own settings."""
    depth = tiny_model(depth=dict(weights_per_step_schedule=schedule)).depth_decoder
    ids, hidden = frame
    options = dict(last_hidden_state=hidden, max_new_tokens=K)
    greedy = depth.generate(ids[:, :1], do_sample=False, **options)
    assert torch.equal(depth.generate(ids[:, :1], do_sample=True, top_k=1, **options), greedy)
    torch.manual_seed(0)
    first = depth.generate(ids[:, :1], do_sample=True, top_k=50, **options)
    torch.manual_seed(0)
    assert torch.equal(depth.generate(ids[:, :1], do_sample=True, top_k=50, **options), first)
    assert not torch.equal(first, greedy)


def test_E6_depth_config_and_decoder(tmp_path):
    configuration = MoshiDepthConfig(num_hidden_layers=1)
    with torch.device("meta"):
        model = MoshiDepthDecoder(configuration)
    assert model.config.input_size == 4096 and model.lm_heads.weight.shape == (8, 2048, 1024)
    small = MoshiDepthConfig(**DEPTH, vocab_size=V, audio_vocab_size=A, input_size=H, num_codebooks=K)
    saved = MoshiDepthDecoder(small).eval()
    saved.save_pretrained(tmp_path)
    loaded = MoshiDepthDecoder.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(saved.parameters(), loaded.parameters(), strict=True))


def test_A8_depth_decoder_loads_from_the_whole_checkpoint(tmp_path, depth, frame):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = MoshiDepthDecoder.from_pretrained(tmp_path)
    assert torch.equal(loaded(*frame).logits, model.depth_decoder(*frame).logits)
    same_width = tiny_model(depth=dict(hidden_size=48))  # the whole's tables have the depth decoder's shapes
    same_width.save_pretrained(tmp_path / "same")
    loaded = MoshiDepthDecoder.from_pretrained(tmp_path / "same")
    assert torch.equal(loaded(*frame).logits, same_width.depth_decoder(*frame).logits)


@torch.no_grad()
def test_compiles_without_a_graph_break(frame):
    depth = tiny_model(depth=dict(num_hidden_layers=1)).depth_decoder
    ids, hidden = frame
    forced = torch.compile(depth.teacher_forced, fullgraph=True, backend="eager")
    assert torch.allclose(forced(ids, hidden), depth.teacher_forced(ids, hidden), atol=1e-6)
    state = depth.init_state(5)
    greedy = lambda logits, k: logits.argmax(-1)  # noqa: E731
    write = torch.compile(
        lambda text, hidden, state: depth.write_frame(text, hidden, greedy, state),
        fullgraph=True,
        backend="eager",
    )
    assert torch.equal(write(ids[:, 0], hidden, state), depth.write_frame(ids[:, 0], hidden, greedy))


@pytest.mark.parametrize("norm", ["rms_norm_f32", "rms_norm", "layer_norm", "layer_norm_f32"])
@torch.no_grad()
def test_depth_rms_norms(frame, norm):
    """The norm before each codebook's head; the original's RMS norm fails there in training."""
    depth = tiny_model(depth=dict(output_norm=norm)).depth_decoder
    ids, hidden = frame
    whole, seen = depth.teacher_forced(ids, hidden), []

    def choose(logits, k):
        seen.append(logits)
        return ids[:, min(k + 1, K - 1)]

    depth.write_frame(ids[:, 0], hidden, choose)
    assert len(depth.norms) == K and torch.allclose(torch.stack(seen, 1), whole, atol=1e-5)
