"""Attention sinks: the first positions of a row stay visible, at distances that the window has anyway."""

import pytest
import torch

from aizuchi.kernels import library
from aizuchi.models.cache import RingCache, RingPlan
from aizuchi.models.layers import rotary_angles, rotate
from tests.models.moshi.reference import tiny_model

WINDOW, SINKS, LENGTH = 8, 2, 40

CHUNKS = {
    "steps": [1] * LENGTH,
    "chunks": [3, 1, 10, 2, 7, 5, 12],
    "long chunks": [20, 20],
    "one chunk": [40],
    "sinks in two chunks": [1, 29, 1, 9],
}


def make(dtype, **changes):
    return tiny_model(sliding_window=WINDOW, num_hidden_layers=3, **changes).decoder.to(dtype)


@pytest.fixture(scope="module", params=[torch.float64, torch.float32])
def model(request):
    return make(request.param)


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 60, (2, LENGTH), generator=torch.Generator().manual_seed(4))


class Explicit:
    """The whole sequence under an explicit mask, with scores of every pair: nothing slides, nothing is kept."""

    def __init__(self, model, sinks):
        self.model, self.sinks = model, sinks

    def attention(self, module, x):
        raise NotImplementedError

    @torch.no_grad()
    def logits(self, ids):
        body = self.model.model
        x = body.embed_tokens(ids)
        for layer in body.layers:
            module = layer.self_attn
            x = x + module.o_proj(self.attention(module, layer.input_layernorm(x)))
            x = x + layer.mlp(layer.post_attention_layernorm(x))
        return self.model.text_logits(body.norm(x))


class Masked(Explicit):
    """Two score matrices and one mask: at true distances, and with queries that stop where the window leaves."""

    @staticmethod
    def kept(x):
        """What is read back of keys and values."""
        return x

    def attention(self, module, x):
        theta, n = module.config.rope_theta, module.head_dim
        query, key, value = module.project(x)
        place = torch.arange(x.shape[1])
        turn = rotary_angles(place[None], n, theta)
        stopped = rotary_angles(place.clamp(max=self.sinks + WINDOW - 1)[None], n, theta)
        key, value = self.kept(rotate(key, *turn)), self.kept(value)
        near, far = (rotate(query, *angles) @ key.transpose(2, 3) for angles in (turn, stopped))
        scores = torch.where(place < self.sinks, far, near) * n**-0.5
        distance = place[:, None] - place
        seen = (distance >= 0) & ((distance < WINDOW) | (place < self.sinks))
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1)
        return (weights @ value).transpose(1, 2).flatten(2)


class InTheCache(Explicit):
    """As in the paper's section 3.2: what is seen is gathered and gets the positions 0, 1, 2, ... in the cache."""

    def attention(self, module, x):
        theta, n = module.config.rope_theta, module.head_dim
        query, key, value = module.project(x)
        out = []
        for q in range(x.shape[1]):
            seen = [k for k in range(q + 1) if k < self.sinks or q - k < WINDOW]
            turn = rotary_angles(torch.arange(len(seen))[None], n, theta)
            keys = rotate(key[:, :, seen], *turn)
            one = rotate(query[:, :, q : q + 1], *(part[:, :, -1:] for part in turn))
            weights = (one @ keys.transpose(2, 3) * n**-0.5).softmax(-1)
            out.append((weights @ value[:, :, seen]).transpose(1, 2).flatten(2))
        return torch.cat(out, dim=1)


@torch.no_grad()
def stream(model, ids, sizes, state):
    out, start = [], 0
    for size in sizes:
        out.append(model(ids[:, start : start + size], state=state).logits)
        start += size
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize("sizes", CHUNKS)
def test_a_stream_equals_the_explicit_mask(model, ids, sizes, chunk):
    state = model.init_state(2, chunk=chunk, sinks=SINKS)
    assert state.capacity == SINKS + WINDOW + chunk - 1
    found = stream(model, ids, CHUNKS[sizes], state)
    # Angles are float32 in every dtype, and a key that is turned twice has two of them.
    torch.testing.assert_close(found, Masked(model, SINKS).logits(ids), atol=2e-5, rtol=0)
    torch.testing.assert_close(found, InTheCache(model, SINKS).logits(ids), atol=2e-5, rtol=0)
    assert state.key_positions[:, :SINKS].tolist() == [[0, 1]] * 2
    plain = stream(model, ids, CHUNKS[sizes], model.init_state(2, chunk=chunk))
    begin = WINDOW  # until a sink has left the window nothing differs
    torch.testing.assert_close(found[:, :begin], plain[:, :begin], atol=2e-5, rtol=0)
    assert not torch.allclose(found[:, begin], plain[:, begin], atol=1e-3)


