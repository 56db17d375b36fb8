"""What a model and its rows take: the figures are those of real tensors, and what does not fit is never read."""

import re

import pytest
import torch

from aizuchi.checkpoints.load import default_model, load
from aizuchi.cli import main
from aizuchi.engine import DuplexEngine
from aizuchi.engine import memory as memory_module
from aizuchi.engine.free_memory import _available, _left_in_groups, free_memory
from aizuchi.engine.memory import check_checkpoint, check_fits, check_preset, gigabytes, need
from aizuchi.errors import AizuchiError
from aizuchi.models.moshi import MoshiConfig, MoshiForConditionalGeneration
from aizuchi.models.presets import preset_config, random_model
from aizuchi.models.quantized import quantize_model
from tests.checkpoints import tiny
from tests.models.moshi.reference import tiny_config, tiny_model


def held(module):
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


@pytest.mark.parametrize("quantize", [None, "int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_arithmetic_is_that_of_the_tensors(dtype, quantize):
    model = random_model("mini", dtype=dtype)
    expected = need(model.config, dtype, quantize)
    assert expected.loading == held(model)
    if quantize is not None:
        quantize_model(model, quantize)
    assert expected.weights - expected.copies == held(model)
    assert expected.codec == held(model.audio_encoder)
    assert expected.depth_decoder == held(model.depth_decoder)
    for rows in (1, 3):
        state = DuplexEngine(model, rows).state
        ring = state.tokens.ring
        keys = sum(t.numel() * t.element_size() for t in (*ring.keys, *ring.values))
        config = model.config
        assert keys == rows * 2 * config.num_hidden_layers * config.sliding_window * config.hidden_size * (
            dtype.itemsize
        )
        small = (ring.key_positions.numel() + ring.offset.numel()) * 8
        assert rows * expected.keys_values == keys + small
        assert rows * expected.codec_state == state.encoder.nbytes() + state.decoder.nbytes()
        assert rows * expected.row == state.nbytes()
        assert expected.total(rows) == held(model) + expected.copies + state.nbytes()


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16])
def test_the_embedded_model_is_counted_as_it_is_loaded(dtype, monkeypatch):
    """Its checkpoint says that it is quantized."""
    found = []
    monkeypatch.setattr(memory_module, "check_fits", lambda needed, rows, device: found.append(needed))
    check_checkpoint(default_model(), 1, dtype)
    model = load(dtype=dtype).model
    assert found[0].weights - found[0].copies == held(model) == found[0].loading
    assert found[0].row == DuplexEngine(model, 1).state.nbytes()


def test_copies_for_the_kernels_are_no_more_than_said():
    model = tiny_model()
    engine = DuplexEngine(model, 1)
    engine.join(0)
    engine.step(torch.zeros(1, 1, engine.frame_size))
    own = {t.data_ptr() for t in (*model.parameters(), *model.buffers())}
    copied = 0
    for module in model.audio_encoder.modules():
        for prepared in module.__dict__.get("_prepared", {}).values():
            for kept in getattr(prepared.value, "kept", []):
                if isinstance(kept, torch.Tensor) and kept.dim() == 1 and kept.data_ptr() not in own:
                    copied += kept.numel() * kept.element_size()
    said = need(model.config).copies
    # Widths are filled up to 16 outputs, which a codec as small as this one has fewer of; biases are no copies.
    assert copied <= 2 * said


def test_what_does_not_fit_is_refused_before_a_weight_is_read(monkeypatch, tmp_path):
    free = 120 * 10**6
    monkeypatch.setattr(memory_module, "free_memory", lambda device: free)
    for path in default_model().iterdir():  # the same headers, and nothing in them
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            header = 8 + int.from_bytes(data[:8], "little")
            (tmp_path / path.name).write_bytes(data[:header])
            with open(tmp_path / path.name, "r+b") as file:
                file.truncate(len(data))
        elif path.is_file():
            (tmp_path / path.name).write_bytes(data)
    monkeypatch.setattr("aizuchi.checkpoints.tensors.SafetensorsFiles.read", None)
    monkeypatch.setattr("safetensors.safe_open", None)
    expected = need(MoshiConfig.from_pretrained(tmp_path), torch.float32)
    with pytest.raises(AizuchiError) as refusal:
        check_checkpoint(tmp_path, 64, torch.float32)
    text = str(refusal.value)
    for figure in (expected.weights, expected.row, expected.total(64), free, expected.keys_values):
        assert gigabytes(figure) in text
    assert f"+ 64 rows x {gigabytes(expected.row)}" in text
    fitting = int(re.search(r"; (\d+) rows? fits?", text)[1])
    assert fitting == (free - expected.weights) // expected.row
    assert expected.total(fitting) <= free < expected.total(fitting + 1)


