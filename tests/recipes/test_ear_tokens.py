"""Token shards straight from spectra: what is heard, said to nobody, and said by the assistant."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aizuchi.models.mimi import MimiModel
from aizuchi.train.tokens import ShardSource
from recipes.mini import ear, ear_model, ear_tokens
from recipes.mini.heard import listening_text
from tests.recipes.tones import VOICE, word_list

ROOT = Path(__file__).resolve().parents[2]


def test_listening_is_coded_without_a_waveform(made, library, heard, tmp_path, monkeypatch):
    root, where = made
    tokenizer = tmp_path / "tokenizer.model"
    tokenizer.write_bytes((ROOT / "aizuchi/pretrained/mini/tokenizer_spm.model").read_bytes())
    clips = next(iter(library.by_voice[VOICE].values()))[0].audio.parents[2]
    monkeypatch.setattr(ear_tokens, "ROWS", 2)
    command = [*where, "--clips", str(clips), "--codec", str(root / "codec"), "--vocabulary", str(tokenizer)]
    command += ["--heard", str(word_list(heard.words, tmp_path)), "--out", str(tmp_path / "out")]
    command += ["--shards", "2", "--dialogues", "0", "--speaking", "0"]
    assert ear_tokens.main(command) == 0
    source = ShardSource(tmp_path / "out/listen")
    lengths = source.lengths()
    assert list(lengths) == [ear.FRAMES] * 4
    piece = source.read(0, 0, ear.FRAMES)
    assert (piece.heard > 1).sum() > 5 and len(set(piece.user[0])) > 3
    np.testing.assert_array_equal(piece.text, listening_text(piece.heard))
    # six steps leave the second codebook few codes
    assert len(set(piece.user[1])) > 1 and not piece.user[2:].any()
    codec = MimiModel.from_pretrained(root / "codec").eval()
    silence = codec.encode(torch.zeros(1, 1, 1920 * ear.FRAMES), return_dict=True).audio_codes[0].numpy()
    assert np.mean(piece.model == silence) > 0.99  # it says nothing
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out/listen").glob("*.safetensors"))]
    assert ear_tokens.main(command) == 0  # all there
    assert before == [
        path.stat().st_mtime_ns for path in sorted((tmp_path / "out/listen").glob("*.safetensors"))
    ]


def test_lines_are_said_to_nobody(made, library, heard, tmp_path, monkeypatch):
    pytest.importorskip("hibari")
    root, where = made
    tokenizer = ROOT / "aizuchi/pretrained/mini/tokenizer_spm.model"
    clips = next(iter(library.by_voice[VOICE].values()))[0].audio.parents[2]
    monkeypatch.setattr(ear_tokens, "ROWS", 2)
    command = [*where, "--clips", str(clips), "--codec", str(root / "codec"), "--vocabulary", str(tokenizer)]
    command += ["--heard", str(word_list(heard.words, tmp_path)), "--out", str(tmp_path / "out")]
    assert ear_tokens.main([*command, "--shards", "0", "--dialogues", "0", "--speaking", "1"]) == 0
    source = ShardSource(tmp_path / "out/speak")
    lengths = source.lengths()
    piece = source.read(0, 0, int(lengths[0]))
    assert list(lengths > 150) == [True] * 2 and (piece.heard == -1).all()  # no padding is a target
    text = piece.text[piece.text > 3]
    quiet = piece.model[:, -1:]
    assert len(text) > 0.1 * lengths[0] and (piece.model != quiet).any(0).mean() > 0.6

    # a codec whose acoustic entries stand the other way round codes the assistant's side, and that alone
    other = MimiModel.from_pretrained(root / "codec")
    for layer in other.quantizer.acoustic_residual_vector_quantizer.layers:
        layer.codebook.embed_sum.copy_(layer.codebook.embed_sum.flip(0))
        layer.codebook.cluster_usage.copy_(layer.codebook.cluster_usage.flip(0))
    other.save_pretrained(tmp_path / "other")
    command += ["--out", str(tmp_path / "turned"), "--voice-codec", str(tmp_path / "other")]
    assert ear_tokens.main([*command, "--shards", "0", "--dialogues", "0", "--speaking", "1"]) == 0
    turned = ShardSource(tmp_path / "turned/speak").read(0, 0, int(lengths[0]))
    semantic, size = other.config.num_semantic_quantizers, other.config.codebook_size
    np.testing.assert_array_equal(turned.user, piece.user)
    np.testing.assert_array_equal(turned.model[:semantic], piece.model[:semantic])
    # but for entries that so young a codec has twice
    assert (turned.model[semantic:] == size - 1 - piece.model[semantic:]).mean() > 0.8


def test_what_the_assistant_says_is_coded_as_it_sounds(made, monkeypatch):
    """Codes that are put together of kept ones are those of the whole channel."""
    pytest.importorskip("hibari")
    from aizuchi.data.codec import encode

    root, where = made
    codec = MimiModel.from_pretrained(root / "codec").eval()
    convs = ear_model.Convolutions.load(Path(where[1]), codec)
    coder = ear_tokens.Coder(codec, convs, torch.zeros(192))
    compared = []
    model = ear_tokens.Coder.model

    def both(self, wave, spans):
        codes = model(self, wave, spans)
        whole = encode(coder.codec, wave[None])[0].T
        speaks = np.concatenate([np.arange(start, stop) for start, stop in spans])
        same = (codes == whole)[speaks].mean(0)  # (K,)
        compared.append((float(same[:3].mean()), len(speaks)))
        return codes

    monkeypatch.setattr(ear_tokens.Coder, "model", both)
    monkeypatch.setattr(ear_tokens, "LATE", 0.5)
    waits = 0
    for number in range(2):
        own, user, words, late, known = ear_tokens.coded_dialogue(number, 5, (None, []), coder)
        assert own.shape == user.shape and known
        waits += len(late)
        for start, stop in late:  # between the user's last word and the answer
            before = [w for w in words if w[1] < stop * 0.08 - 0.01]
            after = min(w[1] for w in words if w[3] and w[1] >= stop * 0.08 - 0.01)
            assert not before[-1][3] and before[-1][2] < start * 0.08 < after < (stop + 1) * 0.08 + 0.01
        assert all(end <= len(own) * 0.08 + 0.1 for _, _, end, _ in words) and {w[3] for w in words} == {
            True,
            False,
        }
    # what came before the silence before it is forgotten; of so young a codec the last codes hang on a hair
    assert all(share > 0.9 and count > 20 for share, count in compared), compared
    assert waits
