from ascl_lightning.data.regions.base import OpenRegions, RegionFeatures, RegionStore
from ascl_lightning.data.regions.folder import RegionFolder, load_regions
from ascl_lightning.data.regions.hdf5 import RegionHdf5
from ascl_lightning.data.regions.lmdb import RegionLmdb
from ascl_lightning.data.regions.tsv import RegionTsv

__all__ = [
    "OpenRegions",
    "RegionFeatures",
    "RegionFolder",
    "RegionHdf5",
    "RegionLmdb",
    "RegionStore",
    "RegionTsv",
    "load_regions",
]
