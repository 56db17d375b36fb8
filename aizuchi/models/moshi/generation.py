"""`generate`: whole dialogues with the documented arguments, frame by frame with the engine's own step.

transformers prepares what it knows (logits processors, stopping criteria, caches, streamers) and hands over to
our loop; nothing is kept on the module.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput

from .choosing import audio_chooser, depth_settings, split_depth_kwargs, text_chooser
from .outputs import MoshiConditionalGenerationGenerateOutput
from .prompt import Prompt, build_prompt
from .step import frame_step

REFUSED = {
    "assistant_model": "assisted decoding",
    "prompt_lookup_num_tokens": "assisted decoding",
    "penalty_alpha": "contrastive search",
    "dola_layers": "DoLa",
    "guidance_scale": "prompt guidance (models with conditions are guided by the engine)",
    "constraints": "constrained beams",
    "force_words_ids": "constrained beams",
}


@dataclass
class _Run:
    """What one call of `generate` collects; it lives as long as the call."""

    prompt: Prompt
    columns: Tensor | None = None  # (rows, streams, columns so far)
    tokens: Tensor | None = None  # (rows,) new tokens until a row ended
    step_outputs: dict[str, list[Any]] = field(default_factory=dict)


class DuplexGeneration:
    """The part of the model class that generates."""

    if TYPE_CHECKING:
        config: Any
        generation_config: Any
        depth_decoder: Any
        audio_encoder: Any
        temporal: Any
        device: Any

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor | None = None,
        user_input_values: Tensor | None = None,
        user_audio_codes: Tensor | None = None,
        moshi_input_values: Tensor | None = None,
        moshi_audio_codes: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        return_audio_waveforms: bool = True,
        return_audio_codes: bool | None = None,
        concat_unconditional_inputs: bool = True,
        user_silence: str = "steady",
        conditions: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Continue a dialogue, or compute one whose user is already known.

        All inputs are time-aligned frames, without delays. With no input at all, a dialogue starts from nothing.

        Args:
            input_ids: (B, T) text ids, one a frame.
            user_audio_codes (B, K, T or more), or user_input_values (B, 1, S): what the user says; what goes
                beyond the prompt is heard at its time.
            moshi_audio_codes (B, K, T), or moshi_input_values: what the model has said.
            inputs_embeds: (B, T, H) what the temporal model sees of the prompt, instead of all of these. Those that
                are given beside it are laid out from column 0 on, and serve what comes after the prompt.
            return_audio_waveforms, return_audio_codes: what to return beside the text.
            concat_unconditional_inputs: start with the column of initial tokens, as in training.
            user_silence: how the user is silent where nothing is known: "steady" (Mimi's codes of a running
                silent stream) or "first_frame" (those of one lone silent frame, as transformers has it).
            conditions: what `prepare_conditions` gives, or takes.
            kwargs: anything `GenerationMixin.generate` takes (``streamer`` may have a ``put_audio`` method, see
                `AudioStreamer`); with the prefix ``depth_`` or ``depth_decoder_``, the depth decoder's sampling.
        Returns:
            `MoshiConditionalGenerationGenerateOutput`; when no audio is asked for, or the model makes none, text
            ids (B, L), or transformers' `GenerateDecoderOnlyOutput` with ``return_dict_in_generate``.
        Raises:
            ValueError: streams missing or not synchronised, beams, assisted decoding, unknown arguments.
        """
        depth_kwargs, kwargs = split_depth_kwargs(kwargs)
        config = self._own_generation_config(kwargs)
        self._refuse(config, kwargs)
        streamer = kwargs.get("streamer")
        prompt = build_prompt(
            self,
            input_ids=input_ids,
            user=(user_audio_codes, user_input_values),
            moshi=(moshi_audio_codes, moshi_input_values),
            inputs_embeds=inputs_embeds,
            attention_mask=kwargs.pop("attention_mask", None),
            first_column=concat_unconditional_inputs,
            silence=user_silence,
            conditions=conditions,
        )
        copies = config.num_return_sequences or 1
        if copies > 1:
            prompt = prompt.repeat(copies)
        depth = depth_settings(self, config, depth_kwargs)
        run = _Run(prompt)

        def loop(model: Any, input_ids: Tensor, **given: Any) -> Any:
            # transformers doesn't hand the streamer to a loop that isn't its own.
            return _decode(model, input_ids, run, depth, **(given | {"streamer": streamer}))

        if inputs_embeds is None or input_ids is not None:
            start = {"input_ids": prompt.text[::copies]}
        else:
            start = {"inputs_embeds": inputs_embeds}
        text = super().generate(  # type: ignore[misc]
            **start,
            attention_mask=prompt.mask[::copies],
            generation_config=config,
            custom_generate=loop,
            **kwargs,
        )
        if streamer is not None and hasattr(streamer, "end_audio"):
            streamer.end_audio()
        if self.depth_decoder is None or not (return_audio_waveforms or return_audio_codes):
            return text
        codes = prompt.frames(self, run.columns, run.tokens)
        waves = prompt.waveforms(self, codes) if return_audio_waveforms else None
        as_dict = isinstance(text, GenerateDecoderOnlyOutput)
        return MoshiConditionalGenerationGenerateOutput(
            audio_sequences=waves,
            audio_codes=codes if return_audio_codes else None,
            **(dict(text) if as_dict else {"sequences": text}),
        )

    def _own_generation_config(self, kwargs: dict[str, Any]) -> Any:
        """A copy of the generation config in use with the settings among ``kwargs``, which keep the others.

        ``temp`` (sic, in converted checkpoints) is read as temperature.
        """
        given = kwargs.pop("generation_config", None)
        config = copy.deepcopy(given or self.generation_config)
        temp = getattr(config, "temp", None)
        if temp is None and config.temperature is None:  # what a given config leaves open is the model's
            temp = getattr(self.generation_config, "temp", None)
        if temp is not None and config.temperature in (None, 1.0):
            config.temperature = temp
        others = config.update(**kwargs)  # what is left is no generation setting
        kwargs.clear()
        kwargs.update(others)
        return config

    def _refuse(self, config: Any, kwargs: dict[str, Any]) -> None:
        if (config.num_beams or 1) > 1:
            raise ValueError(
                "`num_beams` above 1 is not possible where audio is made: what is heard can't be taken back. "
                "`MoshiForCausalLM` has beams for text alone."
            )
        for name, what in REFUSED.items():
            if kwargs.get(name) is not None or getattr(config, name, None) not in (None, 1.0):
                raise ValueError(f"`{name}`: {what} is not possible where audio is made.")
        past = kwargs.get("past_key_values")
        if past is not None and (isinstance(past, tuple | list) or (len(past) and past.get_seq_length() > 0)):
            raise ValueError(
                "`past_key_values` that are filled can't be continued by `generate`: the codes of the last frames "
                "are needed too. Pass the whole dialogue, or use `aizuchi.engine`, whose rows go on for ever."
            )

    @torch.no_grad()
    def silence_codes(self, codebooks: int, kind: str = "steady") -> Tensor:
        """(codebooks,) the codes of one frame of silence.

        Args:
            kind: "steady": of a stream that has been silent for a whole attention window of the codec;
                "first_frame": of one lone frame.
        """
        encoder = self.config.audio_encoder_config
        frames = 1
        if kind == "steady":
            # A full attention window, plus what the convolutions remember (less than 5 frames at the real sizes).
            frames = (
                -(-encoder.sliding_window // max(1, round(encoder.encodec_frame_rate / encoder.frame_rate)))
                + 5
            )
        elif kind != "first_frame":
            raise ValueError(f"`kind` must be 'steady' or 'first_frame', got {kind!r}.")
        size = round(encoder.sampling_rate / encoder.frame_rate)
        weight = next(self.audio_encoder.parameters())
        wave = weight.new_zeros(1, encoder.audio_channels, frames * size)
        return self.audio_encoder.encode(wave, num_quantizers=codebooks, return_dict=True).audio_codes[
            0, :, -1
        ]


def _decode(
    model: Any,
    input_ids: Tensor,
    run: _Run,
    depth: Any,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    streamer: Any = None,
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> Any:
    """The loop over frames; transformers calls it with what it has prepared."""
    prompt, config = run.prompt, model.config
    past, mask = model_kwargs.get("past_key_values"), prompt.mask
    wanted = {
        name: getattr(generation_config, f"output_{name}")
        for name in ("scores", "logits", "attentions", "hidden_states")
    }
    keep = {name for name, on in wanted.items() if on and generation_config.return_dict_in_generate}
    steps: dict[str, list[Any]] = {name: [] for name in keep}
    rows, prefix = mask.shape
    room = generation_config.max_length - input_ids.shape[1]
    columns = prompt.layout(
        model, room
    )  # (rows, streams, prefix + room), -2 where something is to be written
    choose_text = text_chooser(logits_processor, generation_config.do_sample)
    chosen_audio = audio_chooser(depth)
    depth_state = None if model.depth_decoder is None else model.depth_decoder.init_state(rows)
    cross = (
        None
        if prompt.conditions.cross is None
        else model.temporal.cross_keys_values(prompt.conditions.cross.to(model.dtype))
    )
    pad = generation_config.pad_token_id
    pad = config.text_padding_token_id if pad is None else int(pad)
    running = torch.ones(rows, dtype=torch.bool, device=input_ids.device)
    tokens = torch.zeros(rows, dtype=torch.long, device=input_ids.device)
    sequences = input_ids
    listener = _AudioListener(model, streamer, prompt) if hasattr(streamer, "put_audio") else None
    here = prefix  # columns that exist
    while True:
        fresh = columns[:, :, :prefix] if here == prefix else columns[:, :, here - 1 : here]

        def temporal(x: Tensor) -> Tensor:
            if prompt.embeds is not None and x.shape[1] >= prefix and (past is None or here == prefix):
                x = torch.cat([prompt.embeds.to(x), x[:, prefix:]], dim=1)
            outputs = model.temporal(
                inputs_embeds=x,
                attention_mask=mask,
                past_key_values=past,
                use_cache=past is not None,
                output_attentions="attentions" in keep,
                output_hidden_states="hidden_states" in keep,
                return_dict=True,
                condition=cross,
            )
            for name in keep & {"attentions", "hidden_states"}:
                steps[name].append(getattr(outputs, name))
            return outputs.last_hidden_state[:, -1:]

        def text(logits: Tensor) -> Tensor:
            scores, ids = choose_text(sequences, logits)
            for name, value in (("scores", scores), ("logits", logits)):
                if name in keep:
                    steps[name].append(value)
            return torch.where(running, ids, pad)

        forced = (
            columns[:, 1:, here] if here < columns.shape[2] else columns.new_full(columns[:, 1:, 0].shape, -2)
        )

        def audio(logits: Tensor, codebook: int) -> Tensor:
            return torch.where(forced[:, codebook] == -2, chosen_audio(logits), forced[:, codebook])

        if past is None and here > prefix:  # use_cache=False: everything is computed anew
            fresh = columns[:, :, :here]
        frame = frame_step(
            model, fresh, temporal, text, audio, depth_state, condition_sum=prompt.conditions.sum
        )
        columns[:, 0, here] = frame.text
        if frame.codes is not None:
            written = slice(1, 1 + config.num_generated_codebooks)
            columns[:, written, here] = torch.where(
                forced[:, : frame.codes.shape[1]] == -2, frame.codes, columns[:, written, here]
            )
        here += 1
        tokens += running
        sequences = torch.cat([sequences, frame.text[:, None]], dim=1)
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=1)
        if streamer is not None:
            streamer.put(frame.text.cpu())
        if listener is not None:
            listener.hear(columns[:, :, :here])
        running = running & ~stopping_criteria(sequences, None)
        if not bool(running.any()) or here == columns.shape[2]:
            break
    if streamer is not None:
        streamer.end()
    run.columns, run.tokens = columns[:, :, :here], tokens
    if not generation_config.return_dict_in_generate:
        return sequences
    return GenerateDecoderOnlyOutput(
        sequences=sequences, past_key_values=past, **{name: tuple(values) for name, values in steps.items()}
    )


class _AudioListener:
    """Decodes each frame as it is complete, for a streamer that has ``put_audio``."""

    def __init__(self, model: Any, streamer: Any, prompt: Prompt):
        if prompt.starts.unique().numel() > 1:
            raise ValueError("`streamer` with audio needs rows of the same length, without padding.")
        self.model, self.streamer, self.prompt = model, streamer, prompt
        self.state = model.audio_encoder.init_decoder_state(prompt.starts.shape[0])
        self.heard = 0

    def hear(self, columns: Tensor) -> None:
        codes = self.prompt.frames(self.model, columns, None)
        for frame in range(self.heard, codes.shape[2]):
            new = codes[:, :, frame : frame + 1]
            wave = self.model.audio_encoder.decode_step(new, self.state)
            self.streamer.put_audio(new.cpu(), wave.cpu())
        self.heard = codes.shape[2]


class AudioStreamer:
    """Base of streamers that hear the audio too, frame by frame; override what you need."""

    def put(self, value: Tensor) -> None:
        """The prompt's text ids (B, T), then (B,) ids a frame."""

    def put_audio(self, codes: Tensor, waveform: Tensor) -> None:
        """One frame: codes (B, K, 1), waveform (B, 1, 1920). The prompt's own frames come first."""

    def end(self) -> None:
        """The last frame is out."""