@pytest.mark.parametrize("command", ["serve", "bench", "reply"])
def test_commands_refuse_before_they_load(command, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(memory_module, "free_memory", lambda device: 1000)
    monkeypatch.setattr(MoshiForConditionalGeneration, "from_pretrained", None)
    args = ["--model", str(default_model())]
    if command == "serve":
        args += ["--rows=7", "--port=0"]
    elif command == "bench":
        args += ["--rows=1,7"]
    else:
        from aizuchi.audio import write_audio

        write_audio(tmp_path / "in.wav", torch.zeros(1, 24000).numpy(), 24000)
        args += [str(tmp_path / "in.wav")]
    assert main([command, *args]) == 2
    error = capsys.readouterr().err
    assert f"+ {'1 row' if command == 'reply' else '7 rows'} x" in error and "not one row fits" in error


def test_rows_that_fit_are_counted_to_the_byte(monkeypatch):
    expected = need(tiny_config())
    for more, fits in ((0, True), (-1, False)):
        monkeypatch.setattr(memory_module, "free_memory", lambda device, more=more: expected.total(5) + more)
        if fits:
            check_fits(expected, 5)
        else:
            with pytest.raises(AizuchiError, match="; 4 rows fit"):
                check_fits(expected, 5)


def test_weights_that_are_quantized_while_loading_need_their_full_size_first(monkeypatch):
    expected = need(preset_config("mini"), torch.float32, "int4")
    monkeypatch.setattr(memory_module, "free_memory", lambda device: expected.loading - 1)
    assert expected.total(1) < expected.loading
    with pytest.raises(AizuchiError, match="before they are quantized") as refusal:
        check_preset("mini", 1, torch.float32, "int4")
    assert gigabytes(expected.loading) in str(refusal.value)


def test_a_models_way_to_a_gpu_leads_through_main_memory(monkeypatch):
    free = {"cuda": 10**12, "cpu": 1000}
    monkeypatch.setattr(memory_module, "free_memory", lambda device: free[str(device)])
    with pytest.raises(AizuchiError, match="main memory before they go to cuda"):
        check_preset("mini", 1, torch.float32, device="cuda")
    free |= {"cuda": 1000, "cpu": 10**12}
    with pytest.raises(AizuchiError, match="are free on cuda"):
        check_preset("mini", 1, torch.float32, device="cuda")
    assert need(preset_config("mini"), device="cuda").copies == 0


def test_free_memory_is_the_smallest_that_a_group_leaves(tmp_path):
    """Files of both versions of cgroups, with limits at several levels."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    (proc / "meminfo").write_text("MemTotal:  2000 kB\nMemAvailable:    1500 kB\n")
    assert _available(proc) == 1500 * 1024
    (proc / "self" / "cgroup").write_text("4:memory:/a/b\n1:cpu:/a\n0::/box\n")

    def group(path, names, limit, usage, stat):
        path.mkdir(parents=True, exist_ok=True)
        (path / names[0]).write_text(f"{limit}\n")
        (path / names[1]).write_text(f"{usage}\n")
        (path / "memory.stat").write_text(stat)

    first, second = ("memory.limit_in_bytes", "memory.usage_in_bytes"), ("memory.max", "memory.current")
    group(groups / "memory/a/b", first, 1000, 600, "cache 9\ntotal_inactive_file 100\ntotal_active_file 50\n")
    group(groups / "memory/a", first, 900, 850, "")
    group(groups / "memory", first, 9223372036854771712, 5, "")
    group(groups / "box", second, "max", 1, "")
    group(groups, second, 700, 200, "inactive_file 10\nactive_file 20\n")
    assert list(_left_in_groups(proc, groups)) == [550, 50, 530]
    assert list(_left_in_groups(tmp_path / "nothing", groups)) == []
    assert _available(tmp_path / "nothing") is None
    assert free_memory("cpu") is None or free_memory("cpu") > 0
    assert free_memory("no device") is None and free_memory("meta") is None


@pytest.mark.parametrize("dtype", [None, torch.float32])
def test_the_originals_layout_is_counted_from_its_headers(tmp_path, dtype, monkeypatch):
    found = []
    monkeypatch.setattr(memory_module, "check_fits", lambda needed, rows, device: found.append(needed))
    tiny.kyutai_folder(tmp_path, tiny.MOSHI, torch.bfloat16)
    check_checkpoint(tmp_path, 1, dtype)
    model = load(tmp_path, dtype=dtype).model
    assert model.dtype == (dtype or torch.bfloat16)
    assert found[0].weights - found[0].copies == held(model)
    assert found[0].row == DuplexEngine(model, 1).state.nbytes()
