"""Sources of images with captions, one file an input, all read through `Source.read`."""

from ascl_lightning.data.sources.base import Source, Split
from ascl_lightning.data.sources.coco import CocoCaptions
from ascl_lightning.data.sources.karpathy import KarpathyJson
from ascl_lightning.data.sources.scenes import Scenes
from ascl_lightning.data.sources.tabular import CsvTable, JsonLines

__all__ = ["CocoCaptions", "CsvTable", "JsonLines", "KarpathyJson", "Scenes", "Source", "Split"]
