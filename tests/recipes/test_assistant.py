"""The assistant's words, each always the same; its stock lines in one piece."""

import numpy as np
import pytest

pytest.importorskip("hibari")

from recipes.mini.answers import stock_lines
from recipes.mini.assistant import LATE, PAUSE, STEP, AssistantVoice, groups_of
from recipes.mini.grid import FRAME
from recipes.mini.timing import RATE, check_times
from recipes.mini.voices import get_assistant

WINDOW = 1440  # samples to which a spectrum and the filter behind it reach


def part_of(clip, word):
    """A word's samples, but for those into which the words beside it reach."""
    start, end = next((s, e) for w, s, e in clip.words if w.strip(".,!?").lower() == word)
    first = round(start * RATE) - LATE * STEP
    assert first % FRAME == 0
    return clip.audio[first + WINDOW : first + (round((end - start) * RATE) // FRAME) * FRAME - WINDOW // 2]


def test_phonemes_by_word_and_the_pauses_between():
    assert groups_of("wˈʌn, tˈu ænd.") == [("wˈʌn", True), ("tˈu", False), ("ænd", True)]
    assert groups_of("hˈaɪ — ju") == [("hˈaɪ", True), ("ju", False)]
    assert groups_of("") == []


@pytest.mark.parametrize("word", ["tuesday", "eleven", "moo"])
def test_a_word_sounds_the_same_in_every_line(word):
    lines = (f"{word.title()}.", f"After it comes {word}.", f"It's {word}, {word}!")
    found = [part_of(get_assistant().speak(line), word) for line in lines]
    shortest = min(map(len, found))
    assert shortest >= FRAME
    for other in found[1:]:
        np.testing.assert_allclose(other[:shortest], found[0][:shortest], atol=1e-6)
    assert np.abs(found[0]).max() > 0.05


def test_times_are_in_order_and_phones_inside_their_words():
    clip = get_assistant().speak("The opposite of begin is end.")
    check_times(clip)
    assert len(clip.audio) % FRAME == 0 and len(clip.words) == 6
    assert all(not set(name) & set("\u02c8\u02cc") for name, _, _ in clip.phones)
    for _, start, end in clip.phones:
        assert any(s - 1e-3 <= start and end <= e + 0.05 for _, s, e in clip.words)


def test_at_a_comma_it_pauses():
    clip = get_assistant().speak("Red, green.")
    first = round(clip.words[1][1] * RATE) - LATE * STEP
    pause = clip.audio[first - PAUSE * FRAME + WINDOW : first - WINDOW // 2]
    assert np.abs(pause).max() < 1e-4 * np.abs(clip.audio).max()


def test_words_that_were_heard_as_others_are_said_more_clearly():
    voice = AssistantVoice()
    asked = []
    make = voice.piece
    voice.piece = lambda sounds, speed: asked.append((sounds, speed)) or make(sounds, speed)
    clip = voice.speak("It says howl, buzz.", 1.1)
    assert [word for word, _, _ in clip.words] == ["It", "says", "howl,", "buzz."]
    assert asked[1][1] == 1.1  # any other word is said as it was asked for
    assert asked[2] == ("hˈWᵊl", 1.1) and asked[3] == ("bˈʌz", pytest.approx(1.1 * 0.85))
    check_times(clip)


def test_lines_that_are_unclear_in_one_piece_are_said_word_by_word():
    voice = AssistantVoice(stock_lines())
    voice.speak("I'm Mini.")
    assert voice.piece.cache_info().currsize == 2
    voice.speak("I'm fine, thank you.")
    assert voice.piece.cache_info().currsize == 5


def test_stock_lines_are_spoken_in_one_piece():
    voice = AssistantVoice(stock_lines())
    for line in ("I'm doing great, thanks!", "Goodbye! Have a nice day.", "Because seven ate nine."):
        voice.speak(line)
    assert voice.piece.cache_info().currsize == 0
    voice.speak("Okay. One, two.")
    assert voice.piece.cache_info().currsize == 2
