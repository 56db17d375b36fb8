"""A clip cache of one voice of tones, the words that it says, and an ear's rows of them."""

import pytest

from recipes.mini.clips import ClipLibrary, Shard, write_shard
from recipes.mini.ear_rows import EarRows
from recipes.mini.heard import HeardWords
from recipes.mini.utterances import Utterance
from tests.recipes.tones import FRAMES, TEXTS, VOICE, WORDS, spoken


@pytest.fixture(scope="module")
def heard(tmp_path_factory):
    path = tmp_path_factory.mktemp("heard") / "heard.txt"
    path.write_text("\n".join(WORDS))
    return HeardWords(path)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    clips = [(Utterance("plus", text), 1.0, spoken(text)) for text in TEXTS * 30]
    write_shard(Shard(VOICE, 0), folder, 1, clips)
    return ClipLibrary(folder)


@pytest.fixture(scope="module")
def rows(library, heard):
    return EarRows(library, [spoken("old cat")], heard, FRAMES, takes=1)
