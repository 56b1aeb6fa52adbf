"""Image-text retrieval with asymmetry-sensitive contrastive learning (AsCL, ICME 2024).

from ascl_lightning import Gallery, Retriever

model = Retriever.from_pretrained("runs/fit/version_0/weights")
images = model.encode_images(["kite.jpg", "dogs.jpg"])
model.rank("a red kite", images, k=1)
Gallery.index("photos", "gallery", model).search("a red kite")
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ascl_lightning import renamed

if TYPE_CHECKING:
    from ascl_lightning.api import Encoded, Hit, Retriever
    from ascl_lightning.errors import UserError
    from ascl_lightning.gallery.gallery import Gallery, GalleryHit, GalleryResults

__version__ = "0.1.0"
__all__ = ["Encoded", "Gallery", "GalleryHit", "GalleryResults", "Hit", "Retriever", "UserError", "__version__"]


def __getattr__(name: str) -> Any:
    # torch alone takes seconds: what needs it is imported when it is first asked for
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "ascl_lightning.gallery.gallery" if name.startswith("Gallery") else "ascl_lightning.api"
    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


renamed.install()
