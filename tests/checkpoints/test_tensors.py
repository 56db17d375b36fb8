"""Reading and writing files of tensors."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from aizuchi.checkpoints.tensors import SafetensorsFiles, open_tensors, write_safetensors

TENSORS = {
    "b.weight": torch.randn(3, 4).to(torch.bfloat16),
    "a.weight": torch.randn(2, 3, dtype=torch.float64),
    "scalar": torch.tensor(3.5),
    "empty": torch.zeros(0, 4),
    "counts": torch.arange(5),
    "flags": torch.tensor([True, False, True]),
    "half": torch.randn(7).half(),
    "bytes": torch.arange(9, dtype=torch.uint8),
    "ints": torch.arange(3, dtype=torch.int8),
    "c.weight": torch.randn(5, 2).t(),
    "äöü": torch.ones(2),
}


def test_files_are_byte_for_byte_those_of_the_library(tmp_path):
    contiguous = {name: tensor.contiguous() for name, tensor in TENSORS.items()}
    save_file(contiguous, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    entries = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in TENSORS.items()}
    moved = []
    write_safetensors(tmp_path / "ours.safetensors", entries, TENSORS.items(), {"format": "pt"}, moved.append)
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()
    assert sum(moved) == sum(tensor.nbytes for tensor in TENSORS.values())


def test_reading_gives_what_the_library_reads(tmp_path):
    save_file({name: tensor.contiguous() for name, tensor in TENSORS.items()}, tmp_path / "x.safetensors")
    source, expected = open_tensors(tmp_path / "x.safetensors"), load_file(tmp_path / "x.safetensors")
    assert source.infos.keys() == expected.keys()
    for name, tensor in expected.items():
        read = source.read(name)
        assert read.dtype == tensor.dtype and read.shape == tensor.shape and torch.equal(read, tensor)


def test_a_tensor_does_not_live_in_the_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": torch.ones(1000)}, path)
    tensor = SafetensorsFiles(path).read("a")
    with open(path, "r+b") as file:
        file.seek(-400, 2)
        file.write(bytes(400))
    assert torch.equal(tensor, torch.ones(1000))


def test_a_name_in_two_shards_is_refused(tmp_path):
    for name in ("1", "2"):
        save_file({"a": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"2.safetensors: 'a' is in .*1.safetensors"):
        SafetensorsFiles([tmp_path / "1.safetensors", tmp_path / "2.safetensors"])


def test_announced_and_written_must_agree(tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(RuntimeError, match="announced"):
        write_safetensors(path, {"a": (torch.float32, (2,))}, [("a", torch.ones(3))])
    with pytest.raises(RuntimeError, match="not written"):
        write_safetensors(path, {"a": (torch.float32, (2,))}, [])
