"""Where runs keep their checkpoints, and how a name becomes a path."""

from pathlib import Path

from ascl_lightning.errors import UserError


def find_checkpoint(name: str | None, root: Path) -> str | None:
    """The file that `--ckpt_path` stands for.

    Args:
        name: A path; or `best` or `last`, of the newest training run that has one; None for no checkpoint.
        root: The `default_root_dir` under which runs lie.

    Returns:
        The path of an existing file, or None.

    Raises:
        UserError: If there is no such file, or the name is an address: weights are loaded from disk only.
    """
    if name is None:
        return None
    if "://" in name:
        raise UserError(f"--ckpt_path {name}: addresses are not loaded, download the file and give its path")
    if name in ("best", "last"):
        found = sorted(root.glob(f"**/checkpoints/{name}.ckpt"), key=lambda path: path.stat().st_mtime)
        if not found:
            raise UserError(f"--ckpt_path {name}: no run under '{root}' has one; train with `ascl fit` first")
        return str(found[-1])
    if not Path(name).is_file():
        raise UserError(f"--ckpt_path {name}: there is no such file")
    return name
