"""The ear of the small Mimi as a model: what it makes of spectra, and what it learns from.

`recipes.mini.ear` trains it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aizuchi.errors import AizuchiError
from aizuchi.files import atomic_path
from recipes.mini.heard import OTHER, HeardWords
from recipes.mini.labels import CLASSES
from recipes.mini.spectrum import BANDS, STEPS

WORD_DELAY = 2  # frames after its end that a word is told
PHONE_DELAY = 1
NO_WORD = 0.15  # weight of frames in which no word ends
SEMANTIC = "quantizer.semantic_residual_vector_quantizer.layers."
LAYERS = "encoder_transformer.layers."
FRESH_SCALE = 0.01  # of what a layer adds that has been put behind trained ones
HEARING = (
    "encoder_transformer.",
    "quantizer.semantic_residual_vector_quantizer.",
)  # an ear's part of a codec
# Sizes of the codec; what `recipes.mini.front` makes of it has the same.
CODEC: dict[str, Any] = dict(
    num_filters=16,
    frame_rate=12.5,
    upsampling_ratios=[2, 4, 5, 6, 8],
    hidden_size=192,
    num_hidden_layers=6,
    num_attention_heads=3,
    num_key_value_heads=3,
    intermediate_size=576,
    upsample_groups=192,
    codebook_size=512,
    codebook_dim=64,
    vector_quantization_hidden_dimension=64,
    num_quantizers=8,
    num_semantic_quantizers=2,
    sliding_window=15,
    layer_scale_initial_scale=0.1,
)
ENCODER_LAYERS = 12  # of the encoder's transformer, where the ear learns them


STEM = "stem.safetensors"
COMPONENTS = "components.safetensors"  # of spectra, which the layers below the convolutions find
WORDS = "heard.txt"  # what its reader tells, in an ear's folder
LOWER = 10  # layers of the codec's encoder that lie below the convolutions of an ear


def halves(encoder: Any) -> tuple[Any, Any]:
    """The layers of a codec's encoder, as two modules: what lies below an ear's convolutions, and these."""
    from aizuchi.models.mimi.seanet import MimiStack

    layers = list(encoder.layers)
    return MimiStack(layers[:LOWER]), MimiStack(layers[LOWER:])


class Convolutions(nn.Module):
    """The upper convolutions of the codec's encoder, on spectra.

    Where the encoder has come down to a hundred vectors a second, a linear map of log-mel spectra stands for all that
    lies below; `recipes.mini.front` then teaches that to the encoder's lower layers.
    """

    def __init__(self, config: Any):
        super().__init__()
        from aizuchi.models.mimi.seanet import MimiEncoder

        # it does not learn: what the lower layers have to give is known before an ear is
        self.stem = nn.Linear(BANDS, config.num_filters * 2 ** (LOWER // 3)).requires_grad_(False)
        self.stack = halves(MimiEncoder(config))[1]

    @torch.no_grad()
    def normalize(self, spectra: Tensor) -> None:
        """Let a fresh stem take spectra (..., STEPS * BANDS) as if each band had mean 0 and variance 1."""
        bands = spectra.unflatten(-1, (STEPS, BANDS)).flatten(0, -2)
        self.stem.weight.div_(bands.std(0))
        self.stem.bias.sub_(self.stem.weight @ bands.mean(0))

    def below(self, spectra: Tensor) -> Tensor:
        """(B, F, STEPS * BANDS) -> (B, C, F * STEPS), what the encoder's lower layers have to give."""
        return self.stem(spectra.unflatten(-1, (STEPS, BANDS)).flatten(1, 2)).transpose(1, 2)

    def forward(self, spectra: Tensor) -> Tensor:
        """(B, F, STEPS * BANDS) -> (B, F, K)."""
        return self.stack(self.below(spectra)).transpose(1, 2)

    def save_stem(self, folder: Path) -> None:
        """Write what no codec holds of these convolutions to an ear's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / STEM) as temporary:
            save_file({k: v.contiguous() for k, v in self.stem.state_dict().items()}, temporary)

    @classmethod
    def load(cls, folder: Path, codec: Any) -> Convolutions:
        """Those of a `MimiModel` that hears with an ear, whose folder is given.

        Raises AizuchiError if the folder lacks the stem.
        """
        made = cls(codec.config)
        made.stem.load_state_dict(_stem(folder))
        made.stack.load_state_dict(halves(codec.encoder)[1].state_dict())
        return made.requires_grad_(False).eval()


class Ear(nn.Module):
    """Log spectra to what the codec's transformer is given, latents, semantic codes, and what a reader makes of these.

    Args:
        words: how many classes of words there are.
    """

    def __init__(self, words: int, config: Any = None, reader_layers: int = 2):
        super().__init__()
        from aizuchi.models.mimi import MimiConfig
        from aizuchi.models.mimi.quantization import MimiSplitResidualVectorQuantizer
        from aizuchi.models.mimi.transformer import MimiTransformer

        config = config or MimiConfig(**CODEC)
        width = config.hidden_size
        self.convs = Convolutions(config)
        self.encoder_transformer = MimiTransformer(config)
        self.quantizer = MimiSplitResidualVectorQuantizer(config)
        wide = {**config.to_dict(), "num_hidden_layers": reader_layers, "sliding_window": 25}
        wide |= {
            "hidden_size": 256,
            "intermediate_size": 1024,
            **dict.fromkeys(("num_attention_heads", "num_key_value_heads"), 4),
        }
        self.widen = nn.Linear(width, 256)
        self.reader = MimiTransformer(MimiConfig(**wide))
        self.words = nn.Linear(256, words)
        self.phones = nn.Linear(width, CLASSES)
        self.keep = nn.Linear(width, width)
        with torch.no_grad():
            self.keep.weight.copy_(torch.eye(width))
            self.keep.bias.zero_()

    @property
    def semantic(self) -> Any:
        """The semantic residual quantizer."""
        return self.quantizer.semantic_residual_vector_quantizer

    def latents(self, features: Tensor) -> Tensor:
        """What the convolutions give (B, F, K) -> (B, F, K)."""
        return self.encoder_transformer(features.transpose(1, 2)).transpose(1, 2)

    def project(self, latents: Tensor) -> Tensor:
        """(B, F, K) -> (B, F, dim), what the semantic codebooks quantize."""
        return F.linear(latents, self.semantic.input_proj.weight[..., 0])

    def read(self, semantic: Tensor) -> Tensor:
        """The semantic part (B, F, K) of codes -> logits of words (B, F, words)."""
        return self.words(self.reader(self.widen(semantic).transpose(1, 2)).transpose(1, 2))

    def forward(self, spectra: Tensor, quantize: bool, deep: Tensor | None = None) -> dict[str, Any]:
        """Logits of words and phones, components of spectra that latents still tell, and what the quantizer did.

        Args:
            spectra: logarithms (B, F, STEPS * BANDS). quantize: whether codes come in between. deep: (B,) rows that all
                semantic codebooks tell, not the first alone; None for all.
        Returns:
            words (B, F, words), phones (B, F, CLASSES), kept (B, F, K), commitment (), latents (B, F, K), projected
            (B, F, dim), what the codebooks quantize, and for each codebook its inputs (B, F, dim) and codes (B, F).
        """
        latents = self.latents(self.convs(spectra))
        branch = self.semantic
        projected = self.project(latents)
        passed, inputs, codes = projected, [], []
        commitment = projected.new_zeros(())
        if quantize:
            with torch.autocast(projected.device.type, enabled=False):
                exact = residual = projected.float()
                told = torch.zeros_like(exact)
                for level, codebook in enumerate(branch.codebooks()):
                    inputs.append(residual.detach())
                    codes.append(codebook.encode(inputs[-1]))
                    entry = codebook.decode(codes[-1]).detach()
                    commitment = commitment + F.mse_loss(residual, entry)
                    residual = residual - entry
                    told = told + (entry if level == 0 or deep is None else entry * deep[:, None, None])
                passed = exact + (told - exact).detach()
        semantic = F.linear(passed, branch.output_proj.weight[..., 0])
        made = {"words": self.read(semantic), "phones": self.phones(semantic)}
        made |= {
            "kept": self.keep(latents),
            "commitment": commitment,
            "latents": latents.float(),
            "projected": projected.float(),
        }
        return made | {"inputs": inputs, "codes": codes}


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The weights of the ear that a run in a folder made, or of one that is kept in parts; AizuchiError if it has not
    ended, or a part is missing.
    """
    path = folder / "model/weights.pt"
    parts = [path] if path.exists() else sorted(path.parent.glob("weights-*-of-*.pt"))
    if not parts:
        raise AizuchiError(f"{path} is missing; python -m recipes.mini.ear makes it")
    if len(parts) != (1 if path.exists() else int(parts[0].stem.split("-")[-1])):
        raise AizuchiError(
            f"{path.parent}: of the weights there is only {', '.join(part.name for part in parts)}"
        )
    return {name: weight for part in parts for name, weight in torch.load(part, weights_only=True).items()}


