"""`cxrdali export`: a run in the formats of other programs. Each is checked against torch before its file is there."""

import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import timm
from safetensors import torch as safetensors

from cxrdali.export import graph, timm_files
from cxrdali.export.card import card, facts, public
from cxrdali.export.check import expected
from cxrdali.export.options import OPSET, OUTPUTS, SUFFIXES, ExportOptions
from cxrdali.models import weights_file
from cxrdali.models.architectures import in_timm
from cxrdali.postprocess.rules import FORMAT
from cxrdali.predict.judge import Judge
from cxrdali.predict.options import JudgeOptions
from cxrdali.runs.reader import Run, weights_epoch
from shards import __version__
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.storage.files import json_bytes, sync_folder, sync_tree, write_bytes
from shards.storage.sealed import sealed_json

log = logging.getLogger(__name__)


def export(run: Path, out: Path, options: ExportOptions, dataset: PackedDataset | None = None) -> None:
    """Write a run to `out` in one rename, and log what was written and how it was checked.

    Args:
        run: The run's folder; its last.pt is not needed.
        out: A new file with the target's suffix; for a hub-folder, a new or empty folder.
        options: To what, and with which rules.
        dataset: The pack that it was trained on. An export is checked on its validation images, and a card counts it.
            Without one, images are generated, and a card says less.

    Raises:
        UserError: Something is in the place of `out`, a file does not belong to the run, the network cannot be
            exported so, or gives other numbers than torch.
    """
    _check_place(out, options.to)
    rules = {name: getattr(options, name) for name in ("calibration", "thresholds", "allow_other_run")}
    trained = Run.open(run)
    trained.check_of_images("export")
    judge = Judge.of([trained], JudgeOptions(device="cpu", precision="fp32", **rules))
    write = {"timm": _timm, "hub-folder": _hub, "card": _card}.get(options.to, _graph)
    try:
        write(judge, out, options, dataset)
    except ImportError as error:
        raise UserError(f"--to {options.to}: {error}; pip install 'cxrdali[export]'") from error


def _check_place(out: Path, to: str) -> None:
    """Raises UserError if something is there: nothing tells it from somebody else's work."""
    if SUFFIXES[to] and out.suffix != SUFFIXES[to]:
        fix = f"name one, as {out.with_suffix(SUFFIXES[to])}"
        raise UserError(f"{out}: an export to {to} is a file {SUFFIXES[to]}; {fix}")
    for path in (out, *([out.with_suffix(".json")] if to == "card" else [])):
        empty = to == "hub-folder" and path.is_dir() and not any(path.iterdir()) and path.resolve() != Path.cwd()
        if path.is_symlink() or (path.exists() and not empty):
            raise UserError(f"{path}: is there already; move it away, or give another --out")
    if not out.absolute().parent.is_dir():
        raise UserError(f"{out.parent}: no such folder; make it, or give another --out")


def _about(judge: Judge) -> dict[str, str]:
    """What an export says of itself; lists and numbers as JSON."""
    run, weights = judge.run, judge.run.best_weights()
    called = {rule.finding: rule.probability for rule in judge.thresholds.rules} if judge.thresholds else None
    return {
        **judge.model.identity,
        "cxrdali": __version__,
        "run": run.name,
        "epoch": str(weights_epoch(weights)),
        "weights": weights_file.identity(weights),
        "loss": run.settings.loss.name,
        "findings": json.dumps(judge.findings),
        "labels": run.labels,
        "dataset": run.dataset_id,
        "packed": json.dumps(run.config["dataset"].get("packed"), sort_keys=True),
        "synthetic": json.dumps(bool(run.config.get("synthetic"))),
        "calibration": json.dumps(judge.provenance.calibrated),
        "thresholds": json.dumps(called),  # probabilities from which on a finding is present
    }


def _graph(judge: Judge, out: Path, options: ExportOptions, dataset: PackedDataset | None) -> None:
    outputs, what, size = options.outputs or OUTPUTS[0], f"{judge.run.path} to {options.to}", judge.model.options.size
    maps = tuple(rule.map for rule in judge.calibration.rules) if judge.calibration else ()
    target = replace(expected(judge, dataset), maps=maps, probabilities=outputs == "probabilities")
    model, about = graph.Exported(judge.model, maps, target.probabilities), {**_about(judge), "outputs": outputs}
    if options.to == "onnx":
        opset = options.opset or OPSET
        data, kind = graph.onnx(model, target, about, opset, what), f"ONNX, opset {opset}"
    else:
        data, kind = graph.torchscript(model, target, about, what), "TorchScript"
    write_bytes(out, data)
    log.info(
        f"{out}: {kind}, {len(data) / 1e6:.1f} MB: images uint8 [N, 1, {size}, {size}], any N, to {outputs} float32 "
        f"[N, {len(judge.findings)}], {'calibrated' if maps else 'not calibrated'}"
    )


def _timm(judge: Judge, out: Path, options: ExportOptions, dataset: PackedDataset | None) -> None:
    model, (arch, _) = judge.model, in_timm(judge.model.options.arch)
    data, given = timm_files.weights(model, _about(judge)), timm_files.arguments(model, len(judge.findings))

    def made():
        loaded = timm.create_model(arch, **given)
        loaded.load_state_dict(safetensors.load(data))
        return loaded

    timm_files.check(made, model, expected(judge, dataset), f"{judge.run.path} to timm")
    write_bytes(out, data)
    words = ", ".join(f"{name}={value}" for name, value in given.items())
    call = f"timm.create_model({arch!r}, {words}, checkpoint_path={str(out)!r})"
    log.info(f"{out}: load it with {call}, and give it {timm_files.feeding(model)}")


def _hub(judge: Judge, out: Path, options: ExportOptions, dataset: PackedDataset | None) -> None:
    """Written into a folder aside, loaded from there, and renamed."""
    known, about, target = facts(judge, dataset, options.evaluation), _about(judge), expected(judge, dataset)
    config, what = timm_files.config(judge.model, about), f"{judge.run.path} to hub-folder"
    files = {
        "model.safetensors": timm_files.weights(judge.model, about),
        "config.json": json_bytes(config),
        "README.md": card(known, config),
        "README.json": sealed_json(known),
    }
    for name, rules in (("calibration", judge.calibration), ("thresholds", judge.thresholds)):
        if rules and rules.made_from:
            files[f"{name}.json"] = sealed_json({"format": FORMAT, **public(rules)})
    there = out.absolute()
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", suffix=".part", dir=there.parent) as aside:
        folder = Path(aside) / out.name
        folder.mkdir(0o700)
        for name, data in files.items():
            write_bytes(folder / name, data)
        load = f"local-dir:{folder}"
        timm_files.check(lambda: timm.create_model(load, pretrained=True), judge.model, target, what)
        sync_tree(folder)
        folder.replace(there)
        sync_folder(there.parent)
    log.info(f"{out}: {', '.join(files)}: load it with timm.create_model('local-dir:{out}', pretrained=True)")
    log.info("nothing was uploaded: before you do, read the card and the licence of the images")


def _card(judge: Judge, out: Path, options: ExportOptions, dataset: PackedDataset | None) -> None:
    known, numbers = facts(judge, dataset, options.evaluation), out.with_suffix(".json")
    written = card(known)
    write_bytes(numbers, sealed_json(known))
    write_bytes(out, written)
    log.info(f"{out}: the model card; {numbers.name}: its numbers")
