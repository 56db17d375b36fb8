"""The configuration of `aizuchi train mimi`."""

from __future__ import annotations

from dataclasses import dataclass, field

from .config import check
from .schedule import SCHEDULES


@dataclass
class WaveDataConfig:
    """train, valid: sound files: a folder, a text list (one file a line), or several with commas between; or
    ``python:package.module:function``, which is called with ``options`` and returns a wave source (see
    `aizuchi.train.waves`). seconds: of a row (paper 12). gain_db: a row's loudness is moved by a random number from
    this range. speed: sound files are played faster or slower, and so higher or lower, by a factor from this range:
    a few minutes of speech go further. valid_items: rows of the validation, at most. workers: processes that read
    ahead. cache_hours: sound kept in memory.
    """

    train: str = ""
    valid: str | None = None
    options: dict = field(default_factory=dict)
    seconds: float = 2.0
    gain_db: list[float] = field(default_factory=lambda: [-12.0, 3.0])
    speed: list[float] = field(default_factory=lambda: [1.0, 1.0])
    valid_items: int = 32
    workers: int = 0
    cache_hours: float = 2.0


@dataclass
class CodecLossConfig:
    """spectral: mel reconstruction over several windows. envelope: correlation of the bands' envelopes, which is
    what makes speech intelligible. wave: L1 of samples. complex: compressed complex spectra, for a voice whose
    waveform follows from its codes; where only some rows' does (`WaveRow.phase`), these have the share of all.
    adversarial, features: of the discriminators. heard: features of a listener, which ``listener`` names
    (``package.module:function``, called without arguments): of waveforms (B, 1, S) it makes a list of (B, F, D), in
    which what is made has to be what is wanted; a recogniser's hold a voice to its words. These seven share the
    gradient at the output (balanced), whose norm a row is ``norm``: the smaller, the more weigh commitment and
    semantic, which are added as they are. windows, bands: of the spectral loss.
    """

    spectral: float = 1.0
    envelope: float = 0.0
    wave: float = 0.1
    complex: float = 0.0
    adversarial: float = 1.0
    features: float = 2.0
    heard: float = 0.0
    listener: str | None = None
    commitment: float = 0.25
    semantic: float = 1.0
    norm: float = 0.1
    windows: list[int] = field(default_factory=lambda: [2048, 1024, 512, 256])
    bands: int = 80


@dataclass
class DiscriminatorConfig:
    """start: step at which the adversary comes in (None: never). every: it learns at one step in so many.
    windows, filters: its size. seconds: it judges a random stretch of so long of every row, which is much cheaper;
    None: whole rows.
    """

    start: int | None = None
    every: int = 1
    windows: list[int] = field(default_factory=lambda: [2048, 1024, 512])
    filters: int = 32
    seconds: float | None = None
    learning_rate: float | None = None


@dataclass
class QuantizerConfig:
    """rate: share of rows that are quantized, the others pass unquantized (paper 0.5). dropout: share of the
    quantized rows that use only their first codebooks, a random number of them. decay, dead: of the codebooks.
    start: step at which quantization begins:
    latents that carry something make better codebooks. init_batches: batches of latents for the first k-means.
    renew: at ``start`` the codebooks of a checkpoint are begun anew too. learn_projection: the acoustic codebooks'
    input projection goes on learning, instead of staying what it was fitted to at ``start``; see `fit_projections`.
    """

    rate: float = 0.5
    dropout: float = 0.5
    decay: float = 0.99
    dead: float = 0.1
    start: int = 200
    init_batches: int = 8
    renew: bool = False
    learn_projection: bool = False


@dataclass
class SemanticConfig:
    """teacher: of the first codebook: none; labels (frame labels that come with the data, such as phones);
    clusters (clusters of log-mel spectra, found at the start); or ``package.module:function``, which makes features
    (B, F, D) of waveforms (B, 1, S). classes: of labels or clusters. apart: the codebook tells what the teacher asks
    and nothing else; reconstruction does not draw it its own way. delay: frames after which a target is told: a
    causal encoder knows a sound better once it has heard its end.
    """

    teacher: str = "none"
    classes: int = 128
    apart: bool = False
    delay: int = 0


