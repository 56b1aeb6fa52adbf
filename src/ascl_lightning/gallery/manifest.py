"""`gallery.json`: which model made a gallery, and where its pictures and vectors lie."""

import json
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ascl_lightning.errors import UserError
from ascl_lightning.gallery.database import REBUILD
from ascl_lightning.runtime.files import write_file

MANIFEST = "gallery.json"
CATALOGUE = "catalogue.sqlite"
PICTURES = "pictures"
"""Store of the pictures, inside the folder of a gallery's contents."""
CAPTIONS = "captions"
"""Store of the captions."""
SUPPORT = "support.json"
"""Usual support of words, from the captions."""
_FORMAT = "ascl_lightning gallery 1"
_CONTENTS = re.compile(r"[0-9a-f]{12}(?:-([1-9]\d*))?")


@dataclass(frozen=True)
class Origin:
    """Where the model of a gallery comes from.

    Args:
        weights: Folder of exported weights, or the id of a repository.
        ckpt_path: Checkpoint of a training, instead of `weights`.
        config: Configuration of that training; None: the one in the run's folder.
    """

    weights: str | None = None
    ckpt_path: str | None = None
    config: str | None = None

    @property
    def flags(self) -> list[str]:
        """Flags of `ascl index` that name the model."""
        given = {"--weights": self.weights, "--ckpt_path": self.ckpt_path, "--config": self.config}
        return [word for flag, value in given.items() if value is not None for word in (flag, value)]


@dataclass(frozen=True)
class Manifest:
    """The content of `gallery.json`.

    Args:
        model: Fingerprint of the model that encoded the pictures.
        images: Folder of the pictures, absolute.
        origin: Where the model comes from.
        build: How often the pictures were encoded again in a new folder.
        id: Tells this gallery from others in the same Milvus server.
        store: Address of the Milvus server with the vectors, or the file of Milvus Lite. None: there is only the
            gallery's folder.
    """

    model: str
    images: str
    origin: Origin
    build: int = 0
    id: str = ""
    store: str | None = None

    @property
    def contents(self) -> str:
        """Name of the folder with catalogue and stores, inside the gallery's; another for each build."""
        return self.model[:12] + (f"-{self.build}" if self.build else "")

    def replaced(self, gallery: Path) -> list[Path]:
        """Folders with the contents of earlier builds. Those of a later build, which is not complete, may go on."""
        return [
            folder
            for folder in sorted(gallery.iterdir())
            if (found := _CONTENTS.fullmatch(folder.name))
            and int(found[1] or 0) <= self.build
            and folder.name != self.contents
        ]

    def rebuild_command(self, gallery: Path, origin: Origin | None = None) -> str:
        """The command line that encodes all pictures again.

        Args:
            gallery: Folder of the gallery.
            origin: The model to encode them with; None: that of the gallery.
        """
        model = (origin or self.origin).flags or ["--weights", "FOLDER"]
        place = ["--images", self.images, "--out", str(gallery), *(["--store", self.store] if self.store else [])]
        return shlex.join(["ascl", "index", *model, *place, "--rebuild"])

    def write(self, gallery: Path) -> None:
        """Writes `gallery.json`.

        Raises:
            UnwritableError: If the folder cannot be written.
        """
        content = {"format": _FORMAT, **asdict(self)}
        write_file(gallery / MANIFEST, json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def read(cls, gallery: Path) -> "Manifest":
        """Reads `gallery.json`.

        Raises:
            UserError: If the folder is not that of a gallery.
        """
        file = gallery / MANIFEST
        try:
            content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if content.pop("format") != _FORMAT:
                raise UserError(f"'{file}' was written by another version; {REBUILD}")
            made = cls(**{**content, "origin": Origin(**content["origin"])})
        except OSError as error:
            raise UserError(
                f"'{gallery}' is not a gallery ({error.strerror}: {MANIFEST}); make one with `ascl index`"
            ) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"'{file}' is damaged; {REBUILD}") from error
        if not _CONTENTS.fullmatch(made.contents):
            raise UserError(f"'{file}' is damaged; {REBUILD}")
        return made


def store_address(text: str) -> str:
    """Checks where a gallery is to keep its vectors.

    Args:
        text: Address of a Milvus server, or a file for Milvus Lite.

    Returns:
        The address, or the file's full path.

    Raises:
        UserError: If it is neither, or has a password.
    """
    if re.match("https?://", text):
        if "@" in text:
            raise UserError(
                "--store: leave name and password out of the address, which gallery.json shows; "
                "set the environment variable MILVUS_TOKEN to NAME:PASSWORD"
            )
        return text
    if not text.endswith(".db"):
        raise UserError(
            f"--store {text}: give the address of a Milvus server, such as http://localhost:19530, or a file "
            "FOLDER/NAME.db for Milvus Lite"
        )
    return str(Path(text).resolve())
