"""Token shards straight from spectra: `python -m recipes.mini.ear_tokens --help`.

What users say is coded by what follows the codec's convolutions, on spectra that are disturbed anew
(`recipes.mini.ear_rows`), several times faster than waveforms are; what the assistant says begins on a frame of the
codec and sounds the same every time, so its codes are kept. Spectra get the error that the convolutions make, of the
size that each component has it. `listen/` holds words of clips in ever new company, to which the model has nothing to
say; `train/` dialogues.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from aizuchi.data.codec import MimiCodec, encode
from aizuchi.data.frames import FRAME_SAMPLES, MAIN_SPEAKER, SpokenWord, frame_at, words_to_frames
from aizuchi.data.shards import DialogueTokens, finished, write_index, write_shard
from aizuchi.data.tokenizer import TextTokenizer
from aizuchi.train.order import keyed_generator
from recipes.mini.clips import ClipLibrary
from recipes.mini.command import RUNS, add_inputs, run_command
from recipes.mini.dialogues import REPLY_GAP, is_late
from recipes.mini.ear import FRAMES
from recipes.mini.ear_model import Convolutions
from recipes.mini.ear_rows import WARPED, WARPS, EarRows, disturbed, warped
from recipes.mini.front import SoundRows
from recipes.mini.heard import DELAY, HeardWords, listening_text
from recipes.mini.mix import Mixed, mixed_dialogue, on_grid, render, speak_assistant
from recipes.mini.sources import RECORDED, recordings
from recipes.mini.speaking import write_speaking
from recipes.mini.spectrum import log_frames, mel_power
from recipes.mini.timing import RATE
from recipes.mini.tokens import DIALOGUES, LISTEN, token_settings

ROWS = 60  # in a shard of listening or of speaking, 20 minutes
SPEAK = "speak"  # folder of the assistant's lines
CONTEXT = 20  # frames of silence before what the assistant says
LATE = 0.15  # of the answers
TAIL = 6  # frames after it until its codes are those of silence


@torch.no_grad()
def front_error(codec: Any, convs: Convolutions, rows: SoundRows, batches: int = 10) -> Tensor:
    """(K,) the root mean square by which an encoder misses each channel that its ear's convolutions give."""
    missed = []
    for step in range(batches):
        wave = rows(step)
        wanted = convs(log_frames(mel_power(wave[:, 0])))
        missed.append((codec.encoder(wave).transpose(1, 2) - wanted).flatten(0, 1))
    return torch.cat(missed).square().mean(0).sqrt()


