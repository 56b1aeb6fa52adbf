from ascl_lightning.data.regions.base import OpenRegions, RegionStore
from ascl_lightning.data.regions.folder import RegionFolder
from ascl_lightning.data.regions.hdf5 import RegionHdf5
from ascl_lightning.data.regions.tsv import RegionTsv

__all__ = ["OpenRegions", "RegionFolder", "RegionHdf5", "RegionStore", "RegionTsv"]
