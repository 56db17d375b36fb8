"""Training the Mimi codec (arXiv 2410.00037, section 3.3): reconstruction first, the adversary last.

One step: encode, quantize (some rows, with some of the codebooks), decode; balance the losses at the output; move
the codebooks; then let the discriminators learn.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aizuchi.audio import SAMPLE_RATE
from aizuchi.errors import AizuchiError

from .averages import move_average
from .balancer import Balancer
from .checkpoints import save_model, writing_model
from .codebooks import CodebookTrainer
from .codec_measures import measure_codec, measure_semantic
from .codec_pass import CodecPass, make_optimizer
from .config import check
from .discriminators import Discriminators, Judged, adversarial_loss, discriminator_loss, feature_loss
from .listener import hearing_loss, make_listener
from .mimi_config import MimiTraining
from .order import keyed_generator
from .run import TrainingRun, Values
from .samples import write_pairs
from .schedule import lr_scale
from .spectral import ComplexLoss, EnvelopeLoss, SpectralLoss
from .teachers import ClusterTeacher, delayed, make_head, make_teacher
from .waves import VALIDATION, WaveBatch, WaveSource, WaveSteps
from .weight_norm import add_weight_norm, without_weight_norm


class MimiTrainer(TrainingRun):
    """A run: codec, discriminators, codebooks, data.

    Args:
        config: of the run. codec: `MimiModel`. train: a wave source; valid: another, or None.
        teacher: waveforms (B, 1, S) -> features (B, F, D), where ``semantic.teacher`` does not say.
    """

    kind = "mimi"

    def __init__(
        self,
        config: MimiTraining,
        codec: Any,
        train: WaveSource,
        valid: WaveSource | None = None,
        teacher: Any = None,
    ):
        super().__init__(config, some_unused=True)  # until quantization begins
        accelerator = self.accelerator
        codec.float().train()
        self.decoder_only = config.train == "decoder"
        if config.weight_norm:
            add_weight_norm(*([] if self.decoder_only else [codec.encoder]), codec.decoder)
        sizes = codec.config
        self.samples = max(1, round(config.data.seconds * SAMPLE_RATE / sizes.frame_size)) * sizes.frame_size
        self.steps_data = WaveSteps(
            train,
            config.batch_size,
            self.samples,
            config.data.gain_db,
            config.seed,
            accelerator.process_index,
            accelerator.num_processes,
        )
        self.valid = WaveSteps(valid, config.batch_size, self.samples, [0, 0], config.seed) if valid else None
        settings = config.quantizer
        self.codebooks = CodebookTrainer(
            codec.quantizer,
            settings.decay,
            settings.dead,
            lambda x: accelerator.reduce(x, "sum"),
            self._broadcast,
            config.semantic.apart,
        )
        self.teacher = make_teacher(config, teacher, self.steps_data)
        self.spectral = SpectralLoss(sizes.sampling_rate, config.loss.windows, config.loss.bands)
        self.spectral.to(accelerator.device)
        self.envelope = EnvelopeLoss(sizes.sampling_rate).to(accelerator.device)
        self.complex = ComplexLoss().to(accelerator.device)
        self.listener = make_listener(config.loss.listener)
        head = None
        if not self.decoder_only:
            head = make_head(config, self.teacher, sizes.hidden_size, self.steps_data)
        check(head is not None or config.train != "semantic", "train: semantic needs a `semantic.teacher`")
        codec_pass = CodecPass(codec, self.codebooks, head, config.train)
        projection = codec.quantizer.acoustic_residual_vector_quantizer.input_proj
        if projection is not None and not settings.learn_projection:
            projection.requires_grad_(False)
        optimizer = make_optimizer(codec_pass, config)
        self.averages = None if config.ema is None else copy.deepcopy(codec).requires_grad_(False)
        self.model, self.optimizer = accelerator.prepare(codec_pass, optimizer)
        if self.averages is not None:
            self.averages.to(accelerator.device)
        parts = ("spectral", "envelope", "wave", "complex", "adversarial", "features", "heard")
        shares = {name: getattr(config.loss, name) for name in parts}
        self.balancer = Balancer(
            shares, norm=config.loss.norm, reduce=lambda x: accelerator.reduce(x, "mean")
        )
        self.adversary, self.adversary_optimizer = self._make_adversary()
        self.panels = [
            ["spectral", "envelope", "wave", "complex", "features", "heard"],
            ["discriminator", "adversarial"],
            ["semantic", "semantic_score", "valid_semantic_score"],
            ["valid_spectral", "valid_spectral_unquantized"],
            ["valid_acoustic_rank"],
            ["valid_usage", *(f"valid_usage{k}" for k in range(sizes.num_quantizers))],
            [f"valid_perplexity{k}" for k in range(sizes.num_quantizers)],
        ]

    # -- parts -----------------------------------------------------------------------------------------------
    @property
    def codec(self) -> Any:
        """The codec in training."""
        return self.accelerator.unwrap_model(self.model).codec

    def _make_adversary(self) -> tuple[Any, Any]:
        config, settings = self.config, self.config.discriminator
        if settings.start is None:
            return None, None
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed + 1)
            adversary = Discriminators(settings.windows, settings.filters, self.codec.config.audio_channels)
        rate = settings.learning_rate or config.optimizer.learning_rate
        optimizer = torch.optim.AdamW(
            adversary.parameters(), lr=rate, betas=tuple(config.optimizer.betas), weight_decay=0.0
        )
        return self.accelerator.prepare(adversary, optimizer)

    def _broadcast(self, x: Tensor) -> Tensor:
        from accelerate.utils import broadcast

        return broadcast(x.contiguous())

    def target(self, batch: WaveBatch) -> Tensor | None:
        """What the semantic codebook should tell of a batch."""
        if self.config.semantic.teacher == "labels":
            if batch.labels is None:
                raise AizuchiError(
                    "semantic.teacher is labels, but the data brings none: see aizuchi.train.waves"
                )
            return delayed(batch.labels, self.config.semantic.delay)
        if self.teacher is None:
            return None
        with torch.no_grad():
            return delayed(self.teacher(batch.wave), self.config.semantic.delay)

    # -- a step ----------------------------------------------------------------------------------------------
    def train_step(self, batch: WaveBatch) -> Values:
        """One step of the codec, and of its adversary where that has come in."""
        config, step = self.config, self.step
        if batch.codes is not None:  # before it is moved: a look at codes on a device waits for it
            self.accelerator.unwrap_model(self.model).check_codes(batch.codes)
        batch = batch.to(self.accelerator.device)
        if config.train == "semantic":
            return self._semantic_step(batch)
        quantize = step >= config.quantizer.start or self.decoder_only
        if step == config.quantizer.start and (config.checkpoint is None or config.quantizer.renew):
            self._initialise_codebooks()
        self._set_rates()
        levels, bypass = self._draw_levels(len(batch.wave))
        if self.decoder_only:  # it has to decode codes, and all of them
            levels = bypass = None
        target = None if self.decoder_only else self.target(batch)
        output, quantized, semantic, score = self.model(
            batch.wave, levels, bypass, target, quantize, batch.decoded, batch.codes
        )
        wave = batch.decoded_wave
        losses = {"spectral": self.spectral(output, wave), "wave": (output - wave).abs().mean()}
        if config.loss.envelope:
            losses["envelope"] = self.envelope(output, wave)
        if config.loss.complex:
            losses["complex"] = self.complex(output, wave, batch.decoded_phase)
        if self.listener is not None:
            with torch.no_grad():
                wanted = self.listener(wave)
            losses["heard"] = hearing_loss(self.listener(output), wanted)
        adversary = (
            self.adversary
            if config.discriminator.start is not None and step >= config.discriminator.start
            else None
        )
        if adversary is not None:
            plain, stretch = self.accelerator.unwrap_model(adversary), self._judged_stretch()
            with torch.no_grad():
                real = plain(wave[..., stretch])
            judged = plain(output[..., stretch])
            losses |= {"adversarial": adversarial_loss(judged), "features": feature_loss(real, judged)}
        gradient = self.balancer.gradient(losses, output)
        added = semantic * config.loss.semantic
        if quantized is not None:
            added = added + quantized.commitment * config.loss.commitment
        tensors, gradients = [output], [gradient]
        if added.requires_grad:
            tensors, gradients = [output, added], [gradient, torch.ones_like(added)]
        torch.autograd.backward(tensors, gradients)
        norm = float(
            self.accelerator.clip_grad_norm_(self.model.parameters(), config.optimizer.clip or math.inf)
        )
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        values["loss"] = values["spectral"]
        if not (math.isfinite(norm) and all(map(math.isfinite, values.values()))):
            raise self.not_finite(
                ", ".join(f"{k} {v:g}" for k, v in values.items()) + f", gradient norm {norm:g}"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        values["grad_norm"] = norm
        if quantized is not None and not self.decoder_only:
            values["commitment"] = float(quantized.commitment.detach())
            generator = keyed_generator(config.seed, "revive", step)
            values["revived"] = float(self.codebooks.update(quantized, generator))
        if target is not None:
            values |= {"semantic": float(semantic.detach()), "semantic_score": float(score)}
        if adversary is not None and step % config.discriminator.every == 0:
            values["discriminator"] = self._adversary_step(
                adversary, wave[..., stretch], output.detach()[..., stretch]
            )
        return self._end_step(batch.wave, values)

    def _end_step(self, wave: Tensor, values: Values) -> Values:
        if self.averages is not None:  # codebooks are buffers, and averages already
            move_average(self.averages, self.codec, self.config.ema, self.step)
        self.step += 1
        values["lr"] = self.optimizer.param_groups[0]["lr"]
        values["frames"] = wave.numel() / SAMPLE_RATE * 12.5 * self.accelerator.num_processes
        return values

    def _semantic_step(self, batch: WaveBatch) -> Values:
        """What comes before the codes learns to tell what the teacher says; nothing is quantized or decoded."""
        self._set_rates()
        _, _, loss, score = self.model(batch.wave, None, None, self.target(batch), False)
        self.accelerator.backward(loss)
        clip = self.config.optimizer.clip or math.inf
        norm = float(self.accelerator.clip_grad_norm_(self.model.parameters(), clip))
        told = float(loss.detach())
        if not (math.isfinite(norm) and math.isfinite(told)):
            raise self.not_finite(f"semantic {told:g}, gradient norm {norm:g}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        values = {"loss": told, "grad_norm": norm, "semantic": told, "semantic_score": float(score)}
        return self._end_step(batch.wave, values)

    def _adversary_step(self, adversary: Any, wave: Tensor, output: Tensor) -> float:
        # one forward pass of both, so that processes exchange one set of gradients
        judged = adversary(torch.cat([wave, output]))
        real: Judged = [(score[: len(wave)], []) for score, _ in judged]
        made: Judged = [(score[len(wave) :], []) for score, _ in judged]
        loss = discriminator_loss(real, made)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(adversary.parameters(), self.config.optimizer.clip or math.inf)
        self.adversary_optimizer.step()
        self.adversary_optimizer.zero_grad()
        return float(loss.detach())

    def _judged_stretch(self) -> slice:
        """Which samples the adversary looks at in this step."""
        seconds = self.config.discriminator.seconds
        length = self.samples if seconds is None else min(self.samples, round(seconds * SAMPLE_RATE))
        generator = keyed_generator(self.config.seed, "stretch", self.step)
        start = int(generator.integers(0, self.samples - length + 1))
        return slice(start, start + length)

    def _draw_levels(self, rows: int) -> tuple[Tensor | None, Tensor | None]:
        """Codebooks of each row of this process, and which rows pass unquantized."""
        settings, count = self.config.quantizer, self.codec.config.num_quantizers
        first = self.accelerator.process_index * rows
        generator = keyed_generator(self.config.seed, "levels", self.step)
        total = rows * self.accelerator.num_processes
        bypass = generator.random(total) >= settings.rate
        dropped = generator.random(total) < settings.dropout
        levels = generator.integers(self.codec.config.num_semantic_quantizers, count + 1, total)
        levels[~dropped] = count
        device = self.accelerator.device
        here = slice(first, first + rows)
        return torch.from_numpy(levels[here]).to(device), torch.from_numpy(bypass[here]).to(device)

    @torch.no_grad()
    def _initialise_codebooks(self) -> None:
        """k-means over the latents of the next batches, the same on every process."""
        steps = self.steps_data
        latents, decoded = [], []
        for i in range(self.config.quantizer.init_batches):
            first = (self.step + i) * steps.batch_size
            rows = steps.rows(range(first, first + steps.batch_size)).to(self.accelerator.device)
            latents.append(self.codec.encode_latent(rows.wave))
            everyone = torch.ones(len(rows.wave), dtype=torch.bool, device=rows.wave.device)
            decoded.append(everyone if rows.decoded is None else rows.decoded)
        vectors = steps.batch_size * latents[0].shape[-1]
        generator = keyed_generator(self.config.seed, "kmeans")
        head = self.accelerator.unwrap_model(self.model).head
        self.codebooks.initialise(torch.cat(latents), generator, vectors, head, torch.cat(decoded))

    def _set_rates(self) -> None:
        schedule = self.config.schedule
        scale = lr_scale(schedule.kind, self.step, self.config.steps, schedule.warmup, schedule.final)
        own = self.config.optimizer.learning_rate
        peaks = own, self.config.discriminator.learning_rate or own
        for optimizer, peak in zip((self.optimizer, self.adversary_optimizer), peaks):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = peak * scale

    # -- measures --------------------------------------------------------------------------------------------
    @property
    def has_validation(self) -> bool:
        return self.valid is not None

    def speed(self, frames: float, seconds: float) -> Values:
        """Seconds of audio that were learned from a second."""
        return {"audio_seconds_per_second": frames * 0.08 / seconds}

    @contextlib.contextmanager
    def exported(self) -> Iterator[Any]:
        """The codec that is evaluated and exported: the averaged weights, where there are any."""
        codec = self.codec if self.averages is None else self.averages
        codec.eval()
        try:
            yield codec
        finally:
            codec.train()

    @torch.no_grad()
    def evaluate(self) -> Values:
        """Reconstruction through the codes, usage of the codebooks, and how well the semantic codebook tells."""
        config = self.config
        if self.valid is None:
            raise AizuchiError("data.valid is not given: there is nothing to evaluate on")
        rows, size = config.data.valid_items, config.batch_size
        positions = (range(VALIDATION + i, VALIDATION + min(i + size, rows)) for i in range(0, rows, size))
        batches = (self.valid.rows(p, augment=False).to(self.accelerator.device) for p in positions)
        head = self.accelerator.unwrap_model(self.model).head
        with self.exported() as codec:
            if config.train == "semantic":
                return measure_semantic(codec, batches, self.target, head)
            return measure_codec(codec, batches, self.spectral, self.target, head)

    @torch.no_grad()
    def write_samples(self) -> None:
        """Write ``samples/step_N/``: validation rows, before and after the codec."""
        if not self.main:
            return
        steps = self.valid or self.steps_data
        wave = steps.rows(range(VALIDATION, VALIDATION + self.config.samples), augment=False).wave
        with self.exported() as codec:
            made = codec(wave.to(self.accelerator.device), return_dict=True).audio_values
        write_pairs(self.folder / "samples", self.step, wave[:, 0], made[:, 0].float().cpu(), self.log)

    # -- checkpoints -----------------------------------------------------------------------------------------
    def write_state(self, folder: Path) -> None:
        """The codec as `from_pretrained` reads it, and all else that a run needs to go on."""
        if not self.main:
            return
        with self.exported() as codec:
            save_model(without_weight_norm(codec), folder)
        unwrap = self.accelerator.unwrap_model
        state = {
            "model": unwrap(self.model).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
        }
        if self.adversary is not None:
            state |= {
                "adversary": unwrap(self.adversary).state_dict(),
                "adversary_optimizer": self.adversary_optimizer.state_dict(),
            }
        if self.averages is not None:
            state["averages"] = self.averages.state_dict()
        if isinstance(self.teacher, ClusterTeacher):
            state["teacher"] = self.teacher.state_dict()
        torch.save(state, folder / "codec_training.pt")

    def read_state(self, folder: Path) -> None:
        """Read what `write_state` wrote."""
        state = torch.load(folder / "codec_training.pt", map_location="cpu", weights_only=True)
        unwrap = self.accelerator.unwrap_model
        unwrap(self.model).load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        if self.adversary is not None and "adversary" in state:  # it may have been asked for since
            unwrap(self.adversary).load_state_dict(state["adversary"])
            self.adversary_optimizer.load_state_dict(state["adversary_optimizer"])
        if self.averages is not None and "averages" in state:
            self.averages.load_state_dict(state["averages"])
        if isinstance(self.teacher, ClusterTeacher) and "teacher" in state:
            self.teacher = ClusterTeacher.from_state(state["teacher"], SAMPLE_RATE)

    def export(self) -> Path:
        """Write the codec to ``model/``."""
        target = self.folder / "model"
        with writing_model(target, self.accelerator) as folder, self.exported() as codec:
            if self.main:
                save_model(without_weight_norm(codec), folder)
        return target
