"""Where the checks work: a device, a folder with small random weights and demo data, and a clock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]

# Two trained tasks and one cascade: four loading processes, accumulation, recomputed blocks, both methods.
RECIPE = """name = "gpu"
evaluation_size = "native"
[stages.sar2eo]
method = "pix2pixhd"
size = 64
epochs = 2
half_rate_epochs = 1
batch_size = 8
generator_width = 16
discriminator_width = 16
downsamplings = 2
residual_blocks = 2
lpips_net = "alex"
save_minutes = 0.02
[stages.sar2rgb]
method = "pix2pixhd"
init_from = "sar2eo"
size = 64
epochs = 2
half_rate_epochs = 1
batch_size = 4
accumulate = 2
recompute = true
generator_width = 16
discriminator_width = 16
downsamplings = 2
residual_blocks = 2
lpips_net = "vgg"
test_time_flips = "auto"
save_minutes = 0.02
[stages.sar2ir]
method = "cascade"
first = "sar2rgb"
intensity = 1.15
[stages.rgb2ir]
method = "unet"
epochs = 3
rounds = 4
size = 64
width = 16
lpips_net = "alex"
zoom = 1.25
sharpen = 0.5
save_minutes = 0.02
"""


@dataclass
class Lab:
    """A device to prove things on, and a folder that is thrown away afterwards."""

    device: str
    folder: Path
    seconds: float = 465.0
    started: float = field(default_factory=time.monotonic)

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU; without one the checks are rehearsed."""
        return self.device.startswith("cuda")

    @property
    def kind(self) -> str:
        """The device's kind, as autocast wants it."""
        return self.device.split(":")[0]

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return self.seconds - (time.monotonic() - self.started)

    @property
    def weights(self) -> Path:
        """The folder of the frozen networks' weights, made with the first call: right shapes, random numbers."""
        folder = self.folder / "weights"
        if not folder.is_dir():
            _write_weights(folder)
        return folder

    def run(self, *words: str, launch: tuple[str, ...] = ("-m", "pbvs"), **environment: str) -> tuple[int, str, float]:
        """Run a command in the folder; return its status, what it said, and how long it took."""
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, *launch, *words],
            cwd=self.folder,
            env=self.environment(**environment),
            capture_output=True,
            text=True,
            timeout=max(5.0, min(150.0, self.left)),
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, round(time.monotonic() - start, 1)

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a command that shall find this package and the lab's own weights alone."""
        kept = {name: value for name, value in os.environ.items() if name not in ("PBVS_DATA", "PBVS_CACHE")}
        paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
        return {**kept, "PYTHONPATH": paths, "PBVS_WEIGHTS": str(self.weights), **more}

    def train(self, run: str, *more: str, recipe: str = "gpu.toml", device: str = "") -> tuple[int, str, float]:
        """Train and predict a run of the recipe on the device, with four loading processes."""
        words = ("predict", "--all", "--recipe", recipe, "--run", run, "--data", "demo", "--device")
        return self.run(*words, device or self.device, "--jobs", "4", *more)

    def model(self, run: str, task: str, name: str = "") -> Path:
        """Return the folder of a task's model, or a file in it."""
        return self.folder / "submissions" / run / "models" / task / name


def relative(found: Any, wanted: Any) -> float:
    """Return |found - wanted| / |wanted| of two tensors, in double precision."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm().clamp_min(1e-30))


def furthest(found: dict[str, float], wanted: dict[str, float]) -> float:
    """Return the largest relative difference of two tables of numbers."""
    return max(abs(found[key] - value) / max(1e-6, abs(value)) for key, value in wanted.items())


def _write_weights(folder: Path) -> None:
    """Write every frozen network that the package may ask for, with random weights that keep activations in bounds."""
    import torch
    from safetensors.torch import save_file

    from pbvs.metrics.fid import Inception
    from pbvs.metrics.perceptual import Trunk
    from pbvs.metrics.weights import get_source

    folder.mkdir(parents=True)
    rng = torch.Generator().manual_seed(1)
    networks: dict[str, Any] = {net: Trunk(net) for net in ("alex", "squeeze", "vgg", "vgg19")}
    for name, network in {**networks, "inception": Inception().net}.items():
        wanted = {key: value.shape for key, value in network.state_dict().items() if "num_batches" not in key}
        save_file({key: _random(key, shape, rng) for key, shape in wanted.items()}, folder / get_source(name).slim)


def _random(name: str, shape: Any, rng: Any) -> Any:
    """Return a tensor of a frozen network: He's for convolutions, near 1 for a normalisation's scale, else near 0."""
    import torch

    if len(shape) > 1:
        return torch.randn(shape, generator=rng) * (2 / shape[1:].numel()) ** 0.5
    if name.endswith(("bn.weight", "running_var")):
        return torch.rand(shape, generator=rng) * 0.2 + 0.9
    return torch.rand(shape, generator=rng) * 0.2 - 0.1
