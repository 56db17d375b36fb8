"""`aizuchi bench`: its figures are arithmetic over what was timed, and what can't run is refused before it starts."""

import json

import pytest
import torch

from aizuchi.cli import main
from aizuchi.engine import DuplexEngine
from aizuchi.engine.measure import figures, read_bytes, step_floor, time_steps
from tests.models.moshi.reference import tiny_model


@pytest.fixture
def tiny_preset(monkeypatch):
    monkeypatch.setattr(
        "aizuchi.models.presets.random_model", lambda name, dtype=None: tiny_model().to(dtype)
    )


def test_every_figure_is_written(tiny_preset, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    args = [
        "bench",
        "--rows=1,3",
        "--steps=4",
        f"--json={tmp_path / 'b.json'}",
        f"--plot={tmp_path / 'b.png'}",
    ]
    assert main(args) == 0
    record = json.loads((tmp_path / "b.json").read_text())
    assert [row["rows"] for row in record["rows"]] == [1, 3]
    for row in record["rows"]:
        assert 0 < row["median"] <= row["p95"] <= row["p99"] <= row["longest"]
        assert row["of_floor"] == pytest.approx(row["floor"] / row["median"])
        assert row["floor"] == pytest.approx(row["floor_bytes"] / row["bandwidth"] * 1000)
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "real time" in capsys.readouterr().out


def test_the_floor_counts_weights_once_and_windows_by_row():
    model = tiny_model()
    tables = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Embedding))
    everything = sum(t.numel() * t.element_size() for t in (*model.parameters(), *model.buffers()))
    assert everything - 4 * tables == read_bytes(model)
    one, three = step_floor(DuplexEngine(model, 1)), step_floor(DuplexEngine(model, 3))
    assert one.weights == three.weights and three.keys_values == 3 * one.keys_values
    config = model.config
    assert one.keys_values == 2 * 4 * config.num_hidden_layers * config.hidden_size * config.sliding_window
    assert (
        step_floor(DuplexEngine(model, 1), filled=config.sliding_window // 2).keys_values * 2
        == one.keys_values
    )


def test_figures_summarise_what_was_timed():
    engine = DuplexEngine(tiny_model(), 1)
    assert len(time_steps(engine, 3)) == 3 and engine.joined == [True]
    result = figures(engine, [0.010, 0.020, 0.030, 0.040], bandwidth=1e9)
    assert result.median == pytest.approx(25) and result.longest == pytest.approx(40)
    assert result.real_time_factor == pytest.approx(25 / 80)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--preset=9b"], "mini, 1b, 7b"),
        (["--rows=0"], "--rows"),
        (["--rows=x"], "--rows"),
        (["--steps=1"], "--steps"),
        (["--threads=0"], "--threads"),
        (["--device=tpu9"], "--device"),
        (["--rows=100000000"], "rows fit"),
    ],
)
def test_what_can_not_run_is_refused(args, message, tiny_preset, capsys):
    assert main(["bench", *args]) == 2
    assert message in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_refused_with_the_arithmetic(monkeypatch, capsys):
    monkeypatch.setattr("aizuchi.engine.memory.free_memory", lambda device: 10**9)
    monkeypatch.setattr("aizuchi.models.presets.random_model", None)  # it is never asked for
    assert main(["bench", "--preset=7b", "--rows=1,2"]) == 2
    error = capsys.readouterr().err
    assert (
        "too large: weights 31.29 GB" in error and "+ 2 rows x 3.1" in error and "1.00 GB are free" in error
    )
