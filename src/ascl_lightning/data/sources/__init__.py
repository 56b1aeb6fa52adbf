"""Sources of images with captions, one file an input, all read through `Source.read`."""

from ascl_lightning.data.sources.base import Source, Split
from ascl_lightning.data.sources.coco import CocoCaptions
from ascl_lightning.data.sources.extracted import ExtractedFeatures
from ascl_lightning.data.sources.flickr30k import Flickr30kHub, FlickrTokens
from ascl_lightning.data.sources.folder import CaptionFolder
from ascl_lightning.data.sources.hard_negatives import HardNegatives
from ascl_lightning.data.sources.hub import HubDataset
from ascl_lightning.data.sources.karpathy import KarpathyJson
from ascl_lightning.data.sources.mixture import Mixture
from ascl_lightning.data.sources.scenes import Scenes
from ascl_lightning.data.sources.tabular import CsvTable, JsonLines, ParquetTable
from ascl_lightning.data.sources.webdataset import WebDataset

__all__ = [
    "CaptionFolder",
    "CocoCaptions",
    "CsvTable",
    "ExtractedFeatures",
    "Flickr30kHub",
    "FlickrTokens",
    "HardNegatives",
    "HubDataset",
    "JsonLines",
    "KarpathyJson",
    "Mixture",
    "ParquetTable",
    "Scenes",
    "Source",
    "Split",
    "WebDataset",
]
