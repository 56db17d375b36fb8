"""Clips cut between their words and joined anew."""

import random

import numpy as np
import pytest

from recipes.mini import sources, splices
from recipes.mini.clips import ClipLibrary, Shard, write_shard
from recipes.mini.dialogues import NoUtterance
from recipes.mini.mix import speak_user
from recipes.mini.script import Event, Script
from recipes.mini.timing import RATE, Spoken
from recipes.mini.utterances import Utterance

VOICE = "kokoro:af_sky"
TEXTS = ["one two three", "blue cat sings", "monday is gone", "what rains today", "seven old horses"]


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Thirty clips in which every word is a tone of its own, 0.2 s long."""
    folder = tmp_path_factory.mktemp("clips")
    spoken = []
    for i in range(30):
        text = TEXTS[i % len(TEXTS)]
        words = tuple((word, 0.05 + 0.2 * k, 0.25 + 0.2 * k) for k, word in enumerate(text.split()))
        parts = [_tone(word) for word, _, _ in words]
        edge = np.zeros(RATE // 20, np.float32)
        spoken.append((Utterance("plus", text), 1.0, Spoken(np.concatenate([edge, *parts, edge]), words)))
    write_shard(Shard(VOICE, 0), folder, 1, spoken)
    return ClipLibrary(folder)


def _pitch(word: str) -> int:
    known = sorted({word for text in TEXTS for word in text.split()})
    return 400 + 100 * known.index(word)


def _tone(word: str) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * _pitch(word) * np.arange(RATE // 5) / RATE)).astype(np.float32)


def test_every_word_lies_where_it_is_said_to(library):
    audio, words = splices.spliced(random.Random(3), library, VOICE, seconds=(15.0, 16.0))
    assert 15 < len(audio) / RATE < 18 and len(words) > 40
    for word in words:
        middle = round((word.start + word.end) / 2 * RATE)
        spectrum = np.abs(np.fft.rfft(audio[middle - 1200 : middle + 1200] * np.hanning(2400)))
        assert abs(np.argmax(spectrum) * 10 - _pitch(word.text)) <= 10, word


def test_words_whose_times_are_guessed_are_not_cut(tmp_path):
    audio = np.zeros(RATE, np.float32)
    guessed = Spoken(audio, (("maybe", 0.1, 0.5),), exact=False)
    known = Spoken(audio, (("surely", 0.1, 0.5),))
    for number, clips in enumerate(([guessed] * 30, [known] * 20)):
        said = [(Utterance("plus", clip.words[0][0]), 1.0, clip) for clip in clips]
        write_shard(Shard(VOICE, number), tmp_path / "clips", 1, said)
        write_shard(Shard(VOICE, number), tmp_path / f"clips{number}", 1, said)
    both, only = ClipLibrary(tmp_path / "clips"), ClipLibrary(tmp_path / "clips0")
    assert splices.spoken_words(both, "kokoro") == {"surely"}
    assert splices.spliceable(only, "kokoro") == () and len(only.by_voice[VOICE]["plus"]) == 30
    with pytest.raises(NoUtterance):
        splices.spliced(random.Random(0), only, VOICE)


def test_the_order_is_nobodys(library):
    _, words = splices.spliced(random.Random(4), library, VOICE)
    runs = [f"{a.text} {b.text}" for a, b in zip(words, words[1:])]
    assert sum(not any(run in text for text in TEXTS) for run in runs) > len(runs) / 4


def test_no_carrier_of_a_held_out_question_comes_by_chance(library, monkeypatch):
    monkeypatch.setattr(splices, "held_out_runs", lambda: ("one two", "cat monday"))
    for seed in range(5):
        _, words = splices.spliced(random.Random(seed), library, VOICE)
        text = f" {' '.join(word.text for word in words)} "
        assert " one two " not in text and " cat monday " not in text


def test_a_resampled_voice_keeps_its_times(library):
    audio, words = splices.spliced(random.Random(5), library, VOICE, factor=1.1)
    assert words[-1].end <= len(audio) / RATE
    assert np.median([word.end - word.start for word in words]) == pytest.approx(0.2 / 1.1, abs=0.002)


def test_a_voice_with_few_clips_is_refused(library):
    with pytest.raises(NoUtterance):
        splices.Pieces([clip for clips in library.by_voice[VOICE].values() for clip in clips][:5])


def test_a_text_that_nobody_said_is_put_together_from_its_words(library):
    text = "Seven blue cats? No: Monday sings, one two three."
    with pytest.raises(NoUtterance, match="cats"):
        splices.spoken_text(random.Random(0), library, VOICE, text)
    text = text.replace("cats? No:", "cat is")
    spoken = splices.spoken_text(random.Random(0), library, VOICE, text)
    assert [word for word, _, _ in spoken.words] == text.split()
    for word, start, end in spoken.words:
        middle = round((start + end) / 2 * RATE)
        spectrum = np.abs(np.fft.rfft(spoken.audio[middle - 1200 : middle + 1200] * np.hanning(2400)))
        assert abs(np.argmax(spectrum) * 10 - _pitch(splices.plain(word))) <= 10, word
    # "one two three" was said in one piece, and nothing is cut where it need not be
    assert spoken.words[-1][2] - spoken.words[-3][1] == pytest.approx(0.6, abs=0.01)


def test_users_say_fresh_phrases_in_words_of_their_clips(library, monkeypatch):
    drawn = iter([Utterance("plus", "three cats"), Utterance("plus", "One blue cat.")])
    monkeypatch.setattr(sources, "draw", lambda rng, kind, openers: next(drawn))
    source = sources.SplicedSource(random.Random(1), library, VOICE, 1.0)
    said = source.say("plus")  # cats are passed over
    assert said.utterance.text == "One blue cat." and said.clip.startswith("spliced/")
    event = Event(0, "user", said.utterance.text, "plus")
    event.clip, event.speed = said.clip, said.speed
    spoken = speak_user(event, Script("0", VOICE, 1.0), library)
    assert [word for word, _, _ in spoken.words] == ["One", "blue", "cat."]
    assert np.array_equal(spoken.audio, speak_user(event, Script("0", VOICE, 1.0), library).audio)
    monkeypatch.setattr(sources, "draw", lambda rng, kind, openers: Utterance("plus", "three cats"))
    with pytest.raises(NoUtterance):
        source.say("plus")
