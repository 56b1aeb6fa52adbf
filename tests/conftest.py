"""Every test runs with shapes and types of the public signatures checked (jaxtyping and beartype)."""

from jaxtyping import install_import_hook

install_import_hook("ascl_lightning", "beartype.beartype")
