"""The ear as a listener: it misses words that are blurred, learns nothing itself, and tells sound where to go."""

import pytest
import torch

from aizuchi.errors import AizuchiError
from aizuchi.train.listener import hearing_loss, make_listener
from recipes.mini.grid import FRAME
from recipes.mini.listener import listener
from recipes.mini.spectrum import log_frames, mel_power


@pytest.fixture(scope="module")
def ear():
    return listener()


@pytest.fixture(scope="module")
def wave():
    """(2, 1, S): tones whose pitch and loudness change from frame to frame."""
    generator = torch.Generator().manual_seed(1)
    steps = torch.rand(2, 12, 1, generator=generator).expand(-1, -1, FRAME).flatten(1)
    phase = torch.cumsum((200 + 2000 * steps) / 24_000, 1)
    return (0.2 * torch.sin(2 * torch.pi * phase) * steps)[:, None]


def test_sound_and_its_spectra_are_heard_alike(ear, wave):
    spectra = log_frames(mel_power(wave[:, 0]))
    for one, other in zip(ear(wave), ear.of_spectra(spectra), strict=True):
        assert one.shape[:2] == (2, 12)
        torch.testing.assert_close(one, other)


def test_what_is_heard_is_what_is_wanted_or_less(ear, wave):
    wanted = ear(wave)
    assert hearing_loss(ear(wave), wanted) == 0
    near, far = wave + 1e-3 * torch.randn(wave.shape), wave.flip(-1)
    assert 0 < hearing_loss(ear(near), wanted) < 0.5 * hearing_loss(ear(far), wanted)


def test_the_sound_learns_and_the_ear_does_not(ear, wave):
    made = (0.3 * wave + 1e-3 * torch.randn(wave.shape)).requires_grad_()
    optimizer = torch.optim.Adam([made], lr=2e-3)
    wanted = [x.detach() for x in ear(wave)]
    losses = []
    for _ in range(20):
        loss = hearing_loss(ear(made), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
    assert not any(p.requires_grad for p in ear.parameters())


def test_loud_frames_move_the_sound(ear, wave):
    """The logarithm's slope in silence must not be all of the gradient."""
    quiet = torch.cat([wave[..., : 6 * FRAME], 1e-4 * torch.randn(2, 1, 6 * FRAME)], -1)
    made = (0.5 * quiet).requires_grad_()
    hearing_loss(ear(made), [x.detach() for x in ear(quiet)]).backward()
    loud, silent = (
        made.grad[..., part].square().sum() for part in (slice(6 * FRAME), slice(7 * FRAME, None))
    )
    assert loud > 0.2 * silent


def test_a_listener_that_is_not_there():
    assert make_listener(None) is None
    with pytest.raises(AizuchiError, match="loss.listener"):
        make_listener("recipes.mini.listener:nobody")
