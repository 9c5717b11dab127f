"""Checkpoint files as people have them: their tensors, and what they say of them. No code of a file is run."""

import contextlib
import logging
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError, safe_open

from cxrdali.models import weights_file
from shards.errors import UserError
from shards.storage.csv import one_line
from shards.storage.sealed import CHECKSUM, note_unsealed

log = logging.getLogger(__name__)

GIVE = "give a run folder or a .safetensors or .pt file"
# where programs keep their weights; a moving average (DINO's teacher) before what it is made from, as timm takes them
TABLES = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher", "state_dict", "model_state_dict", "model_state",
    "model", "module", "params_ema", "params", "net", "network", "weights", "student",
)  # fmt: skip
ARCH = ("arch", "model", "model_name", "architecture", "backbone")  # where they name their network
# what programs pickle beside weights, and does not begin with a capital as other classes do; none of it is called
HARMLESS = {
    "numpy.dtype", "numpy.ndarray", "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct", "datetime.datetime",
    "functools.partial", "collections.defaultdict",
    *(f"builtins.{name}" for name in ("dict", "list", "tuple", "int", "float", "str", "bool", "object")),
}  # fmt: skip
BEGINNINGS = {
    b"\x89HDF": "is HDF5, as Keras writes",
    b"\x93NUMPY": "is a NumPy array",
    b"GGUF": "is GGUF",
    b"\x1f\x8b": "is compressed (gzip); unpack it first",
    b"version https://git-lfs": "is a pointer of Git LFS; fetch the file with `git lfs pull`",
}
SUFFIXES = {".onnx": "ONNX", ".pb": "TensorFlow", ".index": "TensorFlow", ".tflite": "TensorFlow", ".msgpack": "Flax"}


class _Inert:
    """What an object of another program becomes: its attributes, without its class and its code."""

    def __new__(cls, *given: Any) -> "_Inert":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and metadata (text to text) of a weights file, whatever its suffix.

    Keys are as the program that wrote it has them. Metadata of a file that is not ours: "arch" at most. Raises
    UserError if it is not one, or is not what was written.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights file; {GIVE}")
    try:
        if reason := _other_format(path):
            raise UserError(f"{path}: no weights file: it {reason}; {GIVE}")
        if path.suffix == ".safetensors" or _begins(path)[8:9] == b"{":
            about = weights_file.check(path)
            if CHECKSUM not in about and "findings" in about:  # not of ours: timm's, say
                note_unsealed(path)
            with safe_open(path, framework="pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118
        check_records(path)
        content = _unpickled(path)
        tensors, about = _table(content, path), _about(content)
    except (SafetensorError, zipfile.BadZipFile, OSError, RuntimeError, ValueError, EOFError) as error:
        raise UserError(f"{path}: not a weights file ({first_line(error)}); {GIVE}") from error
    except UserError:
        raise
    except Exception:  # torch raises pickle's own errors for refused code, and advises to run it
        raise _more_than_tensors(path) from None
    if not tensors:
        if any(isinstance(each, _Inert) for each in [content, *_named(content, TABLES)]):
            raise _more_than_tensors(path)
        raise UserError(f"{path}: holds no table of weights; {GIVE}")
    tables = [name for name in TABLES if _table(content.get(name), path)]
    if len(tables) > 1:
        log.info(f"{path}: of its tables of weights, {tables[0]!r} is taken, not {tables[1]!r}")
    return tensors, about


def check_records(path: Path) -> None:
    """Raises ValueError if a file that torch.save wrote is damaged by its records' CRCs, which torch.load ignores."""
    if not zipfile.is_zipfile(path):  # of torch before 1.6
        return
    with zipfile.ZipFile(path) as records:
        damaged = records.testzip()
    if damaged:
        raise ValueError(f"its record {damaged!r} is damaged, by its CRC-32")


def first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__


def _begins(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(512)


def _other_format(path: Path) -> str:
    """What the file is instead, in words; nothing if torch may have written it."""
    begins = _begins(path)
    if not begins:
        return "is empty"
    for beginning, words in BEGINNINGS.items():
        if begins.startswith(beginning):
            return words
    if path.suffix in SUFFIXES or ".data-0" in path.suffix:
        return f"is {SUFFIXES.get(path.suffix, 'TensorFlow')}"
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as records:
            names = records.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            return "is TorchScript; write torch.jit.load(FILE).state_dict() with torch.save"
        if not any(name.endswith("data.pkl") for name in names):
            return f"is an archive of {names[0] if names else 'nothing'!r} and others; unpack it first"
    elif tarfile.is_tarfile(path):
        return "is a tar archive; unpack it first"
    elif begins.isascii() and one_line(begins.decode()).isprintable():
        return f"is text that begins with {one_line(begins.decode())[:40]!r}"
    return ""


def _unpickled(path: Path) -> Any:
    """What torch.save wrote, objects of other programs as _Inert. Raises UserError for a function that it names."""
    names = [*HARMLESS, "argparse.Namespace"]
    if zipfile.is_zipfile(path):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        # a class makes an object, of which only the attributes matter; a function has no other use than to be run
        if any(not name.rpartition(".")[2][:1].isupper() and name not in HARMLESS for name in names):
            raise _more_than_tensors(path)
    stand_ins: list[Any] = [(OrderedDict if name.endswith("Dict") else _Inert, name) for name in names]
    with torch.serialization.safe_globals(stand_ins):
        return torch.load(path, map_location="cpu", weights_only=True)


def _more_than_tensors(path: Path) -> UserError:
    names = []
    with contextlib.suppress(Exception):  # an older or a damaged file does not list them
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    objects = f" ({', '.join(sorted(names)[:3])})" if names else ""
    return UserError(
        f"{path}: no weights file, or one that holds more than tensors{objects}, of which no code is run here; where "
        "its program is, write the weights alone with torch.save(model.state_dict(), 'weights.pt') and give that file"
    )


def _table(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a state_dict, or of the one that a checkpoint holds. Raises UserError if there are several."""
    if not isinstance(content, dict):
        return {}
    for name in TABLES:
        if found := _table(content.get(name), path):
            return found
    tensors = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, torch.Tensor)}
    if any(each.ndim for each in tensors.values()):  # else they count something
        return tensors
    inside = {
        name: found for name, each in content.items() if "optim" not in str(name) and (found := _table(each, path))
    }
    if len(inside) > 1:
        names = ", ".join(map(repr, inside))
        raise UserError(f"{path}: holds several tables of weights ({names}); write those of one network to a file")
    return next(iter(inside.values()), {})


def _named(content: Any, names: tuple[str, ...]) -> list:
    """Entries of a dictionary or an object of another program."""
    table = vars(content) if isinstance(content, _Inert) else content
    return [table[name] for name in names if name in table] if isinstance(table, dict) else []


def _about(content: Any) -> dict[str, str]:
    """What a checkpoint says of its weights: ours (a last.pt) all of it, others at most their timm network."""
    if not isinstance(content, dict):
        return {}
    if isinstance(content.get("about"), dict):
        return {str(key): str(value) for key, value in content["about"].items()}
    about = {}
    if "finding_names" in content:  # the last.pt of an older version
        about = {"findings": "\n".join(content["finding_names"]), "logit_scale": str(content.get("logit_scale", 1.0))}
    places = [content, *_named(content, ("args", "hyper_parameters", "config"))]
    arch = [each for place in places for each in _named(place, ARCH) if isinstance(each, str)]
    known = [each for each in arch if timm.is_model(each.split(".")[0])]
    return about | ({"arch": known[0]} if known else {})
