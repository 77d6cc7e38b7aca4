"""What preprocessing takes as data sets grow, beside torchvision reading the same pictures.

Made pictures, 32x32 in colour, in 100 classes. Each measurement is a process of its own, turn about, so its
peak memory is its own. Nothing is asserted. Run as ``python -m benchmarks.scale [PICTURES ...]``.
"""

import io
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table

from metashot.data.files.archive import pack, zips

CLASSES, SIZE, ROUNDS, WORKERS = 100, 32, 3, 2
COMPARED = 60_000  # pictures, up to which torchvision reads them too: it needs a file for each


def pictures_of(count: int) -> Iterator[tuple[str, bytes]]:
    """`<superclass>/<class>/<picture>.png`, no two alike."""
    random = np.random.default_rng(0)
    smooth = random.integers(0, 256, (1000, 4, 4, 3), dtype=np.uint8)
    for number in range(count):
        pixels = smooth[number % 1000].repeat(8, 0).repeat(8, 1)
        pixels[0, :3] = np.frombuffer(number.to_bytes(9, "big"), np.uint8).reshape(3, 3)
        content = io.BytesIO()
        Image.fromarray(pixels).save(content, "png", compress_level=1)
        yield f"all/class{number * CLASSES // count:02d}/{number:07d}.png", content.getvalue()


def ours(folder: Path) -> None:
    """Archive to Parquet: decoded, compared with each other, divided, written."""
    from metashot.data.files import division
    from metashot.data.preprocess import preprocess
    from metashot.data.sources import image_folder

    shares = division.Shares(of="classes", seed=0, val=0.2, test=0.2)
    prepare = image_folder.Prepare(
        image_size=SIZE, colour=True, rotations=False, repeated="refuse", split=shares
    )
    preprocess(image_folder, prepare, folder, folder / "out.parquet")  # type: ignore[arg-type]


def torchvision(folder: Path) -> None:
    """ImageFolder and DataLoader: every picture decoded once, in batches, and no more done with it."""
    import torch
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import v2

    transform = v2.Compose([v2.Resize((SIZE, SIZE)), v2.PILToTensor()])
    data = ImageFolder(str(folder / "unpacked" / "all"), transform)
    count = sum(len(batch) for batch, _ in DataLoader(data, batch_size=256, num_workers=WORKERS))
    assert count == len(data) and torch.is_tensor(data[0][0])


def measured(way: str, folder: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of one way, in a process of its own."""
    said = subprocess.run(
        [sys.executable, "-m", "benchmarks.scale", way, folder], check=True, capture_output=True, text=True
    ).stdout.split()
    (folder / "out.parquet").unlink(missing_ok=True)
    return float(said[0]), float(said[1])


def main(sizes: list[int]) -> None:
    """Measure every size, and print the table."""
    view = Table("pictures", "way", "seconds", "pictures/s", "peak memory, MB", "ratio", box=box.HORIZONTALS)
    for pictures in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pack(pictures_of(pictures), folder / "images")
            ways = ["ours"]
            if pictures <= COMPARED:
                ways.append("torchvision")
                for path in zips(folder / "images"):
                    with zipfile.ZipFile(path) as archive:
                        archive.extractall(folder / "unpacked")
            rounds = [
                {way: measured(way, folder) for way in ways} for _ in range(ROUNDS if len(ways) > 1 else 1)
            ]
        for way in ways:
            seconds, memory = (
                statistics.median(values) for values in zip(*(r[way] for r in rounds), strict=True)
            )
            ratio = (
                statistics.median(r["torchvision"][0] / r["ours"][0] for r in rounds) if len(ways) > 1 else 0
            )
            shown = f"{ratio:.2f}" if way == "ours" and ratio else ""
            view.add_row(
                f"{pictures:,}", way, f"{seconds:.1f}", f"{pictures / seconds:,.0f}", f"{memory:.0f}", shown
            )
    Console(width=110).print(view)


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("ours", "torchvision"):
        began = time.perf_counter()
        {"ours": ours, "torchvision": torchvision}[sys.argv[1]](Path(sys.argv[2]))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(time.perf_counter() - began, peak)
    else:
        main([int(size) for size in sys.argv[1:]] or [6_000, 60_000, 600_000])
