"""The ear of the small Mimi: what it is taught, what it makes of words, and the codec that is made of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from aizuchi.errors import AizuchiError
from recipes.mini import ear, ear_model, front, mishearing
from recipes.mini.ear_rows import EarRows
from recipes.mini.heard import OTHER, HeardWords
from recipes.mini.package import ACOUSTIC_IN, _same_codes
from recipes.mini.spectrum import BANDS, STEPS, Components, log_frames, mel_power
from recipes.mini.stage import StageConfig
from tests.recipes.tones import FRAMES, spoken, word_list

ROOT = Path(__file__).resolve().parents[2]


def test_a_stopped_run_goes_on_as_if_it_had_not_been(small, tmp_path):
    stage, folder, run = small
    first = stage(6, tmp_path / "ear")
    measure = first.measure

    def stopped(batch):
        if first.step == 5:  # the checkpoint is of step 4
            raise KeyboardInterrupt
        return measure(batch)

    first.measure = stopped
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = stage(6, tmp_path / "ear")
    second.run()
    whole, parts = (torch.load(f / "model/weights.pt") for f in (folder, tmp_path / "ear"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    log = (folder / "log.csv").read_text()
    assert "commitment" in log and run.step == 6


def test_what_an_ear_makes_of_words_is_counted(small, rows, heard):
    _, folder, _ = small
    known = ear_model.load_ear(folder)
    components = Components.load(folder / "components.safetensors")
    same = mishearing.own_classes(known, heard, heard)
    assert same.tolist() == list(range(len(heard)))
    every = mishearing.listen(known, components, rows, 2, -99.0, same, len(heard))  # a word on each frame
    none = mishearing.listen(known, components, rows, 2, 99.0, same, len(heard))
    said = [sum(count for _, count in ways) for ways in none.heard.values()]
    assert none.rate == 1.0 and set(none.heard) == set(every.heard) and sum(said) > 50
    assert all(ways == [((), n)] for ways, n in zip(none.heard.values(), said))
    some = sum(n for ways in every.heard.values() for made, n in ways if made)
    assert some > 0.8 * sum(said)  # those at the end of a row are told behind it
    assert none.classes == every.classes == len(heard)


def test_words_that_only_the_ear_knows_are_others(small, library, heard, tmp_path):
    _, folder, _ = small
    known, fewer = ear_model.load_ear(folder), HeardWords(word_list(heard.words[:2], tmp_path))
    with torch.no_grad():
        known.words.bias[len(fewer)] += 99.0  # it tells this one word on each frame
    rows = EarRows(library, [], fewer, FRAMES, takes=1)
    components = Components.load(folder / "components.safetensors")
    told = mishearing.own_classes(known, heard, fewer)
    found = mishearing.listen(known, components, rows, 2, 0.0, told, len(fewer))
    written = {word for ways in found.heard.values() for made, _ in ways for word in made}
    assert len(heard) > len(fewer) == found.classes and written == {OTHER}
    with pytest.raises(AizuchiError, match="taught with another"):
        mishearing.own_classes(known, fewer, heard)


def test_words_of_an_ear_go_by_their_names(small, heard, tmp_path):
    known = ear_model.load_ear(small[1])
    (tmp_path / "alike.txt").write_text(f"{heard.words[3]} {heard.words[1]}\n{heard.words[0]}\n")
    told = mishearing.own_classes(known, heard, HeardWords(tmp_path / "alike.txt")).tolist()
    assert told == [0, OTHER, 3, 2, OTHER, 2, *[OTHER] * (len(heard) - 6)]
    another = word_list(["another"], tmp_path)  # heard.txt
    (tmp_path / "none").mkdir()
    assert ear_model.words_of(tmp_path, tmp_path / "alike.txt").words == ["another"]
    assert ear_model.words_of(tmp_path / "none", another).words == ["another"]


def test_lower_layers_learn_what_the_ear_makes_of_what_they_give(small, tmp_path):
    """What is right costs nothing; an error that the ear takes for nothing costs less than one that it hears."""
    _, folder, _ = small
    wave = torch.randn(2, 1, 1920 * 12, generator=torch.Generator().manual_seed(0)) * 0.1
    lower, known = ear_model.halves(front.make_codec(None).encoder)[0], ear_model.load_ear(folder)
    stage = front.FrontStage(
        StageConfig(str(tmp_path), precision="fp32"), lower, lambda step: wave, lambda step: wave, known
    )
    right = known.convs.below(log_frames(mel_power(wave[:, 0])))
    below, missed, misheard, codes = map(float, stage._missed(lambda _: right, wave))
    assert max(below, missed, misheard) < 1e-6 and codes == 1
    errors = right.clone().requires_grad_()
    stage._missed(lambda _: errors + 0.1, wave)[2].backward()
    worst = errors.grad / errors.grad.norm()
    other = torch.randn(worst.shape, generator=torch.Generator().manual_seed(1))
    moved = [right + 20 * x / x.norm() for x in (worst, other)]
    made = [stage._missed(lambda _, x=x: x, wave) for x in moved]
    assert abs(float(made[0][0]) - float(made[1][0])) < 1e-5 and float(made[0][2]) > 1.2 * float(made[1][2])
    loss, values, frames = stage.measure(wave)
    all_three = values["below"] + values["missed"] + front.HEARING * values["misheard"]
    assert frames == 2 * front.FRAMES and abs(float(loss.detach()) / all_three - 1) < 1e-4
    loss.backward()
    assert all(p.grad is None for p in stage.ear.parameters())
    assert stage.module.layers[0].conv.weight.grad is not None


def test_lower_layers_of_another_codec_are_turned_to_what_the_ear_wants(small):
    """They come nearer, and layers of the codec's own that are turned and shifted come to the same."""
    _, folder, _ = small
    torch.manual_seed(5)
    known, lower = ear_model.load_ear(folder), ear_model.halves(front.make_codec(None).encoder)[0]
    loud = [torch.rand(4, 1, 80).repeat_interleave(960, -1) for _ in range(9)]
    waves = [torch.randn(4, 1, 1920 * 40) * 10 ** (-3 * by) for by in loud]
    stage = front.FrontStage(
        StageConfig("", precision="fp32"), lower, waves.__getitem__, waves.__getitem__, known
    )
    with torch.no_grad():
        before = stage._missed(lower, waves[8])[0]
        front.fit_lower(lower, known, waves.__getitem__)
        after = stage._missed(lower, waves[8])[0]
        own = lower(waves[8])
        turn = torch.linalg.qr(torch.randn(128, 128)).Q
        last = lower.layers[-1].conv
        last.weight.copy_(torch.einsum("cik,cd->dik", last.weight, turn))
        last.bias.copy_(last.bias @ turn + 0.5)
        front.fit_lower(lower, known, waves.__getitem__)
        again = lower(waves[8])
    assert after < 0.5 and after < 0.5 * before
    assert torch.allclose(own, again, atol=0.02 * float(own.std()))


