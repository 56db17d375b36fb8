"""What each `aizuchi eval` command does; each gives the lines to print."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aizuchi.errors import AizuchiError, MissingDependencyError
from aizuchi.evaluate.report.document import (
    collect_sections,
    new_report,
    read_report,
    save_report,
    save_section,
)
from aizuchi.evaluate.report.tables import NAMES, format_value
from aizuchi.evaluate.results import Cache, Section

BUILT_IN = "built-in"  # the question set that comes with aizuchi


def run_scenarios(args: Any) -> list[str]:
    from aizuchi.evaluate.scenario_set import build, read_texts
    from aizuchi.evaluate.scenarios import KINDS
    from aizuchi.evaluate.synthesize import open_synthesizer

    texts = None if args.texts is None else read_texts(args.texts)
    kinds = args.kinds or [kind for kind in KINDS if texts is None or kind in texts]
    speakers = [open_synthesizer(spec) for spec in args.user]
    count = build(args.folder, speakers, kinds, args.count, args.seed, texts, progress=not args.quiet)
    return [f"{count} scenarios in {args.folder}"]


def run_turns(args: Any) -> list[str]:
    from aizuchi.evaluate.systems import open_system
    from aizuchi.evaluate.turn_samples import find_samples
    from aizuchi.evaluate.turn_taking import record

    out = Path(args.out)
    section = Section("turns", about={"set": str(args.folder), "seed": args.seed})
    tools = _turn_tools(args)
    if args.recorded:
        samples = find_samples(args.folder)
        section.about["system"] = "recordings"
    else:
        samples = find_samples(args.folder, out / "turns")
        system = open_system(args.model, args.seed)
        section.about["system"] = system.name
        record(samples, system, section, progress=not args.quiet)
    return _finish(_score_turns(samples, tools, section, args), out)


def _score_turns(samples: Sequence[Any], tools: Any, section: Section, args: Any) -> Section:
    from aizuchi.evaluate.turn_taking import evaluate

    return evaluate(samples, tools, section, Cache(Path(args.out) / "cache"), progress=not args.quiet)


def run_codec(args: Any) -> list[str]:
    from aizuchi.evaluate.clips import find_clips
    from aizuchi.evaluate.codec.codecs import open_codecs
    from aizuchi.evaluate.codec.evaluate import evaluate

    clips = find_clips(args.clips, args.limit)
    codecs = open_codecs(args.codec)
    if not args.no_model:
        codecs += model_codecs(_mimi_of(args.model), args.codebooks)
    recognizer = None if args.no_wer else _recognizer(args)
    section = evaluate(
        clips, codecs, args.metrics, recognizer, Cache(Path(args.out) / "cache"), progress=not args.quiet
    )
    section.about["speech"] = ", ".join(map(str, args.clips))
    return _finish(section, Path(args.out))


def run_speech(args: Any) -> list[str]:
    from aizuchi.evaluate.clips import find_clips
    from aizuchi.evaluate.likelihood import ModelLikelihood
    from aizuchi.evaluate.model_system import fingerprint
    from aizuchi.evaluate.pairs import read_pairs, score_pairs
    from aizuchi.evaluate.recognize import RememberingRecognizer
    from aizuchi.evaluate.speech import recognition, synthesis
    from aizuchi.evaluate.synthesize import load_factory
    from aizuchi.evaluate.words_models import ModelRecognizer, load_words_model, model_speaker, read_lines

    if not (args.questions or args.speak or args.spoken or args.transcribe or args.pairs):
        raise AizuchiError("nothing to measure: give --questions, --speak, --spoken, --transcribe or --pairs")
    if args.speak and not args.model:
        raise AizuchiError("--speak needs --model: one that speaks a text (docs/training.md: task: tts)")
    if args.pairs and not (args.nll or args.model):
        raise AizuchiError(
            "--pairs needs --model, or --nll: a package.module:factory of text or file -> (nats, tokens)"
        )
    out, progress = Path(args.out), not args.quiet
    cache = Cache(out / "cache")
    section = Section("speech", about={"seed": args.seed})
    if args.questions:
        from aizuchi.evaluate.systems import open_system

        ask_set(args, open_system(args.model, args.seed), section, cache, args.limit, args.noise)
    if args.speak:
        model, tokenizer, name = load_words_model(args.model)
        speak, title = model_speaker(model, tokenizer, args.seed), f"spoken by {name}, as Whisper hears it"
        kept = f"{title}, weights {fingerprint(model)}, seed {args.seed}"
        texts, heard_by = read_lines(args.speak), RememberingRecognizer(_recognizer(args), cache)
        synthesis(texts, speak, heard_by, section, out / "spoken", title, cache, progress, identity=kept)
    if args.spoken:
        recognition(
            find_clips(args.spoken),
            _recognizer(args),
            section,
            "spoken, as Whisper hears it",
            cache,
            progress,
        )
    if args.transcribe:
        if args.recognizer:
            own = load_factory(args.recognizer, "recognizer")()
        elif args.model:
            own = ModelRecognizer(*load_words_model(args.model))
        else:
            own = _recognizer(args)
        recognition(find_clips(args.transcribe), own, section, f"transcribed by {own.name}", cache, progress)
    if args.pairs:
        nll = (
            load_factory(args.nll, "nll")()
            if args.nll
            else ModelLikelihood(*load_words_model(args.model)[:2])
        )
        section.tables["Likelihood pairs"] = score_pairs(
            read_pairs(args.pairs), nll, section, progress=progress
        )
    return _finish(section, out)


def ask_set(
    args: Any,
    system: Any,
    section: Section,
    cache: Cache,
    limit: int | None,
    noise: float | None,
    recognizer: Any = None,
    within: Callable[[Sequence[Any], Callable[[Sequence[Any]], object]], list[Any]] | None = None,
) -> None:
    """Ask a question set, quietly and, if wanted, in noise.

    Args:
        recognizer: of the answers; None opens Whisper. within: takes questions and what asks some of them, and gives
            those that were asked in time.
    """
    from aizuchi.evaluate.budget import alternate
    from aizuchi.evaluate.question_texts import built_in_questions
    from aizuchi.evaluate.questions import judge, read_questions
    from aizuchi.evaluate.spoken_questions import answer_tables, ask_questions, named_voices, one_voice
    from aizuchi.evaluate.synthesize import load_factory, open_synthesizer

    built_in = args.questions in (None, BUILT_IN)
    questions = built_in_questions() if built_in else read_questions(args.questions)
    if limit is not None:
        if limit < 1:
            raise AizuchiError(f"--limit is {limit}: it must be at least 1")
        limit = min(limit, len(questions))
        questions = [questions[i * len(questions) // limit] for i in range(limit)]
    judged_by = load_factory(args.judge, "judge") if args.judge else judge
    voices = named_voices(args.voices) if args.voices else one_voice(open_synthesizer(args.user))
    recognizer = recognizer or _recognizer(args)
    if within is not None:

        def ask(some: Sequence[Any]) -> None:
            place, scratch = Path(args.out) / "answers", Section("scratch")
            options: dict[str, Any] = {"seed": args.seed, "cache": cache, "progress": False}
            ask_questions(some, system, voices, recognizer, place, scratch, judged_by=judged_by, **options)

        kinds = dict.fromkeys(question.kind for question in questions)
        questions = within(alternate([[q for q in questions if q.kind == kind] for kind in kinds]), ask)
    section.about |= {
        "system": system.name,
        "questions": f"{len(questions)} of {'those that come with aizuchi' if built_in else args.questions}",
        "voices": args.voices or args.user,
        "recognizer": recognizer.name,
    }
    for snr, title, place in ((None, "Answers", "answers"), (noise, "Answers in noise", "answers-noise")):
        if title != "Answers" and snr is None:
            continue
        items = ask_questions(
            questions,
            system,
            voices,
            recognizer,
            Path(args.out) / place,
            section,
            seed=args.seed,
            noise_snr=snr,
            judged_by=judged_by,
            cache=cache,
            progress=not args.quiet,
        )
        section.items += [item | {"test": title} for item in items]
        for name, rows in answer_tables(items, title).items():
            section.tables.setdefault(name, {}).update(rows)


def run_dialogue(args: Any) -> list[str]:
    from aizuchi.evaluate.conversations import dialogue_section

    files = _paths(args.files)
    recordings = _pairs(files, "--pair") if args.pair else [(path, None) for path in files]
    cache = Cache(Path(args.out) / "cache")
    section = dialogue_section(
        recordings, _detector(args.detector), args.name, cache, progress=not args.quiet
    )
    return _finish(section, Path(args.out))


def run_latency(args: Any) -> list[str]:
    from aizuchi.evaluate.conversations import latency_section

    if args.server:
        return _finish(_latency_of_server(args), Path(args.out))
    files = [Path(file) for file in args.files]
    if not files:
        raise AizuchiError("nothing to measure: give recordings in pairs, or --server")
    pairs = [(path, None) for path in files] if args.stereo else _pairs(files, "without --stereo")
    if not 0 < args.max <= 60:
        raise AizuchiError(f"--max is {args.max:g}: it must lie between 0 and 60 seconds")
    return _finish(latency_section(pairs, args.max, args.method, progress=not args.quiet), Path(args.out))


def _latency_of_server(args: Any) -> Section:
    from aizuchi.evaluate.mouth_to_ear import sample_speech, server_section

    if len(args.files) > 1:
        raise AizuchiError("--server takes one file, which is spoken, or none")
    if not 3 <= args.seconds <= 3600:
        raise AizuchiError(f"--seconds is {args.seconds:g}: it must lie between 3 and 3600")
    wave = sample_speech(args.seconds, args.files[0] if args.files else None)
    return server_section(args.server, wave, Path(args.out) / "latency", args.max)


def run_report(args: Any) -> list[str]:
    from aizuchi.evaluate.report.page import write_page

    out = Path(args.out)
    sections = collect_sections(out)
    named = (section.about.get("system") for section in sections.values())
    system = args.system or next((name for name in named if name), "aizuchi eval")
    report = new_report(system, args.seed)
    report.sections = sections
    save_report(report, out / "report.json")
    write_page(report, out / "report.html", audio=not args.no_audio, samples=args.samples)
    return [f"{out / 'report.html'}", f"{out / 'report.json'}"]


def run_compare(args: Any) -> list[str]:
    from aizuchi.evaluate.report.compare import write_comparison

    found = write_comparison(read_report(args.before), read_report(args.after), args.page)
    moved = [d for d in found if d.verdict in ("better", "worse", "moved")]
    lines = [
        f"{d.verdict:<7} {NAMES.get(d.row, d.row)}, {d.column}: {format_value(d.before.value, d.before.unit)} -> "
        f"{format_value(d.after.value, d.after.unit)} {d.before.unit}".rstrip()
        for d in moved
    ]
    return [*lines, f"{len(found)} figures compared, {len(moved)} moved beyond noise: {args.page}"]


def run_all(args: Any) -> list[str]:
    from aizuchi.evaluate.everything import run_everything

    return run_everything(args)


def _turn_tools(args: Any) -> Any:
    from aizuchi.evaluate.turn_taking import Tools
    from aizuchi.evaluate.vad import EnergyDetector, SileroDetector

    recognizer = None if getattr(args, "no_words", False) else _recognizer(args)
    if getattr(args, "detector", "silero") == "energy":
        return Tools(recognizer, EnergyDetector(), EnergyDetector())
    return Tools(recognizer, SileroDetector(refine=False), SileroDetector())


def _detector(name: str) -> Any:
    from aizuchi.evaluate.vad import EnergyDetector, SileroDetector

    return EnergyDetector() if name == "energy" else SileroDetector()


def _recognizer(args: Any) -> Any:
    """Whisper on as many threads as torch.

    Raises:
        AizuchiError: it is not installed, or no model is found.
    """
    import torch

    from aizuchi.evaluate.recognize import WhisperRecognizer

    return WhisperRecognizer(args.whisper, threads=torch.get_num_threads())


def optional_recognizer(args: Any) -> Any | None:
    """Whisper if it is there; otherwise None, and a line that says what is left out."""
    try:
        return _recognizer(args)
    except (MissingDependencyError, AizuchiError) as error:
        print(f"aizuchi: words are left out: {error}", file=sys.stderr)
        return None


def _mimi_of(spec: str | None) -> Any:
    """The codec of a model by name, or of the one that comes with aizuchi; or a codec that stands alone."""
    from aizuchi.checkpoints.find import find
    from aizuchi.evaluate.model_system import load_model_system

    if spec is not None and Path(spec).exists() and find(spec).holds == "mimi":
        from aizuchi.models.mimi import MimiModel

        return MimiModel.from_pretrained(spec).eval()
    if spec is not None and ":" in spec and not Path(spec).exists():
        raise AizuchiError(f"{spec} is a system, not a model: give its codec as --codec {spec} --no-model")
    return load_model_system(spec).model.audio_encoder


def model_codecs(mimi: Any, codebooks: Sequence[int] | None) -> list[Any]:
    from aizuchi.evaluate.codec.codecs import TokenCodec

    most = int(mimi.config.num_quantizers)
    chosen = codebooks or [k for k in (1, 2, 4, 8, 16, 32) if k <= min(most, 8)]
    rate = float(mimi.config.frame_rate)
    return [TokenCodec(mimi, k, frame_rate=rate, name="Mimi") for k in chosen]


def _paths(places: Sequence[str]) -> list[Path]:
    from aizuchi.evaluate.clips import find_clips

    return [clip.path for clip in find_clips(list(places))]


def _pairs(files: Sequence[Path], when: str) -> list[tuple[Path, Path | None]]:
    if len(files) % 2:
        raise AizuchiError(f"{when} takes files in pairs, but there are {len(files)}")
    return [(files[i], files[i + 1]) for i in range(0, len(files), 2)]


def _finish(section: Section, out: Path) -> list[str]:
    """Save a section, and say its figures in plain lines."""
    save_section(section, out)
    lines = []
    for title, rows in section.tables.items():
        lines.append(title)
        for name, row in rows.items():
            cells = [
                f"{c} {format_value(m.value, m.unit)}{' ' + m.unit if m.unit else ''}" for c, m in row.items()
            ]
            lines.append(f"  {NAMES.get(name, name)}: " + ", ".join(cells))
    for skipped in section.skipped:
        lines.append(f"left out: {skipped['what']} ({skipped['count']} times): {skipped['reason']}")
    for broken in section.broken:
        lines.append(f"broken: {broken['path']}: {broken['reason']}")
    return lines
