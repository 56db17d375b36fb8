"""What a name or a path is, and the hub: nothing here touches the network."""

from __future__ import annotations

import json
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import errors
from safetensors.torch import load_file

import aizuchi
from aizuchi import MimiModel, MoshiForCausalLM
from aizuchi.checkpoints import CheckpointError, find
from aizuchi.checkpoints.convert import convert
from aizuchi.checkpoints.describe import describe, inspect, table

from . import tiny


@pytest.fixture(scope="module")
def kyutai(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "kyutai"
    tiny.kyutai_folder(folder, tiny.MOSHI)
    return folder


@pytest.fixture(scope="module")
def hf(kyutai, tmp_path_factory):
    return convert(kyutai, tmp_path_factory.mktemp("hub-hf") / "hf", progress=False)


class Hub:
    """Stands for `snapshot_download`: copies what is asked for from local folders."""

    def __init__(self, cache, **repos):
        self.cache, self.repos, self.asked = cache, repos, []

    def __call__(self, repo, allow_patterns, **options):
        from fnmatch import fnmatch

        self.asked.append((repo, tuple(allow_patterns), options))
        source = self.repos[repo.replace("/", "__")]
        target = self.cache / repo.replace("/", "--")
        target.mkdir(exist_ok=True)
        for path in source.iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, target / path.name)
        return str(target)


@pytest.fixture
def hub(kyutai, hf, tmp_path, monkeypatch):
    fake = Hub(tmp_path, kyutai__tiny=kyutai, someone__hf=hf)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake)
    monkeypatch.chdir(tmp_path)
    return fake


def test_layout_and_files_of_a_folder(kyutai, hf):
    found = find(kyutai)
    assert (found.layout, found.holds) == ("kyutai", "moshi")
    assert [p.name for p in found.weights] == ["model.safetensors"]
    assert (found.mimi.name, found.tokenizer.name) == ("mimi-tiny.safetensors", "tokenizer_tiny.model")
    found = find(hf)
    assert (found.layout, found.holds, found.tokenizer) == ("hf", "moshi", hf)


def test_files_are_told_by_their_tensors(kyutai, tmp_path):
    assert find(kyutai / "mimi-tiny.safetensors").holds == "mimi"
    assert find(kyutai / "model.safetensors").holds == "moshi"
    shutil.copyfile(kyutai / "mimi-tiny.safetensors", tmp_path / "any-name.safetensors")
    assert find(tmp_path).holds == "mimi"


def test_without_names_the_usual_ones_are_found(kyutai, tmp_path):
    for name, target in (
        ("model.safetensors", "model.safetensors"),
        ("mimi-tiny.safetensors", "mimi-pytorch-e351c8d8@125.safetensors"),
        ("tokenizer_tiny.model", "tokenizer_spm_32k_3.model"),
    ):
        shutil.copyfile(kyutai / name, tmp_path / target)
    found = find(tmp_path)
    assert found.config is None
    assert found.mimi.name.startswith("mimi-pytorch") and found.tokenizer.name == "tokenizer_spm_32k_3.model"


def test_files_given_by_hand_win(kyutai, tmp_path):
    shutil.copyfile(kyutai / "mimi-tiny.safetensors", tmp_path / "other.safetensors")
    assert find(kyutai, mimi=tmp_path / "other.safetensors").mimi.name == "other.safetensors"
    with pytest.raises(CheckpointError, match="`tokenizer`.*nowhere"):
        find(kyutai, tokenizer=tmp_path / "nowhere")


def test_a_hub_repository_in_the_original_layout_is_fetched_file_by_file(hub):
    loaded = aizuchi.load("kyutai/tiny", revision="v1")
    assert "Kyutai layout" in loaded.description
    fetched = {pattern for _, patterns, _ in hub.asked for pattern in patterns}
    assert fetched == {
        "config.json",
        "model.safetensors",
        "mimi-tiny.safetensors",
        "mimi_config.json",
        "tokenizer_tiny.model",
    }
    assert all(options == {"revision": "v1"} for _, _, options in hub.asked)


def test_a_hub_repository_in_the_hf_layout_loads(hub):
    loaded = aizuchi.load("someone/hf")
    assert "Hugging Face layout" in loaded.description and loaded.tokenizer.pad_token == "<pad>"


