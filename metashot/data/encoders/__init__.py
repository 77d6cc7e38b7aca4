"""Pretrained encoders of the user: frozen networks that turn samples into vectors, once, in preprocessing.

An encoder is a folder of safetensors and text files. `download` packs it beside the samples, so DVC has it;
from then on it is found by its digest, wherever it lies: in ``data/raw/<data set>/encoder``, in a registered
model, or where METASHOT_ENCODER says. Nothing is downloaded, no code of the folder runs, nothing is pickled.
"""

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from metashot import files
from metashot.data import Form
from metashot.errors import MetashotError, printable, reason_of
from metashot.section import Section

FOLDER = "encoder"  # its name beside the samples, and in a registered model
VARIABLE = "METASHOT_ENCODER"  # environment variable: where the encoder is, if it has moved
CARRIED = 100_000_000  # bytes of an encoder's files up to which a registered model carries them
LARGEST = 2**33  # bytes of an encoder's files
MOST = 1000  # files of an encoder
WEIGHTS = "model.safetensors"
ARCHITECTURE = "torchvision.json"  # names the architecture of weights that were a single file
# Weights in other formats, most of them pickled, and programs: no part of an encoder
LEFT_OUT = frozenset(
    {".bin", ".ckpt", ".h5", ".msgpack", ".npz", ".onnx", ".ot", ".pickle", ".pkl", ".pt", ".pth", ".py"}
    | {".pyc", ".so", ".tflite", ".xml"}
)
PICKLED = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})
LONGEST = 200  # characters of a name or statement about an encoder

Job = TypeVar("Job")
Result = TypeVar("Result")
_places: dict[str, Path] = {}  # the folder of each encoder that was placed, by its digest
_loaded: dict[tuple[str, Any], Any] = {}
_LOCK = threading.RLock()


class Encoder(Protocol):
    """A loaded encoder."""

    def __call__(self, samples: Sequence[Any]) -> NDArray[np.float32]:
        """Vectors ``[M, width]``; each depends on its own sample alone. Called from any thread."""


@dataclass(frozen=True, kw_only=True)
class Raw(Section):
    """The keys of ``raw`` of every source with an encoder.

    Attributes:
        encoder: Its folder, relative to the repository or absolute.
        encoder_md5: Digest of its files, written by `metashot refresh`; empty before the first time.
    """

    encoder: str
    encoder_md5: str


@dataclass(frozen=True, kw_only=True)
class Statements(Section):
    """The keys of ``prepare`` about an encoder; where they are empty its own files say it.

    Attributes:
        encoder_name: What to call it.
        encoder_trained_on: The data that it was trained on.
        encoder_seen: Which classes of these data it may have seen in training.
    """

    encoder_name: str = ""
    encoder_trained_on: str = ""
    encoder_seen: str = ""

    def __post_init__(self) -> None:
        for key in ("encoder_name", "encoder_trained_on", "encoder_seen"):
            if len(text := getattr(self, key)) > LONGEST or not text.isprintable():
                raise ValueError(f"{key}: needs one line of at most {LONGEST} characters")


@dataclass(frozen=True, kw_only=True)
class Prepare(Statements):
    """The keys of ``prepare`` of every source with an encoder.

    Attributes:
        width: Numbers of a vector.
    """

    width: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.width <= 65_536:
            raise ValueError(f"width: {self.width} is not between 1 and 65,536")


def contents(place: Path, architecture: str = "") -> dict[str, Path | bytes]:
    """The files of an encoder by their name in its folder, in order; hidden ones and programs are left out.

    Args:
        place: Its folder, or the safetensors file with the weights of an architecture.
        architecture: Name of that architecture in torchvision.

    Raises:
        MetashotError: There is no encoder, it has no safetensors, or it is too large.
    """
    if place.is_file() and architecture:
        named = (json.dumps({"architecture": architecture}) + "\n").encode()
        held: dict[str, Path | bytes] = {WEIGHTS: place, ARCHITECTURE: named}
    elif architecture or not place.is_dir():
        expected = "no such safetensors file" if architecture else "no such folder"
        raise MetashotError(f"{place}: {expected}; set raw.encoder, or {VARIABLE} if the encoder has moved")
    else:
        held, pickled = {}, ""
        for path in sorted(place.rglob("*")):
            name = path.relative_to(place)
            if any(part.startswith(".") for part in name.parts):  # downloads keep timestamps there
                continue
            if path.suffix.lower() in PICKLED:
                pickled = pickled or str(path)
            elif path.is_file() and path.suffix.lower() not in LEFT_OUT:
                held[name.as_posix()] = path
        if layout(held) is None:
            raise MetashotError(
                f"{place}: not an encoder: neither modules.json, as SentenceTransformer.save writes it, nor "
                "config.json with an architecture, as timm does"
            )
        if not any(name.endswith(".safetensors") for name in held):
            reason = f"{pickled}: pickled weights are not read" if pickled else f"{place}: no weights"
            raise MetashotError(f"{reason}: save them as safetensors")
    try:
        size = sum(p.stat().st_size if isinstance(p, Path) else len(p) for p in held.values())
    except OSError as error:
        raise MetashotError(f"{error.filename}: cannot be read ({error.strerror})") from None
    if len(held) > MOST or size > LARGEST:
        raise MetashotError(
            f"{place}: {len(held):,} files of {size:,} bytes; an encoder has at most {MOST:,} of {LARGEST:,}"
        )
    return dict(sorted(held.items()))


