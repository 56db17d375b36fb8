"""Codec runs: what a step does, the adversary's start, exact resume, data from files."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from aizuchi.audio import write_audio
from aizuchi.errors import AizuchiError
from aizuchi.models.mimi import MimiModel
from aizuchi.train.config import to_dict
from aizuchi.train.logs import read_log
from aizuchi.train.mimi_config import SemanticConfig
from aizuchi.train.mimi_start import make_trainer
from aizuchi.train.waves import FileWaves, find_files
from aizuchi.train.weight_norm import without_weight_norm
from tests.train.tiny_codec import Tones, config_of, trainer_of

ROOT = Path(__file__).resolve().parents[2]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def test_a_run_learns_to_code_tones_and_names_their_pitch(tmp_path):
    config = config_of(
        tmp_path,
        steps=60,
        batch_size=8,
        eval_every=30,
        save_every=30,
        sample_every=60,
        samples=1,
        semantic=dict(teacher="labels", classes=6),
        quantizer=dict(start=10),
        discriminator=dict(start=50, windows=[256], filters=4, seconds=0.3),
        data=dict(seconds=0.32, valid_items=8),
    )
    trainer = trainer_of(config)
    folder = trainer.run()
    rows = read_log(tmp_path / "log.csv")
    steps = [r for r in rows if "spectral" in r]
    spectral = [float(r["spectral"]) for r in steps]
    assert np.mean(spectral[-5:]) < 0.75 * spectral[0]
    assert [int(r["step"]) for r in steps if "discriminator" in r] == list(range(51, 61))
    assert float(steps[-1]["semantic_score"]) > 0.5  # 1 in 6 by chance
    last = [r for r in rows if "valid_usage" in r][-1]
    assert float(last["valid_usage"]) > 0.2 and 0 < float(last["valid_kbps"]) <= 4 * 4 * 12.5 / 1000
    assert float(last["valid_semantic_score"]) > 0.5
    assert (tmp_path / "curves.png").exists() and (tmp_path / "samples/step_00000060/0.wav").exists()
    codec = MimiModel.from_pretrained(folder).eval()
    wave = torch.from_numpy(Tones().draw(0, 1920 * 6, np.random.default_rng(5))[0])[None, None]
    state = codec.init_encoder_state(1)
    stream = torch.cat([codec.encode(c, state=state).audio_codes for c in wave.split(1920, -1)], -1)
    assert torch.equal(stream, codec.encode(wave).audio_codes)


def test_the_semantic_part_alone(tmp_path):
    """It learns the pitches, a frame late too; what decodes stays as it is."""
    config = config_of(
        tmp_path,
        steps=60,
        batch_size=8,
        eval_every=60,
        train="semantic",
        semantic=dict(teacher="labels", classes=6, delay=1),
        data=dict(seconds=0.32, valid_items=8),
    )
    trainer = trainer_of(config)
    before = {name: tensor.clone() for name, tensor in trainer.codec.state_dict().items()}
    folder = trainer.run()
    rows = read_log(tmp_path / "log.csv")
    assert float(rows[-1]["valid_semantic_score"]) > 0.5  # 1 in 6 by chance
    assert "spectral" not in rows[0]
    moved = {
        n.split(".")[0]
        for n, tensor in trainer.codec.state_dict().items()
        if not torch.equal(tensor, before[n])
    }
    assert {"encoder", "encoder_transformer", "quantizer"} == moved - {"downsample"}
    acoustic = "quantizer.acoustic_residual_vector_quantizer"
    assert all(
        torch.equal(t, before[n]) for n, t in trainer.codec.state_dict().items() if n.startswith(acoustic)
    )
    MimiModel.from_pretrained(folder)
    with pytest.raises(AizuchiError, match="semantic needs a `semantic.teacher`"):
        trainer_of(dataclasses.replace(config, output=str(tmp_path / "none"), semantic=SemanticConfig()))
    with pytest.raises(AizuchiError, match="renew"):
        renew = dataclasses.replace(config.quantizer, renew=True)
        dataclasses.replace(config, train="decoder", checkpoint="codec", model=None, quantizer=renew)


def test_killed_and_resumed_ends_in_the_same_bits(tmp_path):
    """With everything that has a memory: averaged weights, adversary, clusters, balancer, codebooks."""
    config = config_of(
        tmp_path / "whole",
        steps=9,
        save_every=2,
        batch_size=2,
        ema=0.9,
        semantic=dict(teacher="clusters", classes=8),
        discriminator=dict(start=5, windows=[256], filters=4),
    )
    whole = trainer_of(config).run()
    broken = dataclasses.replace(config, output=str(tmp_path / "broken"))
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(to_dict(broken)))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = Path(__file__).with_name("tiny_codec.py")
    process = subprocess.Popen([sys.executable, str(script), str(path)], env=environment)
    log = tmp_path / "broken/log.csv"
    victim = int(np.random.default_rng().integers(3, 8))
    while process.poll() is None and (not log.exists() or len(log.read_text().splitlines()) <= victim):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "broken/model").exists(), "the run was over before it was killed"
    assert list((tmp_path / "broken/checkpoints").glob("step_*"))
    resumed = trainer_of(broken).run()
    assert_same(load_file(whole / "model.safetensors"), load_file(resumed / "model.safetensors"))


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    config = config_of(
        tmp_path / "two",
        steps=6,
        save_every=4,
        quantizer=dict(start=2),
        semantic=dict(teacher="clusters", classes=8),
        discriminator=dict(start=4, windows=[256], filters=4),
        optimizer=dict(learning_rate=1e-3),
    )
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--rdzv-backend=c10d"]
    command += ["--rdzv-endpoint=localhost:0", str(Path(__file__).with_name("tiny_codec.py")), str(path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    trainer_of(dataclasses.replace(config, output=str(tmp_path / "one"))).run()
    for a, b in zip(read_log(tmp_path / "one/log.csv"), read_log(tmp_path / "two/log.csv")):
        assert float(a["grad_norm"]) == pytest.approx(float(b["grad_norm"]), rel=1e-3)
    # Until the adversary comes in: its first gradients are so small that Adam makes steps of their rounding.
    one, two = (
        load_file(tmp_path / name / "checkpoints/step_00000004/model.safetensors") for name in ("one", "two")
    )
    for name in one:
        if "codebook" not in name:  # revival draws from a process's own vectors
            torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-5, msg=name)


def test_every_codebook_learns_though_rows_drop_some(tmp_path):
    trainer = trainer_of(config_of(tmp_path, quantizer=dict(dropout=1.0, rate=1.0, start=0)))
    trainer.train_step(trainer.steps_data[0])
    before = [c.embed.clone() for c in trainer.codec.quantizer.codebooks()]
    trainer.train_step(trainer.steps_data[1])
    for old, codebook in zip(before, trainer.codec.quantizer.codebooks()):
        assert not torch.equal(old, codebook.embed)


def test_shares_of_quantized_and_of_dropped_rows(tmp_path):
    trainer = trainer_of(config_of(tmp_path, quantizer=dict(rate=0.5, dropout=0.25), batch_size=2000))
    levels, bypass = trainer._draw_levels(2000)
    assert 0.45 < bypass.float().mean() < 0.55
    assert 0.76 < (levels == 4).float().mean() < 0.86  # 0.75, and the dropped ones that drew all
    assert levels.min() == 1 and set(levels.tolist()) == {1, 2, 3, 4}


def test_weights_that_are_averaged_are_exported(tmp_path):
    trainer = trainer_of(config_of(tmp_path, ema=0.9, steps=4))
    codec = MimiModel.from_pretrained(trainer.run())
    name = "decoder.layers.0.conv.weight"
    mean = dict(codec.named_parameters())[name]
    averages, codec = (without_weight_norm(c).get_parameter(name) for c in (trainer.averages, trainer.codec))
    assert torch.equal(mean, averages) and not torch.equal(mean, codec)


def test_sound_files_with_phones_from_the_command_lines_entry(tmp_path):
    folder = tmp_path / "sounds"
    folder.mkdir()
    for i in range(3):
        wave, _ = Tones().draw(0, 24000, np.random.default_rng(i))
        write_audio(folder / f"{i}.wav", wave)
        (folder / f"{i}.json").write_text(json.dumps({"phones": [["a", [0.1, 0.5]], ["k", [0.5, 0.9]]]}))
    config = config_of(
        tmp_path / "run", data=dict(train=str(folder), valid=str(folder)), semantic=dict(teacher="labels")
    )
    trainer = make_trainer(config)
    assert config.semantic.classes == 3
    labels = trainer.steps_data[0].labels
    assert set(labels.unique().tolist()) <= {0, 1, 2} and labels.max() > 0
    assert "semantic_score" in trainer.train_step(trainer.steps_data[0])
    source = FileWaves(find_files(str(folder)), 0.64, 0, phones=["a", "k"])
    frames = source.frame_labels(0, 0.0, 12)
    middles = (np.arange(12) + 0.5) * 0.08
    assert frames.tolist() == [1 if 0.1 <= m < 0.5 else 2 if 0.5 <= m < 0.9 else 0 for m in middles]


def test_crops_are_of_the_file_and_short_ones_are_filled_up(tmp_path):
    wave = np.linspace(-0.5, 0.5, 24000, dtype=np.float32)
    write_audio(tmp_path / "a.wav", wave)
    source = FileWaves([tmp_path / "a.wav"], 0.5, 0)
    crop = source.draw(3, 12000, np.random.default_rng(1))
    start = int(np.argmin(np.abs(wave - crop[0])))
    np.testing.assert_allclose(crop, wave[start : start + 12000], atol=2e-4)
    long = source.draw(3, 30000, np.random.default_rng(1))
    assert np.count_nonzero(long) >= 23990 and len(long) == 30000


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(data=dict(train="")), "data.train must be given"),
        (dict(data=dict(train="/nowhere")), "/nowhere does not exist"),
        (dict(data=dict(train="python:nothing:here")), "can't import 'nothing:here'"),
        (
            dict(data=dict(train="python:recipes.mini.codec_data:waves", options=dict(line=3))),
            "unexpected keyword argument 'line'; it takes clips, commands, lines",
        ),
        (dict(model=dict(num_filtres=3)), "did you mean 'num_filters'"),
        (dict(model=dict(codebook_size=7)), "model: .*power of 2"),
        (dict(quantizer=dict(rate=2.0)), "quantizer.rate"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, changes, message):
    changes.setdefault("data", dict(train="python:tests.train.tiny_codec:Tones"))
    with pytest.raises(AizuchiError, match=message):
        make_trainer(config_of(tmp_path, **changes))
