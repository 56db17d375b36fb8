"""Text from speech: words as the data's own reader finds them, whatever pieces the sound comes in."""

import numpy as np
import pytest
import torch

from aizuchi.data.frames import frames_to_words
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.engine import Transcriber, transcribe, transcribe_frames
from aizuchi.engine.transcription import WordReader
from aizuchi.errors import AizuchiError
from aizuchi.train.rollout import roll_out
from aizuchi.train.start import make_model
from tests.train.tiny import config_of

PAD, EPAD = 3, 0


class Pieces:
    """Every third id begins a word; some ids are nothing but space."""

    def id_to_piece(self, token):
        return ("▁" if token % 3 == 1 else "") + (" " if token % 7 == 6 else chr(90 + token))

    def encode(self, text):
        return []

    def decode(self, ids):
        return "".join(self.id_to_piece(i) for i in ids).replace("▁", " ")


TOKENIZER = TextTokenizer(Pieces())


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    config = config_of(tmp_path_factory.mktemp("stt"), task="stt", delays=dict(text=4, acoustic=1))
    return make_model(config).eval()


def noise(seconds, seed=0):
    return 0.3 * torch.randn(1, int(24000 * seconds), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(20))
def test_the_reader_finds_what_the_data_has(seed):
    rng = np.random.default_rng(seed)
    tokens = np.where(rng.random(60) < 0.5, PAD, rng.integers(-1, 30, 60))
    reader = WordReader(TOKENIZER, (PAD, EPAD))
    found = [word for t in tokens if (word := reader.feed(int(t))) is not None]
    last = reader.finish()
    expected = frames_to_words(tokens, TOKENIZER)
    assert found + ([last] if last else []) == expected and len(expected) > 5
    assert reader.finish() is None


def test_the_transcript_is_what_the_model_writes_of_the_codes(model):
    wave = noise(3.1)
    with torch.no_grad():
        codes = model.audio_encoder.encode(wave[None], num_quantizers=4).audio_codes
    frames = codes.shape[-1]
    blank = torch.full((1, 4, 4), -1)
    text, _ = roll_out(model, torch.cat([codes, blank], -1), frames=frames)
    words = transcribe(model, TOKENIZER, wave)
    assert words == frames_to_words(text[0].numpy(), TOKENIZER) and len(words) > 2


def test_pieces_of_any_size_give_the_same_words_and_give_them_early(model):
    wave = noise(2.5, seed=1)
    whole = transcribe(model, TOKENIZER, wave)
    cuts = [0, 1, 1000, 1921, 1921, 7000, 30000, wave.shape[1]]
    pieces = [wave[:, a:b] for a, b in zip(cuts, cuts[1:])]
    assert list(transcribe_frames(model, TOKENIZER, pieces)) == whole and len(whole) > 1
    transcriber = Transcriber(model, TOKENIZER)
    assert transcriber.delay == pytest.approx(0.08 * 4)
    heard, found = 0, []
    for piece in wave.split(1920, dim=1):
        heard += piece.shape[1]
        for word in transcriber.feed(piece):
            # complete with the token behind it, which comes `delay` behind its own frame's start
            assert word.end + transcriber.delay == pytest.approx(heard / 24000, abs=1e-6)
            found.append(word)
    assert found and found + transcriber.finish() == whole
    assert transcriber.finish() == []


def test_a_delay_that_lies_in_the_data_is_taken_off_the_times(tmp_path):
    """Kyutai's models: silence first, text behind, and a tail of silence in which the last words come."""
    model = make_model(config_of(tmp_path, task="stt", delays=dict(text=0, acoustic=0))).eval()
    wave, frame = noise(1.0), 1920
    before = transcribe(model, TOKENIZER, torch.nn.functional.pad(wave, (2 * frame, 720 + 5 * frame)))
    model.config.kyutai = {
        "config": {"stt_config": {"audio_silence_prefix_seconds": 0.15, "audio_delay_seconds": 0.4}}
    }
    words = transcribe(model, TOKENIZER, wave)
    late = 2 * 0.08 + 0.4
    assert [w.text for w in words] == [w.text for w in before] and len(words) > 1
    for word, raw in zip(words, before):
        assert word.start == pytest.approx(max(0.0, raw.start - late), abs=1e-5)
        assert word.end == pytest.approx(max(0.0, raw.end - late), abs=1e-5)
    assert Transcriber(model, TOKENIZER).delay == pytest.approx(0.4 + 0.08)


def test_what_makes_no_sense_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="holds conversations; to write down"):
        Transcriber(make_model(config_of(tmp_path)).eval(), TOKENIZER)
    with pytest.raises(ValueError, match="speaks; to write down"):
        Transcriber(make_model(config_of(tmp_path, task="tts")).eval(), TOKENIZER)
    with pytest.raises(ValueError, match="is empty"):
        transcribe(model, TOKENIZER, torch.zeros(1, 0))
    with pytest.raises(ValueError, match=r"must be \(1, samples\)"):
        transcribe(model, TOKENIZER, torch.zeros(2, 4000))
    with pytest.raises(ValueError, match="NaN"):
        transcribe(model, TOKENIZER, torch.full((1, 4000), float("nan")))
    transcriber = Transcriber(model, TOKENIZER)
    transcriber.finish()
    with pytest.raises(ValueError, match="has ended"):
        transcriber.feed(noise(1))


def test_damaged_weights_are_noticed(tmp_path):
    broken = make_model(config_of(tmp_path, task="stt")).eval()
    with torch.no_grad():
        broken.decoder.lm_head.weight[5] = float("nan")
    with pytest.raises(AizuchiError, match="not finite"):
        transcribe(broken, TOKENIZER, noise(1))