def layout(held: Mapping[str, Any]) -> str | None:
    """Which layout an encoder's files have: ``sentence_transformers``, ``timm``, ``torchvision``; or none."""
    if "modules.json" in held:
        return "sentence_transformers"
    if ARCHITECTURE in held:
        return "torchvision"
    config = held.get("config.json")
    return "timm" if isinstance(config, Path) and "architecture" in _config(config) else None


def md5_of(held: Mapping[str, Path | bytes]) -> str:
    """Digest of an encoder: the one DVC gives a folder of exactly these files."""
    try:
        return files.folder_md5(
            {
                name: files.md5(file) if isinstance(file, Path) else hashlib.md5(file).hexdigest()
                for name, file in held.items()
            }
        )
    except OSError as error:
        raise MetashotError(f"{error.filename}: cannot be read ({error.strerror})") from None


def source(raw: Raw, root: Path = Path()) -> Path:
    """Where the encoder of a data set is now: METASHOT_ENCODER if that is set."""
    return Path(os.environ.get(VARIABLE) or root / raw.encoder)


def digest(raw: Raw, root: Path) -> str:
    """Digest of the encoder of a data set as it is now. Raises MetashotError as `contents`."""
    return md5_of(_contents(raw, root))


def pack(raw: Raw, directory: Path) -> None:
    """Copy the encoder into the folder of the raw files. Raises MetashotError if it is not the pinned one."""
    place = source(raw)
    with files.replacing(directory / FOLDER) as partial:
        for name, file in _contents(raw, Path()).items():
            copy = partial / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(file, Path):
                shutil.copyfile(file, copy)
            else:
                copy.write_bytes(file)
        if (present := files.md5(partial)) != raw.encoder_md5:
            raise MetashotError(_other(place, raw.encoder_md5, present))


def place(folder: Path) -> str:
    """Make a packed encoder known, and return its digest. Raises MetashotError as `contents`."""
    md5 = md5_of(contents(folder))
    _places[md5] = folder
    return md5


def find(form: Form) -> Path:
    """The folder of the encoder of a form.

    Raises:
        MetashotError: It was not placed, and METASHOT_ENCODER does not lead to it.
    """
    md5 = form.decoding.get("md5", "")
    if md5 in _places:
        return _places[md5]
    if not (moved := os.environ.get(VARIABLE)):
        raise MetashotError(
            f"the encoder {md5[:12]} is not here: the model does not carry it; name its folder in {VARIABLE}"
        )
    held = contents(Path(moved))
    if (present := md5_of(held)) != md5:
        raise MetashotError(_other(Path(moved), md5, present))
    _places[md5] = Path(moved)
    return Path(moved)


def loaded(form: Form, options: Any, load: Callable[[Path], Encoder]) -> Encoder:
    """The encoder of a form, loaded once for each of its options.

    Raises MetashotError as `find` and `load`.
    """
    key = form.decoding.get("md5", ""), options
    with _LOCK:
        if key not in _loaded:
            _loaded[key] = load(find(form))
        encoder: Encoder = _loaded[key]
    return encoder


def forget() -> None:
    """Forget where encoders are, and those that are loaded."""
    _places.clear()
    _loaded.clear()


def encode(encoder: Encoder, samples: Sequence[Any], form: Form) -> NDArray[np.float32]:
    """Vectors ``[M, width]``. Raises MetashotError if the encoder gives others than the form says."""
    try:
        vectors = encoder(samples)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError) as error:
        raise MetashotError(f"{find(form)}: the encoder fails ({reason_of(error)})") from error
    if vectors.shape[1:] != form.shape:
        numbers = "x".join(map(str, vectors.shape[1:]))
        raise MetashotError(f"{find(form)}: its vectors have {numbers} numbers: set prepare.width to that")
    return vectors