def test_an_ear_begins_with_another_whose_codes_it_keeps(rows, library, heard, small, tmp_path):
    from aizuchi.models.mimi import MimiConfig

    _, folder, _ = small
    torch.manual_seed(7)
    config = MimiConfig(**ear_model.CODEC | {"num_semantic_quantizers": 1})
    other = ear_model.Ear(len(heard), config, reader_layers=3)
    (tmp_path / "other/model").mkdir(parents=True)
    torch.save(other.state_dict(), tmp_path / "other/model/weights.pt")
    components = Components.load(folder / "components.safetensors")
    given = log_frames(torch.rand(1, 8 * STEPS, BANDS))
    made = ear_model.Ear(len(heard), reader_layers=1)
    assert ear_model.begin_from(made, tmp_path / "other") == 1
    valid = EarRows(library, [], heard, FRAMES, validation=True)
    run_config = StageConfig(str(tmp_path / "run"), 2, 2, precision="fp32", eval_every=0)
    run = ear.EarStage(run_config, made, rows, valid, components, start=0, carried=1)
    run._begin_codes()
    with torch.no_grad():
        first, second = made.eval()(given, True)["codes"]
        assert torch.equal(first, other.eval()(given, True)["codes"][0])
        shallow, deep = (made(given, True, torch.tensor([x]))["words"] for x in (False, True))
    assert len(made.semantic.codebooks()) == 2 and not torch.equal(shallow, deep)
    assert run.measure(rows.batch(0, 2))[1]["commitment"] > 0


