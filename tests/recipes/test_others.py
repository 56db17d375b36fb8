"""Room for other voices in the acoustic codebooks (`recipes.mini.others`)."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aizuchi.errors import AizuchiError
from aizuchi.train.mimi_start import make_codec
from recipes.mini.others import begin_free, main_components, make_room, turned, usage
from recipes.mini.package import _same_codes
from tests.train.tiny_codec import config_of


def test_usage_counts_each_codebook(tmp_path):
    save_file(
        {"model": torch.tensor([[0, 3], [0, 2], [1, 3]], dtype=torch.int16)},
        tmp_path / "shard-00000.safetensors",
    )
    assert usage([tmp_path], 2, 4).tolist() == [[2, 1, 0, 0], [0, 0, 1, 2]]
    with pytest.raises(AizuchiError, match="no token shards"):
        usage([tmp_path / "nowhere"], 2, 4)


def test_vectors_are_turned_onto_what_they_are_a_turn_of():
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(200, 5, generator=generator)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator)).Q
    target = 1.7 * vectors @ turn + 3
    torch.testing.assert_close(turned(vectors, target), target, rtol=0, atol=1e-4)


def test_components_tell_what_latents_know_of_spectra():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(500, 6, generator=generator)
    mixing = torch.randn(6, 20, generator=generator)
    mixing[3:] *= 0.01  # three directions are nearly all there is
    spectra = latents @ mixing + 5
    found = main_components(latents, spectra, 3)
    centred = spectra - spectra.mean(0)
    missed = centred - found @ torch.linalg.lstsq(found, centred).solution
    assert missed.square().mean() < 1e-3 * centred.square().mean()


def test_free_entries_go_where_vectors_are_and_others_stay():
    generator = torch.Generator().manual_seed(0)
    entries = torch.randn(16, 4, generator=generator)
    vectors = torch.randn(400, 4, generator=generator) * 0.2 + 8  # far from all entries
    free = torch.tensor([1, 5, 6, 11])
    found = begin_free(entries, free, vectors, np.random.default_rng(0))
    kept = torch.ones(16, dtype=torch.bool)
    kept[free] = False
    assert torch.equal(found[kept], entries[kept])
    nearest = torch.cdist(vectors, found).argmin(1)
    assert torch.isin(nearest, free).all() and len(nearest.unique()) == 4
    assert torch.cdist(vectors, found).amin(1).square().mean() < 0.85 * vectors.var(0).sum()


@torch.no_grad()
def test_others_are_told_better_and_the_assistants_codes_stay(tmp_path, capsys):
    torch.manual_seed(0)
    codec = make_codec(config_of(tmp_path)).eval()
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    latents = torch.randn(800, 16)
    own, others = latents[:300] * torch.tensor([1.0] * 4 + [0.05] * 12), latents[300:]
    # entries are of the assistant's own latents, but half of them far off
    for k, codebook in enumerate(acoustic.codebooks()):
        codebook.embed_sum.copy_(acoustic._project(own.T[None] / 2**k)[0, :16])
        codebook.embed_sum[8:] += 50
    before, wanted = acoustic._project(own.T[None])[0], acoustic.encode(own.T[None], 3)
    entries = [book.embed[:8].clone() for book in acoustic.codebooks()]
    counts = np.stack([np.bincount(codes.flatten(), minlength=16) for codes in wanted])
    assert (counts[:, 8:] == 0).all()
    spectra = others @ torch.randn(16, 40)

    def left():
        codes = torch.stack(acoustic.encode(others.T[None], 3), 1)
        told = sum(book.decode(c[0]) for book, c in zip(acoustic.codebooks(), codes.unbind(1)))
        centred = spectra - spectra.mean(0)
        told = told - told.mean(0)
        return float(
            (centred - told @ torch.linalg.lstsq(told, centred).solution).square().mean() / centred.var()
        )

    at_first = left()
    missed = make_room(
        codec, counts, (others, spectra, acoustic._project(others.T[None])[0]), (own, before), 1e4
    )
    assert missed < 1e-3 and "8 entries are free" in capsys.readouterr().out
    # entries that it has stay, and their codes; behind them some that are new are nearer
    assert all(torch.equal(book.embed[:8], old) for book, old in zip(acoustic.codebooks(), entries))
    assert (acoustic.encode(own.T[None], 1)[0] == wanted[0]).float().mean() > 0.9
    assert left() < 0.9 * at_first


def test_a_model_takes_new_entries_where_they_are_said_to_be(tmp_path):
    old, new = (make_codec(config_of(tmp_path)).eval() for _ in range(2))
    new.load_state_dict(old.state_dict())
    acoustic = new.quantizer.acoustic_residual_vector_quantizer
    with torch.no_grad():
        acoustic.input_proj.weight += 0.1
        acoustic.codebooks()[1].embed_sum[:7] += 1
    _same_codes(old, new, False, new_entries=True)
    with pytest.raises(AizuchiError, match="other codes"):
        _same_codes(old, new, False)
    with torch.no_grad():
        acoustic.codebooks()[1].embed_sum[:9] += 1
    with pytest.raises(AizuchiError, match="less than half"):
        _same_codes(old, new, False, new_entries=True)
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        new.quantizer.semantic_residual_vector_quantizer.codebooks()[0].embed_sum[0] += 1
    with pytest.raises(AizuchiError, match="other codes"):
        _same_codes(old, new, False, new_entries=True)
