"""Training Moshi on tokens: one short loop, on one process or many.

The loss is normalised over the whole step: over its micro-batches and over all processes. So the same
configuration gives the same steps however the rows are split up.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aizuchi.errors import AizuchiError
from aizuchi.models.moshi.losses import audio_weights, text_weights

from . import sharding
from .compiled import compile_layers
from .config import check
from .distill import load_teachers
from .disturb import drop_updates, mute_codebooks
from .heard_text import heard_classes, make_heard_text
from .measures import TokenMeasures, flops_per_frame, measured_matmul_rate
from .moshi_config import MoshiTraining
from .moshi_state import MoshiState
from .optimizer import make_optimizer
from .order import keyed_generator
from .run import TrainingRun, Values
from .schedule import lr_scale
from .thin import thin_repeats
from .tokens import Batch, Pieces, StepBatches, TokenSource, collate

SETTLED = 64  # frames of silence until its codes stay

Sources = Sequence[tuple[TokenSource, float]]


class MoshiTrainer(MoshiState, TrainingRun):
    """A run: model, optimizer, data and their place in time.

    Args:
        config: of the run. model: `MoshiForConditionalGeneration`, already with the run's configuration.
        train, valid: data sources with their weights. texts: of the steps that learn from text alone.
        tokenizer: writes the text of samples, and is kept with the model.
    """

    def __init__(
        self,
        config: MoshiTraining,
        model: Any,
        train: Sources,
        valid: Sources = (),
        tokenizer: Any = None,
        texts: Sources = (),
    ):
        # accelerate launch --use_fsdp says the same; its own wrapping, which leaves CPUs out, is not used
        shard = os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() == "true" or config.shard
        check(not (config.compile and shard), "compile and shard don't go together: leave one out")
        super().__init__(config, some_unused=config.text_only is not None)
        self.sharded = shard and self.accelerator.num_processes > 1
        self.tokenizer = tokenizer
        # Parameters are the optimizer's masters; bf16 is what layers compute in (autocast).
        model.freeze_audio_encoder()
        if config.lora is not None and config.precision == "bf16":
            for name, parameter in model.named_parameters():  # what never changes needs no master copy
                master = parameter.requires_grad or name.startswith("audio_encoder.")
                parameter.data = parameter.data.to(torch.float32 if master else torch.bfloat16)
            model.audio_encoder.float()
        else:
            model.float()
        if config.data.user_codebooks is not None:
            mute_codebooks(model, config.data.user_codebooks)
        if config.dropout:
            drop_updates(model.decoder.model.layers, config.dropout)
        model.train()
        model.config.use_cache = False
        if config.gradient_checkpointing:
            # its older name warns, older versions know only that one
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        if self.sharded:
            sharding.shard(
                model, self.accelerator.device, self.accelerator.num_processes, config.precision == "bf16"
            )
            self.model, self.optimizer = model, make_optimizer(model, config)
        else:
            self.model, self.optimizer = self.accelerator.prepare(model, make_optimizer(model, config))
        self.teachers = None
        if config.distill is not None:
            self.teachers = load_teachers(config.distill, model.config, self.accelerator.device, self._dtype)
        if config.compile:
            for compiled in (model, *(self.teachers.models if self.teachers is not None else ())):
                compile_layers(compiled, self.accelerator.device)
        self.heard_text = None
        if config.heard_text is not None:
            classes = heard_classes([source for source, _ in [*train, *valid]])
            words = None if tokenizer is None else tokenizer.tokenizer
            self.heard_text = make_heard_text(config.heard_text, model.config, classes, words)
        self.optimizers = {"optimizer": self.optimizer}  # by the names of their files
        if config.text_only is not None:
            self.optimizers["text_optimizer"] = make_optimizer(model, config, text_alone=True)
        self.peaks = {
            name: [group["lr"] for group in optimizer.param_groups]
            for name, optimizer in self.optimizers.items()
        }
        world = self.accelerator.num_processes
        codebooks = model.config.num_codebooks
        self.steps_data = self.batches = StepBatches(
            Pieces(train, config.data.frames, config.seed),
            config.batch_size,
            config.micro_batch_size,
            codebooks,
            config.text_mask,
            self.accelerator.process_index,
            world,
            Pieces(texts, config.text_only.frames, config.seed) if config.text_only is not None else None,
            0.0 if config.text_only is None else config.text_only.share,
            config.user_mask,
            config.user_warp,
            0.0 if config.text_only is None else config.text_only.foreign,
        )
        self.valid = Pieces(valid, config.data.frames, config.seed) if valid else None
        self._matmul_rate = 0.0
        self.thinning = keyed_generator(config.seed, "thin", 0)
        self.panels = [
            ["loss", "text_loss", "audio_loss", "text_only_loss"],
            ["valid_text_loss", "valid_words_loss", "valid_audio_loss"],
            [f"valid_codebook{k}_loss" for k in range(model.config.num_generated_codebooks)],
            ["valid_words_accuracy", "valid_audio_accuracy", "valid_text_accuracy", "valid_heard_accuracy"],
            ["lr_temporal", "lr_depth"],
        ]

    kind = "moshi"

    @property
    def plain(self) -> Any:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def has_validation(self) -> bool:
        return self.valid is not None

    def speed(self, frames: float, seconds: float) -> Values:
        """Tokens (text and written codes) and seconds of audio a second; share of the measured matmul rate."""
        if not self._matmul_rate:
            self._matmul_rate = measured_matmul_rate(self.accelerator.device, self._dtype)
        columns = 1 + self.plain.config.num_generated_codebooks
        flops = flops_per_frame(self.plain, self.config.data.frames)
        rate = self._matmul_rate * self.accelerator.num_processes
        return {
            "tokens_per_second": frames * columns / seconds,
            "audio_seconds_per_second": frames * 0.08 / seconds,
            "matmul_fraction": frames * flops / seconds / rate,
        }

    def train_step(self, batches: list[Batch]) -> Values:
        """One optimizer step over this process's micro-batches; returns what it measured."""
        config, accelerator = self.config, self.accelerator
        # by step and process: others drop other things, a resumed run the same
        key = self.step * accelerator.num_processes + accelerator.process_index
        self.thinning = keyed_generator(config.seed, "thin", key)
        if config.dropout:
            torch.manual_seed(int(keyed_generator(config.seed, "dropout", key).integers(1 << 62)))
        alone = batches[0].text_alone
        inputs = [self.inputs(batch) for batch in batches]
        if self.heard_text is not None and not alone and self.thinning.random() < self.heard_text.given.own:
            for x in inputs:
                self._overhear(x)
        # (2,) weights of text and audio over the whole step, on all processes
        own = [self._weights(x) for x in inputs]
        weights = accelerator.reduce(torch.stack(own).sum(0), "sum")
        frames = torch.stack([batch.lengths.sum() for batch in batches]).sum().to(weights)
        sums = torch.zeros(2, dtype=torch.float64, device=weights.device)
        shares = weights.new_tensor([config.loss.text_weight, 1.0])
        for i, x in enumerate(inputs):
            with self._accumulating(last=i + 1 == len(inputs)):
                outputs = self._forward(x)
                zero = weights.new_zeros(())
                spoken, never = outputs.text_loss, None
                if alone and self.heard_text is not None:
                    spoken = self.heard_text.answer_loss(outputs.logits, x["text_labels"])
                    never = self.heard_text.unsaid(outputs.logits)
                if self.teachers is not None:
                    change = self.teachers.change(outputs.logits, x, never)
                    spoken = spoken + change / own[i][0].clamp(min=1e-12).to(change)
                parts = torch.stack(
                    [
                        # `forward` has divided by this micro-batch's own weight: undo that, divide by the step's
                        (zero if loss is None else loss) * w
                        for loss, w in zip((spoken, outputs.depth_loss), own[i])
                    ]
                )
                loss = (parts / weights.clamp(min=1e-12) * shares).sum()
                # gradients are averaged over processes, the loss is a sum over them
                accelerator.backward(loss * accelerator.num_processes)
                sums += parts.detach()
        means = accelerator.reduce(sums, "sum") / weights.clamp(min=1e-12)
        text, audio = means.tolist()
        learned = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = accelerator.clip_grad_norm_(learned, config.optimizer.clip or math.inf)
        norm = float(sharding.whole(norm))
        if not (math.isfinite(text + audio) and math.isfinite(norm)):
            raise self.not_finite(f"text {text:g}, audio {audio:g}, gradient norm {norm:g}")
        scale = lr_scale(
            config.schedule.kind, self.step, config.steps, config.schedule.warmup, config.schedule.final
        )
        kind = "text_optimizer" if alone else "optimizer"
        for group, peak in zip(self.optimizers[kind].param_groups, self.peaks[kind]):
            group["lr"] = peak * scale
        self.optimizers[kind].step()
        self.optimizer.zero_grad()
        self.step += 1
        if alone:
            values = {"text_only_loss": text}
        else:
            values = {"loss": text + audio, "text_loss": text, "audio_loss": audio}
        values["grad_norm"] = norm
        for group in self.optimizer.param_groups:
            values.setdefault(f"lr_{group['part']}", group["lr"])
        values["frames"] = float(accelerator.reduce(frames, "sum"))
        return values

    def is_logged(self, step: int) -> bool:
        """Either kind of step is logged the first time that it comes since a step that is due."""
        if super().is_logged(step):
            return True
        due = step - step % self.config.log_every
        kinds = [self.batches.is_text(n - 1) for n in range(due, step + 1)]
        return due > 0 and kinds[-1] not in kinds[:-1]

    def inputs(self, batch: Batch) -> Any:
        """Columns and labels of a batch, on the model's device, for its task.

        Blank frames are put behind the last one, as many as the longest delay: without them the last codes of the
        streams that lag would stand in no column, and the ends of utterances would never be learned.
        """
        model, config = self.plain, self.plain.config
        device = self.accelerator.device
        # sound that embeds as zero, and nothing to learn of it; where the user's words are written it is silence, as
        # it is where answers begin: what is learned without any sound is not known where there is some
        if batch.text_alone:
            codes = torch.full((config.num_codebooks,), -1) if self.heard_text is None else self.silence
            quiet = codes[None, :, None].expand(len(batch.text), -1, batch.text.shape[1])
            sides = quiet.expand(2, -1, -1, -1)  # the model's and the user's
            if batch.foreign is not None:
                sides = torch.where(batch.foreign < 0, sides, batch.foreign)
            batch = Batch(batch.text, sides[0], sides[1], batch.lengths)
            inputs = self.inputs(batch)
            inputs["audio_labels"] = None
            if self.heard_text is not None:
                self.heard_text.answers_only(inputs, self.thinning)
            return inputs
        written, sounds, unknown, deaf = batch.text, batch.user, None, None
        if self.heard_text is not None and batch.heard is not None:
            if self.model.training and self.heard_text.given.deaf:
                sounds, deaf = self.heard_text.deafened(sounds, batch.text, self.silence, self.thinning)
            written = self.heard_text.written(batch.text, batch.heard)
            unknown = self.heard_text.unknown(batch.text, batch.heard)
        text, own, user = (
            F.pad(stream.to(device), (0, config.max_delay), value=-1)
            for stream in (written, batch.model, sounds)
        )
        heard = own if self.config.task == "stt" and self.config.data.listen_to == "model" else user
        heard = heard[:, : config.num_user_codebooks]
        if self.config.data.user_codebooks is not None:
            heard[:, self.config.data.user_codebooks :] = -1
        inputs = model.prepare_training_inputs(
            text_ids=text,
            moshi_audio_codes=own if config.num_model_codebooks else None,
            user_audio_codes=heard if config.num_user_codebooks else None,
            lengths=batch.lengths.to(device),
        )
        if unknown is not None and self.heard_text is not None:
            labels = inputs["text_labels"]  # the initial column first, and the delay of the text
            ignored = F.pad(unknown.to(device), (1 + config.delays[0], labels.shape[1]))[:, : labels.shape[1]]
            inputs["text_labels"] = labels.masked_fill(ignored, -100)
            if self.model.training:
                self.heard_text.disturb(inputs, deaf, self.thinning)
        if self.model.training and inputs.get("audio_labels") is not None:
            inputs["audio_labels"] = thin_repeats(
                inputs["audio_labels"], self.config.loss.repeats, self.thinning
            )
        return inputs

    @functools.cached_property
    def silence(self) -> Tensor:
        """(K,) the codes that the codec comes to in silence."""
        size = round(self.plain.config.sampling_rate / self.plain.config.audio_encoder_config.frame_rate)
        wave = torch.zeros(1, 1, SETTLED * size, device=self.accelerator.device)
        with torch.no_grad():
            return self.plain.encode_audio(wave)[0, :, -1].cpu()

    @torch.no_grad()
    def evaluate(self, limit: int | None = None) -> Values:
        """Losses, perplexities and accuracies over the validation pieces (at most ``limit``), teacher-forced."""
        if self.valid is None:
            raise AizuchiError("data.valid is not given: there is nothing to evaluate on")
        accelerator, micro = self.accelerator, self.config.micro_batch_size
        first = None if self.heard_text is None else self.heard_text.first
        measures = TokenMeasures(self.plain.config, accelerator.device, first)
        count = len(self.valid) if limit is None else min(limit, len(self.valid))
        self.model.eval()
        try:
            chunks = [range(i, min(i + micro, count)) for i in range(0, count, micro)]
            # every process runs as many forwards as the others: sharded models need all of them
            turns = -(-len(chunks) // accelerator.num_processes)
            for turn in range(turns):
                mine = turn * accelerator.num_processes + accelerator.process_index
                rows = [self.valid.piece(i) for i in chunks[mine if mine < len(chunks) else 0]]
                batch = collate(rows, self.plain.config.num_codebooks)
                x = self.inputs(batch)
                outputs = self._forward(x)
                if mine < len(chunks):
                    measures.add(outputs, x["text_labels"], x.get("audio_labels"))
        finally:
            self.model.train()
        measures.sums = accelerator.reduce(measures.sums, "sum")
        return measures.result()

    @torch.no_grad()
    def _overhear(self, inputs: Any) -> None:
        """Let the input have what the model itself writes of the user's words, and the targets what that leaves."""
        assert self.heard_text is not None
        outputs = self._forward({name: x for name, x in inputs.items() if not name.endswith("labels")})
        ids, labels = inputs["input_ids"], inputs["text_labels"]
        inputs["input_ids"] = self.heard_text.overheard(ids, labels, outputs.logits, self.thinning)
        inputs["text_labels"] = self.heard_text.once(inputs["input_ids"], labels)

    # -- small things ----------------------------------------------------------------------------------------
    def write_samples(self) -> None:
        """Let the model answer some pieces on its own, see `samples.write_samples`."""
        from .samples import write_samples

        write_samples(self)

    def _weights(self, inputs: Any) -> Tensor:
        """(2,) float64: weights of the targets of a micro-batch: text and audio."""
        config = self.plain.config
        text = text_weights(inputs["text_labels"][:, 1:], config, torch.float64).sum()
        labels = inputs.get("audio_labels")
        audio = text.new_zeros(())
        if labels is not None:
            audio = audio_weights(labels[:, :, 1:].transpose(1, 2), config, torch.float64).sum()
        return torch.stack([text, audio])

    @property
    def _dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.config.precision == "bf16" else torch.float32

    def _forward(self, inputs: Any) -> Any:
        # what accelerate has not wrapped computes in bf16 by this; elsewhere it changes nothing
        with self.accelerator.autocast() if self.sharded else contextlib.nullcontext():
            return self.model(**inputs)

    def _accumulating(self, last: bool) -> Any:
        """Gradients of all but a step's last micro-batch stay on their process."""
        if self.sharded:
            self.model.set_requires_gradient_sync(last)
        elif not last:
            return self.accelerator.no_sync(self.model)
        return contextlib.nullcontext()
