"""Parts of codec training against what they are defined by."""

import copy
import math

import numpy as np
import pytest
import torch

from aizuchi.models.mimi import MimiModel
from aizuchi.train.balancer import Balancer
from aizuchi.train.codebooks import CodebookTrainer, CodeCounter, fit_projections, kmeans
from aizuchi.train.codec_measures import effective_rank
from aizuchi.train.discriminators import Discriminators, adversarial_loss, discriminator_loss, feature_loss
from aizuchi.train.mimi_start import make_codec
from aizuchi.train.spectral import ComplexLoss, EnvelopeLoss, SpectralLoss, log_mel, mel_matrix, si_sdr
from aizuchi.train.teachers import ClusterTeacher, FeatureHead, LabelHead, delayed
from tests.train.tiny_codec import Tones, config_of


@pytest.fixture
def codec(tmp_path):
    return make_codec(config_of(tmp_path))


def rng(seed=0):
    return np.random.default_rng(seed)


def test_quantizing_for_training_is_the_models_own(codec):
    latents = torch.randn(3, 16, 10, requires_grad=True)
    ours = CodebookTrainer(codec.quantizer).quantize(latents)
    theirs = codec.quantize(latents)
    assert torch.equal(ours.codes, theirs.codes)
    torch.testing.assert_close(ours.latents, theirs.latents)
    torch.testing.assert_close(ours.commitment, theirs.commitment_loss)
    torch.testing.assert_close(ours.semantic, codec.quantizer.decode(ours.codes[:, :1]))
    a, b = (
        torch.autograd.grad(x.latents.square().sum(), latents, retain_graph=True)[0] for x in (ours, theirs)
    )
    torch.testing.assert_close(a, b)


def test_a_row_uses_its_own_number_of_codebooks(codec):
    latents = torch.randn(4, 16, 5)
    levels = torch.tensor([1, 2, 3, 4])
    quantized = CodebookTrainer(codec.quantizer).quantize(latents, levels)
    assert quantized.codes.shape == (4, 4, 5)  # all codebooks go on learning
    for row, count in enumerate(levels):
        alone = codec.quantizer.decode(quantized.codes[row : row + 1, :count])
        torch.testing.assert_close(quantized.latents[row : row + 1], alone)


def test_codebooks_move_to_the_means_of_what_they_quantize(codec):
    trainer = CodebookTrainer(codec.quantizer, decay=0.75, dead=0.0)
    codebook = codec.quantizer.codebooks()[1]
    sums, usage = codebook.embed_sum.clone(), codebook.cluster_usage.clone()
    quantized = trainer.quantize(torch.randn(3, 16, 20))
    assert trainer.update(quantized, rng()) == 0
    vectors, codes = quantized.inputs[1].flatten(0, 1), quantized.codes[:, 1].flatten()
    for entry in range(16):
        mine = vectors[codes == entry]
        torch.testing.assert_close(codebook.embed_sum[entry], 0.75 * sums[entry] + 0.25 * mine.sum(0))
        torch.testing.assert_close(codebook.cluster_usage[entry], 0.75 * usage[entry] + 0.25 * len(mine))


def test_dead_entries_come_back_on_vectors_of_the_batch(codec):
    codebook = codec.quantizer.codebooks()[2]
    codebook.embed_sum[5:9] = 1000.0
    codebook.cluster_usage[5:9] = 1e-4
    trainer = CodebookTrainer(codec.quantizer)
    quantized = trainer.quantize(torch.randn(4, 16, 40))
    assert trainer.update(quantized, rng()) >= 4
    vectors = quantized.inputs[2].flatten(0, 1)
    distances = (codebook.embed[5:9, None] - vectors).norm(dim=-1).min(1).values
    assert distances.max() < 1e-5
    assert len(codebook.embed[5:9].unique(dim=0)) == 4


def test_kmeans_finds_clusters_and_leaves_none_empty():
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(8, 4, generator=generator) * 10
    vectors = (centres[:, None] + 0.01 * torch.randn(8, 50, 4, generator=generator)).flatten(0, 1)
    found = kmeans(vectors, 16, rng(), steps=20)
    assert (torch.cdist(centres, found).min(1).values < 0.5).sum() >= 7  # Lloyd may miss one, not many
    few = kmeans(vectors[:3], 8, rng())
    assert few.isfinite().all() and few.shape == (8, 4)


