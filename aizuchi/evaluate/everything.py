"""All evaluations on one model, within minutes on a CPU, and the report."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

from aizuchi.audio import write_audio
from aizuchi.evaluate import commands
from aizuchi.evaluate.results import Cache, Section

QUICK_COUNT = 2  # scenarios of each kind
CLIPS, QUICK_CLIPS = 4, 1
QUESTIONS, QUICK_QUESTIONS = 60, 6
CODECS = ["original", "opus:6", "opus:12"]


def run_everything(args: Any) -> list[str]:
    """Build a set, listen, score, and write the report; a part whose packages are missing is left out.

    Returns:
        The lines to print.
    """
    from aizuchi.evaluate.codec.codecs import open_codecs
    from aizuchi.evaluate.codec.evaluate import evaluate as evaluate_codecs
    from aizuchi.evaluate.conversations import dialogue_of_turns
    from aizuchi.evaluate.report.document import save_section
    from aizuchi.evaluate.scenario_set import build
    from aizuchi.evaluate.synthesize import open_synthesizer
    from aizuchi.evaluate.systems import open_system
    from aizuchi.evaluate.turn_samples import find_samples
    from aizuchi.evaluate.turn_taking import Tools, evaluate, record
    from aizuchi.evaluate.vad import SileroDetector

    out, progress = Path(args.out), not args.quiet
    cache = Cache(out / "cache")
    begin = time.monotonic()
    system = open_system(args.model, args.seed)
    recognizer = commands.optional_recognizer(args)
    synthesizer = open_synthesizer(args.user)

    folder = out / ("scenarios-quick" if args.quick else "scenarios")
    build(folder, synthesizer, count=QUICK_COUNT if args.quick else None, seed=args.seed, progress=progress)
    turns = Section("turns", about={"set": str(folder), "seed": args.seed, "system": system.name})
    samples = find_samples(folder, out / "turns")
    record(samples, system, turns, progress)
    tools = Tools(recognizer, SileroDetector(refine=False), SileroDetector())
    evaluate(samples, tools, turns, cache, progress)
    save_section(turns, out)
    save_section(dialogue_of_turns(turns), out)
    _say(args, begin, "turn-taking")

    speech = Section("speech", about={"seed": args.seed, "system": system.name})
    if recognizer is not None:
        from aizuchi.evaluate.speech import agreement

        agreement(samples, recognizer, speech, cache, progress)
        commands.ask_set(args, system, speech, cache, QUICK_QUESTIONS if args.quick else QUESTIONS, None)
    if speech.tables:
        save_section(speech, out)
        _say(args, begin, "speech")

    mimi = getattr(getattr(system, "model", None), "audio_encoder", None)
    codecs = open_codecs(CODECS) + (commands.model_codecs(mimi, None) if mimi is not None else [])
    clips = _clips(args, out / "clips", synthesizer)
    section = evaluate_codecs(clips, codecs, None, recognizer, cache, progress)
    section.about["system"] = system.name
    save_section(section, out)
    _say(args, begin, "codec")
    return commands.run_report(
        Namespace(out=args.out, system=system.name, seed=args.seed, no_audio=False, samples=2)
    )


def _clips(args: Any, folder: Path, synthesizer: Any) -> list[Any]:
    """Speech for the codec: the recordings given, or some made with the user's voice."""
    from aizuchi.evaluate.clips import find_clips
    from aizuchi.evaluate.scenario_texts import BACKCHANNEL

    count = QUICK_CLIPS if args.quick else CLIPS
    if args.clips:
        return find_clips(args.clips, count)
    folder.mkdir(parents=True, exist_ok=True)
    for i, story in enumerate(BACKCHANNEL[:count]):
        text = story[1]
        write_audio(folder / f"story{i}.wav", synthesizer(text, seed=args.seed + i).wave)
        (folder / f"story{i}.txt").write_text(text, encoding="utf-8")
    return find_clips([folder], count)


def _say(args: Any, begin: float, what: str) -> None:
    if not args.quiet:
        print(f"{what} done after {time.monotonic() - begin:.0f} s", file=sys.stderr)
