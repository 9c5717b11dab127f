"""A run over a schedule of sizes: what later sizes need is looked at before the run begins, not hours after it; and the
way from one size to the next, which is that of a killed run that continues."""

import gc
from dataclasses import dataclass
from pathlib import Path

import torch

from cxrdali.data.loader import Loader, nearest_stored
from cxrdali.data.sampler import epoch_samples
from cxrdali.data.schedule import Segment
from cxrdali.models.classifier import create
from cxrdali.models.weights import resampled
from cxrdali.runs import folder
from cxrdali.runs.config_file import read_config
from cxrdali.runs.settings import TrainSettings
from cxrdali.runtime.device import Hardware
from cxrdali.runtime.distributed import Ranks
from cxrdali.train import identity
from cxrdali.train.build import Continued, Parts
from cxrdali.train.hooks import Hooks
from cxrdali.train.microbatch import remembered
from cxrdali.train.selection import TrainingData
from cxrdali.train.tracking import Tracking
from shards.errors import UserError
from shards.words import counted


@dataclass(frozen=True)
class Begun:
    """What all sizes of a run have in common. config: what config.json says of a run that begins."""

    out: Path
    settings: TrainSettings
    data: TrainingData
    hardware: Hardware
    ranks: Ranks
    config: dict
    tracking: Tracking
    loader: type[Loader]
    hooks: Hooks


def is_switch(loaded: dict | None, segment: Segment) -> bool:
    """Whether a state is the end of the size before."""
    return loaded is not None and segment.start > 0 and (loaded["epoch"], loaded["position"]) == (segment.start, 0)


def saved(out: Path) -> dict:
    """The state that the next size starts from, once the parts of the size before are gone from memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    torch.compiler.reset()  # it compiles one network a few times at most
    loaded = folder.load_last(out)
    assert loaded is not None  # it was just saved
    return loaded


def continued(out: Path, loaded: dict, segment: Segment) -> Continued:
    """What a run that goes on already has, at its size. Takes the weights out of `loaded`."""
    config, said = read_config(out), loaded.get("about", {})
    if is_switch(loaded, segment):
        said = {**said, "size": str(segment.size)}
    if config.get("at_size", segment.size) != segment.size:  # nothing was found for this one yet
        return Continued(loaded.pop("model"), None, said)
    return Continued(loaded.pop("model"), remembered(out), said, config.get("compile"))


def record(run: Begun, parts: Parts, loaded: dict | None, is_next: bool) -> None:
    """Write config.json and what stands beside it. Not before the run can begin: one that could not must not stand in
    the way of other settings. is_next: it goes on without a break, with another size."""
    found = {"micro_batch": parts.searched, "compile": parts.arranged.measured}
    settings, at_size = parts.settings, {}
    if run.settings.data.schedule:  # the whole's, whose batch another size's micro-batch need not divide
        micro_batch = parts.settings.runtime.micro_batch
        fits = micro_batch and run.settings.optimizer.batch % micro_batch == 0
        own = {"micro_batch": micro_batch if fits else None, "compile": parts.settings.runtime.compile}
        settings, at_size = run.settings.changed(**own), {"at_size": parts.segment.size}
    config = {**run.config, "settings": settings.as_json(), **found, **at_size}
    if not is_next:
        identity.record(run.out, config, loaded)
        parts.data.write(run.out)
        folder.settle(run.out, loaded, parts.settings)
    if at_size and read_config(run.out).get("at_size") != parts.segment.size:
        now = {name: config[name] for name in ("settings", *found, *at_size)}
        folder.write_config(run.out, {**read_config(run.out), **now})


def check(settings: TrainSettings, data: TrainingData, ranks: Ranks) -> None:
    """Raises UserError for a size of the run's schedule that could not be trained."""
    settings.check_schedule()
    if settings.data.schedule is None:
        return
    samples = epoch_samples(data.sampler, data.epoch_rows)
    for each in settings.segments:
        try:
            ranks.share(each.batch or samples, None if settings.study else settings.runtime.micro_batch)
            nearest_stored(data.dataset, each.size)
            if samples < (each.batch or samples):
                raise UserError(
                    f"{counted(samples, 'training image')} make no batch of {each.batch}; give it a smaller one after "
                    "the @, or pack more images"
                )
        except UserError as error:
            raise UserError(f"schedule: {each}: {error}") from error
    _check_network(settings, len(data.findings))


def _check_network(settings: TrainSettings, num_findings: int) -> None:
    """Raises UserError for a size that the network does not take, or to which its weights cannot be brought."""
    before: dict = {}
    with torch.random.fork_rng([]):
        for each in settings.segments:
            try:
                backbone = create(settings.at(each).model_options(), num_findings).backbone
            except UserError as error:
                raise UserError(f"schedule: {each}: {error}") from error
            own, fitted = backbone.state_dict(), resampled(backbone, before)
            if odd := [key for key, value in fitted.items() if key not in own or own[key].shape != value.shape]:
                raise UserError(
                    f"schedule: {each}: {settings.model.arch!r} cannot change its size within a run ({odd[0]} stays "
                    "as it was); give another --arch, or one size"
                )
            before = own
