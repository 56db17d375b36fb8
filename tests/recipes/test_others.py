"""Acoustic codebooks for everyone's voice (`recipes.mini.others`)."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from aizuchi.errors import AizuchiError
from aizuchi.models.mimi import MimiModel
from aizuchi.train.checkpoints import save_model
from aizuchi.train.mimi_start import make_codec
from recipes.mini.others import Heard, begin_seldom, main_components, make_room, nearest, place_entries
from recipes.mini.package import CODEBOOK, VOICE, _same_codes, main
from tests.train.tiny_codec import MODEL, config_of


def test_components_tell_what_latents_know_of_spectra():
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(500, 6, generator=generator)
    mixing = torch.randn(6, 20, generator=generator)
    mixing[3:] *= 0.01  # three directions are nearly all there is
    spectra = latents @ mixing + 5
    spectra[400:] = torch.randn(100, 20, generator=generator) * 50  # frames without weight have no say
    found = latents @ main_components(latents, spectra, (torch.arange(500) < 400).float(), 3)
    found, centred = found[:400] - found[:400].mean(0), spectra[:400] - spectra[:400].mean(0)
    missed = centred - found @ torch.linalg.lstsq(found, centred).solution
    assert missed.square().mean() < 1e-3 * centred.square().mean()


def test_seldom_entries_are_drawn_where_vectors_are_and_others_stay():
    generator = torch.Generator().manual_seed(0)
    entries = torch.randn(16, 4, generator=generator)
    vectors = torch.randn(400, 4, generator=generator) * 0.2 + 8  # far from all entries
    seldom = torch.tensor([1, 5, 6, 11])
    found = begin_seldom(entries, seldom, vectors, np.random.default_rng(0))
    kept = torch.ones(16, dtype=torch.bool)
    kept[seldom] = False
    assert torch.equal(found[kept], entries[kept])
    at = nearest(vectors, found)
    assert torch.isin(at, seldom).all() and len(at.unique()) == 4
    with pytest.raises(AizuchiError, match="too few for 4 entries"):
        begin_seldom(entries, seldom, vectors[:2], np.random.default_rng(0))


def test_an_entry_lies_in_the_middle_of_those_who_take_it_and_those_who_have_it():
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    own = (centres + 1).repeat_interleave(50, 0)
    codes = torch.tensor([0, 1, 2]).repeat_interleave(50)
    others = centres.repeat_interleave(200, 0) + 0.1 * torch.randn(600, 2, generator=generator)
    found = place_entries(others, own, codes, 3.0, 3, np.random.default_rng(0))
    torch.testing.assert_close(found, centres + 0.75, rtol=0, atol=0.03)


def _coded(acoustic, latents, codes=None):
    codes = torch.stack(acoustic.encode(latents.T[None], 3), 1) if codes is None else codes.T[None]
    return acoustic.decode(codes)[0].T  # (N, C)


@torch.no_grad()
def test_others_are_told_better_and_the_assistants_codes_still_tell_it(tmp_path):
    torch.manual_seed(0)
    codec = make_codec(config_of(tmp_path)).eval()
    acoustic = codec.quantizer.acoustic_residual_vector_quantizer
    latents = torch.randn(1600, 16)
    mine, others = latents[:600] * torch.tensor([1.0] * 4 + [0.05] * 12), latents[600:]
    # entries are of the assistant's own latents, but a quarter of them far off
    for k, codebook in enumerate(acoustic.codebooks()):
        codebook.embed_sum.copy_(acoustic._project(mine.T[None] / 2**k)[0, :16])
        codebook.embed_sum[12:] += 50
    codes = torch.stack(acoustic.encode(mine.T[None], 3), -1)[0]  # (N, K)
    assert (codes < 12).all()
    mixing = torch.randn(16, 40)

    def left(told, spectra):
        centred, told = spectra - spectra.mean(0), told - told.mean(0)
        missed = centred - told @ torch.linalg.lstsq(told, centred, driver="gelsd").solution
        return float(missed.square().mean() / centred.var(0).mean())

    def heard(x, kept=None):
        return Heard(x, x @ mixing, _coded(acoustic, x, kept), kept)

    given = heard(others), heard(mine, codes)
    before = [left(x.told, x.spectra) for x in given]
    first = acoustic.codebooks()[0].embed.clone()
    shares = make_room(codec, *given, 0.5)
    assert not torch.isclose(acoustic.codebooks()[0].embed, first).all(-1).any()  # all of them moved
    after = left(_coded(acoustic, others), given[0].spectra)
    assert after < 0.7 * before[0]
    assert left(_coded(acoustic, mine, codes), given[1].spectra) < before[1] + 0.1
    assert shares["others"] < 0.4
    # and what comes out of the codes is near to what the decoder was given
    near = (_coded(acoustic, mine, codes) - given[1].told).square().mean() / given[1].told.var(0).mean()
    assert near < 0.5 and 0 < shares["missed"] < 0.6


def test_a_model_takes_moved_entries_where_they_are_said_to_be_there(tmp_path):
    old, new = (make_codec(config_of(tmp_path)).eval() for _ in range(2))
    new.load_state_dict(old.state_dict())
    acoustic = new.quantizer.acoustic_residual_vector_quantizer
    with torch.no_grad():
        acoustic.input_proj.weight += 0.1
        acoustic.output_proj.weight += 0.1
        acoustic.codebooks()[1].embed_sum += 1
    _same_codes(old, new, False, new_entries=True)
    with pytest.raises(AizuchiError, match="other codes"):
        _same_codes(old, new, False)
    new.load_state_dict(old.state_dict())
    with torch.no_grad():
        new.quantizer.semantic_residual_vector_quantizer.codebooks()[0].embed_sum[0] += 1
    with pytest.raises(AizuchiError, match="other codes"):
        _same_codes(old, new, False, new_entries=True)


def test_a_voice_is_kept_and_put_into_a_codec_of_the_same_encoder(tmp_path, capsys):
    config = config_of(tmp_path, model=MODEL | {"num_quantizers": 8})
    old, new = (make_codec(config).eval() for _ in range(2))
    for name, codec in (("old", old), ("new", new)):
        save_model(codec, tmp_path / name)
    file, made = tmp_path / "voice.safetensors", tmp_path / "made"
    assert main(["voice", "--codec", str(tmp_path / "new"), "--out", str(file)]) == 0
    given = ["codec", "--codec", str(tmp_path / "old"), "--out", str(made)]
    assert main([*given, "--voice", str(file)]) == 0
    known, theirs = old.state_dict(), new.state_dict()
    for name, tensor in MimiModel.from_pretrained(made).state_dict().items():
        wanted = (theirs if name.startswith(VOICE) else known)[name]
        assert torch.equal(tensor, wanted if name.endswith(CODEBOOK) else wanted.bfloat16().float()), name
    assert main([*given, "--voice", str(tmp_path / "none")]) == 2
    save_file({"decoder.other": torch.zeros(1)}, file)
    assert main([*given, "--voice", str(file)]) == 2
    assert "voice writes such a file" in (told := capsys.readouterr().err) and "no place in this one" in told
