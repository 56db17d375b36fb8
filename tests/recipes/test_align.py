"""Words put where an ear hears them."""

import argparse
import itertools
import json

import numpy as np
import pytest
import torch

from recipes.mini import align as module
from recipes.mini.align import align, best_places, ends_of, timed
from recipes.mini.clips import ClipLibrary, Shard, write_shard
from recipes.mini.ear_model import WORD_DELAY
from recipes.mini.heard import HeardWords
from recipes.mini.timing import Spoken, check_times
from recipes.mini.utterances import Utterance

FRAME = 0.08


@pytest.mark.parametrize("words, frames, pull", [(1, 4, 0.0), (3, 7, 0.1), (4, 9, 0.02), (4, 4, 1.0)])
def test_places_are_the_best_of_all_that_are_in_order(words, frames, pull):
    rng = np.random.default_rng(words + frames)
    gains, expected = rng.normal(size=(words, frames)), rng.uniform(0, frames, words)

    def value(places):
        return sum(gains[i, at] - pull * abs(at - expected[i]) for i, at in enumerate(places))

    found = best_places(gains, expected, pull)
    assert value(found) == pytest.approx(max(map(value, itertools.combinations(range(frames), words))))
    assert all(a < b for a, b in itertools.pairwise(found))


class Ear:
    """Hears "two", then "four", surer with every frame that a sound lasts, and tells them `WORD_DELAY` frames late."""

    def __call__(self, given, quantize):
        loud = given[0].max(-1).values > -5
        logits = torch.zeros(1, len(loud), 6)
        pieces, lasted = 0, 0
        for frame in range(len(loud) - WORD_DELAY):
            lasted = lasted + 1 if loud[frame] else 0
            pieces += lasted == 1
            if lasted:
                logits[0, frame + WORD_DELAY, (3, 5)[pieces - 1]] = 3.0 + lasted
        return {"words": logits}


def clip(pieces, guessed):
    """Noise where pieces (start, end) are, in frames, and words at guessed times."""
    audio = np.zeros(40 * 1920, np.float32)
    for start, end in pieces:
        audio[start * 1920 : end * 1920] = (
            np.random.default_rng(start).normal(size=(end - start) * 1920) * 0.3
        )
    return Spoken(audio, tuple(guessed), exact=False)


GUESSED = (("two", 0.1, 0.5), ("—", 0.5, 0.6), ("four!", 0.6, 1.9))


def test_words_end_where_the_ear_tells_them():
    spoken = clip([(5, 7), (20, 24)], GUESSED)
    ends = ends_of(Ear(), spoken, [3, 5])
    assert ends == pytest.approx([6.5 * FRAME, 23.5 * FRAME], abs=0.75 * FRAME)
    words = timed(spoken.words, ends)
    check_times(Spoken(spoken.audio, tuple(words)))
    assert [w for w, _, _ in words] == ["two", "—", "four!"] and words[2][2] == round(ends[1], 4)


def test_only_guessed_times_move_and_only_once(tmp_path, monkeypatch, capsys):
    folder, names = tmp_path / "clips", tmp_path / "heard.txt"
    names.write_text("one\ntwo\nthree\nfour")
    heard = HeardWords(names)
    assert [int(heard.class_of(w)) for w in ("two", "four!")] == [3, 5]
    spoken = clip([(5, 7), (20, 24)], GUESSED)
    exact = Spoken(spoken.audio, spoken.words, exact=True)
    utterance = Utterance("plus", "two — four!")
    for number, one in enumerate((spoken, exact)):
        write_shard(Shard("kokoro:af_sky", number), folder, 1, [(utterance, 1.0, one)])
    monkeypatch.setattr(module, "load_ear", lambda folder: Ear())
    args = argparse.Namespace(ear=tmp_path, clips=folder, heard=names, check=None)
    assert align(args) == 0 and "3 words in 1 shards" in capsys.readouterr().out
    moved, kept = sorted(ClipLibrary(folder).by_voice["kokoro:af_sky"]["plus"], key=lambda c: c.name)
    assert kept.words == spoken.words
    assert moved.words[2][2] == pytest.approx(23.5 * FRAME, abs=0.75 * FRAME)
    assert json.loads(moved.audio.with_suffix(".json").read_text())["aligned"] is True
    assert align(args) == 0 and "all clips have their times" in capsys.readouterr().out
