"""How well is understood what a model says? `python -m recipes.mini.check_voice --help`.

Answers of every kind that has facts are said three times: as the assistant's voice says them, coded, and by the model,
which is given the text on its frames and finds the codes. A recogniser hears all of them. So the voice is judged apart
from what a model answers, and words that come seldom count as much as others.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import random
from collections import defaultdict
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recipes.mini.answers import reply
from recipes.mini.check import recogniser
from recipes.mini.command import run_command
from recipes.mini.grid import FRAME
from recipes.mini.mix import speak_assistant
from recipes.mini.normalize import word_errors
from recipes.mini.timing import RATE, shift
from recipes.mini.utterances import draw

KINDS = (
    "plus minus times count count_from count_down number_after number_before day_after day_before month_after "
    "month_before opposite color sound spell repeat"
).split()
LEAD = 12  # frames of silence before a line
TAIL = 8
LONGEST = 9  # words


def draw_lines(each: int, seed: int) -> list[tuple[str, str]]:
    """(kind, line), so many different lines of each kind (fewer where there are not so many)."""
    rng = random.Random(f"voice/{seed}")
    found: dict[str, dict[str, None]] = {kind: {} for kind in KINDS}
    for _ in range(20_000):
        said = draw(rng)
        if said.kind in found and len(found[said.kind]) < each:
            line = reply(said, rng)
            if len(line.split()) <= LONGEST:
                found[said.kind][line] = None
    return [(kind, line) for kind, lines in found.items() for line in lines]


def spoken(line: str) -> tuple[np.ndarray, tuple]:
    """(frames * 1920,) of a line with silence around it, and the times of its words."""
    clip = speak_assistant(line)
    audio = np.concatenate(
        [np.zeros(LEAD * FRAME, np.float32), clip.audio, np.zeros(TAIL * FRAME, np.float32)]
    )
    return audio[: len(audio) // FRAME * FRAME], shift(clip.words, LEAD * FRAME / RATE)


@torch.no_grad()
def coded(model: Any, lines: list[str]) -> list[np.ndarray]:
    """The assistant's voice after the codec."""
    codec, found = model.audio_encoder, []
    for line in tqdm(lines, unit="line", desc="code"):
        wave = torch.from_numpy(spoken(line)[0])[None, None]
        found.append(codec.decode(codec.encode(wave).audio_codes).audio_values[0, 0].numpy())
    return found


@torch.no_grad()
def said(model: Any, tokenizer: Any, lines: list[str], temperature: float, seed: int) -> list[np.ndarray]:
    """What the model makes of lines that are written on its frames while nobody speaks to it."""
    from aizuchi.data.frames import PAD, SpokenWord, words_to_frames
    from aizuchi.engine import Sampling
    from aizuchi.engine.duplex import DuplexEngine
    from aizuchi.engine.tokens import FREE

    texts: list[np.ndarray] = []
    for line in lines:
        audio, words = spoken(line)
        texts.append(words_to_frames([SpokenWord(*word) for word in words], len(audio) // FRAME, tokenizer))
    frames = max(map(len, texts)) + 1  # the first one was written on joining
    given = torch.full((len(lines), frames), PAD)
    for row, text in enumerate(texts):
        given[row, : len(text)] = torch.as_tensor(text)
    engine = DuplexEngine(model, len(lines))
    for row in range(len(lines)):
        settings = dataclasses.replace(Sampling.of_model(model), temperature=temperature, seed=seed + row)
        engine.join(row, settings)
    heard = model.encode_audio(torch.zeros(1, 1, frames * FRAME))[:, : model.config.num_user_codebooks]
    waves: list[Tensor] = []
    for frame in tqdm(range(frames), unit="frame", desc="say"):
        forced = torch.full((len(lines), 1 + model.config.num_model_codebooks), FREE)
        forced[:, 0] = given[:, frame]
        users = heard[:, :, frame : frame + 1].expand(len(lines), -1, -1)
        out = engine.step(user_codes=users, forced=forced)
        if out.waveform is not None:
            waves.append(out.waveform[:, 0])
    whole = torch.cat(waves, 1).numpy()
    return [whole[row, : (len(text) + 1) * FRAME] for row, text in enumerate(texts)]


def judge(hear: Any, lines: list[tuple[str, str]], waves: list[np.ndarray], show: bool) -> str:
    """Word error rate, of all and by kind, and lines without an error. Errors of a line are at most its words: now and
    then a recogniser repeats itself without end.
    """
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    right = 0
    for (kind, line), wave in zip(lines, tqdm(waves, unit="line", desc="hear")):
        heard = hear(np.asarray(wave, np.float32), RATE).text
        wrong, words = word_errors(line, heard)
        wrong = min(wrong, words)
        right += not wrong
        for key in ("", kind):
            counts[key][0] += wrong
            counts[key][1] += words
        if show and wrong:
            tqdm.write(f"  {line!r} heard {heard!r}")
    wrong, words = counts.pop("")
    kinds = ", ".join(f"{kind} {w}/{n}" for kind, (w, n) in counts.items())
    return f"WER {100 * wrong / words:.1f} % of {words} words, {right} of {len(lines)} lines right ({kinds})"


def check_voice(args: argparse.Namespace) -> int:
    from aizuchi.checkpoints.load import default_model, load
    from aizuchi.data.tokenizer import TextTokenizer
    from aizuchi.errors import AizuchiError

    loaded = load(args.model or default_model(), dtype=torch.float32)
    if loaded.tokenizer is None:
        raise AizuchiError(f"{args.model} has no tokenizer: nothing can be written on its frames")
    model, tokenizer = loaded.model, TextTokenizer(loaded.tokenizer)
    lines = draw_lines(args.each, args.seed)
    texts = [line for _, line in lines]
    hear = recogniser(args.whisper)
    for name, make in (
        ("as spoken", lambda: [spoken(line)[0] for line in texts]),
        ("coded", lambda: coded(model, texts)),
        ("said by the model", lambda: said(model, tokenizer, texts, args.temperature, args.seed)),
    ):
        print(f"{name}: {judge(hear, lines, make(), args.show)}", flush=True)
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes.mini.check_voice", description="Word error rates of what a model says."
    )
    parser.add_argument("--model", help="folder of a model (default: the one in the package)")
    parser.add_argument("--each", type=int, default=6, help="lines of each kind (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.6, help="of the codes (default %(default)s)")
    parser.add_argument("--whisper", help="folder of a Whisper model (default: an installed package's)")
    parser.add_argument("--seed", type=int, default=17)
    parser.add_argument("--show", action="store_true", help="print what was heard wrongly")
    parser.set_defaults(run=check_voice)
    return run_command(parser, argv)


if __name__ == "__main__":
    raise SystemExit(main())