def test_an_ear_with_more_layers_and_other_words_keeps_the_codes_of_another(rows, library, small, tmp_path):
    from aizuchi.models.mimi import MimiConfig

    _, folder, run = small
    other = ear_model.Ear(5, reader_layers=1)
    other.load_state_dict(
        {n: w for n, w in run.averages.state_dict().items() if "words." not in n}, strict=False
    )
    (tmp_path / "other/model").mkdir(parents=True)
    torch.save(other.state_dict(), tmp_path / "other/model/weights.pt")
    (tmp_path / "other/heard.txt").write_text("seven\ntwo\ncow\n")
    (tmp_path / "list.txt").write_text("to two too\nzebra\nseven\n")
    words = HeardWords(tmp_path / "list.txt")
    deeper = MimiConfig(**ear_model.CODEC | {"num_hidden_layers": 8})
    made = ear_model.Ear(len(words), deeper, reader_layers=1)
    assert ear_model.begin_from(made, tmp_path / "other", words=words) == 2
    assert torch.equal(
        made.words.bias, other.words.bias[[0, 1, 3, 1, 2]]
    )  # "two", one it does not know, "seven"
    given = log_frames(rows.batch(0, 2)["power"])
    with torch.no_grad():
        near = made.eval()(given, True)["codes"][0] == other.eval()(given, True)["codes"][0]
    assert near.float().mean() > 0.8
    before = {name: w.clone() for name, w in made.quantizer.state_dict().items()}
    valid = EarRows(library, [], words, FRAMES, validation=True)
    config = StageConfig(str(tmp_path / "run"), 2, 2, precision="fp32", eval_every=0, warmup=1)
    own = EarRows(library, [spoken("old cat")], words, FRAMES)
    components = Components.load(folder / "components.safetensors")
    stage = ear.EarStage(config, made, own, valid, components, 0, 2, ear_model.load_ear(tmp_path / "other"))
    batch = own.batch(0, 2)
    spectra, apart = log_frames(batch["power"]), torch.ones(2, dtype=torch.bool)
    found = stage.module(spectra, True)
    astray = stage._astray(spectra, found, apart)
    astray.backward()
    assert 0 < astray < 0.5 and any(p.grad is not None for p in stage.module.convs.stack.parameters())
    assert stage._astray(spectra, stage.held(spectra, True), apart) == 0  # the other's own
    assert stage._astray(spectra, found, ~apart) == 0  # nothing is asked of users' voices
    stage.optimizer.zero_grad()
    stage.run()
    assert all(torch.equal(w, before[name]) for name, w in stage.module.quantizer.state_dict().items())
    kept = ear_model.load_ear(tmp_path / "run")
    assert len(kept.encoder_transformer.layers) == 8


def test_better_convolutions_leave_the_codes_as_they_are(small, made, tmp_path, capsys):
    from aizuchi.models.mimi import MimiModel

    root, where = made
    (tmp_path / "front/model").mkdir(parents=True)
    other = ear_model.halves(front.make_codec(None).encoder)[0]
    torch.save(other.state_dict(), tmp_path / "front/model/weights.pt")
    command = [
        "assemble",
        "--sound",
        where[3],
        "--front",
        str(tmp_path / "front"),
        "--keep",
        str(root / "codec"),
    ]
    command += ["--start", str(root / "codec"), "--out", str(tmp_path / "codec")]
    assert front.main([*command, "--ear", where[1]]) == 0
    before, after = (MimiModel.from_pretrained(folder / "codec").state_dict() for folder in (root, tmp_path))
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"encoder"}
    assert torch.equal(after["encoder.layers.0.conv.weight"], other.layers[0].conv.weight.bfloat16().float())
    strange = ear_model.Ear(5, reader_layers=1)
    (tmp_path / "ear/model").mkdir(parents=True)
    torch.save(strange.state_dict(), tmp_path / "ear/model/weights.pt")
    (tmp_path / "ear/components.safetensors").write_bytes((small[1] / "components.safetensors").read_bytes())
    assert front.main([*command, "--ear", str(tmp_path / "ear")]) == 2
    assert "another ear" in capsys.readouterr().err