def test_files_in_other_places_are_followed(hub, kyutai, tmp_path):
    folder = shutil.copytree(kyutai, tmp_path / "model")
    raw = json.loads((folder / "config.json").read_text())
    (folder / "mimi-tiny.safetensors").unlink()
    (folder / "tokenizer_tiny.model").unlink()
    raw |= {
        "mimi_name": "hf://kyutai/tiny/mimi-tiny.safetensors",
        "tokenizer_name": f"file://{kyutai / 'tokenizer_tiny.model'}",
    }
    (folder / "config.json").write_text(json.dumps(raw))
    found = find(folder)
    assert found.mimi.is_file() and found.tokenizer == kyutai / "tokenizer_tiny.model"
    # a conversion brings them together
    back = convert(convert(folder, tmp_path / "hf", progress=False), tmp_path / "back", progress=False)
    names = json.loads((back / "config.json").read_text())
    assert (names["mimi_name"], names["tokenizer_name"]) == ("mimi-tiny.safetensors", "tokenizer_tiny.model")
    assert find(back).mimi.parent == back


def _raise(error):
    def download(*_, **__):
        raise error

    return download


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (errors.LocalEntryNotFoundError("Cannot find it."), "can't be reached"),
        (errors.OfflineModeIsEnabled("offline mode"), "can't be reached"),
        (ConnectionError("name resolution failed"), "name resolution failed"),
    ],
)
def test_an_offline_error_is_readable(monkeypatch, error, words):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _raise(error))
    with pytest.raises(CheckpointError, match=words) as raised:
        MoshiForCausalLM.from_pretrained("kyutai/moshiko-pytorch-bf16")
    message = str(raised.value)
    assert (
        message.startswith("kyutai/moshiko-pytorch-bf16")
        and "\n" not in message
        and "path of a folder" in message
    )


def test_without_network_the_real_client_gives_a_readable_error(tmp_path):
    with pytest.raises(CheckpointError, match="no such folder here, it is not in the download cache"):
        find("kyutai/moshiko-pytorch-bf16", cache_dir=tmp_path, local_files_only=True)


def test_the_description_comes_from_headers_alone(kyutai, hf, tmp_path):
    count = sum(tensor.numel() for tensor in load_file(kyutai / "model.safetensors").values())
    for source in (kyutai, hf):
        copy = shutil.copytree(source, tmp_path / source.name)
        facts = inspect(find(copy))
        lm, mimi = facts["language_model"], facts["mimi"]
        assert (facts["family"], facts["layout"]) == ("Moshi", source.name)
        assert (lm["parameters"], lm["dtype"]) == (count, "bf16")
        assert mimi["dtype"] == "fp32"
        assert facts["sizes"]["delays"] == [0, 0, 1, 1, 1, 0, 1, 1, 1]
        text = table(facts)
        for words in (
            "63.5 k parameters",
            "bf16",
            "4 a stream; 8 read, 4 written",
            "text 0, codebooks 0 1x3 0 1x3",
        ):
            assert words in text
        assert "LM 63.5 k bf16" in describe(find(copy))


@pytest.mark.parametrize(
    ("family", "name"), [("stt", "speech to text"), ("tts", "text to speech"), ("hibiki", "Hibiki")]
)
def test_families_are_named(tmp_path, family, name):
    tiny.kyutai_folder(tmp_path / "in", tiny.FAMILIES[family])
    out = convert(tmp_path / "in", tmp_path / "out", progress=False)
    assert name in describe(find(tmp_path / "in")) and name in describe(find(out))


def test_a_repository_is_described_without_its_weights(hub, kyutai, tmp_path, monkeypatch, capsys):
    from types import SimpleNamespace

    from aizuchi.checkpoints.tensors import read_header
    from aizuchi.cli import main

    names = {torch.bfloat16: "BF16", torch.float32: "F32"}

    class Api:
        """The hub's interface over the local folder: names of files, and headers."""

        def list_repo_files(self, repo):
            return [path.name for path in kyutai.iterdir()]

        def parse_safetensors_file_metadata(self, repo, file):
            infos = read_header(kyutai / file)[0]
            tensors = {
                n: SimpleNamespace(dtype=names[i.dtype], shape=list(i.shape)) for n, i in infos.items()
            }
            return SimpleNamespace(tensors=tensors)

    def not_cached(repo, allow_patterns, local_files_only=False, **options):
        if local_files_only:
            raise errors.LocalEntryNotFoundError("not there")
        return hub(repo, allow_patterns, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", not_cached)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    assert main(["models", "kyutai/tiny"]) == 0
    out = capsys.readouterr().out
    assert "kyutai/tiny on the Hugging Face hub" in out and "tokenizer_tiny.model" in out
    local = table(inspect(find(kyutai)))
    assert [line for line in out.splitlines() if "parameters" in line] == [
        line for line in local.splitlines() if "parameters" in line
    ]
    assert not [patterns for _, patterns, _ in hub.asked if any("safetensors" in p for p in patterns)]


def test_of_a_repository_only_mimi_is_fetched_for_mimi(hub):
    assert MimiModel.from_pretrained("kyutai/tiny").config.codebook_size == 16
    fetched = {pattern for _, patterns, _ in hub.asked for pattern in patterns}
    assert fetched == {"config.json", "mimi-tiny.safetensors", "mimi_config.json"}
