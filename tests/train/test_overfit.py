"""A tiny Moshi learns eight dialogues by heart, and then, free running through the engine's loop, answers each of them
with its own answer; the same for a synthesiser and a recogniser, which are other delays of the same model."""

import numpy as np
import pytest
import torch

from aizuchi.models.moshi import MoshiForConditionalGeneration
from aizuchi.train.rollout import roll_out
from aizuchi.train.tokens import TokenDialogue, collate
from tests.train.tiny import MODEL, config_of, trainer_of

pytestmark = pytest.mark.slow

PAD, EPAD, SILENCE = 3, 0, 1
DEPTH = dict(hidden_size=64, num_hidden_layers=1, num_attention_heads=2, ffn_dim=192)
FRAMES, ASKED, ANSWERED = 26, slice(2, 9), slice(11, 22)


def eight(seed=0):
    """Every user asks something else; every answer has words and codes of its own, between silence."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(8):
        text = np.full(FRAMES, PAD, np.int32)
        model, user = np.full((2, 4, FRAMES), SILENCE, np.int16)
        user[:, ASKED] = rng.integers(2, 32, (4, 7))
        model[:, ANSWERED] = rng.integers(2, 32, (4, 11))
        for start in (11, 15, 19):  # words of two tokens
            text[start - 1], text[start : start + 2] = EPAD, rng.integers(4, 40, 2)
        made.append(TokenDialogue(text, model, user))
    return made


def learn(tmp_path, task, steps, **changes):
    config = config_of(
        tmp_path,
        task=task,
        model=dict(MODEL, hidden_size=96, ffn_dim=288, depth_decoder_config=DEPTH),
        data=dict(frames=FRAMES),
        optimizer=dict(learning_rate=3e-3, depth_learning_rate=3e-3, weight_decay=0.01),
        loss=dict(text_padding_weight=1.0, first_codebook_weight=1.0),
        schedule=dict(warmup=10),
        steps=steps,
        batch_size=8,
        micro_batch_size=8,
        log_every=50,
        save_every=0,
        **changes,
    )
    dialogues = eight()
    trainer = trainer_of(config, train=dialogues, valid=dialogues)
    folder = trainer.run()
    result = trainer.evaluate()
    return MoshiForConditionalGeneration.from_pretrained(folder).eval(), collate(dialogues, 4), result


def test_it_answers_each_user_with_its_own_answer(tmp_path):
    model, batch, result = learn(tmp_path, "dialogue", 200)
    assert result["text_accuracy"] > 0.95 and result["audio_accuracy"] > 0.95, result
    text, codes = roll_out(model, batch.user)
    for row in range(8):
        assert torch.equal(text[row, ANSWERED], batch.text[row, ANSWERED]), row
        agreement = (codes[row] == batch.model[row]).float().mean()
        assert agreement == 1.0, (row, agreement)
    # the answers belong to what was asked: other questions get the others' answers
    swapped, _ = roll_out(model, batch.user.flip(0))
    assert torch.equal(swapped, text.flip(0))


def test_a_synthesiser_says_the_codes_of_each_text(tmp_path):
    model, batch, result = learn(tmp_path, "tts", 200, delays=dict(audio=4))
    assert result["audio_accuracy"] > 0.95, result
    _, codes = roll_out(model, text=batch.text)
    assert torch.equal(codes, batch.model)


def test_a_recogniser_writes_the_words_of_each_voice(tmp_path):
    model, batch, result = learn(tmp_path, "stt", 150, delays=dict(text=4, acoustic=0))
    assert result["text_accuracy"] > 0.95, result
    text, codes = roll_out(model, batch.model)
    assert codes is None and torch.equal(text, batch.text)
