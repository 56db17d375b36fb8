import random

import numpy as np
import pytest

from aizuchi.errors import AizuchiError
from recipes.mini import voices
from recipes.mini.classic_engines import _merge
from recipes.mini.clips import ClipLibrary, Shard, write_shard
from recipes.mini.neural_engines import spans_of
from recipes.mini.timing import (
    RATE,
    Spoken,
    check_times,
    cut_short,
    insert_pause,
    join,
    quietest,
    resample,
    shift,
    sound_edges,
    tighten,
    trim,
)
from recipes.mini.utterances import Utterance
from tests.recipes.tones import VOICE, spoken


def tone(seconds: float, level: float = 0.5) -> np.ndarray:
    return (level * np.sin(np.arange(round(seconds * RATE)) * 0.2)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


@pytest.fixture
def clip() -> Spoken:
    """Silence 0.3, word 0.2, silence 0.1, word 0.4, silence 0.5."""
    audio = np.concatenate([silence(0.3), tone(0.2), silence(0.1), tone(0.4), silence(0.5)])
    words = (("one", 0.3, 0.5), ("two", 0.6, 1.0))
    return Spoken(audio, words, (("a", 0.3, 0.5), ("b", 0.6, 0.8), ("c", 0.8, 1.0)))


@pytest.mark.parametrize("name", sorted(voices.HELD_OUT))
def test_held_out_voices_are_refused(name):
    with pytest.raises(voices.HeldOutVoiceError, match="held out"):
        voices.get_voice(name)
    with pytest.raises(voices.HeldOutVoiceError):
        voices.check_user(name, 1.1)
    assert name not in voices.training_voices()


def test_mixes_with_a_held_out_voice_are_refused():
    name = "kokoro:af_nova.40+af_sky.60"
    assert voices.is_held_out(name)
    with pytest.raises(voices.HeldOutVoiceError):
        voices.get_voice(name)
    assert not voices.is_held_out("kokoro:af_alloy.40+af_sky.60")


def test_drawn_mixes_never_hold_one():
    rng = random.Random(0)
    for _ in range(500):
        assert not voices.is_held_out(voices.draw_mix(rng))


@pytest.mark.parametrize("name", ["kokoro", "kokoro:nobody", "espeak:en", "kokoro:af_sky.40+af_alloy.40", ""])
def test_unknown_voices_are_named(name):
    with pytest.raises(AizuchiError, match="none of"):
        voices.get_voice(name)


def test_a_user_is_never_the_assistant():
    rng = random.Random(0)
    for _ in range(200):
        factor = voices.draw_factor(rng, voices.ASSISTANT)
        voices.check_user(voices.ASSISTANT, factor)
        assert abs(factor - 1) >= 0.07
    with pytest.raises(AizuchiError, match="assistant"):
        voices.check_user(voices.ASSISTANT, 1.0)
    assert "kokoro:af_heart" not in voices.training_voices("kokoro")
    assert len(voices.training_voices("kokoro")) == 23


def test_spans_of_groups_phonemes_by_word():
    # "hi, you": durations in 25 ms units; the comma's time belongs to no word, a stress mark to its phone
    units = np.array([4, 2, 1, 3, 6, 1, 2, 4, 8.0])
    words, phones, exact = spans_of("h\u02c8I, ju", units, ["Hi,", "you"])
    assert exact
    assert words == (
        ("Hi,", pytest.approx(0.05), pytest.approx(0.2)),
        ("you", pytest.approx(0.375), pytest.approx(0.525)),
    )
    assert [p for p, _, _ in phones] == ["h", "I", "j", "u"]
    assert phones[1][1] == pytest.approx(0.1)


def test_spans_of_says_when_words_do_not_fit():
    words, _, exact = spans_of("a b", np.ones(5), ["one"])
    assert not exact and words[0][0] == "one"


def test_trim_keeps_lead_and_tail(clip):
    short = trim(clip)
    assert short.words[0][1] == pytest.approx(0.05)
    assert short.duration == pytest.approx(0.05 + 0.7 + 0.12)
    assert short.end == pytest.approx(0.75)


def test_tighten_ends_words_where_the_sound_ends(clip):
    late = Spoken(clip.audio, (("one", 0.3, 0.58), ("two", 0.6, 1.4)))
    assert [end for _, _, end in tighten(late).words] == [0.5, 1.0]


def test_check_times(clip):
    check_times(clip)
    for words in (
        (("a", 0.2, 0.1),),
        (("a", 0.3, 0.4), ("b", 0.2, 0.5)),
        (("a", 0.1, 99.0),),
        (("a", -0.1, 0.2),),
    ):
        with pytest.raises(ValueError, match="times"):
            check_times(Spoken(clip.audio, words))


def test_festival_tokens_become_the_written_words():
    tokens = [("Let", 0.1, 0.3), ("'s", 0.0, 0.0), ("try", 0.37, 0.6)]
    assert _merge(tokens, ["Let's", "try"]) == (("Let's", 0.1, 0.37), ("try", 0.37, 0.6))
    assert _merge(tokens, ["Let's"]) is None
    assert _merge([("six", 0.3, 0.2)], ["six"]) is None


def test_sound_edges(clip):
    assert sound_edges(clip.audio) == (pytest.approx(0.3), pytest.approx(1.0))
    assert sound_edges(silence(0)) == (0, 0)


def test_resample_scales_audio_and_times(clip):
    fast = resample(clip, 1.25)
    assert fast.duration == pytest.approx(clip.duration / 1.25, abs=0.001)
    assert fast.words[1][1:] == (pytest.approx(0.48), pytest.approx(0.8))
    assert sound_edges(fast.audio)[0] == pytest.approx(fast.words[0][1], abs=0.011)
    with pytest.raises(ValueError, match="factor"):
        resample(clip, 3)


def test_insert_pause_makes_the_gap_that_long(clip):
    paused = insert_pause(clip, 1, 0.7)
    (_, _, end), (_, start, _) = paused.words
    assert start - end == pytest.approx(0.7, abs=0.002)
    assert paused.duration == pytest.approx(clip.duration + 0.6, abs=0.002)
    assert sound_edges(paused.audio[round((end + 0.01) * RATE) :])[0] == pytest.approx(0.69, abs=0.02)
    with pytest.raises(ValueError, match="word"):
        insert_pause(clip, 0, 0.5)


def test_cut_short_drops_later_words(clip):
    cut = cut_short(clip, 0.7)
    assert cut.duration == pytest.approx(0.7)
    assert cut.words == (("one", 0.3, 0.5), ("two", 0.6, 0.7))
    assert [p for p, _, _ in cut.phones] == ["a", "b"]
    assert cut_short(clip, 0.55).words == (("one", 0.3, 0.5),)


def test_join_and_shift(clip):
    both = join([clip, clip], 0.25)
    assert both.duration == pytest.approx(2 * clip.duration + 0.25)
    assert both.words[2][1] == pytest.approx(clip.duration + 0.25 + 0.3)
    assert shift([("a", 1, 2)], -1.5) == (("a", 0, 0.5),)


def test_quietest_finds_the_gap(clip):
    assert 0.5 <= quietest(clip.audio, 0.45, 0.65) / RATE <= 0.6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["hibari:heart", "kokoro:af_sky", "flite:rms", "pico:en-US", "festival:slt"])
