"""The configuration of `aizuchi train moshi`, and the model that it asks for."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any

from aizuchi.errors import AizuchiError

from .config import check
from .distill import DistillConfig
from .heard_text import HeardTextConfig
from .schedule import SCHEDULES

TASKS = ("dialogue", "tts", "stt")
PRECISIONS = ("fp32", "bf16")


@dataclass
class DelayConfig:
    """Frames (80 ms) by which the streams lag.

    text: the text behind the audio (recognition: 6 to 30). audio: the model's voice behind the text (synthesis:
    the paper's 25, 2 s). acoustic: every stream's later codebooks behind its first one. user_acoustic: the same of the
    user's stream, which is there as a whole when its frame is; None = acoustic (the paper's).
    """

    text: int = 0
    audio: int = 0
    acoustic: int = 1
    user_acoustic: int | None = None

    def as_list(self, model: int, user: int, codebooks: int) -> list[int]:
        """Delays of text, of ``model`` and of ``user`` input codebooks, for `MoshiConfig.delays`."""
        later = self.acoustic if self.user_acoustic is None else self.user_acoustic
        own, heard = ([0] + [delay] * (codebooks - 1) for delay in (self.acoustic, later))
        return [self.text, *(self.audio + d for d in own[:model]), *heard[:user]]


@dataclass
class DataConfig:
    """train, valid: token shards, ``path[:weight],path2[:weight2]``. frames: longest piece of a dialogue that a row
    holds (paper: 5 minutes, 3750). listen_to: whose voice a recogniser hears. user_codebooks: how many of the user's
    codebooks a model hears, None = all; codes of the others embed as zero, and a model that learns from little speech
    can't tell its clips apart by them. workers: processes that read ahead.
    """

    train: str = ""
    valid: str | None = None
    frames: int = 750
    listen_to: str = "model"
    user_codebooks: int | None = None
    workers: int = 0


@dataclass
class TextOnlyConfig:
    """Steps that learn from text alone, so that the model keeps its language (paper: half of the steps of
    pre-training, a tenth of those of post-training). They have an optimizer state of their own.

    train: token shards of text (`aizuchi data text`), ``path[:weight],path2[:weight2]``. share: of the steps.
    frames: tokens of a row. learning_rate: None = that of the temporal model. foreign: share of the rows in which the
    model meanwhile hears and speaks what is said in other dialogues: for `heard_text`, whose words are then all that
    tells what to answer. Other rows are silent.
    """

    train: str = ""
    share: float = 0.5
    frames: int = 1024
    learning_rate: float | None = None
    foreign: float = 0.0


@dataclass
class LossConfig:
    """text_weight: of the text beside the audio, both being means over what they learn: where answers are few among
    silence, 1 leaves next to nothing to them. text_padding_weight: of padding targets (paper 0.5).
    first_codebook_weight: of the semantic codebook, the others having 1 (paper 100). user_weight: of the user's
    codebooks beside the model's; above 0 the model learns to write the user's stream too. repeats: share of the
    frames whose codes are learned though they repeat those of the frame before, as silence does; the depth decoder
    does not run on the others.
    """

    text_weight: float = 1.0
    text_padding_weight: float = 0.5
    first_codebook_weight: float = 100.0
    user_weight: float = 0.0
    repeats: float = 1.0

    def codebook_weights(self, written: int, codebooks: int) -> list[float]:
        """Weights of the written codebooks, the user's behind the model's."""
        own = [self.first_codebook_weight] + [1.0] * (codebooks - 1)
        return (own + [w * self.user_weight for w in own])[:written]


@dataclass
class OptimizerConfig:
    """AdamW. learning_rate: of the temporal model. depth_learning_rate: of the depth decoder, None = the same.
    text_scale: of the learning rate of the text embedding and head (paper: 0.75 in audio batches).
    """

    learning_rate: float = 3e-5
    depth_learning_rate: float | None = 2e-4
    text_scale: float = 1.0
    betas: list[float] = field(default_factory=lambda: [0.9, 0.95])
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip: float = 1.0


@dataclass
class ScheduleConfig:
    """kind: cosine, onecycle or constant. warmup: steps. final: share of the peak that a cosine ends at."""

    kind: str = "cosine"
    warmup: int = 100
    final: float = 0.1


@dataclass
class LoraConfig:
    """rank, scale (alpha / rank): of the adapters. embeddings: train the embeddings, too (they are then saved)."""

    rank: int = 64
    scale: float = 2.0
    dropout: float = 0.0
    embeddings: bool = False


@dataclass
class MoshiTraining:
    """A run of `aizuchi train moshi`.

    output: its folder. task: dialogue, tts (the voice behind the text) or stt (the text behind the voice).
    checkpoint: a model to start from; without one, ``model`` holds `MoshiConfig` fields and weights are drawn.
    codec: a trained Mimi for a model from scratch. tokenizer: a SentencePiece file or a folder, kept with the model.
    batch_size: rows of one optimizer step, over all processes. micro_batch_size: rows that a process runs at once;
    what is missing to ``batch_size`` is accumulated. text_mask: share of rows whose text is hidden (paper 0.3).
    user_mask: share of frames whose user is hidden. user_warp: share of frames at which the user's stream halts or
    skips one. heard_text: write what the user says into the model's text, where the data knows it. distill: learn what
    other models would say, too. dropout: share of what the temporal layers add to their input that is dropped.
    sample_seconds: length of the audio samples. device: auto or cpu. compile: make kernels of the layers (a minute at
    the start; faster steps). shard: cut weights, gradients and optimizer states up over the processes (FSDP2), for
    models that one GPU does not hold.
    """

    output: str
    task: str = "dialogue"
    checkpoint: str | None = None
    model: dict | None = None
    codec: str | None = None
    tokenizer: str | None = None
    data: DataConfig = field(default_factory=DataConfig)
    delays: DelayConfig | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    lora: LoraConfig | None = None
    text_only: TextOnlyConfig | None = None
    heard_text: HeardTextConfig | None = None
    distill: DistillConfig | None = None
    steps: int = 1000
    batch_size: int = 16
    micro_batch_size: int = 16
    seed: int = 0
    text_mask: float = 0.0
    user_mask: float = 0.0
    user_warp: float = 0.0
    dropout: float = 0.0
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    compile: bool = False
    shard: bool = False
    device: str = "auto"
    log_every: int = 10
    eval_every: int = 200
    save_every: int = 200
    keep: int = 2
    sample_every: int = 0
    samples: int = 2
    sample_seconds: float = 10.0
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check(self.task in TASKS, f"task must be one of {', '.join(TASKS)}, not {self.task!r}")
        check(self.precision in PRECISIONS, f"precision must be fp32 or bf16, not {self.precision!r}")
        check(self.device in ("auto", "cpu"), f"device must be auto or cpu, not {self.device!r}")
        check(self.schedule.kind in SCHEDULES, f"schedule.kind must be one of {', '.join(SCHEDULES)}")
        check(self.data.listen_to in ("model", "user"), "data.listen_to must be model or user")
        check(
            (self.checkpoint is None) != (self.model is None),
            "give either `checkpoint` (a model to start from) or `model` (MoshiConfig fields, from scratch)",
        )
        for name in ("steps", "batch_size", "micro_batch_size", "log_every", "keep"):
            check(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        check(self.data.frames >= 2, f"data.frames must be at least 2, not {self.data.frames}")
        check(
            self.data.user_codebooks is None or self.data.user_codebooks >= 1,
            "data.user_codebooks is at least 1",
        )
        for name in ("text_mask", "user_mask", "user_warp", "dropout"):
            check(
                0 <= getattr(self, name) <= 1, f"{name} is a share between 0 and 1, not {getattr(self, name)}"
            )
        check(self.loss.text_weight >= 0, "loss.text_weight can't be negative")
        check(self.loss.user_weight >= 0, "loss.user_weight can't be negative")
        check(
            0 <= self.loss.repeats <= 1, f"loss.repeats is a share between 0 and 1, not {self.loss.repeats}"
        )
        if self.heard_text is not None:
            text = self.heard_text
            check(text.delay >= 0, "heard_text.delay can't be negative")
            for name in ("own", "clean", "deaf", "by_sound"):
                share = getattr(text, name)
                check(0 <= share <= 1, f"heard_text.{name} is a share between 0 and 1, not {share}")
            check(
                text.missed >= 0 and text.mistaken >= 0 and text.missed + text.mistaken <= 1,
                "heard_text.missed and heard_text.mistaken are shares, of 1 together at most",
            )
            check(
                len(text.worse) == 2 and 0 < text.worse[0] <= text.worse[1],
                f"heard_text.worse are two numbers above 0, the lower first, not {text.worse}",
            )
            check(self.task == "dialogue", "heard_text is for task: dialogue")
        check(self.optimizer.learning_rate > 0, "optimizer.learning_rate must be above 0")
        if self.text_only is not None:
            share = self.text_only.share
            check(0 < share < 1, f"text_only.share must lie between 0 and 1, not {share}")
            check(self.text_only.frames >= 2, "text_only.frames must be at least 2")
            foreign = self.text_only.foreign
            check(0 <= foreign <= 1, f"text_only.foreign is a share between 0 and 1, not {foreign}")
            check(not foreign or self.heard_text is not None, "text_only.foreign is for runs with heard_text")
            check(self.task == "dialogue", "text_only is for task: dialogue")
        if self.distill is not None:
            check(bool(self.distill.teachers), "distill.teachers must name models to learn from")
            weight = self.distill.weight
            check(0 < weight <= 1, f"distill.weight must be above 0 and at most 1, not {weight}")
        check(self.lora is None or self.checkpoint is not None, "lora adapts a `checkpoint`: give one")


def check_fields(cls: Any, fields: dict[str, Any], others: set[str]) -> None:
    """Refuse fields that a model's configuration does not have."""
    known = {f.name for f in dataclasses.fields(cls)} | others
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise AizuchiError(f"model: {name!r} is no field of {cls.__name__}{hint}")


