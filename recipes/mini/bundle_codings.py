"""Exact codings of a bundle's contents: token shards in few bits, weights by the planes of their bytes, lzma for text.

A content is decoded again when it is packed, and its hash is checked when it is unpacked: what comes back is what went
in, bit by bit.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from recipes.mini.bundle_parts import BundleError, Item

_CHUNK = 4 << 20  # of weights at a time: tables of another kind of numbers begin anew
_TYPES = {"I16": "<i2", "I32": "<i4"}  # of token shards, as safetensors names them


def exact_item(name: str, content: bytes, coding: str) -> Item:
    """An item that `exact_content` gives back bit by bit.

    Args:
        coding: raw, lzma, planes (of 4-byte numbers: weights and optimizer states) or tokens (a token shard).

    Raises:
        BundleError: the content is not what the coding is for.
    """
    encode, decode = CODINGS[coding]
    try:
        blob = encode(content)
        same = decode(blob) == content  # what it is packed from may be gone when it is unpacked
    except _DAMAGE as error:
        raise BundleError(f"{name} can't be packed as {coding} ({error!r})") from error
    if not same:
        raise BundleError(f"{name} can't be packed as {coding}: something in it would be lost")
    digest = hashlib.sha256(content).hexdigest()
    return Item(name, coding, blob, {"bytes": len(content), "sha256": digest})


def exact_content(item: Item) -> bytes:
    """The content of an item.

    Raises:
        BundleError: it is not the one that was packed.
    """
    if item.coding not in CODINGS:
        raise BundleError(f"{item.name} is coded as {item.coding!r}, which this recipe does not know")
    try:
        content = CODINGS[item.coding][1](item.blob)
    except _DAMAGE as error:
        raise BundleError(f"{item.name} is damaged ({error!r}): pack it again") from error
    if hashlib.sha256(content).hexdigest() != item.about.get("sha256"):
        raise BundleError(f"{item.name} is damaged: it is not what was packed; pack it again")
    return content


def join(blobs: Sequence[bytes]) -> bytes:
    """Blobs with their number and lengths in front; `split` is the counterpart."""
    return struct.pack(f"<{1 + len(blobs)}I", len(blobs), *map(len, blobs)) + b"".join(blobs)


def split(blob: bytes) -> list[bytes]:
    """The blobs that `join` has joined."""
    (count,) = struct.unpack_from("<I", blob)
    ends = np.cumsum([4 + 4 * count, *struct.unpack_from(f"<{count}I", blob, 4)]).tolist()
    if ends[-1] != len(blob):
        raise ValueError(f"{len(blob)} bytes instead of {ends[-1]}")
    return [blob[start:end] for start, end in zip(ends, ends[1:])]


# -- weights ---------------------------------------------------------------------------------------------------
def encode_planes(content: bytes) -> bytes:
    """Bytes 0, 1, 2 and 3 of all numbers apart: exponents compress, mantissas don't, and zeros vanish."""
    blobs = []
    for start in range(0, len(content), _CHUNK):
        chunk = np.frombuffer(content[start : start + _CHUNK], np.uint8)
        whole = len(chunk) // 4 * 4
        planes = [*np.ascontiguousarray(chunk[:whole].reshape(-1, 4).T), chunk[whole:]]
        blobs.append(join([_deflate(plane.tobytes()) for plane in planes]))
    return join(blobs)


def decode_planes(blob: bytes) -> bytes:
    """The counterpart of `encode_planes`."""
    chunks = []
    for chunk in split(blob):
        *planes, rest = (_inflate(plane) for plane in split(chunk))
        numbers = np.stack([np.frombuffer(plane, np.uint8) for plane in planes], 1)
        chunks.append(numbers.tobytes() + rest)
    return b"".join(chunks)


def _deflate(data: bytes) -> bytes:
    # there are no strings to find in weights: runs and the share of each byte are all, and that is fast
    compressor = zlib.compressobj(1, zlib.DEFLATED, 15, 9, zlib.Z_RLE)
    made = compressor.compress(data) + compressor.flush()
    return b"z" + made if len(made) < 0.99 * len(data) else b"r" + data


def _inflate(data: bytes) -> bytes:
    return zlib.decompress(data[1:]) if data[:1] == b"z" else data[1:]


# -- token shards ----------------------------------------------------------------------------------------------
def encode_tokens(content: bytes) -> bytes:
    """A token shard (`aizuchi.data.shards`): its header, then its tensors as they lie in it.

    Codes of b bits become bytes and b - 8 bits, codebook by codebook; text and heard words, nearly all of which are
    padding, are left to lzma.
    """
    size = int.from_bytes(content[:8], "little")
    head = content[8 : 8 + size]
    blobs = [lzma.compress(head)]
    for start, stop, dtype, shape in _tensors(head):
        numbers = np.frombuffer(content[8 + size + start : 8 + size + stop], dtype).reshape(shape)
        codes = dtype == _TYPES["I16"] and numbers.size and numbers.min() >= 0
        blobs.append(b"c" + _encode_codes(numbers) if codes else b"x" + lzma.compress(numbers.tobytes()))
    return join(blobs)


def decode_tokens(blob: bytes) -> bytes:
    """The counterpart of `encode_tokens`."""
    first, *blobs = split(blob)
    head = lzma.decompress(first)
    tensors = [
        _decode_codes(b[1:], shape) if b[:1] == b"c" else lzma.decompress(b[1:])
        for b, (_, _, _, shape) in zip(blobs, _tensors(head), strict=True)
    ]
    return len(head).to_bytes(8, "little") + head + b"".join(tensors)


def _tensors(head: bytes) -> list[tuple[int, int, str, list[int]]]:
    """Start, stop, type and shape of each tensor, in the order in which they lie in a safetensors file."""
    table = json.loads(head)
    table.pop("__metadata__", None)
    return sorted((*row["data_offsets"], _TYPES[row["dtype"]], row["shape"]) for row in table.values())


def _encode_codes(codes: np.ndarray) -> bytes:
    """Codes (N, ...) from 0 to 2^15 - 1."""
    columns = np.ascontiguousarray(codes.reshape(len(codes), -1).T)
    bits = int(columns.max()).bit_length()  # ceil(log2(codebook_size)), or less
    low = (columns & 255).astype(np.uint8)
    high = [np.packbits((columns >> bit & 1).astype(np.uint8)).tobytes() for bit in range(8, bits)]
    return join([bytes([bits]), zlib.compress(low.tobytes(), 9), zlib.compress(b"".join(high), 9)])


def _decode_codes(blob: bytes, shape: Sequence[int]) -> bytes:
    bits, low, high = split(blob)
    count = math.prod(shape)
    codes = np.frombuffer(zlib.decompress(low), np.uint8).astype("<i2")
    planes = np.frombuffer(zlib.decompress(high), np.uint8).reshape(-1, -(-count // 8))
    if len(planes) != max(0, bits[0] - 8):
        raise ValueError(f"{len(planes)} planes of bits instead of those of {bits[0]} bits")
    for bit, plane in enumerate(planes, start=8):
        codes |= np.unpackbits(plane, count=count).astype("<i2") << bit
    return np.ascontiguousarray(codes.reshape(-1, shape[0]).T).tobytes()


CODINGS: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes]]] = {
    "raw": (bytes, bytes),
    "lzma": (lzma.compress, lzma.decompress),
    "planes": (encode_planes, decode_planes),
    "tokens": (encode_tokens, decode_tokens),
}
_DAMAGE = (ValueError, KeyError, IndexError, TypeError, struct.error, zlib.error, lzma.LZMAError, EOFError)
