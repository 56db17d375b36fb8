"""Looking at a repository of the hub without fetching its weights: only the headers of its files are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub import errors as hub_errors

from .find import HUB_ID, Checkpoint, download, find, hub_error
from .kyutai_options import DEFAULT_NAMES
from .tensors import DTYPES, CheckpointError, write_hollow

_SMALL = ["*.json", "*.model", "*.txt"]


def look(name: str, scratch: Path, **hub: Any) -> Checkpoint:
    """Like `find`, for describing only: of a hub repository that isn't in the cache, weights are hollow files.

    Args:
        scratch: an empty folder for them.
    Raises:
        CheckpointError: as `find`.
    """
    if Path(name).expanduser().exists() or not HUB_ID.fullmatch(name):
        return find(name, **hub)
    try:
        return find(name, **hub, local_files_only=True)
    except CheckpointError:
        pass
    folder = download(name, _SMALL, hub)
    for path in folder.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (scratch / path.name).symlink_to(path.resolve())
    api = huggingface_hub.HfApi()
    where = {key: hub[key] for key in ("revision", "token") if hub.get(key) is not None}
    try:
        files = [
            file
            for file in api.list_repo_files(name, **where)
            if file.endswith(".safetensors") and "/" not in file
        ]
        for file in files:
            header = api.parse_safetensors_file_metadata(name, file, **where)
            entries = {n: (DTYPES[t.dtype], tuple(t.shape)) for n, t in header.tensors.items()}
            write_hollow(scratch / file, entries)
    except (hub_errors.HfHubHTTPError, hub_errors.OfflineModeIsEnabled, OSError) as error:
        raise hub_error(name, error) from error
    if not files:
        raise CheckpointError(
            f"{name}: no .safetensors files in this repository ({DEFAULT_NAMES['moshi_name']}, ...)"
        )
    found = find(scratch, **hub)
    found.name = name
    return found