class Coder:
    """Codes of both sides of a conversation.

    Args:
        mimi: the codec. convs: of its ear. error: what its encoder misses of them, see `front_error`.
        voice: what codes the assistant's side, where that isn't `mimi`.
    """

    def __init__(self, mimi: Any, convs: Convolutions, error: Tensor, voice: Any = None):
        self.codec, self.convs, self.error = MimiCodec(voice or mimi), convs, error
        self.transformer = mimi.encoder_transformer
        self.semantic = mimi.quantizer.semantic_residual_vector_quantizer
        self.silence = self._encode(np.zeros(FRAMES * FRAME_SAMPLES, np.float32))  # (FRAMES, K)
        self._said: dict[bytes, np.ndarray] = {}

    def _encode(self, wave: np.ndarray) -> np.ndarray:
        return encode(self.codec, wave[None])[0].T

    @torch.no_grad()
    def user(self, power: np.ndarray, generator: torch.Generator) -> np.ndarray:
        """Power in bands (F * STEPS, BANDS) -> codes (F, K), of which only the semantic ones tell anything."""
        given = self.convs(log_frames(torch.from_numpy(power))[None])[0]
        given = given + self.error * torch.randn(given.shape, generator=generator)
        latents = self.transformer(given.T[None])  # (1, K, F)
        codes = np.zeros((len(given), self.silence.shape[1]), self.silence.dtype)
        levels = self.semantic.encode(latents, len(self.semantic.layers))
        codes[:, : len(levels)] = torch.stack(levels, -1)[0].numpy()
        return codes

    def model(self, wave: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
        """The assistant's channel (F * 1920,), silent but for spans of frames (start, stop) -> codes (F, K)."""
        frames = len(wave) // FRAME_SAMPLES
        codes = np.repeat(self.silence[-1:], frames, 0)
        codes[: len(self.silence)] = self.silence[:frames]
        for start, stop in spans:
            stop = min(frames, stop + TAIL)
            said = wave[start * FRAME_SAMPLES : stop * FRAME_SAMPLES]
            key = hashlib.blake2b(said.tobytes(), digest_size=16).digest()
            if key not in self._said:
                before = np.zeros(CONTEXT * FRAME_SAMPLES, np.float32)
                self._said[key] = self._encode(np.concatenate([before, said]))[CONTEXT:]
            codes[start:stop] = self._said[key]
        return codes


def coded_dialogue(
    number: int, seed: int, means: tuple[Any, list[Path]], coder: Coder
) -> tuple[Any, Any, Any, Any, Any]:
    """Dialogue `number` of `recipes.mini.mix`: what `coded` gives of it. Whether it is known what the user says comes
    last.
    """
    mixed = mixed_dialogue(number, seed, *means, late=LATE)
    return *coded(mixed, number, seed, coder), mixed.script.voice != RECORDED


def coded(mixed: Mixed, number: int, seed: int, coder: Coder) -> tuple[Any, Any, Any, Any]:
    """Codes of both sides of a dialogue (F, K), words (text, start, end, own) of both, and where an answer is late:
    spans of frames (start, stop) in which silence is nothing to learn.
    """
    rng = random.Random(f"coded/{seed}/{number}")
    lead = rng.randint(0, 19)  # frames of silence in front, so that conversations don't all begin at once
    frames = lead + -(-mixed.audio.shape[1] // FRAME_SAMPLES)
    wave = np.zeros((2, frames * FRAME_SAMPLES), np.float32)
    wave[:, lead * FRAME_SAMPLES :][:, : mixed.audio.shape[1]] = mixed.audio
    spans, late = [], []
    for event, (start, end) in zip(mixed.script.events, mixed.times):
        if event.side == "model":
            first = speak_assistant(event.text).words[0][1]
            at = round(on_grid(start - first) * RATE / FRAME_SAMPLES)
            spans.append((lead + at, lead + math.ceil(end * RATE / FRAME_SAMPLES)))
            if is_late(event):
                late.append((lead + frame_at(start - event.gap + REPLY_GAP[0]), lead + frame_at(start)))
    generator = np.random.default_rng([seed, number])
    power = mel_power(wave).numpy()
    heard = power[1]
    if rng.random() < 0.4:  # an echo of the assistant
        heard = heard + np.float32(10 ** rng.uniform(-4, -2)) * np.roll(power[0], rng.randint(1, 20), 0)
    if rng.random() < WARPED:
        heard = warped(heard, rng.uniform(*WARPS))
    heard = disturbed(heard, rng, generator)
    noise = torch.Generator().manual_seed(int(generator.integers(1 << 62)))
    by = lead * FRAME_SAMPLES / RATE
    words = [(w.text, w.start + by, w.end + by, w.speaker == MAIN_SPEAKER) for w in mixed.words]
    return coder.model(wave[0], sorted(spans)), coder.user(heard, noise), words, late


@torch.no_grad()
def make(args: argparse.Namespace) -> int:
    from aizuchi.models.mimi import MimiModel
    from aizuchi.train.memory import keep_freed_memory

    keep_freed_memory()
    mimi = MimiModel.from_pretrained(args.codec).eval()
    tokenizer, heard = TextTokenizer(args.vocabulary), HeardWords(args.heard)
    convs = Convolutions.load(args.ear, mimi)
    error = front_error(mimi, convs, SoundRows(args.sound, ("train", LISTEN), 8, 5))
    voice = MimiModel.from_pretrained(args.voice_codec).eval() if args.voice_codec else None
    coder = Coder(mimi, convs, error, voice)
    settings = token_settings(MimiCodec(mimi), tokenizer, heard)
    made_with = [settings] + [coder.codec.fingerprint()] * bool(voice)
    library = ClipLibrary(args.clips)

    @functools.cache
    def rows() -> EarRows:
        return EarRows(library, [], heard, FRAMES, args.seed, takes=args.takes)

    def listening(number: int) -> DialogueTokens:
        row = rows().row(number)
        noise = torch.Generator().manual_seed(
            int(keyed_generator(args.seed, "ear", number).integers(1 << 62))
        )
        user = coder.user(row.power, noise)[:, None]
        words = row.words.astype(np.int32)
        return DialogueTokens(
            f"ear/{args.seed}/{number}", listening_text(words), coder.silence, user, heard=words
        )

    files = recordings(Path(args.commands)) if args.commands else []

    def dialogue(number: int) -> DialogueTokens:
        model, user, words, late, known = coded_dialogue(number, args.seed, (library, files), coder)
        said = [SpokenWord(text, start, end) for text, start, end, own in words if own]
        told = [(text, start, end) for text, start, end, own in words if not own] if known else None
        text = words_to_frames(said, len(model), tokenizer)
        marks = heard.on_frames(told, len(model))
        for (
            start,
            stop,
        ) in late:  # "not known" where nothing ends: padding is then no target `DELAY` frames on
            waiting = marks[start - DELAY : stop - DELAY]
            waiting[waiting == 0] = -1
        return DialogueTokens(f"ear/{args.seed}/{number}", text, model, user[:, None], heard=marks)

    def speaking(number: int) -> DialogueTokens:
        model, user, words, _ = coded(
            render(write_speaking(f"{args.seed}/{number}")), number, args.seed, coder
        )
        said = [SpokenWord(text, start, end) for text, start, end, _ in words]
        text = words_to_frames(said, len(model), tokenizer)
        marks = heard.on_frames(None, len(model))  # padding is no target, nor, before a user speaks, a word
        return DialogueTokens(f"speak/{args.seed}/{number}", text, model, user[:, None], heard=marks)

    for part, count, size, one in (
        ("train", args.dialogues, DIALOGUES, dialogue),
        (LISTEN, args.shards, ROWS, listening),
        (SPEAK, args.speaking, ROWS, speaking),
    ):
        folder = args.out / part
        folder.mkdir(parents=True, exist_ok=True)
        records = []
        for number in tqdm(range(count), unit="shard", desc=part):
            path = folder / f"shard-{number:05d}.safetensors"
            key = hashlib.sha256(json.dumps([*made_with, part, args.seed, number]).encode()).hexdigest()[:32]
            if finished(path, key) is None:
                write_shard(path, [one(number * size + i) for i in range(size)], key)
            record = finished(path, key)
            records += [record] if record else []
        write_index(folder, settings, records, complete=True)
        print(
            f"{part}: {len(records)} shards, {sum(r.frames for r in records) * 0.08 / 3600:.2f} h in {folder}"
        )
    return 0


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.ear_tokens",
        description="Token shards of dialogues and of listening, users coded without a waveform (resumable).",
    )
    parser.add_argument("--out", type=Path, default=RUNS / "tokens_ear", help="folder (default %(default)s)")
    add_inputs(parser, "ear", "codec", "clips", "sound", "vocabulary", "heard", "commands")
    parser.add_argument(
        "--voice-codec",
        type=Path,
        help="what codes the assistant's side, where an ear changed after the decoder (default: --codec)",
    )
    parser.add_argument(
        "--dialogues", type=int, default=60, help="shards of dialogues, 25 minutes each (default %(default)s)"
    )
    parser.add_argument(
        "--shards", type=int, default=60, help="shards of listening, 20 minutes each (default %(default)s)"
    )
    parser.add_argument(
        "--speaking",
        type=int,
        default=30,
        help="shards of the assistant's lines alone, 20 minutes each (default %(default)s)",
    )
    parser.add_argument(
        "--takes", type=int, default=3, help="speakers made of each clip (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=2, help="default %(default)s")
    parser.set_defaults(run=make)
    return parser


def main(argv: list[str] | None = None) -> int:
    return run_command(build_parser(), argv)


if __name__ == "__main__":
    raise SystemExit(main())
