"""Whether the files of a model's component are whole: index, shards, headers of safetensors, vocabulary, finite weights.

Everything here reads JSON and raw bytes, and imports neither torch nor diffusers. Whether the tensors are those that the component's class needs
is in models/fit.py.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Library -> the name of its weight files, without suffix."""

VOCABULARIES = ("tokenizer.json", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt")
"""The files that can hold a tokenizer's vocabulary."""

AGAIN = "Copy or download it again."

_LFS_POINTER = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors format."""

_SCAN_BYTES = 16 << 20

_EXPONENTS = {
    "F64": ("<u8", 0x7FF0_0000_0000_0000),
    "F32": ("<u4", 0x7F80_0000),
    "F16": ("<u2", 0x7C00),
    "BF16": ("<u2", 0x7F80),
    "F8_E5M2": ("u1", 0x7C),
    "F8_E4M3": ("u1", 0x7F),
}
"""Type of a tensor -> (type of its bits, the bits that are all set in NaN and infinity alone)."""


class Flaw(Exception):
    """What is wrong with one component, and what to do. Who catches it adds the model and the component."""


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """A tensor as the header of ``file`` describes it. Its values are the ``num_bytes`` bytes from ``start``."""

    dtype: str
    shape: tuple[int, ...]
    file: Path
    start: int
    num_bytes: int


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in ``file``.

    Raises:
        Flaw: there is no such file, it is a Git LFS pointer, or it holds no JSON object.
    """
    data = _read(file)
    try:
        value = json.loads(data)
    except ValueError as error:
        raise Flaw(f"{file} cannot be read as JSON ({error}). {AGAIN}") from error
    if not isinstance(value, dict):
        raise Flaw(f"{file} holds no JSON object. {AGAIN}")
    return value


def weight_files(folder: Path, library: str) -> list[Path]:
    """The files that ``library`` reads a component's weights from: one file, or the shards that the index lists.

    Raises:
        Flaw: there are none, or shards are missing.
    """
    if library not in STEMS:
        return sorted(folder.glob("*.safetensors"))
    single = folder / f"{STEMS[library]}.safetensors"
    index = folder / f"{single.name}.index.json"
    # where both are there, diffusers takes the shards, transformers the single file
    if index.is_file() and (library == "diffusers" or not single.is_file()):
        shards = sorted({folder / name for name in _weight_map(index).values()})
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise Flaw(f"{index} lists {', '.join(missing)}, which {_is(missing)} missing. Copy or download what is missing.")
        return shards
    if not single.is_file():
        raise Flaw(f"{folder} holds no weights in {single.name} or in shards with {index.name}{_instead(folder)}")
    return [single]


def stored_tensors(folder: Path, library: str) -> dict[str, StoredTensor]:
    """Name -> tensor of a component's weights, from the headers of its files.

    Raises:
        Flaw: a file is missing, cut or no safetensors file; a shard lacks a tensor that the index lists in it; or a tensor is in two shards.
    """
    found: dict[str, StoredTensor] = {}
    files = weight_files(folder, library)
    for file in files:
        header = read_header(file)
        twice = sorted(found.keys() & header.keys())
        if twice:
            raise Flaw(f"{file} and {found[twice[0]].file.name} both hold {some(twice)}. {AGAIN}")
        found |= header
    index = folder / f"{STEMS.get(library, '')}.safetensors.index.json"
    if index.is_file() and files != [folder / f"{STEMS[library]}.safetensors"]:
        for name, shard in _weight_map(index).items():
            if name not in found or found[name].file != folder / shard:
                raise Flaw(f"{folder / shard} lacks the tensor {name}, which {index.name} lists in it. {AGAIN}")
    return found


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Name -> tensor in a safetensors file. The values are not read.

    Raises:
        Flaw: the file is a Git LFS pointer, cut, or no safetensors file.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(_LFS_POINTER))
        _refuse_pointer(file, start)
        length = int.from_bytes(start[:8], "little")
        if size < 8 or 8 + length > size:
            if size and length > _MAX_HEADER_BYTES:
                raise Flaw(f"{file} is not a safetensors file. {AGAIN}")
            raise Flaw(f"{file} is cut: it ends within its header, after {size} bytes. {AGAIN}")
        stream.seek(8)
        header = stream.read(length)
    try:
        entries = {name: entry for name, entry in json.loads(header).items() if name != "__metadata__"}
        tensors = {name: _tensor(file, entry, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Flaw(f"{file} has no readable safetensors header. {AGAIN}") from error
    end = max((tensor.start + tensor.num_bytes for tensor in tensors.values()), default=8 + length)
    if size != end:
        raise Flaw(f"{file} is {'cut' if size < end else 'too long'}: it has {size} bytes, and its header says {end}. {AGAIN}")
    return tensors


def require_vocabulary(folder: Path) -> None:
    """Raise :class:`Flaw` unless the tokenizer's folder holds a vocabulary. Without one, transformers makes an empty one and says nothing."""
    files = [folder / name for name in VOCABULARIES if (folder / name).exists()]
    if not files:
        raise Flaw(f"{folder} holds no vocabulary ({', '.join(VOCABULARIES[:2])}), so all words would be the same. Copy or download it.")
    for file in files:
        if file.suffix == ".json":
            read_json(file)
        elif not _read(file):
            raise Flaw(f"{file} is empty. {AGAIN}")


def require_finite(file: Path) -> None:
    """Raise :class:`Flaw` if a tensor of the safetensors file holds NaN or infinity. Reads a few megabytes at a time."""
    for name, tensor in read_header(file).items():
        kind = _EXPONENTS.get(tensor.dtype)
        if kind is not None and any(_all_set(np.frombuffer(chunk, kind[0]), kind[1]) for chunk in _chunks(tensor)):
            raise Flaw(
                f"the tensor {name} in {file} holds NaN or infinity. Copy or download it again, or train it again if it is your own."
            )


def some(names: list[str], shown: int = 3) -> str:
    """The first of ``names`` and how many more there are."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _read(file: Path) -> bytes:
    """The content of a file that is not a pointer."""
    try:
        data = file.read_bytes()
    except FileNotFoundError as error:
        raise Flaw(f"{file} is missing. Copy or download it.") from error
    _refuse_pointer(file, data)
    return data


def _refuse_pointer(file: Path, start: bytes) -> None:
    if start.startswith(_LFS_POINTER):
        raise Flaw(f"{file} is a Git LFS pointer, not the file itself. Run `git lfs pull` in the repository that it was cloned from.")


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor -> its shard, from an index of shards."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise Flaw(f"{index} has no weight_map. {AGAIN}")
    return weight_map


def _instead(folder: Path) -> str:
    """What lies there instead of the weights, and what to do."""
    there = sorted(file.name for file in folder.iterdir() if file.suffix in (".safetensors", ".bin", ".pt", ".pth", ".gguf"))
    if not there:
        return f". {AGAIN}"
    advice = "Give a variant the name without its suffix, convert other formats to safetensors, and copy the index of shards with them."
    return f"; there {_is(there)} {some(there)}. {advice}"


def _is(things: list[str]) -> str:
    return "is" if len(things) == 1 else "are"


def _tensor(file: Path, entry: dict[str, Any], data_at: int) -> StoredTensor:
    start, end = entry["data_offsets"]
    return StoredTensor(dtype=entry["dtype"], shape=tuple(entry["shape"]), file=file, start=data_at + start, num_bytes=end - start)


def _chunks(tensor: StoredTensor) -> Iterator[bytes]:
    with tensor.file.open("rb") as stream:
        stream.seek(tensor.start)
        for done in range(0, tensor.num_bytes, _SCAN_BYTES):
            yield stream.read(min(_SCAN_BYTES, tensor.num_bytes - done))


def _all_set(bits: np.ndarray, mask: int) -> bool:
    """Whether all bits of ``mask`` are set in some element."""
    mask = bits.dtype.type(mask)
    return bool(((bits & mask) == mask).any())