def _stem(folder: Path) -> dict[str, Tensor]:
    path = folder / STEM
    if not path.exists():
        raise AizuchiError(f"{path} is missing; python -m recipes.mini.ear makes it")
    return load_file(path)


def _heard_with(codec: Path, folder: Path) -> dict[str, Tensor]:
    from aizuchi.data.codec import load_codec

    model = load_codec(codec).model.float()
    found = {name: weight for name, weight in model.state_dict().items() if name.startswith(HEARING)}
    upper = halves(model.encoder)[1].state_dict()
    found |= {f"convs.stack.{name}": weight for name, weight in upper.items()}
    return found | {f"convs.stem.{name}": weight for name, weight in _stem(folder).items()}


def _count(weights: dict[str, Tensor], prefix: str) -> int:
    return len({name[len(prefix) :].split(".")[0] for name in weights if name.startswith(prefix)})


def load_ear(folder: Path) -> Ear:
    """The ear that a run in a folder made, in evaluation mode.

    Raises AizuchiError if it has not ended.
    """
    from aizuchi.models.mimi import MimiConfig

    weights = read_weights(folder)
    config = MimiConfig(
        **CODEC
        | {
            "num_semantic_quantizers": _count(weights, SEMANTIC),
            "num_hidden_layers": _count(weights, LAYERS),
        }
    )
    ear = Ear(len(weights["words.bias"]), config, reader_layers=_count(weights, "reader.layers."))
    none = {
        name: w for name, w in ear.state_dict().items() if ".acoustic_" in name
    }  # an ear that is kept lacks them
    ear.load_state_dict(none | weights)
    return ear.eval()


