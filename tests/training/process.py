"""A training in a process of its own, to be killed or to be one of several: python -m tests.training.process FOLDER."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # the first optimiser step loads it; loaded here, processes forked from this one need not
import torch.utils.tensorboard

from pbvs.data.manifest import Pair
from pbvs.devices import world_size
from pbvs.metrics.judge import Judge
from pbvs.metrics.protocol import load_protocol
from pbvs.training import distributed
from pbvs.training.step import Schedule
from pbvs.training.validation import Validator
from pbvs.translators.inference import Inference, translate
from tests.training.little import LittleChips, little_method, little_trainer, random_lpips


class Opened:
    """A validation pair made of a chip."""

    def __init__(self, number: int):
        source, target, _ = LittleChips(side=32)[0, number]
        self.source, self.target = ((x.permute(1, 2, 0).float() / 255).numpy() for x in (source, target))


def validator() -> Validator:
    """Measure five images by RMSE and the random trunk."""
    pairs = [Pair(str(number), "sar2eo", "val", "place", "source") for number in range(5)]
    how = Inference(2, 10**6)
    judge = Judge(load_protocol(lpips_net="random"))
    return Validator(pairs, lambda pair: Opened(int(pair.name)), lambda net, inputs: translate(net, inputs, how), judge)


def main(folder: Path, batch_size: int, epochs: int = 2, accumulate: int = 1, most: int | None = None) -> None:
    """Train in `folder`; the first process writes the validation's numbers.

    With `most` a byte is appended to `folder`.states for each state that is written, and after so many of them the
    process waits for its end.
    """
    torch.set_num_threads(1)
    distributed.join()
    found = []

    def validate(network: torch.nn.Module, epoch: int) -> dict[str, float | None]:
        found.append(validator()(network, epoch))
        return found[-1]

    trainer = little_trainer(
        folder,
        little_method(perceptual=random_lpips()),
        chips=LittleChips(8, side=32),
        batch_size=batch_size // world_size(),
        accumulate=accumulate,
        schedule=Schedule(1e-3, epochs, 1),
        validate=validate,
    )
    if most is not None:
        save, states = trainer.save, folder.with_suffix(".states")

        def save_and_count() -> None:
            save()
            with states.open("ab") as file:
                file.write(b".")
            if states.stat().st_size == most:
                time.sleep(3600)

        trainer.save = save_and_count  # type: ignore[method-assign]
    trainer.run()
    if distributed.is_main():
        (folder / "validation.json").write_text(json.dumps(found))
    distributed.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:]))
