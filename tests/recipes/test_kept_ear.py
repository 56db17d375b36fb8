"""The ear that is kept, and the codec that ships and hears as it does."""

from pathlib import Path

import numpy as np
import torch

from recipes.mini import ear, ear_model, package
from recipes.mini.heard import HeardWords
from recipes.mini.monologue import first_heard, rows_of
from recipes.mini.spectrum import log_frames, mel_power
from recipes.mini.timing import RATE

ROOT = Path(__file__).resolve().parents[2]


def test_the_kept_ear_hears_through_the_codec_that_ships():
    from aizuchi.data.codec import load_codec

    kept = ROOT / "recipes/mini/milestone"
    known, heard = ear_model.load_ear(kept / "ear"), HeardWords(kept / "ear/heard.txt")
    codec = load_codec(ROOT / "aizuchi/pretrained/mini").model.float()
    lower, upper = ear_model.halves(codec.encoder)
    rng = np.random.default_rng(0)
    wave = 0.05 * np.sin(2 * np.pi * 200 * np.arange(1920 * 25) / RATE)
    wave = torch.from_numpy((wave + 0.01 * rng.standard_normal(len(wave))).astype(np.float32))
    with torch.no_grad():
        wanted = known.convs.below(log_frames(mel_power(wave[None])))
        made = lower(wave[None, None])
    assert float((made - wanted).square().mean()) < 0.2 * float(wanted.square().mean())
    package.round_to_int8(known.encoder_transformer)  # as the codec has it
    own = known.convs.stack.state_dict() | known.encoder_transformer.state_dict()
    theirs = upper.state_dict() | codec.encoder_transformer.state_dict()
    assert own.keys() == theirs.keys() and len(known.encoder_transformer.layers) == ear_model.ENCODER_LAYERS
    assert all(torch.equal(weight.bfloat16(), theirs[name].bfloat16()) for name, weight in own.items())
    semantic = codec.quantizer.semantic_residual_vector_quantizer
    assert torch.equal(known.semantic.input_proj.weight.bfloat16(), semantic.input_proj.weight.bfloat16())
    for level, layer in zip(known.semantic.codebooks(), semantic.layers, strict=True):
        assert torch.equal(level.embed, layer.codebook.embed)
    assert len(heard) == len(known.words.bias)
    names, shipped = HeardWords(kept / "heard.txt"), ROOT / "aizuchi/pretrained/mini/tokenizer_spm.model"
    first = first_heard(shipped)
    assert rows_of(shipped, names) == list(range(first, first + len(names) - 1)) and len(names) > 900


def test_what_ships_has_been_rounded_and_has_the_recipe_s_sizes(tmp_path):
    from aizuchi.data.codec import load_codec

    shipped, out = ROOT / "aizuchi/pretrained/mini", tmp_path / "codec"
    assert package.main(["codec", "--codec", str(shipped), "--out", str(out)]) == 0
    codec = load_codec(out)
    assert codec.fingerprint() == load_codec(shipped).fingerprint()  # the same codes
    assert all(getattr(codec.model.config, name) == value for name, value in ear_model.CODEC.items())


def test_a_codec_to_begin_with_needs_its_components(capsys):
    assert ear.main(["--codec", str(ROOT / "aizuchi/pretrained/mini")]) != 0
    assert "--begin" in capsys.readouterr().err
