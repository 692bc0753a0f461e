"""What all translators with a trained network share: data, validation, tiles, model files; a method adds its loss."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import nn

from pbvs.challenge.model import load_challenge
from pbvs.data.align import open_pair
from pbvs.data.dataset import ChipDataset
from pbvs.data.manifest import pairs_digest
from pbvs.data.split import split_for_tuning
from pbvs.errors import PbvsError, enough_memory
from pbvs.files import digest
from pbvs.metrics.perceptual import Lpips
from pbvs.networks.pix2pixhd import DiscriminatorConfig
from pbvs.recipe import Augmentation
from pbvs.run import STATE
from pbvs.seeds import evenly_spaced
from pbvs.training import checkpoint, distributed
from pbvs.training.checkpoint import TranslatorConfig
from pbvs.training.distributed import numerics
from pbvs.training.losses import PerceptualLoss, PerceptualTerm
from pbvs.training.step import Batch, Chips, Execution, Feed, Schedule, TrainingStep
from pbvs.training.trainer import PAIRS, Settings, Trainer
from pbvs.training.validation import Validator, make_judge
from pbvs.translators.base import FitContext, ImageArray, Translator
from pbvs.translators.inference import Grid, Inference, pixel_budget, translate
from pbvs.translators.settings import NetworkStage

MODEL = "model.safetensors"
LESS = "lower the stage's batch_size (accumulate makes up for it), or its size or widths, and start again"
# What the trainer takes from a stage as it is.
SHARED = ("batch_size", "accumulate", "ema_decay", "validate_every", "patience", "save_minutes", "keep")
MEASURED = 3  # steps that tell how long training will take; the first one is slower


class NetworkTranslator(Translator):
    """Trains a `TrainingStep` by the common trainer; the moving average of its network translates.

    A subclass gives `config`, the network's configuration as `checkpoint.KINDS` knows it, and `prepare`, which makes
    the method.
    """

    stage: NetworkStage
    network: nn.Module | None = None
    metadata: Mapping[str, Any] = MappingProxyType({})
    ends: tuple[int, ...] = ()  # the epochs at which the trainings ended that made the network, the last one's last

    @property
    @abstractmethod
    def config(self) -> TranslatorConfig:
        """The network that the recipe asks for."""

    @property
    def configs(self) -> tuple[TranslatorConfig | DiscriminatorConfig, ...]:
        """The networks that learn, the one that translates first."""
        return (self.config,)

    @property
    def augmentation(self) -> Augmentation:
        """How chips are changed before each use."""
        return Augmentation()

    @property
    def input_grid(self) -> dict[str, Any] | None:
        """The sizes that the network was trained on, as its file says; None where inputs stay as they are."""
        table: dict[str, Any] | None = self.metadata.get("grid")
        return table if self.stage.input_grid == "trained" else None

    @property
    def training(self) -> dict[str, Any]:
        """The epoch kept, what it was chosen on, whether a net that no loss saw disagreed, where trainings ended."""
        known = {key: self.metadata[key] for key in ("epoch", "chosen_on", "parted") if key in self.metadata}
        return known | ({"ends": list(self.ends)} if self.ends else {})

    @property
    def schedule(self) -> Schedule:
        """The learning rate of each epoch."""
        stage = self.stage
        return Schedule(stage.learning_rate, stage.epochs, stage.half_rate_epochs, stage.decay_epochs)

    @property
    def execution(self) -> Execution:
        """How the recipe asks for steps to be computed."""
        stage = self.stage
        return Execution(use_bf16(stage.precision, self.device), stage.channels_last, stage.compile)

    @abstractmethod
    def prepare(self, context: FitContext, perceptual: PerceptualLoss | None) -> TrainingStep:
        """Return the method with its first weights; raise PbvsError when something that it needs is missing."""

    def publish(self, folder: Path, method: TrainingStep, network: nn.Module, metadata: Mapping[str, Any]) -> None:
        """Write the network to keep; called whenever validation found a better one."""
        checkpoint.write_model(folder / MODEL, network, self.config, self.describe(metadata))

    @enough_memory(LESS)
    def fit(self, context: FitContext) -> None:
        """Train, or go on where training was stopped; afterwards the kept network is loaded.

        Raises PbvsError before anything is learnt when there are no pairs, a trunk's file is missing or the weights to
        start from do not fit; and when training diverges.
        """
        if not context.train:
            raise PbvsError(
                f"The training manifest of {self.task.name} is empty; make it again with `pbvs build-pairs` and read "
                "which images could not be used."
            )
        distributed.join(self.device)
        if self.stage.choose_on == "train":
            train, choose = split_for_tuning(context.train, seed=context.recipe.seed)
            context = replace(context, train=train, val=choose)
        method = self.prepare(context, self._perceptual(context))
        validator = self._validator(context)
        chips = self._chips(context)
        trainer = Trainer(
            method,
            chips,
            context.folder,
            self._settings(context, chips, validator),
            what=self.task.name,
            validate=validator if validator.pairs else None,
            publish=lambda network, metadata: self.publish(context.folder, method, network, metadata),
            kept=lambda: self._read(context.folder)[0],
        )
        with numerics(self.stage.deterministic):
            trainer.run()
        distributed.barrier()
        self.load(context.folder)
        self.ends = (*trainer.schedule.ends, trainer.progress.step // trainer.plan.steps)
        self._choose_flips(context, validator)

    def render(self, images: Sequence[ImageArray]) -> list[ImageArray]:
        """Translate (H, W, C_source) images in [0, 1] to (H', W', C_target) on the grid that the network knows."""
        return self.run(self._loaded(), images, dihedral=bool(self.metadata.get("flips")))

    def run(self, network: nn.Module, images: Sequence[ImageArray], *, dihedral: bool = False) -> list[ImageArray]:
        """Translate images with any network of this configuration, brought onto the grid of its training before."""
        config = self.config
        how = Inference(config.multiple, pixel_budget(self.stage.inference_memory, config.width), dihedral)
        table = self.input_grid
        on_grid = [Grid(**table).bring(image) for image in images] if table else images
        inputs = [with_channels(image, config.source_channels) for image in on_grid]
        outputs = translate(network, inputs, how, self.device)
        return [with_channels(image, self.task.target_channels) for image in outputs]

    def disk(self) -> int:
        """Return the bytes of the model, and of the state: weights, their average and two moments of each."""
        average = bool(self.stage.ema_decay)
        with torch.device("meta"):
            sizes = [sum(p.numel() for p in checkpoint.make_network(config).parameters()) for config in self.configs]
        return 4 * (4 * sum(sizes) + average * sizes[0])

    @enough_memory(LESS)
    def measure(self, context: FitContext) -> float:
        """Return the seconds of a step on random images, from the first weights; loading images is not measured."""
        method, stage = self.prepare(replace(context, initial=None), self._perceptual(context)), self.stage
        method.begin_epoch(1)
        shape, random = (stage.batch_size, stage.size), torch.Generator().manual_seed(0)
        source, target = (
            (torch.rand(shape[0], channels, shape[1], shape[1], generator=random) * 2 - 1).to(self.device)
            for channels in (self.config.source_channels, self.config.target_channels)
        )
        batch = Batch(source, target, torch.ones_like(target[:, :1], dtype=torch.bool))
        seconds = []
        for _ in range(MEASURED):
            begun = time.perf_counter()
            for micro in range(stage.accumulate):
                method.accumulate(batch, 1 / stage.accumulate, last=micro == stage.accumulate - 1)
            method.step(stage.learning_rate)
            if self.device.startswith("cuda"):
                torch.cuda.synchronize(self.device)
            seconds.append(time.perf_counter() - begun)
        return min(seconds[1:])

    def save(self, folder: Path) -> None:
        """Write the network with its configuration and how it was trained."""
        checkpoint.write_model(folder / MODEL, self._loaded(), self.config, self.metadata)

    def load(self, folder: Path) -> None:
        """Read what `save` wrote; raise PbvsError when it is missing, damaged or not what the recipe asks for."""
        self.network, self.metadata = self._read(folder)

    def _read(self, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
        path = folder / MODEL
        tensors, config, metadata = checkpoint.read_model(path, checkpoint.kind_of(self.config))
        if config != self.config:
            raise PbvsError(
                f"{path} holds another network than the recipe asks for "
                f"({checkpoint.differences(config, self.config)}); change the recipe, or train again with --retrain."
            )
        network = checkpoint.make_network(self.config)
        network.load_state_dict(tensors)
        known = {key: value for key, value in metadata.items() if key not in ("kind", "config")}
        return network.to(self.device).eval(), known

    def channels(self, channels: int) -> int:
        """Return the network's channels for images of so many."""
        return 3 if self.stage.channels == "replicated" else channels

    def describe(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Return `metadata` with what the model is for, how its epoch was chosen and the stage that made it."""
        chosen = self.stage.keep == "best" and (metadata.get("validation") or {}).get("score") is not None
        return {
            **metadata,
            "grid": self.metadata.get("grid"),
            "chosen_on": self.stage.choose_on if chosen else None,
            "lpips_net": self.metadata.get("lpips_net"),
            "task": self.task.name,
            "method": self.method,
            "stage": self.stage.model_dump(mode="json"),
            "flips": self.stage.test_time_flips == "always",
        }

    def _loaded(self) -> nn.Module:
        if self.network is None:
            raise PbvsError(f"The model of {self.task.name} is not trained yet; run `pbvs predict`.")
        return self.network

    def _perceptual(self, context: FitContext) -> PerceptualLoss | None:
        terms = [PerceptualTerm(**term.model_dump()) for term in self.stage.perceptual_terms]
        nets = {name: Lpips(name, context.weights).to(self.device) for name in dict.fromkeys(t.net for t in terms)}
        return PerceptualLoss(terms, nets, context.recipe.seed) if terms else None

    def _chips(self, context: FitContext) -> Chips:
        recipe = context.recipe

        def prepare() -> ChipDataset:
            """Make the chips that are not in the cache."""
            return ChipDataset(
                context.train,
                context.root,
                recipe.radiometry,
                recipe.chips,
                size=self.stage.size,
                seed=recipe.seed,
                augmentation=self.augmentation,
                cache=context.cache,
                jobs=context.jobs,
                sampling=recipe.sampling,
                epochs=self.stage.passes,
            )

        chips = distributed.main_first(prepare)
        grid = Grid.of(chips.sizes(), self.stage.size if recipe.chips.mode == "whole" else 0)
        self.metadata = {**self.metadata, "grid": grid.table() if grid else None}
        return chips

    def _validator(self, context: FitContext) -> Validator:
        stage, recipe = self.stage, context.recipe
        nets = list(dict.fromkeys(term.net for term in stage.perceptual_terms))
        challenge = load_challenge(recipe.challenge)
        state, before = context.folder / STATE, None
        if state.is_file():  # versions that did not say took the loss's first net
            before = checkpoint.read_tensors(state, whole=False)[1].get("lpips_net", (*nets, "alex")[0])
        how = (stage.choose_by, challenge, nets, stage.watch_net, context.weights, self.device, before)
        judge, unseen = make_judge(*how)
        self.metadata = {**self.metadata, "lpips_net": judge.lpips_net}
        return Validator(
            evenly_spaced([pair for pair in context.val if pair.target], self.stage.validation_images),
            lambda pair: open_pair(pair, context.root, recipe.radiometry),
            self.run,
            judge,
            unseen,
            self.task.challenge_size if recipe.evaluation_size == "challenge" else None,
            context.folder / "samples",
        )

    def _settings(self, context: FitContext, chips: Chips, validator: Validator) -> Settings:
        stage = self.stage
        return Settings(
            schedule=self.schedule,
            **{name: getattr(stage, name) for name in SHARED},
            feed=Feed(
                self.device,
                min(context.jobs, 8) if self.device.startswith("cuda") else 0,
                (self.config.source_channels, self.config.target_channels),
            ),
            identity=self._identity(context, len(chips)),
            free=stage.FREE,
            choice=digest([stage.keep, validator.identity]),
            lpips_net=validator.judge.lpips_net,
            trained=context.trained,
            higher_is_better=validator.judge.protocol.higher_is_better,
            ahead=context.ahead / max(1.0, stage.work(len(context.train))),
        )

    def _identity(self, context: FitContext, samples: int) -> dict[str, Any]:
        recipe, stage = context.recipe, self.stage.identity(self.stage.FREE)
        parts = (recipe.radiometry, recipe.chips, recipe.sampling)
        how = [part.model_dump(mode="json", exclude_defaults=True) for part in parts]
        return {
            "task": self.task.name,
            "method": stage.get("method", self.method),
            "kind": checkpoint.kind_of(self.config),
            "network": asdict(self.config),
            "stage": stage,
            "data": digest([[pair.paths for pair in context.train], how]),
            PAIRS: pairs_digest(context.train),
            "seed": recipe.seed,
            "samples": samples,
        }

    def _choose_flips(self, context: FitContext, validator: Validator) -> None:
        """Average over flips and turns as the recipe says, or where it leaves it to validation and it scores better."""
        asked = self.stage.test_time_flips
        found: dict[str, Any] = {"flips": asked == "always"}
        if asked == "auto":
            if not validator.pairs or "flips_score" in self.metadata:
                return
            scores = []
            for dihedral in (False, True):
                validator.samples = None
                validator.translate = partial(self.run, dihedral=dihedral)
                scores.append(validator(self._loaded(), 0)["score"] or 0.0)
            helps = scores[1] > scores[0] if validator.judge.protocol.higher_is_better else scores[1] < scores[0]
            found = {"flips": helps, "plain_score": scores[0], "flips_score": scores[1]}
        elif bool(self.metadata.get("flips")) == found["flips"]:
            return
        kept = {key: value for key, value in self.metadata.items() if key not in ("plain_score", "flips_score")}
        self.metadata = {**kept, **found}
        if distributed.is_main():
            self.save(context.folder)


def with_channels(image: ImageArray, channels: int) -> ImageArray:
    """Return (H, W, channels): gray replicated, or the mean of the channels as gray."""
    if image.shape[2] == channels:
        return image
    gray = image.mean(axis=2, keepdims=True, dtype=np.float32)
    return np.repeat(gray, channels, axis=2)


def use_bf16(precision: str, device: str) -> bool:
    """Return whether the forward pass runs in bfloat16: as the recipe says, or where the GPU computes in it."""
    if precision == "auto":
        return device.startswith("cuda") and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"
