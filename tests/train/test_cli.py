"""`aizuchi train` as its user meets it: what it refuses, what it prints. Whole runs are in docs/training.md."""

import yaml

from aizuchi.cli import main
from aizuchi.train.config import to_dict
from tests.train.tiny import config_of, trainer_of


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_wrong_configurations_end_with_one_line(tmp_path, capsys):
    for values, message in (
        (dict(output="x", modle={}), "unknown key 'modle': did you mean 'model'?"),
        (dict(output=str(tmp_path), model={}), "data.train must be given"),
        (dict(output=str(tmp_path), model={}, data=dict(train=str(tmp_path))), "no token shards"),
        (dict(output=str(tmp_path), model={}, data=dict(train="/nowhere")), "'/nowhere' does not exist"),
    ):
        assert main(["train", "moshi", write(tmp_path / "c.yaml", **values)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    assert main(["train", "mimi", str(tmp_path / "missing.yaml")]) == 2
    assert "can't read" in capsys.readouterr().err


def test_show_prints_a_configuration_that_can_be_read_again(tmp_path, capsys):
    path = write(tmp_path / "c.yaml", output="runs/x", model=dict(hidden_size=64))
    assert main(["train", "moshi", path, "--show", "--set", "optimizer.learning_rate=1e-3"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert shown["optimizer"]["learning_rate"] == 1e-3 and shown["schedule"]["kind"] == "cosine"
    again = write(tmp_path / "again.yaml", **shown)
    assert main(["train", "moshi", again, "--show"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == shown


def test_plot_draws_a_run_and_refuses_what_is_none(tmp_path, capsys):
    trainer = trainer_of(config_of(tmp_path / "run", steps=2))
    trainer.run()
    (tmp_path / "run/curves.png").unlink()
    assert main(["train", "plot", str(tmp_path / "run")]) == 0
    assert (tmp_path / "run/curves.png").exists()
    assert main(["train", "plot", str(tmp_path)]) == 2
    assert "the folder of a run?" in capsys.readouterr().err
    assert to_dict(trainer.config)["steps"] == 2


def test_merge_refuses_what_holds_no_adapters(tmp_path, capsys):
    assert main(["train", "merge", str(tmp_path), str(tmp_path / "out")]) == 2
    assert "no folder of LoRA adapters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
