"""Likelihoods of our own models: what a column-by-column reading gives, and pairs by the command."""

import json

import numpy as np
import pytest
import torch

from aizuchi.audio import write_audio
from aizuchi.cli import main
from aizuchi.errors import AizuchiError
from aizuchi.evaluate import words_models
from aizuchi.evaluate.likelihood import ModelLikelihood
from tests.models.moshi.reference import tiny_model

RATE = 24_000


class Letters:
    def encode(self, text):
        return [ord(letter) - 60 for letter in text if letter.isalpha()]


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return tiny_model().eval()


def surprise(logits, token):
    return -float(torch.log_softmax(logits.float(), dim=-1)[token])


def test_a_text_costs_what_its_tokens_cost_one_by_one(model):
    ids = Letters().encode("abca")
    nats, tokens = ModelLikelihood(model, Letters())("abca")
    config = model.config
    blank = {
        "moshi_audio_codes": torch.full((1, config.num_model_codebooks, 4), -1),
        "user_audio_codes": torch.full((1, config.num_user_codebooks, 4), -1),
    }
    total = 0.0
    with torch.no_grad():
        for i, token in enumerate(ids):
            known = torch.tensor([[*ids[:i], *[5] * (4 - i)]])  # what comes later must not matter
            columns = model.prepare_training_inputs(text_ids=known, **blank)
            given = {k: columns[k][..., : i + 1] for k in ("input_ids", *blank)}
            total += surprise(model(**given).logits[0, i], token)
    assert tokens == 4 and nats == pytest.approx(total, abs=1e-4)


def test_a_sound_costs_what_its_semantic_codes_cost_one_by_one(model, tmp_path):
    wave = np.random.default_rng(0).normal(size=5 * 1920).astype(np.float32) * 0.1
    write_audio(tmp_path / "a.wav", wave, RATE)
    nats, tokens = ModelLikelihood(model)(str(tmp_path / "a.wav"))
    pcm = np.rint(wave * 32768).clip(-32768, 32767).astype(np.float32) / 32768
    config = model.config
    total = 0.0
    with torch.no_grad():
        codes = model.encode_audio(torch.from_numpy(pcm)[None, None], config.num_model_codebooks)
        user = torch.full((1, config.num_user_codebooks, 5), -1)
        full = model.prepare_training_inputs(moshi_audio_codes=codes, user_audio_codes=user)
        for i in range(5):
            given = {k: full[k][..., : i + 2] for k in ("input_ids", "moshi_audio_codes", "user_audio_codes")}
            out = model(**given, audio_labels=full["audio_labels"][..., : i + 2])
            total += surprise(out.audio_logits[-1, 0], codes[0, 0, i])
    assert tokens == 5 and nats == pytest.approx(total, abs=1e-3)


def test_pairs_by_the_command(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(words_models, "load_words_model", lambda spec: (model, Letters(), spec))
    score = ModelLikelihood(model, Letters())
    good, bad = sorted(("abc", "stu"), key=lambda text: score(text)[0])
    write_audio(tmp_path / "a.wav", np.full(3840, 0.1, np.float32), RATE)
    pairs = [
        {"id": "1", "kind": "words", "good": good, "bad": bad},
        {"id": "2", "kind": "sounds", "good": "a.wav", "bad": "a.wav"},
        {"id": "3", "kind": "sounds", "good": "a.wav", "bad": "..."},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    arguments = [
        "eval",
        "speech",
        "--pairs",
        str(tmp_path / "pairs.jsonl"),
        "--out",
        str(tmp_path / "out"),
        "-q",
    ]
    assert main([*arguments, "--model", "tiny"]) == 0
    data = json.loads((tmp_path / "out/speech.json").read_text())
    table = data["tables"]["Likelihood pairs"]
    assert table["words"]["accuracy"]["value"] == 100 and table["sounds"]["ties"]["value"] == 100
    assert [row["path"] for row in data["broken"]] == ["3"]
    assert main(arguments) == 2 and "--model" in capsys.readouterr().err
    with pytest.raises(AizuchiError, match="no tokenizer"):
        ModelLikelihood(model)("words")