def test_initialising_lets_every_codebook_use_its_entries(codec):
    trainer = CodebookTrainer(codec.quantizer)
    latents = torch.randn(8, 16, 100)
    fresh = copy.deepcopy(codec.quantizer)
    before = (trainer.quantize(latents).latents - latents).square().mean()
    trainer.initialise(latents, rng())
    codes = codec.quantizer.encode(latents)
    assert (trainer.quantize(latents).latents - latents).square().mean() < 0.7 * before
    counter = CodeCounter(4, 16)
    counter.add(codes)
    assert counter.result(12.5)["usage"] == 1.0
    entries = [c.embed.clone() for c in codec.quantizer.codebooks()]
    CodebookTrainer(fresh).initialise(latents, rng(), per_step=20)  # entries are the same, but lighter
    for entry, codebook in zip(entries, fresh.codebooks()):
        torch.testing.assert_close(codebook.embed, entry)
        assert float(codebook.cluster_usage.sum()) == pytest.approx(20)


def test_projections_begin_where_they_carry_the_most(codec):
    """As much as any matrix of their width: the singular values left out (Eckart and Young)."""
    branch = codec.quantizer.acoustic_residual_vector_quantizer
    mix = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0))).Q
    spread = 2.0 ** -torch.arange(16)
    latents = (mix * spread) @ torch.randn(16, 4000, generator=torch.Generator().manual_seed(1))
    latents = latents.unflatten(1, (8, 500)).transpose(0, 1) + 3.0  # (N, H, T), not around 0
    fit_projections(branch, latents, latents)
    projected = branch._project(latents)  # (N, T, 4)
    width = projected.shape[-1]
    assert width < 16
    centred = latents - latents.mean((0, 2), keepdim=True)
    lost = centred - branch._restore(branch._project(centred))
    values = torch.linalg.svdvals(centred.transpose(1, 2).flatten(0, 1)).square()
    assert float(lost.square().sum() / values[width:].sum()) == pytest.approx(1, abs=1e-3)
    assert float((projected - projected.mean((0, 1))).square().mean()) == pytest.approx(1, abs=1e-3)


def test_initialising_leaves_what_the_semantic_head_tells(codec):
    trainer, head = CodebookTrainer(codec.quantizer), LabelHead(16, 5)
    branch = codec.quantizer.semantic_residual_vector_quantizer
    latents = torch.randn(8, 16, 40, generator=torch.Generator().manual_seed(0))
    target = torch.randint(0, 5, (8, 40), generator=torch.Generator().manual_seed(1))
    size = branch.output_proj.weight.norm()
    before = head(trainer.unquantized_semantic(latents), target)
    trainer.initialise(latents, rng(), head=head)
    torch.testing.assert_close(head(trainer.unquantized_semantic(latents), target), before)
    assert branch.output_proj.weight.norm() < size


def test_the_rank_counts_directions():
    vectors = torch.randn(20000, 3, generator=torch.Generator().manual_seed(0)) + 5.0
    spread = torch.linalg.qr(torch.randn(8, 3, generator=torch.Generator().manual_seed(1))).Q
    assert effective_rank(vectors @ spread.T) == pytest.approx(3, abs=0.01)
    assert effective_rank(vectors[:, :1] @ spread[:, :1].T) == pytest.approx(1, abs=0.01)


def test_usage_perplexity_and_bits():
    counter = CodeCounter(2, 8)
    counter.add(torch.tensor([[[0, 1, 2, 3], [5, 5, 5, 5]]]))
    result = counter.result(12.5)
    assert result["usage0"] == 0.5 and result["usage1"] == 0.125 and result["usage"] == 0.125
    assert result["perplexity0"] == pytest.approx(4) and result["perplexity1"] == pytest.approx(1)
    assert result["kbps"] == pytest.approx(2 * 12.5 / 1000)


def test_balanced_gradients_have_their_shares_whatever_the_losses_sizes():
    output = torch.randn(3, 1, 50, requires_grad=True)
    a, b = torch.randn(2, 3, 1, 50)
    balancer = Balancer({"a": 1.0, "b": 3.0})
    gradient = balancer.gradient({"a": 1e6 * (output * a).sum(), "b": 1e-6 * (output * b).sum()}, output)
    unit = lambda x: x / x.flatten(1).norm(dim=1).mean()  # noqa: E731
    torch.testing.assert_close(gradient, (0.25 * unit(a) + 0.75 * unit(b)) / 3)


