"""The model in the box: what ships, that it loads everywhere, and that it answers when it is spoken to."""

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import aizuchi
from aizuchi.audio import read_audio
from aizuchi.checkpoints.load import default_model
from aizuchi.data.frames import frames_to_words
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.engine import Sampling, reply

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted(default_model().iterdir())


@pytest.fixture(scope="module")
def loaded():
    return aizuchi.load()


def test_it_is_small_enough_for_a_package():
    sizes = [path.stat().st_size for path in FILES]
    assert sum(sizes) <= 32 << 20 and max(sizes) <= 16 << 20


def test_it_says_what_it_is_and_where_it_comes_from():
    card = (default_model() / "README.md").read_text()
    for section in ("What it can do", "How it was made", "Figures", "Limits", "Licence"):
        assert f"## {section}" in card
    assert "hibari" in (default_model() / "NOTICE").read_text()


def test_it_is_small_by_configuration_alone(loaded):
    config, codec = loaded.model.config, loaded.model.config.audio_encoder_config
    assert isinstance(loaded.model, aizuchi.MoshiForConditionalGeneration)
    assert isinstance(loaded.model.audio_encoder, aizuchi.MimiModel)
    assert (codec.frame_rate, codec.sampling_rate, config.num_codebooks) == (12.5, 24000, 8)
    # int8 weights are buffers. A decoder that says everyone's codes takes 1.9 M more than one of the assistant alone
    assert 15e6 < sum(t.numel() for t in loaded.model.state_dict().values()) < 26.5e6
    assert Sampling.of_model(loaded.model) != Sampling()  # its own settings reach the engine


def test_its_codec_streams_exactly(loaded):
    codec = loaded.model.audio_encoder.double()
    try:
        wave = torch.from_numpy(read_audio(ROOT / "examples/question.flac")[0]).double()[None, None]
        wave = wave[..., : wave.shape[-1] // 1920 * 1920]
        with torch.no_grad():
            whole = codec.encode(wave).audio_codes
            state = codec.init_encoder_state(1)
            frames = [codec.encode_step(chunk, state) for chunk in wave.split(1920, -1)]
        assert torch.equal(torch.cat(frames, -1), whole)
        assert len(whole[0, 0].unique()) > 12
    finally:
        codec.float()


def test_it_answers_a_greeting_and_waits_for_its_end(loaded):
    wave = read_audio(ROOT / "examples/greeting.flac")[0]
    end = len(wave) / 24000
    user = torch.from_numpy(np.pad(wave, (0, 5 * 24000)))[None]
    result = reply(loaded.model, user, Sampling.of_model(loaded.model))
    words = frames_to_words(result.text.tolist(), TextTokenizer(loaded.tokenizer))
    assert words and all(word.start > end - 1 for word in words)
    loudness = result.waveform[0].unfold(0, 1920, 1920).square().mean(1).sqrt()
    spoken = loudness > 0.02
    for word in words:  # sound where each is written; short ones are written up to a frame late
        at = round(word.start * 12.5)
        assert spoken[at - 1 : at + 4].any(), word
    assert spoken.sum() > len(words)
    assert spoken[: int((end - 1) * 12.5)].float().mean() < 0.05  # and none while the user speaks


@pytest.mark.slow
def test_a_wheel_holds_the_weights(tmp_path):
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", str(tmp_path), str(ROOT)], check=True
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"aizuchi/pretrained/mini/{path.name}" for path in FILES} <= names
