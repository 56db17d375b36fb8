"""Words in any order: apart from the held-out questions, spoken without a pause, answered by nothing."""

import random
from collections import Counter

import numpy as np

from recipes.mini import mix, sources
from recipes.mini.clips import LISTENING, ClipLibrary, Shard, listening_plan, make_shard, shard_utterances
from recipes.mini.dialogues import REPLY_GAP
from recipes.mini.listening import (
    GAP,
    MIXED,
    common_words,
    draw_mixed,
    held_out_runs,
    phrase_words,
    slot_words,
    training_words,
    write_listening,
)
from recipes.mini.normalize import normalize
from recipes.mini.utterances import draw
from recipes.mini.voices import is_held_out
from tests.recipes.test_mix import beeping  # noqa: F401  (voices that beep, for every test here)


def test_mixed_words_are_training_words_in_no_held_out_carrier():
    rng = random.Random(0)
    texts = [draw_mixed(rng).text for _ in range(3000)]
    said = [f" {normalize(text)} " for text in texts]
    assert len(held_out_runs()) > 200 and not any(
        f" {run} " in text for text in said for run in held_out_runs()
    )
    assert len(set(texts)) == len(texts) and all(4 <= len(text.split()) <= 15 for text in texts)
    words = Counter(word for text in said for word in text.split())
    assert all(words[word] for word in ("plus", "seven", "opposite", "monday", "march", "spell", "cow"))
    often = phrase_words()
    assert {"the", "you"} <= set(often[:5]) and "antonym" in often and 1000 < len(set(often)) == len(often)
    assert len(often) < len(phrase_words(1)) and not any("{" in word for word in often)
    # of 2,000 frequent words the phrases leave nearly half
    assert len(common_words()) > 900 and not set(common_words()) & set(training_words())
    common = sum(words[word] for word in common_words())
    assert 0.1 < common / words.total() < 0.25 and len(set(common_words()) & set(words)) > 0.75 * len(
        common_words()
    )
    # what questions are about comes often, the seldom asked too
    about = [normalize(word) for word in slot_words()]
    assert 0.4 < sum(words[word] for word in about) / words.total() < 0.6
    assert min(words[word] for word in ("broccoli", "lavender", "flamingo", "thirteen", "outside")) > 10
    assert draw(random.Random(4), "mixed") == draw_mixed(random.Random(4))


def test_shards_of_mixed_words_have_numbers_of_their_own():
    voices = [shard for shard, _ in zip(listening_plan(5), range(70))]
    assert all(shard.number >= LISTENING and not is_held_out(shard.voice) for shard in voices)
    assert len({(s.voice, s.number) for s in voices}) == 70
    rows = shard_utterances(Shard("kokoro:af_sky", LISTENING), 5, 7)
    assert [utterance.kind for utterance, _ in rows] == [MIXED] * 7


def test_a_user_speaks_without_a_pause_and_nobody_answers(tmp_path):
    make_shard(Shard("kokoro:af_sky", LISTENING), tmp_path, 3)
    library = ClipLibrary(tmp_path)
    source = sources.ClipSource(random.Random(0), library, "kokoro:af_sky", 1.0)
    script = write_listening("0", source)
    assert {event.side for event in script.events} == {"user"} and script.events[0].kind == MIXED
    assert all(GAP[0] <= event.gap <= GAP[1] < REPLY_GAP[0] for event in script.events[1:])
    for number in range(40):  # nor is there a carrier of a held-out question across two of its utterances
        talk = write_listening(
            f"{number}", sources.ClipSource(random.Random(number), library, "kokoro:af_sky", 1.0)
        )
        said = f" {' '.join(normalize(event.text) for event in talk.events)} "
        assert not any(f" {run} " in said for run in held_out_runs())
    mixed = mix.mixed_listening(7, 1, library)
    assert not mixed.audio[0].any() and mixed.audio[1].any() and mixed.duration > 8
    again = mix.mixed_listening(7, 1, library)
    assert np.array_equal(mixed.audio, again.audio) and mixed.words == again.words


def test_a_voice_of_mixed_words_alone_takes_part_in_no_dialogue(tmp_path):
    make_shard(Shard("kokoro:af_sky", LISTENING), tmp_path, 3)
    library = ClipLibrary(tmp_path)
    drawn = [sources.draw_source(random.Random(i), library, []).voice for i in range(40)]
    assert "kokoro:af_sky" not in drawn
    heard = [sources.draw_source(random.Random(i), library, [], listening=True).voice for i in range(40)]
    assert "kokoro:af_sky" in heard
