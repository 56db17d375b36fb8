"""docs/training.md from codec to conversation: its configurations are taken, and its commands run at toy size."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml

from aizuchi.audio import write_audio
from aizuchi.cli import main
from aizuchi.data.dialogues import write_list
from aizuchi.train.config import build
from aizuchi.train.mimi_config import MimiTraining
from aizuchi.train.moshi_config import MoshiTraining, model_config
from tests.data.helpers import make_dialogues

PAGE = (Path(__file__).resolve().parents[2] / "docs/training.md").read_text(encoding="utf-8")
FENCE = re.compile(r"^```(\w+)[ \t]*(.*?)\n(.*?)^```", re.M | re.S)
CONFIGS = {
    note.split()[1]: (note.split()[0], yaml.safe_load(text))
    for language, note, text in FENCE.findall(PAGE)
    if language == "yaml"
}
# In the order in which one needs the other, which is not the page's.
ORDER = [
    "A codec",
    "A model from scratch",
    "Speech synthesis and recognition",
    "Fine-tune on your own dialogues",
]
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
VOCABULARY = 320


@pytest.mark.parametrize("name", CONFIGS)
def test_the_configurations_of_the_page_are_taken(name):
    kind, values = CONFIGS[name]
    config = build({"moshi": MoshiTraining, "mimi": MimiTraining}[kind], values)
    if kind == "mimi":
        from aizuchi.models.mimi import MimiConfig

        fields = config.model
        MimiConfig(
            num_key_value_heads=fields["num_attention_heads"], upsample_groups=fields["hidden_size"], **fields
        )
    elif config.model is not None:
        model_config(config)


def toy(kind, values):
    """A configuration of the page with its sizes cut down, and nothing else changed."""
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=32)
    small = dict(steps=2, batch_size=2, device="cpu", tensorboard=False, log_every=1, schedule={})
    if kind == "mimi":
        small |= dict(
            data=dict(seconds=0.32, valid_items=2),
            loss=dict(windows=[256], bands=20),
            quantizer=dict(start=1, init_batches=1),
            semantic=dict(classes=4),
            discriminator=dict(start=1, windows=[256], filters=2, seconds=0.3),
            model=dict(
                num_filters=2,
                hidden_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                codebook_size=8,
                codebook_dim=4,
                vector_quantization_hidden_dimension=4,
            ),
        )
    else:
        small |= dict(micro_batch_size=1, data=dict(frames=12), schedule=dict(warmup=1), samples=1)
        small["sample_seconds"] = 0.5
        if "model" in values:
            small["model"] = dict(sizes, vocab_size=VOCABULARY, depth_decoder_config=sizes)
        if "lora" in values:
            small["lora"] = dict(rank=2)
    merged = dict(values)
    for key, value in small.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    if "sample_every" in merged:
        merged["sample_every"] = 2
    return merged


def prepare(folder):
    """What the page says that its reader has: sound files, dialogues, words, a question, and a model to tune."""
    rng = np.random.default_rng(0)

    def tone(path):
        write_audio(path, 0.3 * np.sin(2 * np.pi * rng.uniform(100, 900) * np.arange(24000) / 24000))

    for part in ("train", "valid"):
        (folder / "speech" / part).mkdir(parents=True)
        for n in range(2):
            tone(folder / "speech" / part / f"{n}.wav")
    tone(folder / "question.wav")
    (folder / "calls").mkdir()
    make_dialogues(folder / "calls", count=2, seconds=1.5)
    for part in ("train", "valid"):
        write_list(folder / f"calls/{part}.jsonl", sorted((folder / "calls").glob("*.wav")))
    words = ["it will rain tomorrow", "abcdefghij", "the cat sat on the mat"] * 20
    (folder / "words.txt").write_text("\n".join(words))
    (folder / "news.txt").write_text(" ".join(words))
    (folder / "books.jsonl").write_text('{"text": "it will rain"}\n')
    for name, (kind, values) in CONFIGS.items():
        values = toy(kind, values)
        if "checkpoint" in values:
            values["checkpoint"] = "runs/model/model"
        (folder / name).write_text(yaml.safe_dump(values))


def test_every_command_of_the_page_runs_at_toy_size(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path)
    done = []
    for section in ORDER:
        for language, note, code in FENCE.findall(SECTIONS[section]):
            if language == "python":
                small = f"vocab_size={VOCABULARY}, hard_vocab_limit=False, minloglevel=2"
                exec(code.replace("vocab_size=2000", small), {})
            if language != "bash" or note == "no-run":
                continue
            for line in code.splitlines():
                program, *arguments = shlex.split(
                    line.replace("kyutai/moshiko-pytorch-bf16", "runs/model/model")
                )
                assert program == "aizuchi" and main(arguments) == 0, (line, capsys.readouterr().err)
                done.append(" ".join(arguments[:2]))
    assert {"train mimi", "data tokenize", "train moshi", "train merge", "data text"} <= set(done)
    for sound in ("reply.wav", "rain.wav"):
        assert (tmp_path / sound).stat().st_size > 1000
    assert (tmp_path / "rain.srt").exists() and (tmp_path / "merged/model.safetensors").exists()
    assert list((tmp_path / "runs/model/samples").glob("step_*/0.wav"))


def test_what_does_not_run_is_outside_of_the_guides_and_marked():
    outside = PAGE
    for section in ORDER:
        outside = outside.replace(SECTIONS[section], "")
        assert not any(
            note == "no-run" for name, note, _ in FENCE.findall(SECTIONS[section]) if name == "bash"
        )
    assert all(note == "no-run" for name, note, _ in FENCE.findall(outside) if name == "bash")
