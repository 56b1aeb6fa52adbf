"""Writes the same region features in every layout that a store reads."""

import base64
from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np

from ascl_lightning.data.regions import RegionFolder, RegionHdf5, RegionStore, RegionTsv

Content = Mapping[str, np.ndarray]
"""The regions of each image, float32."""


def npy_folder(root: Path, content: Content) -> RegionStore:
    for number, (key, array) in enumerate(content.items()):
        path = root / "regions" / ("train2014", "val2014")[number % 2] / f"{key}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, array)
    return RegionFolder("regions")


def npz_folder(root: Path, content: Content) -> RegionStore:
    (root / "regions").mkdir()
    for number, (key, array) in enumerate(content.items()):
        name = ("features", "feat", "x")[number % 3]
        np.savez_compressed(root / "regions" / f"{key}.npz", boxes=np.zeros((1, 4)), **{name: array})
    return RegionFolder("regions")


def hdf5_data_sets(root: Path, content: Content) -> RegionStore:
    with h5py.File(root / "r.h5", "w") as file:
        for key, array in content.items():
            file[key] = array
    return RegionHdf5("r.h5")


def hdf5_groups(root: Path, content: Content) -> RegionStore:
    with h5py.File(root / "r.h5", "w") as file:
        for key, array in content.items():
            file.create_dataset(f"{key}/features", data=array, compression="gzip")
    return RegionHdf5("r.h5")


def hdf5_stacked(root: Path, content: Content) -> RegionStore:
    counts = [len(array) for array in content.values()]
    # what lies beyond an image's regions is never read
    stacked = np.full((len(content), max(counts), next(iter(content.values())).shape[1]), np.nan, np.float32)
    for row, array in enumerate(content.values()):
        stacked[row, : len(array)] = array
    with h5py.File(root / "r.h5", "w") as file:
        file["features"] = stacked
        file["num_boxes"] = np.array(counts, np.int32)
        file["image_id"] = list(content)
    return RegionHdf5("r.h5")


def hdf5_positions(root: Path, content: Content) -> RegionStore:
    ends = np.cumsum([len(array) for array in content.values()])
    with h5py.File(root / "r.h5", "w") as file:
        file["image_features"] = np.concatenate(list(content.values()))
        file["pos_boxes"] = np.stack([np.append(0, ends[:-1]), ends], axis=1)
        file["ids"] = np.array([key.encode() for key in content])
    return RegionHdf5("r.h5")


def tsv_line(key: str, array: np.ndarray) -> bytes:
    boxes = base64.b64encode(np.zeros((len(array), 4), np.float32))
    return b"\t".join([key.encode(), b"640", b"480", str(len(array)).encode(), boxes, to_base64(array)]) + b"\n"


def tsv(root: Path, content: Content) -> RegionStore:
    (root / "r.tsv").write_bytes(b"".join(tsv_line(*item) for item in content.items()))
    return RegionTsv("r.tsv")


def tsv_parts(root: Path, content: Content) -> RegionStore:
    lines = [tsv_line(*item) for item in content.items()]
    (root / "a.tsv.0").write_bytes(b"".join(lines[::2]))
    (root / "a.tsv.1").write_bytes(b"".join(lines[1::2]).replace(b"\n", b"\r\n"))
    return RegionTsv("a.tsv.*")


def to_base64(array: np.ndarray) -> bytes:
    return base64.b64encode(array.astype("<f4").tobytes())


LAYOUTS: dict[str, Callable[[Path, Content], RegionStore]] = {
    "npy": npy_folder,
    "npz": npz_folder,
    "hdf5_data_sets": hdf5_data_sets,
    "hdf5_groups": hdf5_groups,
    "hdf5_stacked": hdf5_stacked,
    "hdf5_positions": hdf5_positions,
    "tsv": tsv,
    "tsv_parts": tsv_parts,
}
"""Writes a store below a root, and says where it is."""
