"""A tiny Moshi learns eight dialogues by heart, and then, free running through the engine's loop, answers each of them
with its own answer; the same for a synthesiser and a recogniser, which are other delays of the same model: from words
come the codes of the training, from sound its words."""

import numpy as np
import pytest
import torch

from aizuchi.data.frames import frames_to_words
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.engine import Sampling, speak, transcribe
from aizuchi.models.moshi import MoshiForConditionalGeneration
from aizuchi.train.rollout import roll_out
from aizuchi.train.start import make_model
from aizuchi.train.tokens import TokenDialogue, collate
from tests.train.tiny import MODEL, config_of, trainer_of

pytestmark = pytest.mark.slow

PAD, EPAD, SILENCE = 3, 0, 1
DEPTH = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=4, ffn_dim=384)
FRAMES, ASKED, ANSWERED = 26, slice(2, 9), slice(11, 22)


class Letters:
    """A word's tokens are its letters."""

    def encode(self, text):
        return [ord(letter) - 60 for letter in text]

    def decode(self, ids):
        return "".join(chr(i + 60) for i in ids)


LETTERS = TextTokenizer(Letters())


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


def learn(tmp_path, task, steps, dialogues=None, **changes):
    """A model of 2.8 million parameters that has learned eight dialogues, those as a batch, and its measures."""
    config = config_of(
        tmp_path,
        task=task,
        model=dict(
            MODEL,
            hidden_size=192,
            num_hidden_layers=4,
            num_attention_heads=4,
            ffn_dim=768,
            depth_decoder_config=DEPTH,
        ),
        data=dict(frames=FRAMES),
        optimizer=dict(learning_rate=2e-3, depth_learning_rate=2e-3, weight_decay=0.01),
        loss=dict(text_padding_weight=1.0, first_codebook_weight=1.0),
        schedule=dict(warmup=10),
        steps=steps,
        batch_size=8,
        micro_batch_size=8,
        log_every=50,
        save_every=0,
        **changes,
    )
    dialogues = dialogues or eight()
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
    for row in range(8):
        words = frames_to_words(batch.text[row].numpy(), LETTERS)
        tail = FRAMES - 21  # behind the last word's last token
        timed = speak(model, LETTERS, words, Sampling.greedy(), tail=tail)
        assert torch.equal(timed.codes, batch.model[row]) and timed.words == words
        # from the text alone: the pauses are the model's own, and are those that it learned
        free = speak(model, LETTERS, " ".join(word.text for word in words), Sampling.greedy(), tail=tail)
        assert torch.equal(free.codes, batch.model[row]) and free.words == words


def test_a_recogniser_writes_the_words_of_each_voice(tmp_path):
    """Voices are noise, as a codec with random weights hears it: what counts is that sound leads to the exact words."""
    generator = torch.Generator().manual_seed(0)
    waves = 0.3 * torch.randn(8, 1, 1920 * FRAMES, generator=generator)
    dialogues = eight()
    codec = make_model(config_of(tmp_path / "codec")).eval().audio_encoder
    with torch.no_grad():
        for dialogue, codes in zip(dialogues, codec.encode(waves, num_quantizers=4).audio_codes):
            dialogue.model[:] = codes
    codec.save_pretrained(tmp_path / "mimi")
    model, batch, result = learn(
        tmp_path,
        "stt",
        150,
        dialogues,
        delays=dict(text=4, acoustic=0),
        codec=str(tmp_path / "mimi"),
    )
    assert result["text_accuracy"] > 0.95, result
    text, codes = roll_out(model, batch.model)
    assert codes is None and torch.equal(text, batch.text)
    for row in range(8):
        assert transcribe(model, LETTERS, waves[row]) == frames_to_words(batch.text[row].numpy(), LETTERS)