def test_a_codec_is_given_another_ear_of_the_same_codes(small, made, tmp_path, capsys):
    from aizuchi.models.mimi import MimiConfig, MimiModel
    from aizuchi.models.stored import store_codec, widen_stored

    root, where = made
    torch.manual_seed(9)
    deeper = ear_model.Ear(
        len(small[2].module.words.bias), MimiConfig(**ear_model.CODEC | {"num_hidden_layers": 8})
    )
    ear_model.begin_from(deeper, small[1])
    folder = tmp_path / "ear/model"
    folder.mkdir(parents=True)
    torch.save(deeper.state_dict(), folder / "weights.pt")
    command = ["hear", "--codec", str(root / "codec"), "--ear", str(tmp_path / "ear"), "--sound", where[3]]
    command += ["--batches", "6"]
    assert front.main([*command, "--out", str(tmp_path / "codec")]) == 0
    old, new = MimiModel.from_pretrained(root / "codec"), MimiModel.from_pretrained(tmp_path / "codec")
    assert [len(c.encoder_transformer.layers) for c in (old, new)] == [6, 8]
    assert len(new.decoder_transformer.layers) == 6
    wave = 0.05 * torch.randn(1, 1, 1920 * 20)
    with torch.no_grad():  # layers that add little as yet
        assert (old.encode(wave).audio_codes == new.encode(wave).audio_codes).float().mean() > 0.7
    theirs = new.state_dict()
    for name, weight in old.state_dict().items():
        own = name.startswith("encoder_transformer.") or name.endswith(ACOUSTIC_IN)
        assert own or torch.equal(weight, theirs[name]), name
    _same_codes(old, new, False, new_ear=True)
    with pytest.raises(AizuchiError, match="encoder_transformer"):
        _same_codes(old, new, new_front=True)
    widen_stored(store_codec(new))  # in int8 the encoder stays what it is
    kept = {n: w for n, w in theirs.items() if n.startswith("encoder")}
    assert all(torch.equal(new.state_dict()[n], w) for n, w in kept.items())
    with torch.no_grad():
        deeper.semantic.codebooks()[0].embed_sum[0] += 1
    torch.save(deeper.state_dict(), folder / "weights.pt")
    assert front.main([*command, "--out", str(tmp_path / "other")]) != 0
    assert "--keep-codes" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_the_way_into_acoustic_codes_follows_an_encoder_that_turns(made, monkeypatch):
    """Latents that are turned give the same acoustic codes once the projection is fitted, and no others change."""
    from aizuchi.models.mimi import MimiModel

    old, new = (MimiModel.from_pretrained(made[0] / "codec").eval() for _ in range(2))
    generator = torch.Generator().manual_seed(4)
    turn = torch.linalg.qr(torch.randn(192, 192, generator=generator))[0]
    waves = 0.05 * torch.randn(4, 8, 1, 1920 * 20, generator=generator)
    levels = old.config.num_semantic_quantizers

    def same():
        made = new.quantizer.encode(new.encode_latent(waves[3]))
        return float((made == old.encode(waves[3]).audio_codes)[:, levels:].float().mean())

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(new, "encode_latent", lambda wave: turn @ old.encode_latent(wave))
        assert same() < 0.5
        assert front.refit_acoustic(new, old, waves.__getitem__, 3) < 0.01
        assert same() > 0.9
    theirs = old.state_dict()
    assert {n for n, w in new.state_dict().items() if not torch.equal(w, theirs[n])} == {
        f"quantizer.{ACOUSTIC_IN}"
    }


def test_a_codec_hears_with_the_ear(small, made):
    from aizuchi.models.mimi import MimiModel

    _, folder, _ = small
    codec = MimiModel.from_pretrained(made[0] / "codec").eval()
    wave = (
        torch.from_numpy(np.random.default_rng(1).standard_normal((1, 1, 1920 * 20)).astype(np.float32)) * 0.1
    )
    with torch.no_grad():
        codes = codec.encode(wave, return_dict=True).audio_codes
        own = ear_model.load_ear(folder)
        ear_model.begin_from(own, folder, made[0] / "codec")  # rounded
        own.convs.below = lambda wave: ear_model.halves(codec.encoder)[0](wave)
        given = torch.stack(own(wave, True)["codes"], 1)
    assert codes.shape == (1, 8, 20) and float((codes[:, :2] == given).float().mean()) > 0.99
    assert all(
        len(row.unique()) > 5 for row in codes[0, 2:5]
    )  # so little sound leaves nothing to the last ones
