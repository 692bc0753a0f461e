"""Where the frozen networks' weights lie: found by name, checked by digest, downloaded by `pbvs weights fetch` alone.

File names, addresses and digests are torchvision's (the first digits of the SHA-256 are part of its file names) and,
for Inception, those of pytorch-fid's release `fid_weights`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pbvs.errors import PbvsError, UsageError
from pbvs.files import NO_LOCKS, atomic_path, sha256, write_error
from pbvs.tensors import load_tensors

if TYPE_CHECKING:
    from torch import Tensor

VARIABLE = "PBVS_WEIGHTS"
TIMEOUT = 10.0  # seconds without an answer before a download gives up
BLOCK = 1 << 20


@dataclass(frozen=True)
class Source:
    """One network's weights: the full file that others publish, and the slim one that holds what is used."""

    net: str
    title: str
    slim: str  # features only, safetensors
    full: str  # as published; the part after the last '-' begins the file's SHA-256
    url: str
    megabytes: int
    use: str = ""
    prefix: str = ""  # keys that are used begin so
    other_names: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """First hexadecimal digits of the full file's SHA-256, as its name states them."""
        return Path(self.full).stem.rsplit("-", 1)[1]

    @property
    def names(self) -> tuple[str, ...]:
        """File names under which the weights may lie, the slim one first."""
        return (self.slim, self.full, *self.other_names)


_TORCHVISION = "https://download.pytorch.org/models/"
_FID = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"


def _torchvision(net: str, title: str, full: str, megabytes: int, use: str) -> Source:
    slim = f"{full.split('-')[0]}-features.safetensors"
    return Source(net, title, slim, full, _TORCHVISION + full, megabytes, use, "features.")


SOURCES: dict[str, Source] = {
    source.net: source
    for source in (
        _torchvision("alex", "AlexNet", "alexnet-owt-7be5be79.pth", 233, "LPIPS; the demo's loss"),
        _torchvision("squeeze", "SqueezeNet 1.1", "squeezenet1_1-b8a52dc0.pth", 5, "LPIPS; the smallest"),
        _torchvision("vgg", "VGG-16", "vgg16-397923af.pth", 528, "LPIPS; what protocols prefer, the paper's loss"),
        _torchvision("vgg19", "VGG-19", "vgg19-dcbb9e9d.pth", 548, "pix2pixHD's perceptual loss"),
        Source(
            "inception",
            "Inception-v3 for FID",
            "inception-fid.safetensors",
            "pt_inception-2015-12-05-6726825d.pth",
            _FID + "pt_inception-2015-12-05-6726825d.pth",
            91,
            "FID and KID",
            other_names=("weights-inception-2015-12-05-6726825d.pth",),
        ),
    )
}


def get_source(net: str) -> Source:
    """Return what is known of a network's weights; raise UsageError naming those there are."""
    try:
        return SOURCES[net]
    except KeyError:
        raise UsageError(f"There are no weights for a net {net!r}; the nets are {', '.join(SOURCES)}.") from None


def hub_folder() -> Path:
    """Return the folder where torch.hub keeps downloaded weights (the rule of torch.hub's documentation)."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    home = Path(os.environ.get("TORCH_HOME") or cache / "torch")
    return _expanded(home) / "hub" / "checkpoints"


def _expanded(folder: Path | str) -> Path:
    with contextlib.suppress(RuntimeError):  # where there is no home
        return Path(folder).expanduser()
    return Path(folder)


def folders(folder: Path | None) -> list[Path]:
    """Return the folders that are searched, in order: the one given, $PBVS_WEIGHTS, torch hub's cache."""
    named = [folder, os.environ.get(VARIABLE) or None]
    wanted = [*(_expanded(item) for item in named if item is not None), hub_folder()]
    return list(dict.fromkeys(wanted))


def look(net: str, folder: Path | None = None) -> Path | None:
    """Return the path of a network's weights, or None where there are none."""
    source = get_source(net)
    candidates = (parent / name for parent in folders(folder) for name in source.names)
    return next((path for path in candidates if path.is_file()), None)


def find(net: str, folder: Path | None = None) -> Path:
    """Return the path of a network's weights: slim `.safetensors` or the full `.pth` as published.

    Raises PbvsError that says which file is missing, where it may lie and what else would do.
    """
    path = look(net, folder)
    if path is None:
        raise PbvsError(_missing(get_source(net), folder))
    return path


def _missing(source: Source, folder: Path | None) -> str:
    places = folders(folder)
    others = [net for net in ("alex", "squeeze", "vgg") if net != source.net and look(net, folder)]
    choice = f"; --lpips-net {others[0]} would work now" if others and source.net in ("alex", "squeeze", "vgg") else ""
    return (
        f"The weights of {source.title} ({source.full} or {source.slim}) are not in "
        f"{' or '.join(map(str, places))}; run `pbvs weights fetch {source.net}`, or name their folder with --weights "
        f"or {VARIABLE}{choice}."
    )


def fetch(net: str, folder: Path | None = None) -> Path:
    """Download a network's published weights into the first folder searched, unless they are somewhere already.

    One process downloads, others wait for it. Raises PbvsError when there is no network or the digest is wrong.
    """
    source = get_source(net)
    target = folders(folder)[0] / source.full
    if target.parts[0] == "~":
        raise UsageError(f"There is no home folder; name one for the weights with --weights or {VARIABLE}.")
    with _alone(target):
        there = look(net, folder)
        if there is None:
            _download(source, target, folder)
    return there or target


def _download(source: Source, target: Path, folder: Path | None) -> None:
    from urllib.error import URLError

    with atomic_path(target) as part:
        try:
            with part.open("wb") as file:
                for block in _blocks(source):
                    file.write(block)
        except (TimeoutError, ConnectionError, URLError) as error:
            reason = getattr(error, "reason", None) or error
            raise PbvsError(f"{_missing(source, folder)} The download failed: {reason}.") from None
        if not sha256(part).startswith(source.digest):
            raise PbvsError(
                f"What {source.url} sent is not {source.full} (its SHA-256 does not begin with {source.digest}); "
                "nothing was kept, so try again or copy the file by hand."
            )


def _blocks(source: Source) -> Iterator[bytes]:
    from urllib.request import urlopen

    from pbvs.logs import track

    with urlopen(source.url, timeout=TIMEOUT) as answer:
        blocks = iter(lambda: answer.read(BLOCK), b"")
        yield from track(blocks, f"Downloading {source.full}", source.megabytes, "MB")


@contextlib.contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Hold a lock beside `target`, so that of several processes one downloads and the rest wait; it leaves none."""
    from filelock import FileLock

    lock = target.parent / f".{target.name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock, fallback_to_soft=False))
            stack.callback(lock.unlink, missing_ok=True)
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise write_error(target, error) from None
            lock.unlink(missing_ok=True)  # no locks on this file system: the atomic rename still keeps the file whole
        yield


def read_tensors(path: Path, prefix: str = "") -> dict[str, Tensor]:
    """Return a weights file's tensors whose names begin with `prefix`; raises PbvsError as `load_tensors` does."""
    return {name: value for name, value in load_tensors(path).items() if name.startswith(prefix)}


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors (names, shapes, bytes): the same for a slim file and the full one."""
    whole = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        whole.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()
