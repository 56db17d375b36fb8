"""The engine's benchmarks, at toy size on a CPU: their figures are those of real ticks."""

import json

import pytest
import torch

from aizuchi.engine import DuplexEngine
from benchmarks import gpu, kv_precision, quantized_linear, weight_precision
from tests.models.moshi.reference import tiny_config, tiny_model


def test_ticks_are_timed_and_counted(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "preset_config", lambda name: tiny_config())
    monkeypatch.setattr(gpu, "random_model", lambda name, dtype=None: tiny_model())
    monkeypatch.setattr(gpu, "measure_bandwidth", lambda device: 1e9)
    path = tmp_path / "gpu.json"
    gpu.main(["--device=cpu", "--dtype=float32", "--kv=none,int8", "--rows=2", "--ticks=3", f"--json={path}"])
    plain, narrow = json.loads(path.read_text())["cases"]
    assert plain["kv"] is None and narrow["kv"] == "int8"
    assert narrow["held_memory"] < plain["held_memory"] and narrow["floor_bytes"] < plain["floor_bytes"]
    for case in (plain, narrow):
        figures = case["eager"]
        assert 0 < figures["p50"] <= figures["p99"] <= figures["max"]
        assert figures["operators"] > 10 and figures["launches"] is None and figures["idle"] is None
        assert case["graph"] is None and "cpu" in case["no_graph_because"] and case["peak_memory"] is None
        assert case["floor"] == pytest.approx(case["floor_bytes"] / 1e6)
    assert "no graph: there are no CUDA graphs on cpu" in capsys.readouterr().out


def test_what_does_not_fit_is_told_and_left_out(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "free_memory", lambda device: 1000)
    monkeypatch.setattr(gpu, "measure_bandwidth", lambda device: 1e9)
    path = tmp_path / "gpu.json"
    gpu.main(["--preset=7b", "--device=cpu", "--rows=3", f"--json={path}"])
    assert "3 rows x" in json.loads(path.read_text())["cases"][0]["refused"]


def test_a_tick_is_a_step_of_every_row():
    engine = DuplexEngine(tiny_model(), 2)
    tick = gpu.eager(engine)
    gpu.timed(tick, 3, torch.device("cpu"), warm_up=1)
    assert engine.joined == [True, True]
    assert engine.state.tokens.offset.tolist() == [1 + 4] * 2  # and the column of joining


def test_overlapping_spans_count_once():
    assert gpu.covered([(5, 6), (0, 2), (1, 3), (1, 1.5)]) == 4
    assert gpu.covered([]) == 0


def test_8_bit_keys_and_values_are_compared_on_the_same_columns():
    model = tiny_model(sliding_window=6)
    same = kv_precision.run(kv_precision.TokenLoop(model, 1), 5)
    again = kv_precision.run(kv_precision.TokenLoop(model, 1), 5, same[0])
    for left, right in zip(same, again, strict=True):
        assert torch.equal(left, right)
    for figures in kv_precision.measure(model, 10).values():
        assert 0 < figures["mean difference"] < figures["largest difference"]
        assert 0 < figures["KL divergence"] and figures["likeliest token the same"] > 0.5


def test_fewer_bits_of_weights_are_compared_on_the_same_pieces(monkeypatch):
    from tests.train.tiny import TokenList, config_of, dialogues, make_model

    model = make_model(config_of("unused")).eval()
    monkeypatch.setattr("aizuchi.train.tokens.open_sources", lambda _: [(TokenList(dialogues(3)), 1.0)])
    batches = weight_precision.pieces(model, "", 5, 1000, 1)
    assert len(batches) == 3
    exact, likeliest = weight_precision.measure(weight_precision.variant(model, "float32"), batches)
    text = torch.stack([model(**b).text_loss.detach() for b in batches]).mean()  # padding counts half there
    assert min(exact["words"], exact["padding"]) < text < max(exact["words"], exact["padding"])
    differences = []
    for kind in ("bfloat16", "int8", "int4"):
        losses, other = weight_precision.measure(weight_precision.variant(model, kind), batches)
        differences.append(abs(losses["codes"] - exact["codes"]))
        assert [len(a) for a in other] == [len(a) for a in likeliest]
    assert all(0 < difference < 0.1 for difference in differences)
    assert model.config.to_dict().get("aizuchi_quantization") is None  # the model itself stays as it was


def test_quantized_products_are_timed(monkeypatch):
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    figures = quantized_linear.main(["--size=64", "--layers=2", "--rounds=1"])
    assert figures.keys() >= {"ours, int8", "ours, int4", "torch, bfloat16"} and min(figures.values()) > 0