def test_mel_bands_cover_the_spectrum_and_none_is_empty():
    for window, bands in ((2048, 80), (256, 28), (64, 40)):
        matrix = mel_matrix(bands, window, 24000)
        assert matrix.shape == (window // 2 + 1, bands) and (matrix >= 0).all()
        torch.testing.assert_close(matrix.sum(0), torch.ones(bands))


def modulated(seconds=1.6, seed=0, rate=24000):
    """Noise in bands that come and go at the pace of syllables: (1, 1, S)."""
    generator = torch.Generator().manual_seed(seed)
    number = round(seconds * rate)
    spectrum = torch.fft.rfft(torch.randn(6, number, generator=generator))
    frequency = torch.linspace(0, rate / 2, spectrum.shape[1])
    edges = 200 * 2 ** (torch.arange(7) * 0.7)
    inside = (frequency >= edges[:-1, None]) & (frequency < edges[1:, None])
    bands = torch.fft.irfft(spectrum * inside, number)
    pace = torch.fft.rfft(torch.randn(6, number, generator=generator))
    slow = torch.fft.irfft(pace * (frequency < 6), number)
    return (0.1 * bands * (3 * slow / slow.std()).exp().clamp(max=10)).sum(0)[None, None]


def test_the_envelope_loss_hears_envelopes_alone():
    loss, wave = EnvelopeLoss(24000), modulated()
    noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(1)) * wave.std()
    assert float(loss(wave, wave)) < 1e-4
    assert float(loss(-3 * wave, wave)) < 1e-4  # neither sign nor loudness
    steps = [float(loss(wave + share * noise, wave)) for share in (0.1, 0.5, 2.0)]
    assert 0.005 < steps[0] < steps[1] < steps[2] and steps[2] > 0.2
    assert float(loss(modulated(seed=5), wave)) > 0.7  # others' envelopes


def test_the_envelope_loss_follows_stoi():
    stoi = pytest.importorskip("pystoi").stoi
    loss, wave = EnvelopeLoss(24000), modulated(4.0)
    noise = torch.randn(wave.shape, generator=torch.Generator().manual_seed(1)) * wave.std()
    for share in (0.05, 0.2, 0.5, 1.0, 2.0):
        made = wave + share * noise
        assert 1 - float(loss(made, wave)) == pytest.approx(
            stoi(wave[0, 0].numpy(), made[0, 0].numpy(), 24000), abs=0.08
        )


def test_the_envelope_loss_takes_silence_and_what_is_short():
    loss, wave = EnvelopeLoss(24000), modulated()
    for made, target in (
        (torch.zeros_like(wave), wave),
        (wave, torch.zeros_like(wave)),
        (wave[..., :4000],) * 2,
    ):
        made = made.clone().requires_grad_()
        value = loss(made, target)
        value.backward()
        assert value.isfinite() and made.grad.isfinite().all()


def test_targets_told_later():
    labels = torch.tensor([[4, 5, 6, 7]])
    assert delayed(labels, 0) is labels
    assert delayed(labels, 1).tolist() == [[-1, 4, 5, 6]]
    features = torch.arange(1.0, 9.0).reshape(1, 4, 2)
    assert delayed(features, 3).tolist() == [[[0, 0], [0, 0], [0, 0], [1, 2]]]


def test_the_spectral_loss_is_zero_for_the_same_and_ignores_phase_more_than_pitch():
    loss = SpectralLoss(24000, [1024, 256])
    t = torch.arange(24000) / 24000
    tone = 0.3 * torch.sin(2 * math.pi * 440 * t)[None, None]
    shifted = 0.3 * torch.cos(2 * math.pi * 440 * t)[None, None]
    other = 0.3 * torch.sin(2 * math.pi * 660 * t)[None, None]
    assert loss(tone, tone) == 0
    assert loss(shifted, tone) < 0.2 * loss(other, tone)
    silent = torch.zeros_like(tone, requires_grad=True)
    loss(silent, tone).backward()
    assert silent.grad.isfinite().all()


def test_si_sdr_is_the_ratio_of_signal_to_error():
    generator = torch.Generator().manual_seed(0)
    signal, noise = torch.randn(2, 1, 200_000, generator=generator)
    assert float(si_sdr(3 * (signal + 0.1 * noise), signal)) == pytest.approx(20, abs=0.1)


def test_log_mel_frames_are_as_many_as_hops():
    assert log_mel(torch.randn(2, 4800), 24000, 480).shape == (2, 10, 40)


def test_losses_of_the_adversary_by_hand():
    score = lambda *values: (torch.tensor(values), [torch.tensor([1.0, 3.0])])  # noqa: E731
    real, made = [score(2.0, 0.5)], [(torch.tensor([-2.0, 0.0]), [torch.tensor([2.0, 3.0])])]
    assert discriminator_loss(real, made) == pytest.approx((0 + 0.5) / 2 + (0 + 1) / 2)
    assert adversarial_loss(made) == pytest.approx(1.0)
    assert feature_loss(real, made) == pytest.approx(0.5 / 2)