def test_engines_speak_with_word_times(name):
    try:
        engine = voices.get_voice(name)
    except AizuchiError as error:
        pytest.skip(str(error))
    text = "What is twenty one plus two?"
    spoken = engine.speak(text)
    assert [w for w, _, _ in spoken.words] == text.split()
    if not name.startswith("pico"):  # Pico's noise goes on from call to call
        assert np.array_equal(spoken.audio, engine.speak(text).audio)
    first, last = sound_edges(spoken.audio)
    assert first == pytest.approx(spoken.words[0][1], abs=0.08)
    assert last == pytest.approx(spoken.end, abs=0.05)
    if not name.startswith("festival"):  # an HTS voice keeps its own pace
        assert engine.speak(text, speed=1.2).duration < spoken.duration


def test_a_clip_whose_times_cannot_be_is_left_out(tmp_path):
    good = spoken("one two three")
    bad = Spoken(good.audio, (("one", 0.3, 0.3),))
    made = write_shard(
        Shard(VOICE, 0), tmp_path, 1, [(Utterance("plus", "one"), 1.0, clip) for clip in (bad, good)]
    )
    assert made["clips"] == 1 and len(ClipLibrary(tmp_path)) == 1
    with pytest.raises(AizuchiError, match="'one' has no valid times"):
        write_shard(Shard(VOICE, 1), tmp_path, 1, [(Utterance("plus", "one"), 1.0, bad)])
    assert not Shard(VOICE, 1).path(tmp_path).exists()
