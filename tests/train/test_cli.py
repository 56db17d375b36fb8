"""`aizuchi train` as its user meets it: what it refuses, what it prints. Whole runs are in docs/training.md."""

import yaml

from aizuchi.cli import main
from aizuchi.data.shards import DialogueTokens, write_index, write_shard
from aizuchi.train.config import to_dict
from aizuchi.train.logs import read_log
from tests.train.tiny import config_of, dialogues, trainer_of

SHARD_SETTINGS = {"codebooks": 4, "variants": 1, "codebook_size": 32}


def token_shards(folder):
    """Shards of the tiny dialogues."""
    folder.mkdir()
    tokens = [
        DialogueTokens(f"{i}.wav", d.text, d.model.T.copy(), d.user.T.copy()[:, None])
        for i, d in enumerate(dialogues())
    ]
    records = [write_shard(folder / "shard-00000.safetensors", tokens, "key")]
    write_index(folder, SHARD_SETTINGS, records, complete=True)
    return records


def config_values(tmp_path, train, output=None):
    values = to_dict(config_of(output or tmp_path / "run", steps=3, save_every=0))
    values["data"]["train"] = train
    return values


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


def test_a_cut_shard_and_an_unfinished_folder_are_named_before_anything_is_trained(tmp_path, capsys):
    shards = token_shards(tmp_path / "tokens")
    file = tmp_path / "tokens" / shards[0].file
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    values = config_values(tmp_path, train=str(tmp_path / "tokens"))
    assert main(["train", "moshi", write(tmp_path / "c.yaml", **values)]) == 2
    error = capsys.readouterr().err
    assert f"{file} is cut" in error and "aizuchi data tokenize again" in error and error.count("\n") == 1
    file.write_bytes(content)
    write_index(tmp_path / "tokens", SHARD_SETTINGS, [], complete=False)
    assert main(["train", "moshi", write(tmp_path / "c.yaml", **values)]) == 2
    assert "is not finished: run aizuchi data tokenize again" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_workers_read_ahead_and_change_nothing(tmp_path):
    token_shards(tmp_path / "tokens")
    for workers in (0, 2):
        values = config_values(tmp_path, output=str(tmp_path / str(workers)), train=str(tmp_path / "tokens"))
        values["data"]["workers"] = workers
        assert main(["train", "moshi", write(tmp_path / "c.yaml", **values)]) == 0
    rows = [[row["loss"] for row in read_log(tmp_path / name / "log.csv")] for name in ("0", "2")]
    assert rows[0] == rows[1] and len(rows[0]) == 3
    last = read_log(tmp_path / "2/log.csv")[-1]
    assert 0 <= float(last["waiting_for_data"]) < 1 and float(last["tokens_per_second"]) > 0
    assert 0 < float(last["matmul_fraction"]) < 1


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