@pytest.mark.parametrize("sinks", [1, 5, 11])
def test_any_number_of_sinks(ids, sinks):
    """More than the window holds, too."""
    model = make(torch.float32)
    for sizes in CHUNKS.values():
        found = stream(model, ids, sizes, model.init_state(2, chunk=2, sinks=sinks))
        torch.testing.assert_close(found, Masked(model, sinks).logits(ids), atol=2e-5, rtol=0)


@pytest.mark.skipif(library.load() is None, reason="no C++ compiler here")
@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 2}])
@pytest.mark.parametrize("sizes", ["steps", "sinks in two chunks"])
def test_the_kernels_see_the_same(ids, sizes, changes):
    model = make(torch.float32, **changes)
    state = model.init_state(2, chunk=4, sinks=SINKS)
    with torch.no_grad():
        assert not isinstance(state.begin(1), RingPlan)
    state.reset()
    found = stream(model, ids, CHUNKS[sizes], state)
    plain = model.init_state(2, chunk=4, sinks=SINKS)
    plain.fused = None
    torch.testing.assert_close(found, stream(model, ids, CHUNKS[sizes], plain), atol=2e-5, rtol=0)


def test_no_sinks_is_the_ring_as_it_was(ids):
    model = make(torch.float32)
    names = [name for name, *_ in model.init_state(2).leaves()]
    assert names == [name for name, *_ in model.init_state(2, sinks=0).leaves()]
    for fused in (True, False):
        found = []
        for options in ({}, {"sinks": 0}):
            state = model.init_state(2, chunk=2, **options)
            state.fused = state.fused if fused else None
            found.append(stream(model, ids, CHUNKS["chunks"], state))
        assert torch.equal(*found)


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_rows_pause_and_resume_exactly(ids, fused):
    """Each row is where it was, whatever the other does meanwhile: before, in and after its sinks."""
    model = make(torch.float32)
    whole = Masked(model, SINKS).logits(ids)
    state = model.init_state(2, chunk=3, sinks=SINKS)
    state.fused = state.fused if fused else None
    logits, place = [[], []], [0, 0]
    generator = torch.Generator().manual_seed(0)
    while min(place) < LENGTH:
        size = int(torch.randint(1, 6, (), generator=generator))
        active = torch.rand(2, generator=generator) < 0.6
        active &= torch.tensor([p + size <= LENGTH for p in place])
        if not active.any():
            size, active = 1, torch.tensor([p < LENGTH for p in place])
        chunk = torch.full((2, size), 7)
        for row in range(2):
            if active[row]:
                chunk[row] = ids[row, place[row] : place[row] + size]
        out = model(chunk, state=state, active=active).logits
        for row in range(2):
            if active[row]:
                logits[row].append(out[row])
                place[row] += size
    for row in range(2):
        torch.testing.assert_close(torch.cat(logits[row]), whole[row], atol=2e-5, rtol=0)


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_reset_snapshot_and_rewind(ids, fused):
    model = make(torch.float32)

    def fresh():
        state = model.init_state(2, sinks=SINKS)
        state.fused = state.fused if fused else None
        return state

    def same(found, expected):
        # torch's own products may round another row of a batch otherwise, which depends on the CPU; ours never do
        return torch.equal(found, expected) if fused else torch.allclose(found, expected, atol=1e-5, rtol=0)

    state = fresh()
    straight = stream(model, ids, [1] * LENGTH, state)
    state = fresh()
    stream(model, ids, [1] * 17, state)
    kept, other = state.export_row(0), fresh()
    other.import_row(1, kept)  # another row of another ring
    for _ in range(2):  # on from the snapshot, back to it, and on again
        found = stream(model, ids[[0, 0], 17:], [1] * (LENGTH - 17), other)
        assert same(found[1], straight[0, 17:])
        other.import_row(1, kept)
    state.reset([0])
    again = stream(model, ids[[0, 0]], [1] * LENGTH, state)
    assert torch.equal(again[0], straight[0])
    with pytest.raises(ValueError, match=r"\(4, 8, 12\)"):  # a row of a ring without sinks
        fresh().import_row(0, model.init_state(2).export_row(0))


def test_bad_sinks_are_refused():
    with pytest.raises(ValueError, match="sinks"):
        RingCache.create(1, 1, 1, 2, window=4, sinks=-1)
