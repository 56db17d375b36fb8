"""Speech from text: the text stream is training's, whoever sets the pace; what streams is what comes out whole."""

import pytest
import torch

from aizuchi.data.frames import words_to_frames
from aizuchi.engine import Sampling, Speaker, speak, speak_frames
from aizuchi.engine.tokens import offer
from aizuchi.errors import AizuchiError
from aizuchi.train.rollout import roll_out
from aizuchi.train.start import make_model
from aizuchi.transcript import Word
from tests.train.tiny import config_of

PAD, EPAD = 3, 0


class Letters:
    """A word's tokens are its letters."""

    def encode(self, text):
        return [ord(letter) - 90 for letter in text]

    def decode(self, ids):
        return "".join(chr(i + 90) for i in ids)

    def starts_word(self, token):
        return False


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.set_num_threads(1)
    config = config_of(tmp_path_factory.mktemp("tts"), task="tts", delays=dict(audio=5))
    return make_model(config).eval()


def test_words_with_times_are_laid_out_as_in_training(model):
    words = [
        Word("one", 0.25, 0.5),
        Word("abracadabra", 0.64, 1.0),
        Word("two", 1.2, 1.4),
        Word("x", 2.0, 2.1),
    ]
    said = speak(model, Letters(), words, Sampling.greedy(), tail=6)
    expected = words_to_frames(words, len(said.text), Letters())
    assert said.text.tolist() == expected.tolist() and len(said.text) == 25 + 1 + 6
    _, codes = roll_out(model, text=torch.from_numpy(expected)[None].long())
    assert torch.equal(said.codes, codes[0])
    assert [(w.text, w.start) for w in said.words] == [
        ("one", 0.24),
        ("abracadabra", 0.64),
        ("two", 1.2),
        ("x", 2.0),
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_model_sets_the_pace_and_every_word_is_said_whole(model, seed):
    text = "we said it all\nand said it well"
    said = speak(model, Letters(), text, Sampling(seed=seed, text_temperature=1.5), longest_pause=6, tail=4)
    tokens = said.text.tolist()
    spoken = [t for t in tokens if t not in (PAD, EPAD)]
    assert Letters().decode(spoken) == text.replace("\n", "").replace(" ", "")
    assert [word.text for word in said.words] == text.split()
    starts = {round(word.start * 12.5) for word in said.words}
    for n, token in enumerate(tokens):
        if token == EPAD:
            assert n + 1 in starts, "the end of padding comes before a word"
    pauses = "".join("." if t in (PAD, EPAD) else "x" for t in tokens[: max(starts)]).split("x")
    assert max(map(len, pauses)) <= 6
    assert tokens[-4:] == [PAD] * 4 and tokens[-5] not in (PAD, EPAD)


def test_pace_follows_the_padding_bonus(model):
    quick, slow = (
        speak(model, Letters(), "a b c d e f", Sampling(padding_bonus=bonus), longest_pause=10).seconds
        for bonus in (-50, 50)
    )
    assert slow > quick + 5 * 9 * 0.08 and quick <= (6 + 6 + 12) * 0.08


def test_text_that_comes_in_pieces_makes_the_same_speech(model):
    whole = speak(model, Letters(), "some words of a text")
    taken = []

    def pieces():
        for piece in ("so", "me wor", "ds of ", "a\n", "te", "xt"):
            taken.append(piece)
            yield piece

    frames = speak_frames(model, Letters(), pieces())
    first = next(frames)
    assert taken[-1] != "xt", "sound comes before the text is complete"
    codes = torch.stack([first.codes, *(frame.codes for frame in frames)], dim=-1)
    assert torch.equal(codes, whole.codes)


def test_the_sound_is_that_of_the_codes(model):
    said = speak(model, Letters(), "so it is")
    whole = model.audio_encoder.decode(said.codes[None], return_dict=True).audio_values[0]
    torch.testing.assert_close(said.waveform, whole, rtol=0, atol=1e-5)
    assert said.waveform.shape[1] == 1920 * said.codes.shape[1] and said.waveform.abs().max() > 0


def test_the_voice_comes_five_frames_behind_the_text(model):
    """A word of frame 10 is first heard in what is said of frame 5."""
    a, b = (
        speak(model, Letters(), [Word(w, 0.8, 1.0)], Sampling.greedy(), tail=20).codes for w in ("abc", "xyz")
    )
    assert torch.equal(a[:, :5], b[:, :5]) and not torch.equal(a[:, 5:], b[:, 5:])


def test_an_offered_word_is_as_likely_as_all_words_were():
    logits = torch.randn(2, 12, generator=torch.Generator().manual_seed(0))
    before, after = logits.softmax(-1), offer(logits, torch.tensor([7, -1]), (PAD, EPAD)).softmax(-1)
    assert after[0, [PAD, EPAD]].tolist() == pytest.approx(before[0, [PAD, EPAD]].tolist(), rel=1e-5)
    assert float(after[0, 7]) == pytest.approx(1 - float(before[0, [PAD, EPAD]].sum()), rel=1e-5)
    assert float(after[0].sum()) == pytest.approx(1) and torch.equal(after[1], before[1])


def test_what_makes_no_sense_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="nothing to say"):
        speak(model, Letters(), " \n ")
    with pytest.raises(ValueError, match="out of order: 'b' at 0.1 s"):
        speak(model, Letters(), [Word("a", 0.5, 0.6), Word("b", 0.1, 0.2)])
    with pytest.raises(AizuchiError, match="not the model's tokenizer"):
        speak(model, Letters(), "Ω")
    with pytest.raises(ValueError, match="must be text"):
        speak(model, Letters(), [1, 2])
    with pytest.raises(ValueError, match="holds conversations; to speak"):
        Speaker(make_model(config_of(tmp_path)).eval())
    with pytest.raises(ValueError, match="training mode"):
        Speaker(make_model(config_of(tmp_path, task="tts")).train())
    speaker = Speaker(model)
    speaker.end()
    with pytest.raises(ValueError, match="the text has ended"):
        speaker.say("a", [7])


def test_damaged_weights_are_noticed(tmp_path):
    broken = make_model(config_of(tmp_path, task="tts")).eval()
    with torch.no_grad():
        broken.decoder.lm_head.weight[5] = float("nan")
    with pytest.raises(AizuchiError, match="not finite"):
        speak(broken, Letters(), "word")
