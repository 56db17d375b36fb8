"""What `aizuchi eval SUB --help` says."""

HELP = {
    "all": """Everything on one model, then the report: a set of scenarios, turn-taking on it, dialogue statistics,
answers to questions, the codec beside Opus, and a page. Made for a CPU: it takes at most --minutes, and what did
not fit is counted in the report; a second run goes on with it, since all that was done is kept.""",
    "scenarios": """Write scenarios: recordings of a user made from text, with every event's exact time.

Kinds: smooth_turn_taking (a question, then silence), pause_handling (a sentence with a pause in it), backchannel (a
story), user_interruption (a question, then another over the answer), silence_and_noise (no words at all).
The layout is Full-Duplex-Bench's; scenario.json adds the events. The same seed gives the same samples.""",
    "turns": """How a system takes turns, on a set of scenarios or on Full-Duplex-Bench's data.

The model hears each input.wav, and what it says is kept in --out; with --recorded the output.wav files that lie
beside the inputs are scored as they are. Scored by the benchmark's v1.0 rules (take-over rate, latency,
backchannels), its v1.5 timing (stop and response latency), and, for scenarios, by their exact events.""",
    "codec": """What coding does to speech: PESQ, STOI, SI-SDR, mel distance, DNSMOS, DistillMOS, ViSQOL, speaker
similarity, words lost, bit rate, and use of the codebooks; the model's codec by number of codebooks, and Opus.""",
    "speech": """How well a system understands and speaks: answers to spoken questions (judged from the sound by
Whisper), agreement of its monologue with its sound, word errors of speech or transcription, and likelihood pairs.""",
    "dialogue": """Inter-pausal units, pauses, gaps and overlaps of conversations recorded on two channels.""",
    "latency": """Mouth-to-ear latency by cross-correlation. With --server, speech is spoken into a whole server in
real time, which runs the model in full and says what it hears, and is looked for in what comes back. Or record what
goes into a system and what comes out of it on one clock, while it passes sound through. Waveforms are compared, or
envelopes where those differ.""",
    "report": """One self-contained HTML page and one JSON file of all results in --out: tables with the published
figures of other systems (marked as such), latency histograms, sample dialogues with timelines and players.""",
    "compare": """Two reports side by side: each figure before and after, and whether it moved by more than noise.""",
}