def test_discriminators_learn_to_tell_noise_from_tones():
    torch.manual_seed(0)
    model = Discriminators([256, 128], filters=4)
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3)
    tones = torch.from_numpy(np.stack([Tones().draw(0, 7680, rng(i))[0] for i in range(4)]))[:, None]
    losses = []
    for _ in range(20):
        noise = torch.randn(4, 1, 7680) * 0.1
        loss = discriminator_loss(model(tones), model(noise))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_heads_measure_what_they_should():
    head = LabelHead(4, 3)
    with torch.no_grad():
        head.linear.weight.copy_(torch.eye(3, 4) * 100)
        head.linear.bias.zero_()
    semantic = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 2]]), 4).float().transpose(1, 2)
    loss, accuracy = head(semantic, torch.tensor([[0, 1, -1, 1]]))
    assert accuracy == pytest.approx(2 / 3) and float(loss.detach()) == pytest.approx(100 / 3, rel=1e-3)
    features = FeatureHead(4, 5)
    target = features.linear(semantic.transpose(1, 2)).detach() * 7
    loss, cosine = features(semantic, target)
    assert float(loss.detach()) == pytest.approx(0, abs=1e-6) and cosine == pytest.approx(1)


def test_cluster_labels_follow_the_sound():
    waves, pitches = zip(*(Tones().draw(0, 24 * 1920, rng(i)) for i in range(8)))
    waves, pitches = torch.from_numpy(np.stack(waves))[:, None], torch.from_numpy(np.stack(pitches))
    teacher = ClusterTeacher(waves, 24, 24000, rng())
    labels = teacher(waves)
    assert labels.shape == pitches.shape
    again = ClusterTeacher.from_state(teacher.state_dict(), 24000)
    assert torch.equal(again(waves), labels)
    assert torch.equal(teacher(waves * 0.3), labels) or (teacher(waves * 0.3) == labels).float().mean() > 0.9
    # knowing the cluster, one mostly knows the pitch
    table = torch.zeros(24, 6).index_put_(
        (labels.flatten(), pitches.flatten()), torch.tensor(1.0), accumulate=True
    )
    assert table.max(1).values.sum() / table.sum() > 0.7


def test_a_saved_codec_holds_the_trained_codebooks(codec, tmp_path):
    trainer = CodebookTrainer(codec.quantizer)
    trainer.initialise(torch.randn(8, 16, 40), rng())
    trainer.update(trainer.quantize(torch.randn(4, 16, 40)), rng())
    codec.save_pretrained(tmp_path / "codec")
    wave = torch.randn(2, 1, 1920 * 4) * 0.1
    loaded = MimiModel.from_pretrained(tmp_path / "codec").eval()
    assert torch.equal(loaded.encode(wave).audio_codes, codec.eval().encode(wave).audio_codes)


def test_discriminators_take_silence_and_hear_one_loudness():
    model = Discriminators([256], filters=4)
    silent = torch.zeros(1, 1, 2048, requires_grad=True)
    model(silent)[0][0].sum().backward()
    assert silent.grad.isfinite().all()
    wave = torch.randn(1, 1, 2048, generator=torch.Generator().manual_seed(0))
    loud, quiet = (model(scale * wave)[0][0] for scale in (0.5, 0.05))
    torch.testing.assert_close(loud, quiet, rtol=1e-4, atol=1e-5)


def test_the_complex_loss_hears_phases_and_quiet_bands():
    loss, time = ComplexLoss(), torch.arange(24000) / 24000
    low = 0.3 * torch.sin(2 * torch.pi * 200 * time)
    high = 0.01 * torch.sin(2 * torch.pi * 3000 * time)
    target = (low + high)[None, None]
    assert float(loss(target, target)) == 0
    assert float(loss(0 * target, target)) == pytest.approx(1, abs=1e-3)
    turned = 0.3 * torch.cos(2 * torch.pi * 200 * time)
    assert float(loss((turned + high)[None, None], target)) > 0.5  # the same magnitudes
    # 30 dB below the rest, and still a part of the loss; of the samples' energy it is a thousandth
    lost = float(loss(low[None, None], target))
    assert lost > 0.02 > 10 * float(high.square().mean() / target.square().mean())


def test_the_complex_loss_counts_the_rows_that_it_is_told():
    made, target = torch.randn(2, 3, 1, 4800, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss, rows = ComplexLoss(), torch.tensor([True, False, True])
    told = loss(made, target.detach(), rows)
    torch.testing.assert_close(told, loss(made[rows], target[rows]))
    (gradient,) = torch.autograd.grad(told, made)
    assert [bool(g.any()) for g in gradient] == rows.tolist()
    none = loss(made, target.detach(), ~rows & rows)
    assert float(none.detach()) == 0 and not torch.autograd.grad(none, made)[0].any()


def test_the_complex_loss_has_slopes_in_silence():
    made = torch.zeros(1, 1, 4800, requires_grad=True)
    loss = ComplexLoss()(made, torch.zeros(1, 1, 4800))
    loss.backward()
    assert float(loss.detach()) == 0 and made.grad.isfinite().all()