@dataclass
class CodecOptimizerConfig:
    """AdamW; weight_decay applies to the transformers (paper)."""

    learning_rate: float = 8e-4
    betas: list[float] = field(default_factory=lambda: [0.5, 0.9])
    weight_decay: float = 0.05
    clip: float = 1.0


@dataclass
class CodecScheduleConfig:
    """kind: cosine, onecycle or constant. warmup: steps. final: share of the peak that a cosine ends at."""

    kind: str = "cosine"
    warmup: int = 200
    final: float = 0.05


@dataclass
class MimiTraining:
    """A run of `aizuchi train mimi`.

    output: its folder. model: `MimiConfig` fields, or checkpoint: a codec to start from. ema: decay of averaged
    weights, which are what is evaluated and exported; None exports the weights themselves (paper 0.99).
    weight_norm: train the convolutions' sizes and directions apart, see `aizuchi.train.weight_norm`.
    train: all; decoder: what follows the codes alone, so that codes that were written with the codec, and models
    that learned from them, stay valid; or semantic: what the first codebook depends on alone, which learns two to three
    times as fast with nothing to decode, and leaves codes that have to be begun anew (`quantizer.renew`).
    batch_size: rows of a step, over all processes.
    """

    output: str
    model: dict | None = None
    checkpoint: str | None = None
    data: WaveDataConfig = field(default_factory=WaveDataConfig)
    loss: CodecLossConfig = field(default_factory=CodecLossConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    quantizer: QuantizerConfig = field(default_factory=QuantizerConfig)
    semantic: SemanticConfig = field(default_factory=SemanticConfig)
    optimizer: CodecOptimizerConfig = field(default_factory=CodecOptimizerConfig)
    schedule: CodecScheduleConfig = field(default_factory=CodecScheduleConfig)
    ema: float | None = None
    weight_norm: bool = True
    train: str = "all"
    steps: int = 10000
    batch_size: int = 16
    seed: int = 0
    precision: str = "fp32"
    device: str = "auto"
    log_every: int = 10
    eval_every: int = 500
    save_every: int = 500
    keep: int = 2
    sample_every: int = 0
    samples: int = 4
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check(
            (self.checkpoint is None) != (self.model is None),
            "give either `checkpoint` (a codec to start from) or `model` (MimiConfig fields, from scratch)",
        )
        parts = ("all", "decoder", "semantic")
        check(self.train in parts, f"train must be one of {', '.join(parts)}, not {self.train!r}")
        # it is there to leave codes as they are
        check(
            self.train != "decoder" or not self.quantizer.renew,
            "train: decoder can't go with quantizer.renew",
        )
        check(self.semantic.delay >= 0, "semantic.delay is a number of frames")
        check(self.train != "decoder" or self.checkpoint is not None, "train: decoder needs a `checkpoint`")
        check(self.precision in ("fp32", "bf16"), f"precision must be fp32 or bf16, not {self.precision!r}")
        check(self.device in ("auto", "cpu"), f"device must be auto or cpu, not {self.device!r}")
        listens = self.loss.heard > 0
        check(
            listens == (self.loss.listener is not None),
            "loss.heard and loss.listener go together: the weight, and package.module:function of who hears",
        )
        check(self.schedule.kind in SCHEDULES, f"schedule.kind must be one of {', '.join(SCHEDULES)}")
        check(0 <= self.quantizer.rate <= 1, "quantizer.rate is a share between 0 and 1")
        check(0 <= self.quantizer.dropout <= 1, "quantizer.dropout is a share between 0 and 1")
        check(len(self.data.gain_db) == 2, "data.gain_db holds two numbers: the lowest and the highest gain")
        speed = self.data.speed
        check(
            len(speed) == 2 and 0.25 <= speed[0] <= speed[1] <= 4,
            "data.speed holds two factors, the slowest and the fastest, from 0.25 to 4",
        )
        made = self.data.train.startswith("python:")
        check(
            not made or tuple(speed) == (1, 1),
            "data.speed is for sound files: a source in Python makes its own",
        )
        check(self.data.seconds > 0, "data.seconds must be above 0")
        check(self.semantic.classes > 1, "semantic.classes must be at least 2")
        for name in ("steps", "batch_size", "log_every", "keep"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
