"""All evaluations on one model, within minutes on a CPU, and the report."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aizuchi.audio import write_audio
from aizuchi.errors import AizuchiError
from aizuchi.evaluate import commands
from aizuchi.evaluate.budget import Budget, alternate
from aizuchi.evaluate.results import Cache, Section

QUICK_COUNT = 2  # scenarios of each kind
CLIPS, QUICK_CLIPS = 4, 1
QUESTIONS, QUICK_QUESTIONS = 60, 6
CODECS = ["original", "opus:6", "opus:12", "opus:24"]
SCENARIOS_AT_ONCE, QUESTIONS_AT_ONCE = 16, 12
TURNS_BY, SPEECH_BY, CODEC_BY = 0.45, 0.7, 0.93  # of the budget; the rest is for the report


def run_everything(args: Any) -> list[str]:
    """Build a set, listen, score, and write the report; a part whose packages are missing is left out.

    Material for which --minutes leaves no time is left out and counted.

    Returns:
        The lines to print.
    Raises:
        AizuchiError: --minutes is not positive; see the parts for the rest.
    """
    from aizuchi.evaluate.codec.codecs import open_codecs
    from aizuchi.evaluate.codec.evaluate import Comparison
    from aizuchi.evaluate.conversations import dialogue_of_turns
    from aizuchi.evaluate.recognize import RememberingRecognizer
    from aizuchi.evaluate.report.document import save_section
    from aizuchi.evaluate.scenario_set import build
    from aizuchi.evaluate.synthesize import open_synthesizer
    from aizuchi.evaluate.systems import open_system
    from aizuchi.evaluate.turn_samples import find_samples

    if not args.minutes > 0:
        raise AizuchiError(f"--minutes is {args.minutes:g}: it must be above 0")
    budget = Budget(args.minutes)
    out, progress = Path(args.out), not args.quiet
    cache = Cache(out / "cache")
    system = open_system(args.model, args.seed)
    found = commands.optional_recognizer(args)
    recognizer = None if found is None else RememberingRecognizer(found, cache)
    synthesizer = open_synthesizer(args.user)

    folder = out / ("scenarios-quick" if args.quick else "scenarios")
    build(folder, synthesizer, count=QUICK_COUNT if args.quick else None, seed=args.seed, progress=progress)
    turns = Section("turns", about={"set": str(folder), "seed": args.seed, "system": system.name})
    samples = _turns(find_samples(folder, out / "turns"), system, recognizer, turns, cache, budget, progress)
    save_section(turns, out)
    save_section(dialogue_of_turns(turns), out)
    _say(args, budget, "turn-taking")

    speech = Section("speech", about={"seed": args.seed, "system": system.name})
    if recognizer is not None:
        from aizuchi.evaluate.speech import agreement

        def within(questions: Sequence[Any], ask: Callable[[Sequence[Any]], object]) -> list[Any]:
            return budget.work(questions, ask, SPEECH_BY, speech, "questions", QUESTIONS_AT_ONCE, progress)

        agreement(samples, recognizer, speech, cache, progress)
        limit = QUICK_QUESTIONS if args.quick else QUESTIONS
        commands.ask_set(args, system, speech, cache, limit, None, recognizer, within)
    if speech.tables:
        save_section(speech, out)
        _say(args, budget, "speech")

    mimi = getattr(getattr(system, "model", None), "audio_encoder", None)
    codecs = open_codecs(CODECS) + (commands.model_codecs(mimi, None) if mimi is not None else [])
    comparison = Comparison(codecs, None, recognizer, cache)

    def code(clips: Sequence[Any]) -> None:
        for clip in clips:
            comparison.add(clip)

    clips = _clips(args, out / "clips", synthesizer)
    budget.work(clips, code, CODEC_BY, comparison.section, "recordings coded", 1, progress)
    section = comparison.finish()
    section.about["system"] = system.name
    save_section(section, out)
    _say(args, budget, "codec")
    return commands.run_report(
        Namespace(out=args.out, system=system.name, seed=args.seed, no_audio=False, samples=2)
    )


def _turns(
    samples: Sequence[Any],
    system: Any,
    recognizer: Any,
    section: Section,
    cache: Cache,
    budget: Budget,
    progress: bool,
) -> list[Any]:
    """Record and score as many samples as there is time for, of all kinds alike; returns them."""
    from aizuchi.evaluate.turn_taking import Tools, evaluate, record
    from aizuchi.evaluate.vad import SileroDetector

    tools = Tools(recognizer, SileroDetector(refine=False), SileroDetector())

    def hear(some: Sequence[Any]) -> None:
        scratch = Section("scratch")
        record(some, system, scratch, progress=False)
        evaluate(some, tools, scratch, cache, progress=False)

    kinds = dict.fromkeys(sample.kind for sample in samples)
    order = alternate([[sample for sample in samples if sample.kind == kind] for kind in kinds])
    done = {
        sample.name
        for sample in budget.work(order, hear, TURNS_BY, section, "scenarios", SCENARIOS_AT_ONCE, progress)
    }
    heard = [sample for sample in samples if sample.name in done]
    record(heard, system, section, progress=False)  # all is kept: this only finds the broken ones again
    evaluate(heard, tools, section, cache, progress=False)
    return heard


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


def _say(args: Any, budget: Budget, what: str) -> None:
    if not args.quiet:
        print(f"{what} done after {budget.spent:.0f} s", file=sys.stderr)
