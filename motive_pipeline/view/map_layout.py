"""Where each clip lies on the map: clips near each other push the model (or move) the same way.

The rows of a space (projected gradients, or embeddings) are reduced to 50 principal components, and these to two dimensions by openTSNE where it is installed, else the
first two components are shown. A layout is kept by what was published.

Axes: N clips, P entries of a row, C components.
"""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Float64, Shaped

from motive_pipeline.attribution.gradient_set import TILE_ROWS, open_gradients
from motive_pipeline.storage import atomic
from motive_pipeline.storage.workspace import Workspace
from motive_pipeline.view.clip_view import BadRequest

Space = Literal["gradients", "embeddings"]

NUM_COMPONENTS = 50
LEAST_FOR_TSNE = 100
"""With fewer clips the first two components are shown."""
PERPLEXITY = 30
VERSION = 1
"""Raise it when layouts are computed in another way."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """A place for each clip. ``method`` is ``tsne`` or ``components``."""

    clip_id_N: Shaped[np.ndarray, " N"]
    place_N2: Float32[np.ndarray, "N 2"]
    method: str
    is_final: bool
    """False if openTSNE can give a better one."""


class LayoutMaker:
    """Computes layouts: principal components at once; openTSNE when asked to, in a process of its own."""

    def __init__(self, ws: Workspace, folder: Path) -> None:
        self._ws, self._folder = ws, folder / "maps"
        self._lock = threading.Lock()
        self._components: dict[str, tuple[np.ndarray, Float32[np.ndarray, "N C"]]] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def spaces(self) -> list[Space]:
        """The spaces whose rows are published."""
        assets: dict[Space, str] = {"gradients": f"projected_gradients/{self._ws.config.lead_variant}", "embeddings": "embeddings"}
        return [space for space, asset in assets.items() if self._is_in_graph(asset) and self._ws.has_published(asset)]

    def layout(self, space: Space, *, improve: bool) -> Layout:
        """The best layout there is by now; with ``improve``, a better one is begun.

        Raises:
            BadRequest: the rows of the space are not published.
        """
        if space not in self.spaces():
            raise BadRequest(f"no map by {space}: its rows are not published")
        with self._lock:
            name = f"{space}-{self._version(space)[:16]}-{VERSION}"
            file = self._folder / f"{name}.npz"
            has_ended = name in self._processes and self._processes[name].poll() is not None
            if file.exists():
                with np.load(file, allow_pickle=False) as saved:
                    return Layout(clip_id_N=saved["clip_id"], place_N2=saved["place"], method=str(saved["method"]), is_final=True)
            if name not in self._components:
                ids_N, rows = _gradient_rows(self._ws) if space == "gradients" else _embedding_rows(self._ws)
                self._components[name] = ids_N, principal_components(rows, NUM_COMPONENTS)
            ids_N, component_NC = self._components[name]
            has_tsne = importlib.util.find_spec("openTSNE") is not None and len(ids_N) >= LEAST_FOR_TSNE
            if has_tsne and improve and name not in self._processes:
                self._processes[name] = _begin(file, ids_N, component_NC, threads=self._ws.config.engine.threads)
        return Layout(clip_id_N=ids_N, place_N2=_two(component_NC), method="components", is_final=not has_tsne or has_ended)

    def close(self) -> None:
        """End the work on better layouts."""
        for process in self._processes.values():
            process.kill()
            process.wait()

    def _version(self, space: Space) -> str:
        asset = f"projected_gradients/{self._ws.config.lead_variant}" if space == "gradients" else "embeddings"
        return self._ws.published(asset).data_version

    def _is_in_graph(self, asset: str) -> bool:
        return asset in self._ws.graph.assets


def principal_components(rows: Callable[[], Iterable[Float32[np.ndarray, "n P"]]], count: int) -> Float32[np.ndarray, "N C"]:
    """The rows in terms of their first ``count`` principal components (fewer where there are fewer). ``rows`` gives them in pieces, and is read three times.

    Each component's sign is such that its largest entry is positive, so equal rows give equal maps.
    """
    num_rows, total_P = 0, 0.0
    for block in rows():
        num_rows, total_P = num_rows + len(block), total_P + block.sum(axis=0, dtype=np.float64)
    mean_P = np.asarray(total_P / max(num_rows, 1))
    covariance_PP: Float64[np.ndarray, "P P"] = np.zeros((len(mean_P), len(mean_P)))
    for block in rows():
        centred = (block - mean_P).astype(np.float32)
        covariance_PP += centred.T @ centred
    _, vector_PP = np.linalg.eigh(covariance_PP)
    axis_PC = vector_PP[:, ::-1][:, : min(count, num_rows)]
    axis_PC = axis_PC * np.sign(axis_PC[np.abs(axis_PC).argmax(axis=0), np.arange(axis_PC.shape[1])])
    return np.concatenate([((block - mean_P) @ axis_PC).astype(np.float32) for block in rows()])


def tsne(component_NC: Float32[np.ndarray, "N C"], *, threads: int) -> Float32[np.ndarray, "N 2"]:
    """The layout by openTSNE, which starts from the first two components."""
    from openTSNE import TSNE

    start_N2 = _two(component_NC).astype(np.float64)
    start_N2 = start_N2 / max(float(start_N2[:, 0].std()), 1e-12) * 1e-4
    settings: dict[str, Any] = {"initialization": start_N2, "n_jobs": threads, "random_state": 0}
    made = TSNE(perplexity=min(PERPLEXITY, (len(component_NC) - 1) // 3), **settings)
    return np.asarray(made.fit(component_NC), dtype=np.float32)


def _two(component_NC: Float[np.ndarray, "N C"]) -> Float32[np.ndarray, "N 2"]:
    padded = np.zeros((len(component_NC), 2), np.float32)
    padded[:, : min(2, component_NC.shape[1])] = component_NC[:, :2]
    return padded


def _gradient_rows(ws: Workspace) -> tuple[np.ndarray, Callable[[], Iterator[np.ndarray]]]:
    lead = ws.config.lead_variant
    found = open_gradients(ws.published(f"projected_gradients/{lead}").path, ws.config.of_variant(lead).influence.proj_dim)
    return found.id_N, lambda: (tile for _, tile in found.tiles())


def _embedding_rows(ws: Workspace) -> tuple[np.ndarray, Callable[[], Iterator[np.ndarray]]]:
    from motive_pipeline.curation.embeddings import EmbeddingSet

    found = EmbeddingSet(ws, "clip")

    def rows() -> Iterator[np.ndarray]:
        for start in range(0, len(found), TILE_ROWS):
            yield np.stack([found.get(clip_id) for clip_id in found.clip_ids[start : start + TILE_ROWS]]).astype(np.float32)

    return np.array(found.clip_ids, dtype="S16"), rows


def _begin(file: Path, ids_N: np.ndarray, component_NC: np.ndarray, *, threads: int) -> subprocess.Popen[bytes]:
    """Start the process that makes ``file``, at low priority."""
    given = file.with_suffix(".components.npz")
    _save(given, clip_id=ids_N, component=component_NC)
    return subprocess.Popen([sys.executable, "-m", __spec__.name, str(given), str(file), str(threads)], stdin=subprocess.DEVNULL)


def _save(file: Path, **arrays: np.ndarray) -> None:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    atomic.write_bytes(file, stream.getvalue())


def main(given: Path, file: Path, threads: int) -> None:
    """The process of :func:`_begin`."""
    os.nice(10)
    with np.load(given, allow_pickle=False) as saved:
        ids_N, component_NC = saved["clip_id"], saved["component"]
    _save(file, clip_id=ids_N, place=tsne(component_NC, threads=threads), method=np.array("tsne"))
    given.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