def words_of(folder: Path, otherwise: Path) -> HeardWords:
    """The words that the ear in a folder tells: those of its own list, or of another where it has none."""
    own = folder / WORDS
    return HeardWords(own if own.exists() else otherwise)


def begin_from(ear: Ear, folder: Path, codec: Path | None = None, words: HeardWords | None = None) -> int:
    """Give an ear what fits of another's weights, semantic codebooks included; returns how many of these. Layers that
    the other lacks come behind its own and add little at first.

    Args:
        folder: of the other's run. codec: in place of its weights, a codec that hears with the other; what tells words
            from its codes is then begun anew. words: the ear's own, which are told as the other tells them; those that
            it does not know as it tells all that it does not. None, or no list in the folder: they are the other's,
            perhaps with more behind them.

    Raises AizuchiError if that one has not ended, or if the codec is of other sizes.
    """
    other, own = read_weights(folder) if codec is None else _heard_with(codec, folder), ear.state_dict()
    if codec is not None and (
        strange := [n for n, w in other.items() if n not in own or own[n].shape != w.shape]
    ):
        raise AizuchiError(f"{codec} is no codec of this ear's sizes: {strange[0]} does not fit")
    if words is not None and "words.bias" in other and (folder / WORDS).exists():
        theirs = HeardWords(folder / WORDS)
        found = [[c for w in alike if (c := theirs.class_of(w)) != OTHER] for alike in words.classes]
        rows = [0, OTHER, *(known[0] if known else OTHER for known in found)]
        other |= {name: other[name][rows] for name in ("words.weight", "words.bias")}
    for name in ("words.weight", "words.bias"):  # of a list that goes on behind the other's
        if name in other and len(other[name]) < len(own[name]):
            other[name] = torch.cat([other[name], own[name][len(other[name]) :]])
    fits = {name: w for name, w in other.items() if name in own and own[name].shape == w.shape}
    fits = {name: w for name, w in fits.items() if ".acoustic_" not in name}
    ear.load_state_dict(own | fits)
    with torch.no_grad():
        for layer in list(ear.encoder_transformer.layers)[_count(other, LAYERS) :]:
            layer.self_attn_layer_scale.scale.fill_(FRESH_SCALE)
            layer.mlp_layer_scale.scale.fill_(FRESH_SCALE)
    return min(len(ear.semantic.codebooks()), _count(other, SEMANTIC))


def word_loss(logits: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of (B, F, C) with the words (B, F), told `WORD_DELAY` frames late."""
    logits, words = logits[:, WORD_DELAY:].float(), words[:, : words.shape[1] - WORD_DELAY]
    loss = F.cross_entropy(logits.flatten(0, 1), words.flatten(), reduction="none")
    weight = torch.where(words.flatten() > 0, 1.0, NO_WORD)
    return (loss * weight).sum() / weight.sum()


def phone_loss(logits: Tensor, shares: Tensor) -> Tensor:
    """Cross-entropy of (B, F, CLASSES) with shares of phones, NaN where nobody knows, `PHONE_DELAY` frames late."""
    logits, shares = logits[:, PHONE_DELAY:].float(), shares[:, : shares.shape[1] - PHONE_DELAY]
    known = ~shares.isnan().any(-1)
    loss = -(shares.nan_to_num() * logits.log_softmax(-1)).sum(-1)
    return (loss * known).sum() / known.sum().clamp(min=1)


def words_told(logits: Tensor, words: Tensor) -> tuple[int, int, int]:
    """How many words were said; how many of them are the likeliest class within a frame of their place; how many
    are told where none is.
    """
    best = logits.argmax(-1)[:, WORD_DELAY:]
    words = words[:, : words.shape[1] - WORD_DELAY]
    right = torch.zeros_like(words, dtype=torch.bool)
    near = words > 0
    for by in (-1, 0, 1):
        right |= (best.roll(by, 1) == words) & (words > 0)
        near |= words.roll(by, 1) > 0
    return int((words > 0).sum()), int(right.sum()), int(((best > 0) & ~near).sum())
