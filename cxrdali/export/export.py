"""`cxrdali export`: a run in the formats of other programs. Each is checked against torch before its file is there."""

import json
import logging
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from cxrdali.export import graph, timm_files
from cxrdali.export.card import card
from cxrdali.export.check import expected, maps_of
from cxrdali.export.facts import facts
from cxrdali.export.network import Exported, plain
from cxrdali.export.options import OPSET, OUTPUTS, ExportOptions
from cxrdali.export.place import MARK, check_place, publish_folder
from cxrdali.models import weights_file
from cxrdali.models.classifier import Classifier
from cxrdali.postprocess.rules import FORMAT, Rules
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import JudgeOptions
from cxrdali.runs.reader import Run, weights_epoch
from shards import __version__
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import json_bytes, write_bytes
from shards.storage.sealed import sealed_json

log = logging.getLogger(__name__)

NEEDED = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "hub-folder": ("huggingface_hub",),
    "card": ("huggingface_hub",),
}


def export(run: Path, out: Path, options: ExportOptions, dataset: PackedDataset | None = None) -> None:
    """Write a run to `out` in one rename, and log what was written and how it was checked.

    Args:
        run: The run's folder; its last.pt is not needed.
        out: A file with the target's suffix; for a hub-folder, a new or empty folder.
        options: To what, and with which rules.
        dataset: The pack that it was trained on. An export is checked on its validation images, and a card counts it.
            Without one, images are generated, and a card says less.

    Raises:
        UserError: Something else is in the place of `out`, a file does not belong to the run, the network cannot be
            exported so, or gives other numbers than torch.
    """
    check_place(out, options.to)
    if missing := [name for name in NEEDED.get(options.to, ()) if find_spec(name) is None]:
        raise UserError(f"--to {options.to}: {', '.join(missing)} not installed; pip install 'cxrdali[export]'")
    rules = {"calibration": options.calibration, "thresholds": options.thresholds}
    asked = JudgeOptions(**rules, device="cpu", precision="fp32", allow_other_run=options.allow_other_run)
    job = _Job(Judge.of([Run.open(run)], asked), out, options, dataset)
    {"timm": _timm, "onnx": _graph, "torchscript": _graph, "hub-folder": _hub, "card": _card}[options.to](job)


@dataclass(frozen=True)
class _Job:
    judge: Judge
    out: Path
    options: ExportOptions
    dataset: PackedDataset | None

    @property
    def run(self) -> Run:
        return self.judge.run

    @property
    def what(self) -> str:
        """For messages."""
        return f"{self.run.path} to {self.options.to}"

    @cached_property
    def model(self) -> Classifier:
        return plain(self.judge.model, len(self.judge.findings))

    @cached_property
    def facts(self) -> dict:
        return facts(self.judge, self.dataset, self.options.evaluation)

    @property
    def numbers(self) -> bytes:
        """README.json."""
        return sealed_json({MARK: __version__, **self.facts})

    @cached_property
    def about(self) -> dict[str, str]:
        """What every export says of itself; lists and numbers as JSON."""
        run, judge, weights = self.run, self.judge, self.run.best_weights()
        called = {rule.finding: rule.probability for rule in judge.rules.rules} if judge.rules else None
        return {
            **judge.model.identity,
            MARK: __version__,
            "run": run.name,
            "epoch": str(weights_epoch(weights)),
            "weights": weights_file.identity(weights),
            "loss": run.settings.loss.name,
            "findings": json.dumps(run.findings),
            "labels": run.labels,
            "dataset": run.dataset_id,
            "packed": json.dumps(run.config["dataset"].get("packed"), sort_keys=True),
            "synthetic": json.dumps(bool(run.config.get("synthetic"))),
            "calibration": json.dumps(judge.provenance.calibrated),
            "thresholds": json.dumps(called),  # probabilities from which on an image is called positive
        }


def _graph(job: _Job) -> None:
    options, maps = job.options, maps_of(job.judge)
    outputs = options.outputs or OUTPUTS[0]
    target = replace(expected(job.judge, job.dataset), maps=maps, probabilities=outputs == "probabilities")
    model = Exported(job.model, maps, target.probabilities).eval()
    if options.to == "onnx":
        opset = options.opset or OPSET
        data, kind = graph.onnx(model, target, job.about, opset, job.what), f"ONNX, opset {opset}"
    else:
        data, kind = graph.torchscript(model, target, job.about, job.what), "TorchScript"
    write_bytes(job.out, data)
    size = job.run.settings.data.size
    log.info(
        f"{job.out}: {kind}, {len(data) / 1e6:.1f} MB: images uint8 [N, 1, {size}, {size}], any N, to {outputs} float32 "
        f"[N, {len(job.run.findings)}], {'calibrated' if maps else 'not calibrated'}; the findings' names are in it"
    )


def _timm(job: _Job) -> None:
    data = timm_files.weights(job.model, job.run, job.about)
    timm_files.check_weights(job.model, job.run, data, expected(job.judge, job.dataset), job.what)
    write_bytes(job.out, data)
    given = ", ".join(f"{name}={value}" for name, value in timm_files.arguments(job.model, job.run).items())
    log.info(
        f"{job.out}: load it with timm.create_model({job.run.settings.model.arch!r}, {given}, "
        f"checkpoint_path={str(job.out)!r}), and give it {timm_files.feeding(job.model, job.run)}"
    )


def _hub(job: _Job) -> None:
    config, judge = timm_files.config(job.model, job.run, job.about), job.judge
    files = {
        "model.safetensors": timm_files.weights(job.model, job.run, job.about),
        "config.json": json_bytes(config),
        "README.md": card(job.facts, config),
        "README.json": job.numbers,
    }
    fitted = {"calibration.json": judge.calibration, "thresholds.json": judge.rules}
    files |= {name: _published(rules) for name, rules in fitted.items() if rules and rules.made_from}
    target = expected(judge, job.dataset)
    timm_files.check_weights(job.model, job.run, files["model.safetensors"], target, job.what)
    publish_folder(job.out, files, lambda folder: timm_files.check_folder(folder, job.model, target, job.what))
    log.info(f"{job.out}: {', '.join(files)}: load it with timm.create_model('local-dir:{job.out}', pretrained=True)")
    log.info("nothing was uploaded: before you do, read the card and the licence of the images")


def _published(rules: Rules) -> bytes:
    """A file of rules as it is given away: without the hashes of the images that they were fitted to, by which whoever
    has ids could look up which of them are among these."""
    content = rules.content()
    made_from = {name: value for name, value in content["made_from"].items() if name != "hashes"}
    return sealed_json({"format": FORMAT, **content, "made_from": made_from})


def _card(job: _Job) -> None:
    numbers = job.out.with_suffix(".json")
    write_bytes(numbers, job.numbers)
    write_bytes(job.out, card(job.facts))
    log.info(f"{job.out}: the model card; {numbers.name}: its numbers")