def model_config(config: MoshiTraining, codec: Any = None, vocabulary: int | None = None) -> Any:
    """The `MoshiConfig` of a run from scratch.

    Args:
        codec: configuration of the trained Mimi, if there is one. vocabulary: ids of the run's tokenizer; as many has
            the model if ``model.vocab_size`` does not say otherwise.
    """
    from aizuchi.models.moshi import MoshiConfig

    fields = dict(config.model or {})
    check_fields(MoshiConfig, fields, {"rope_theta"})
    if codec is not None:
        fields["audio_encoder_config"] = codec.to_dict()
        fields.setdefault("num_codebooks", min(8, codec.num_quantizers))
    if vocabulary is not None:
        fields.setdefault("vocab_size", vocabulary)
    codebooks = fields.get("num_codebooks", 8)
    written = {"dialogue": codebooks * (2 if config.loss.user_weight else 1), "tts": codebooks, "stt": 0}[
        config.task
    ]
    fields.setdefault("num_generated_codebooks", written)
    fields.setdefault("num_input_codebooks", 2 * codebooks if config.task == "dialogue" else codebooks)
    try:
        made = MoshiConfig(**fields)
        if "delays" not in fields:
            delays = config.delays or DelayConfig()
            made.delays = delays.as_list(
                made.num_model_codebooks, made.num_user_codebooks, made.num_codebooks
            )
    except AizuchiError:
        raise
    except (ValueError, TypeError) as error:
        raise AizuchiError(f"model: {error}") from error
    return apply_losses(made, config)


def apply_losses(model: Any, config: MoshiTraining) -> Any:
    """Write the run's loss weights (and delays, where it gives some) into a model's configuration."""
    written, codebooks = model.num_generated_codebooks, model.num_codebooks
    if config.loss.user_weight and written <= codebooks and config.task == "dialogue":
        raise AizuchiError(
            "loss.user_weight is above 0, but this model does not write the user's stream "
            f"(num_generated_codebooks is {written})"
        )
    model.text_padding_weight = config.loss.text_padding_weight
    model.codebook_weights = config.loss.codebook_weights(written, codebooks) if written else None
    if config.delays is not None:
        model.delays = config.delays.as_list(model.num_model_codebooks, model.num_user_codebooks, codebooks)
    return model
