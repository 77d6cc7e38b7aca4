"""Pins of local data: the digests of files and encoders in params.yaml."""

from pathlib import Path

from metashot.config import edit, params
from metashot.data.sources import SOURCES, Encoded, Local
from metashot.files import replacing


def refresh(root: Path, dataset: str) -> bool | None:
    """Pin the present content of a data set's files, and encoder, in params.yaml.

    Every other character of params.yaml stays as it was.

    Returns:
        Whether the content was new; None for a data set without local files, which code and parameters pin.

    Raises:
        MetashotError: The files are missing or laid out wrongly, or params.yaml is wrong.
    """
    path, key = root / "params.yaml", f"data.{dataset}"
    module = SOURCES[params.read(path, f"{key}.source", params.Name)]
    if not isinstance(module, Local):
        return None
    raw = params.read(path, f"{key}.raw", module.Raw)
    pins = {f"{key}.raw.md5": (raw.md5, module.digest(raw, root))}
    if isinstance(module, Encoded):
        pins[f"{key}.raw.encoder_md5"] = raw.encoder_md5, module.encoder_digest(raw, root)
    text = path.read_bytes().decode()
    new = {pin: now for pin, (before, now) in pins.items() if now != before}
    for pin, now in new.items():
        text = edit.edited(text, pin, now)
    if new:
        with replacing(path) as partial:
            partial.write_bytes(text.encode())
    return bool(new)
