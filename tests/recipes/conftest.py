"""A clip cache of one voice of tones, the words that it says, an ear's rows of them, an ear, and its codec."""

import numpy as np
import pytest
import torch

from recipes.mini import ear, ear_model, front
from recipes.mini.clips import ClipLibrary, Shard, write_shard
from recipes.mini.ear_rows import EarRows
from recipes.mini.heard import HeardWords
from recipes.mini.spectrum import log_frames
from recipes.mini.stage import StageConfig
from recipes.mini.timing import RATE
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


@pytest.fixture(scope="module")
def small(rows, library, heard, tmp_path_factory):
    """A run of a few steps, and its folder."""
    folder = tmp_path_factory.mktemp("ear")
    valid = EarRows(library, [], heard, FRAMES, validation=True)
    components = ear.fit_components(rows, 192, batches=2)
    components.save(folder / "components.safetensors")

    def stage(steps: int, out):
        torch.manual_seed(3)
        config = StageConfig(
            str(out), steps, 2, seed=1, precision="fp32", eval_every=0, save_every=4, warmup=2
        )
        config.final = 1.0
        made = ear_model.Ear(len(heard), reader_layers=1)
        made.convs.normalize(log_frames(rows.batch(0, 4)["power"]))
        return ear.EarStage(config, made, rows, valid, components, start=3)

    run = stage(6, folder)
    run.run()
    run.module.convs.save_stem(folder)
    return stage, folder, run


@pytest.fixture(scope="module")
def made(small, tmp_path_factory):
    """A codec of the small ear, and the sound that it was made on."""
    _, folder, _ = small
    root = tmp_path_factory.mktemp("codec")
    generator = np.random.default_rng(0)
    for part in ("train", "listen"):
        (root / "sound" / part).mkdir(parents=True)
        sound = (generator.standard_normal((2, RATE * 40)) * 3000 * generator.random(RATE * 40)).astype(
            np.int16
        )
        np.save(root / "sound" / part / "00000.npy", sound)
    (root / "front/model").mkdir(parents=True)
    lower = ear_model.halves(front.make_codec(None).encoder)[0]
    torch.save(lower.state_dict(), root / "front/model/weights.pt")
    where = ["--ear", str(folder), "--sound", str(root / "sound")]
    command = [
        "assemble",
        *where,
        "--front",
        str(root / "front"),
        "--out",
        str(root / "codec"),
        "--batches",
        "3",
    ]
    assert front.main(command) == 0
    return root, where