def facts(folder: Path, prepare: Statements, name: str, trained_on: str) -> dict[str, str]:
    """What the data set says about its encoder.

    Args:
        folder: Of the packed encoder.
        prepare: What the user states.
        name: What its files call it.
        trained_on: What its files say that it was trained on; empty if they do not.
    """
    listed = card(folder)
    shown = {
        "name": prepare.encoder_name or listed.get("name") or name,
        "trained_on": prepare.encoder_trained_on or listed.get("datasets") or trained_on,
        "seen": prepare.encoder_seen,
    }
    return {"md5": place(folder), **{key: printable(text)[:LONGEST] for key, text in shown.items()}}


def card(folder: Path) -> dict[str, str]:
    """Name and training data from the model card of an encoder, as far as it has one: its README.md."""
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")[:100_000] if path.is_file() else ""
    except (OSError, UnicodeDecodeError):
        return {}
    head, body = "", text
    if text.startswith("---\n"):
        head, _, body = text.removeprefix("---\n").partition("\n---\n")
    found: dict[str, str] = {}
    names: list[str] = []
    inside = False
    for line in head.splitlines():
        if line.startswith("datasets:"):
            inside, value = True, line.removeprefix("datasets:").strip(" []")
            names += [name.strip(" '\"") for name in value.split(",") if name.strip()]
        elif inside and line.lstrip().startswith("- "):
            names.append(line.strip().removeprefix("- ").strip(" '\""))
        elif not line.startswith(" "):
            inside = False
    if names:
        more = f" and {len(names) - 3:,} more" if len(names) > 4 else ""
        found["datasets"] = ", ".join(names[: 3 if more else 4]) + more
    for line in body.splitlines():
        if line.startswith("# "):
            found["name"] = line.removeprefix("# ").removeprefix("Model card for ").strip()
            break
    return found


def size(held: Mapping[str, Path | bytes]) -> int:
    """Bytes of an encoder's files."""
    return sum(file.stat().st_size if isinstance(file, Path) else len(file) for file in held.values())


def in_threads(function: Callable[[Job], Result], jobs: Sequence[Job]) -> list[Result]:
    """Results of a network, a batch each: one thread for each core, each computing alone.

    So rounding does not depend on the number of cores. On a GPU batches follow one another.
    """
    import torch

    def alone(job: Job) -> Result:
        torch.set_num_threads(1)
        with torch.inference_mode():
            return function(job)

    workers = 1 if device() == "cuda" else len(os.sched_getaffinity(0))
    before = torch.get_num_threads()
    try:
        if min(workers, len(jobs)) < 2:
            return [alone(job) for job in jobs]
        with ThreadPoolExecutor(min(workers, len(jobs))) as pool:
            return list(pool.map(alone, jobs))
    finally:
        torch.set_num_threads(before)


def device() -> str:
    """``cuda`` if there is a GPU, with float32 made exact on it, else ``cpu``."""
    import torch

    backends: Any = torch.backends  # whose types lag behind
    for operations in (backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul):
        operations.fp32_precision = "ieee"
    return "cuda" if torch.cuda.is_available() else "cpu"


def offline() -> None:
    """Keep libraries that know a hub of models from asking it; before they are imported."""
    for variable in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY"):
        os.environ[variable] = "1"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def missing(package: str, extra: str) -> MetashotError:
    """The error about a package that is not installed."""
    return MetashotError(f"encoders of this kind need the package {package}: pip install 'metashot[{extra}]'")


def fails_to_load(folder: Path, error: Exception) -> MetashotError:
    """The error about an encoder that a library cannot load."""
    return MetashotError(f"{folder}: the encoder cannot be loaded ({reason_of(error)})")


def config(folder: Path, name: str) -> dict[str, Any]:
    """A JSON object in the folder of an encoder; empty if it is not there, or none."""
    path = folder / PurePosixPath(name)
    return _config(path) if path.is_file() else {}


def _contents(raw: Raw, root: Path) -> dict[str, Path | bytes]:
    return contents(source(raw, root), getattr(raw, "architecture", ""))


def _config(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _other(place: Path, pinned: str, present: str) -> str:
    return (
        f"{place}: not the encoder that is pinned (raw.encoder_md5: {pinned or 'none yet'}); restore its "
        f"files, or run `metashot refresh` to pin the present ones ({present})"
    )
