"""Rows C3, K1-K5, A2, A3, G9, G12, G14, G15: the temporal transformer, its windows and its caches."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from aizuchi import MoshiForCausalLM, MoshiModel
from aizuchi.models.cache import RingCache
from tests.models.moshi.reference import tiny_config, tiny_model

WINDOW = 6
LENGTH = 40  # more than six windows


@pytest.fixture(scope="module")
def model():
    """A text model that sees six positions."""
    return tiny_model(sliding_window=WINDOW, num_hidden_layers=3).decoder


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 60, (2, LENGTH), generator=torch.Generator().manual_seed(4))


@pytest.fixture(scope="module")
def whole(model, ids):
    """Logits of the whole sequence in one call."""
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def test_C3_K1_shapes_of_the_body(model, ids):
    body = model.model
    out = body(ids, output_attentions=True, output_hidden_states=True, use_cache=True)
    assert out.last_hidden_state.shape == (2, LENGTH, 48)
    assert len(out.hidden_states) == 4 and all(h.shape == (2, LENGTH, 48) for h in out.hidden_states)
    assert torch.equal(out.hidden_states[-1], out.last_hidden_state)
    assert torch.equal(out.hidden_states[0], body.embed_tokens(ids))
    assert len(out.attentions) == 3 and all(a.shape == (2, 4, LENGTH, LENGTH) for a in out.attentions)
    assert torch.allclose(out.attentions[0].sum(-1), torch.ones(()))
    plain = body(ids)
    assert plain.hidden_states is None and plain.attentions is None
    assert torch.allclose(plain.last_hidden_state, out.last_hidden_state, atol=1e-5)


def test_K1_return_dict_false_gives_a_tuple(model, ids):
    out = model.model(ids, return_dict=False, use_cache=False)
    assert isinstance(out, tuple) and out[0].shape == (2, LENGTH, 48)
    out = model(ids, return_dict=False, use_cache=False)
    assert isinstance(out, tuple) and out[0].shape == (2, LENGTH, 60)


def test_K1_inputs_embeds_instead_of_ids(model, ids, whole):
    embeds = model.model.embed_tokens(ids)
    assert torch.allclose(model(inputs_embeds=embeds).logits, whole, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@torch.no_grad()
def test_G9_window_holds_in_one_call(model, ids, implementation):
    """A change reaches window - 1 positions a layer, with and without a mask."""
    config = model.config
    reach = (WINDOW - 1) * config.num_hidden_layers
    changed = ids.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 60
    config._attn_implementation, before = implementation, config._attn_implementation
    try:
        for mask in (None, torch.ones_like(ids)):
            a, b = (model(x, attention_mask=mask, use_cache=False).logits for x in (ids, changed))
            differs = (a != b).any(-1).any(0)
            assert differs[4 : 4 + reach + 1].all()
            assert not differs[:4].any() and not differs[4 + reach + 1 :].any()
    finally:
        config._attn_implementation = before


@torch.no_grad()
def test_G9_window_equals_an_explicit_band(model, ids, whole):
    body = model.model
    distance = torch.arange(LENGTH)[:, None] - torch.arange(LENGTH)
    band = ((distance >= 0) & (distance < WINDOW))[None, None]

    class Banded:
        positions, mask = torch.arange(LENGTH)[None], band

        def append(self, layer, keys, values):
            return keys, values

    hidden = body.run(body.embed_tokens(ids), Banded())[0]
    assert torch.allclose(model.text_logits(hidden), whole, atol=1e-5)


@torch.no_grad()
def test_G9_eager_equals_sdpa(model, ids, whole):
    model.config._attn_implementation, before = "eager", model.config._attn_implementation
    try:
        assert torch.allclose(model(ids, use_cache=False).logits, whole, atol=1e-5)
    finally:
        model.config._attn_implementation = before


def run_in_chunks(model, ids, sizes, past):
    """Logits of chunks through a cache; whatever cache each call returns serves the next."""
    logits, start = [], 0
    for size in sizes:
        out = model(ids[:, start : start + size], past_key_values=past, use_cache=True)
        logits.append(out.logits)
        past, start = out.past_key_values, start + size
    return torch.cat(logits, dim=1), past


CHUNKS = {
    "steps": [1] * LENGTH,
    "prefill then steps": [25] + [1] * 15,
    "chunks": [3, 1, 10, 2, 7, 5, 12],
    "long chunks": [20, 20],
}


def empty(kind, model):
    config = model.config
    if kind == "none":
        return None
    if kind == "DynamicCache of the config":
        return DynamicCache(config=config)
    if kind == "DynamicCache":
        return DynamicCache()
    if kind == "StaticCache":
        return StaticCache(config=config, max_cache_len=64)
    shape = (2, config.num_key_value_heads, 0, config.head_dim)
    return tuple((torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_hidden_layers))


@pytest.mark.parametrize(
    "kind", ["none", "DynamicCache of the config", "DynamicCache", "StaticCache", "legacy tuple"]
)
@pytest.mark.parametrize("sizes", CHUNKS)
@torch.no_grad()
def test_G9_G12_K3_chunks_and_steps_equal_the_whole(model, ids, whole, sizes, kind):
    logits, past = run_in_chunks(model, ids, CHUNKS[sizes], empty(kind, model))
    assert torch.allclose(logits, whole, atol=1e-5, rtol=0), (logits - whole).abs().amax((0, 2))
    assert isinstance(past, tuple) == (kind == "legacy tuple")


@pytest.mark.parametrize("sizes", CHUNKS)
@pytest.mark.parametrize("chunk", [1, 4])
@torch.no_grad()
def test_G9_ring_equals_the_whole_past_several_wraps(model, ids, whole, sizes, chunk):
    state = model.init_state(2, chunk=chunk)
    assert isinstance(state, RingCache) and state.capacity == WINDOW + chunk - 1
    logits, start = [], 0
    for size in CHUNKS[sizes]:
        logits.append(model(ids[:, start : start + size], state=state).logits)
        start += size
    assert torch.allclose(torch.cat(logits, 1), whole, atol=1e-5, rtol=0)
    assert state.offset.tolist() == [LENGTH, LENGTH]


@torch.no_grad()
def test_ring_rows_pause_and_resume_exactly(model, ids, whole):
    """A row that waits, while another goes on, continues as if nothing had been."""
    state = model.init_state(2, chunk=3)
    logits = [[], []]
    place = [0, 0]
    generator = torch.Generator().manual_seed(0)
    while min(place) < LENGTH:
        size = int(torch.randint(1, 6, (), generator=generator))  # chunks longer than the ring expects, too
        active = torch.rand(2, generator=generator) < 0.6
        active &= torch.tensor([p + size <= LENGTH for p in place])
        if not active.any():
            size, active = 1, torch.tensor([p < LENGTH for p in place])
        chunk = torch.stack(
            [
                ids[r, p : p + size] if a else torch.full((size,), 7)
                for r, (p, a) in enumerate(zip(place, active))
            ]
        )
        out = model(chunk, state=state, active=active).logits
        for row in range(2):
            if active[row]:
                logits[row].append(out[row])
                place[row] += size
    for row in range(2):
        assert torch.allclose(torch.cat(logits[row]), whole[row], atol=1e-5, rtol=0)


@torch.no_grad()
def test_A2_K2_legacy_tuple_in_legacy_tuple_out(model, ids):
    config = model.config
    first = model.model(ids[:, :9], past_key_values=empty("legacy tuple", model), use_cache=True)
    past = first.past_key_values
    assert isinstance(past, tuple) and len(past) == 3 and all(len(pair) == 2 for pair in past)
    shape = (2, config.num_key_value_heads, 9, config.head_dim)
    assert all(key.shape == value.shape == shape for key, value in past)
    given = [tuple(t.clone() for t in pair) for pair in past]
    model.model(ids[:, 9:11], past_key_values=past, use_cache=True)
    for pair, before in zip(past, given, strict=True):  # the caller's tuple is not changed
        assert all(torch.equal(a, b) for a, b in zip(pair, before, strict=True))


@torch.no_grad()
def test_K2_nothing_in_gives_a_dynamic_cache(model, ids):
    assert isinstance(model(ids, use_cache=True).past_key_values, DynamicCache)
    assert model(ids, use_cache=False).past_key_values is None
    cache = DynamicCache(config=model.config)
    assert model(ids, past_key_values=cache, use_cache=True).past_key_values is cache


def test_A3_K4_G15_logits_to_keep_in_both_spellings(model, ids, whole, monkeypatch):
    rows = []
    forward = torch.nn.Linear.forward
    monkeypatch.setattr(
        torch.nn.Linear,
        "forward",
        lambda self, x: (
            rows.append(x.shape[1]) or forward(self, x) if self is model.lm_head else forward(self, x)
        ),
    )
    for name in ("num_logits_to_keep", "logits_to_keep"):
        assert torch.allclose(model(ids, **{name: 1}).logits, whole[:, -1:], atol=1e-5)
        assert torch.allclose(model(ids, **{name: 5}).logits, whole[:, -5:], atol=1e-5)
        assert model(ids, **{name: 0}).logits.shape == whole.shape
        picked = model(ids, **{name: torch.tensor([2, 30])}).logits
        assert torch.allclose(picked, whole[:, [2, 30]], atol=1e-5)
    assert rows == [1, 5, LENGTH, 2] * 2  # the others were never computed


@torch.no_grad()
def test_G15_generation_computes_the_prompt_s_last_logits_only(model, ids, monkeypatch):
    lengths = []
    text_logits = type(model).text_logits
    monkeypatch.setattr(
        type(model), "text_logits", lambda self, h: lengths.append(h.shape[1]) or text_logits(self, h)
    )
    model.generate(ids[:, :10], max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert lengths == [1, 1, 1]


def test_G15_position_ids_are_used(model, ids):
    shifted = torch.arange(LENGTH)[None] + 11  # rotary positions are relative: nothing changes
    base = model(ids).logits
    assert torch.allclose(model(ids, position_ids=shifted).logits, base, atol=1e-4)
    stretched = torch.arange(LENGTH)[None] * 3
    assert not torch.allclose(model(ids, position_ids=stretched).logits, base, atol=1e-2)


def test_K4_loss_ignores_minus_100_and_shifts_once(model, ids, whole):
    """T10 too: the text loss is shifted once."""
    labels = ids.clone()
    labels[:, :5] = -100
    labels[0, 8] = -1
    labels[1, 9] = 60  # the initial token
    out = model(ids, labels=labels)
    targets = labels[:, 1:].clone()
    targets[(targets < 0) | (targets == 60)] = -100
    expected = torch.nn.functional.cross_entropy(whole[:, :-1].transpose(1, 2), targets)
    assert torch.allclose(out.loss, expected, atol=1e-6)


@torch.no_grad()
def test_K5_generate_prompt_included(model, ids):
    out = model.generate(ids[:1, :5], max_length=30, do_sample=False)
    assert out.shape == (1, 30) and out.dtype == torch.long
    assert torch.equal(out[:, :5], ids[:1, :5])
    for n in range(5, 30):  # greedy, past the window several times
        assert out[0, n] == model(out[:, :n], use_cache=False).logits[0, -1].argmax()


@torch.no_grad()
def test_K5_left_padded_rows_and_beams_of_the_text_model(model, ids):
    prompt = torch.cat([torch.full((1, 4), 3), ids[:1, :6]], 1)
    mask = torch.ones(2, 10, dtype=torch.long)
    mask[0, :4] = 0
    batch = torch.cat([prompt, ids[1:, :10]])
    options = dict(max_new_tokens=12, do_sample=False, pad_token_id=3)
    both = model.generate(batch, attention_mask=mask, **options)
    assert torch.equal(both[0, 4:], model.generate(ids[:1, :6], **options)[0])
    assert torch.equal(both[1], model.generate(ids[1:, :10], **options)[0])
    beams = model.generate(ids[:, :10], num_beams=3, **options)
    cached_off = model.generate(ids[:, :10], num_beams=3, use_cache=False, **options)
    assert beams.shape == (2, 22) and torch.equal(beams, cached_off)


@pytest.mark.parametrize("implementation", ["static", "dynamic"])
@torch.no_grad()
def test_K5_generation_caches_agree(model, ids, implementation):
    options = dict(max_new_tokens=15, do_sample=False, pad_token_id=3)
    expected = model.generate(ids[:, :10], use_cache=False, **options)
    found = model.generate(ids[:, :10], cache_implementation=implementation, **options)
    assert torch.equal(found, expected)


def test_G14_resizing_keeps_the_initial_token_last(ids):
    model = tiny_model().decoder
    before = model.model.embed_tokens.weight.detach().clone()
    head = model.lm_head.weight.detach().clone()
    logits = model(ids).logits
    for size in (70, 50):
        model.resize_token_embeddings(size)
        table = model.model.embed_tokens
        assert table.num_embeddings == table.weight.shape[0] == size + 1
        assert model.config.vocab_size == model.config.text_output_size == model.lm_head.out_features == size
        assert torch.equal(table.weight[-1], before[-1])  # the initial token's row
        kept = min(size, 60)
        assert torch.equal(table.weight[: min(kept, 50)], before[: min(kept, 50)])
        assert torch.equal(model.lm_head.weight[: min(kept, 50)], head[: min(kept, 50)])
        assert model(torch.tensor([[size, 1, 2]])).logits.shape == (1, 3, size)
        if size == 70:
            assert torch.allclose(model(ids).logits[..., :60], logits, atol=1e-6)


def test_tie_word_embeddings(tmp_path, ids):
    torch.manual_seed(0)
    model = MoshiForCausalLM(tiny_config(tie_word_embeddings=True)).eval()
    assert model.lm_head is None and "lm_head.weight" not in model.state_dict()
    out = model(ids, labels=ids)
    assert out.logits.shape == (2, LENGTH, 60) and out.loss.isfinite()
    table = model.model.embed_tokens.weight
    assert torch.allclose(out.logits, out.last_hidden_state @ table[:60].T, atol=1e-6)
    out.loss.backward()
    assert table.grad is not None
    model.save_pretrained(tmp_path)
    again = MoshiForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, out.logits)


def test_A7_parts_load_from_the_whole_checkpoint(tmp_path, ids):
    whole = tiny_model()
    whole.save_pretrained(tmp_path / "whole")
    text = MoshiForCausalLM.from_pretrained(tmp_path / "whole")
    assert torch.equal(text(ids).logits, whole.decoder(ids).logits)
    body = MoshiModel.from_pretrained(tmp_path / "whole")
    assert torch.equal(body(ids).last_hidden_state, whole.decoder.model(ids).last_hidden_state)
    text.save_pretrained(tmp_path / "text")  # a part's own checkpoint has no prefix
    again = MoshiForCausalLM.from_pretrained(tmp_path / "text")
    assert torch.equal(again(ids).logits, text(ids).logits)
    assert torch.equal(MoshiModel.from_pretrained(tmp_path / "text")(ids)[0], body(ids)[0])


def test_A7_a_checkpoint_that_fits_nothing_is_refused(tmp_path):
    from aizuchi import MimiModel

    tiny_model().audio_encoder.save_pretrained(tmp_path / "codec")
    tiny_config().save_pretrained(tmp_path / "codec")
    with pytest.raises(ValueError, match="lacks 'lm_head.weight' of shape .*19 of 19 keys"):
        MoshiForCausalLM.from_pretrained(tmp_path / "codec")
    assert isinstance(
        MimiModel.from_pretrained(tmp_path / "codec", config=tiny_config().audio_encoder_config), MimiModel
    )


def test_gradient_checkpointing_gives_equal_gradients(ids):
    gradients = []
    for on in (False, True):
        model = tiny_model(sliding_window=WINDOW).decoder.train()
        if on:
            model.gradient_checkpointing_enable()
        out = model(ids, labels=ids)
        out.loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
        assert (out.past_key_values is None) == on
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


@torch.no_grad()
def test_bfloat16_runs_and_stays_near(model, ids, whole):
    import copy

    half = copy.deepcopy(model).to(torch.bfloat16)
    out = half(ids)
    assert out.logits.dtype == torch.bfloat16
    assert (out.logits.float() - whole).abs().mean() < 0.05
    state = half.init_state(2)
    steps = torch.cat([half(ids[:, n : n + 1], state=state).logits for n in range(LENGTH)], 1)
    assert (steps.float() - out.logits.float()).abs().mean() < 0.05


@torch.no_grad()
def test_compiles_without_a_graph_break(ids):
    model = tiny_model(sliding_window=WINDOW, num_hidden_layers=1).decoder
    whole = model(ids, use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    assert torch.allclose(compiled(ids, use_cache=False).logits, whole, atol=1e-5)
    state = model.init_state(2)
    step = torch.compile(
        lambda x, state: model(x, state=state).logits, fullgraph=True, backend="eager", dynamic=False
    )
    logits = torch.cat([step(ids[:, n : n + 1], state) for n in range(8)], 1)
    assert torch.allclose(logits, whole[:, :8], atol=1e-5)
