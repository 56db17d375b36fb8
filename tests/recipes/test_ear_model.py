"""The ear as a model: what it learns from, and what it may begin with."""

import pytest
import torch

from aizuchi.errors import AizuchiError
from recipes.mini import ear_model, front, package
from recipes.mini.spectrum import BANDS, STEPS


def test_losses_ask_for_words_after_their_delay():
    words = torch.zeros(1, 14, dtype=torch.long)
    words[0, 1], words[0, 8] = 3, 2
    logits = torch.full((1, 14, 4), -9.0)
    for frame in range(14):
        logits[0, frame, {3: 3, 10: 2}.get(frame, 0)] = 9.0
    assert float(ear_model.word_loss(logits, words)) < 1e-3
    assert float(ear_model.word_loss(logits.roll(2, 1), words)) > 1
    assert ear_model.words_told(logits, words) == (2, 2, 0)
    assert ear_model.words_told(logits.roll(1, 1), words) == (2, 2, 0)  # a frame more or less is as good
    assert ear_model.words_told(logits.roll(3, 1), words) == (2, 0, 2)
    shares = torch.full((1, 8, ear_model.CLASSES), float("nan"))
    assert float(ear_model.phone_loss(torch.zeros(1, 8, ear_model.CLASSES), shares)) == 0  # nobody knows


def test_an_ear_that_tells_more_words_keeps_those_it_could_tell(tmp_path):
    other, made = ear_model.Ear(5, reader_layers=1), ear_model.Ear(9, reader_layers=1)
    (tmp_path / "model").mkdir()
    torch.save(other.state_dict(), tmp_path / "model/weights.pt")
    new = made.words.weight[5:].clone()
    ear_model.begin_from(made, tmp_path)
    assert torch.equal(made.words.weight[:5], other.words.weight) and torch.equal(made.words.weight[5:], new)
    assert torch.equal(made.words.bias[:5], other.words.bias)


def test_an_ear_is_kept_in_parts_and_goes_on_as_it_was(tmp_path, monkeypatch, capsys):
    torch.manual_seed(1)
    other, kept = ear_model.Ear(5, reader_layers=1), tmp_path / "kept"
    (tmp_path / "run/model").mkdir(parents=True)
    torch.save(other.state_dict(), tmp_path / "run/model/weights.pt")
    other.convs.save_stem(tmp_path / "run")
    (tmp_path / "run" / ear_model.WORDS).write_text("one\n")
    monkeypatch.setattr(package, "PART", 4 << 20)
    assert package.main(["ear", "--ear", str(tmp_path / "run"), "--out", str(kept)]) == 0
    files = sorted(kept.glob("model/*"))
    assert len(files) > 1 and max(file.stat().st_size for file in files) < 5 << 20
    assert "files" in capsys.readouterr().out and (kept / ear_model.WORDS).read_text() == "one\n"
    made, was = ear_model.load_ear(kept).state_dict(), other.state_dict()
    for name, weight in made.items():
        if ".acoustic_" not in name:
            exact = name.endswith(package.CODEBOOK)
            assert torch.equal(weight, was[name] if exact else was[name].bfloat16().to(weight.dtype)), name
    files[0].unlink()  # a part that is lost is missed
    with pytest.raises(AizuchiError, match="there is only weights-2-of"):
        ear_model.load_ear(kept)
    assert package.main(["ear", "--ear", str(tmp_path / "none"), "--out", str(kept)]) != 0
    assert files[1].exists()  # nothing was lost for it


def test_an_ear_begins_with_a_codec_that_hears_with_another(tmp_path):
    torch.manual_seed(2)
    codec = front.make_codec(None).eval()
    other, made = ear_model.Ear(5, reader_layers=1), ear_model.Ear(5, reader_layers=1).eval()
    other.convs.save_stem(tmp_path)
    codec.save_pretrained(tmp_path / "codec")
    assert ear_model.begin_from(made, tmp_path, tmp_path / "codec") == 2
    convs = ear_model.Convolutions.load(tmp_path, codec)
    spectra = torch.randn(2, 20, STEPS * BANDS, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        below = other.convs.below(spectra)
        given = below
        for layer in list(codec.encoder.layers)[ear_model.LOWER :]:
            given = layer(given)
        latents = codec.encoder_transformer(given)
        semantic = codec.quantizer.semantic_residual_vector_quantizer
        wanted = semantic.encode(latents, 2)
        told = made(spectra, True)["codes"]
        assert torch.equal(convs(spectra), given.transpose(1, 2))
    assert below.shape == (2, 128, 20 * STEPS) and given.shape == (2, 192, 20)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(told, wanted))
    assert len({int(code) for code in told[0].flatten()}) > 10
    with pytest.raises(AizuchiError, match="stem"):
        ear_model.Convolutions.load(tmp_path / "nowhere", codec)


def test_a_fresh_stem_takes_bands_as_if_they_were_alike():
    torch.manual_seed(0)
    made = ear_model.Ear(5, reader_layers=1)
    level, size = torch.linspace(-9, 3, BANDS), torch.linspace(0.5, 4, BANDS)
    even = torch.randn(3, 50, STEPS, BANDS)
    wanted = made.convs.below(((even - even.mean((0, 1, 2))) / even.std((0, 1, 2))).flatten(2))
    spectra = (even * size + level).flatten(2)
    made.convs.normalize(spectra)
    assert torch.allclose(made.convs.below(spectra), wanted, atol=1e-4)


def test_a_codec_of_other_sizes_is_refused(tmp_path):
    made = ear_model.Ear(5, reader_layers=1)
    from aizuchi.models.mimi import MimiConfig, MimiModel

    made.convs.save_stem(tmp_path)
    sizes = ear_model.CODEC | {"hidden_size": 96, "upsample_groups": 96}
    MimiModel(MimiConfig(**sizes)).save_pretrained(tmp_path / "codec")
    with pytest.raises(AizuchiError, match="no codec of this ear's sizes"):
        ear_model.begin_from(made, tmp_path, tmp_path / "codec")
