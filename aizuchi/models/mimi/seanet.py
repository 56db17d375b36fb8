"""SEANet: the convolutional encoder and decoder of Mimi (arXiv 2009.02095; moshi/modules/seanet.py)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration import MimiConfig
from .conv import MimiConv1d, MimiConvTranspose1d, StreamState
from .fused import Part, Prepared, Unsupported, fused_convolutions


@dataclass
class StackState(StreamState):
    """States of a stack's layers, None for those without one."""

    layers: list[Any]
    fused: Prepared | None = None
    links: tuple[int, ...] = ()  # of each convolution, the layer whose state is its own, -1 for none

    def streams(self) -> list[tuple[Tensor | None, Tensor | None]]:
        states = [None if link < 0 else self.layers[link] for link in self.links]
        return [pair for state in states for pair in ([(None, None)] if state is None else state.streams())]


class MimiStack(nn.Module):
    """Layers one after the other; those that look at the past take their state from a `StackState`."""

    def __init__(self, layers: list[nn.Module]):
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def init_state(
        self, rows: int, device: Any = None, dtype: torch.dtype | None = None, weights: Any = None
    ) -> StackState:
        """State of ``rows`` streams that have seen nothing.

        ``weights``: dtype of the copy of the weights that the library works with; None leaves the work to torch.
        """
        return StackState(
            [
                None if isinstance(layer, nn.ELU) else layer.init_state(rows, device, dtype)
                for layer in self.layers
            ],
            None if weights is None else fused_convolutions(self, self._parts, weights),
            self._links(),
        )

    def _links(self) -> tuple[int, ...]:
        links: list[int] = []
        for i, layer in enumerate(self.layers):
            links += (
                [] if isinstance(layer, nn.ELU) else [i, -1] if isinstance(layer, MimiResnetBlock) else [i]
            )
        return tuple(links)

    def _parts(self) -> list[Part]:
        """The layers as the library takes them."""
        parts: list[Part] = []
        activated = False
        for layer in self.layers:
            if isinstance(layer, nn.ELU):
                activated = True
                continue
            if isinstance(layer, MimiResnetBlock):
                if not isinstance(layer.shortcut, nn.Identity):
                    raise Unsupported
                parts += [Part(layer.block[1].conv, True, 1), Part(layer.block[3].conv, True, 2)]
            else:
                parts.append(Part(layer.conv, activated))
            activated = False
        return parts

    def forward(self, x: Tensor, state: StackState | None = None, active: Tensor | None = None) -> Tensor:
        if state is not None and (fused := state.run(x, active)) is not None:
            return fused
        for i, layer in enumerate(self.layers):
            if isinstance(layer, nn.ELU):
                x = layer(x)
            else:
                x = layer(x, None if state is None else state.layers[i], active)
        return x


class MimiResnetBlock(nn.Module):
    """x + conv(elu(conv(elu(x)))), the inner width narrowed; ``block`` is numbered as published."""

    def __init__(self, config: MimiConfig, dim: int, dilation: int):
        super().__init__()
        hidden = dim // config.compress
        pad_mode = config.pad_mode
        self.block = nn.ModuleList(
            [
                nn.ELU(),
                MimiConv1d(dim, hidden, config.residual_kernel_size, dilation=dilation, pad_mode=pad_mode),
                nn.ELU(),
                MimiConv1d(hidden, dim, 1, pad_mode=pad_mode),
            ]
        )
        self.shortcut = (
            MimiConv1d(dim, dim, 1, pad_mode=pad_mode) if config.use_conv_shortcut else nn.Identity()
        )

    def init_state(self, rows: int, device: Any = None, dtype: torch.dtype | None = None) -> Any:
        """State of ``rows`` streams: only the first convolution has one, the others are pointwise."""
        return self.block[1].init_state(rows, device, dtype)

    def forward(self, x: Tensor, state: Any = None, active: Tensor | None = None) -> Tensor:
        y = self.block[1](F.elu(x), state, active)
        return self.shortcut(x) + self.block[3](F.elu(y))


class MimiEncoder(MimiStack):
    """Waveform (rows, channels, S) -> (rows, hidden_size, S / hop_length)."""

    def __init__(self, config: MimiConfig):
        pad_mode = config.pad_mode
        width = config.num_filters
        layers: list[nn.Module] = [
            MimiConv1d(config.audio_channels, width, config.kernel_size, pad_mode=pad_mode)
        ]
        for ratio in reversed(config.upsampling_ratios):
            for j in range(config.num_residual_layers):
                layers.append(MimiResnetBlock(config, width, config.dilation_growth_rate**j))
            layers += [nn.ELU(), MimiConv1d(width, 2 * width, 2 * ratio, stride=ratio, pad_mode=pad_mode)]
            width *= 2
        layers += [
            nn.ELU(),
            MimiConv1d(width, config.hidden_size, config.last_kernel_size, pad_mode=pad_mode),
        ]
        super().__init__(layers)


class MimiDecoder(MimiStack):
    """(rows, hidden_size, T) -> waveform (rows, channels, T * hop_length)."""

    def __init__(self, config: MimiConfig):
        pad_mode = config.pad_mode
        ratios = config.upsampling_ratios
        widths = config.decoder_channels or [
            config.num_filters * 2**i for i in reversed(range(len(ratios) + 1))
        ]
        blocks = config.num_decoder_residual_layers
        layers: list[nn.Module] = [
            MimiConv1d(config.hidden_size, widths[0], config.kernel_size, pad_mode=pad_mode)
        ]
        for ratio, width, narrower in zip(ratios, widths, widths[1:], strict=False):
            layers += [nn.ELU(), MimiConvTranspose1d(width, narrower, 2 * ratio, stride=ratio)]
            for j in range(config.num_residual_layers if blocks is None else blocks):
                layers.append(MimiResnetBlock(config, narrower, config.dilation_growth_rate**j))
        layers += [
            nn.ELU(),
            MimiConv1d(widths[-1], config.audio_channels, config.last_kernel_size, pad_mode=pad_mode),
        ]
        super().__init__(layers)
