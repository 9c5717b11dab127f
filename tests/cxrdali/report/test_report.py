"""The report: what it says must be what the files hold, and what is not there must be said."""

import base64
import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import simplejpeg

from cxrdali.data.augment import AugmentOptions
from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.splits import FoldOptions, released_rows, rows_sha256, train_and_validation
from cxrdali.report.kit.numbers import count, duration, percent, score
from cxrdali.report.training.page import ReportOptions, write_report
from cxrdali.runs.layout import FINDING_COLUMNS, METRIC_COLUMNS
from cxrdali.runs.settings import names as setting_names
from cxrdali.runs.settings import sampling_seed
from shards.dataset.packed import PackedDataset
from shards.errors import UserError
from shards.packing.options import PackOptions
from shards.packing.pack import pack
from shards.releases.open import open_release
from shards.releases.release import SYNTHETIC
from shards.renditions.rendition import Size
from shards.storage.sealed import sealed_json
from shards.synthetic.plan import SyntheticOptions
from shards.synthetic.release import write_release
from tests.cxrdali.comparable_runs import write_progress
from tests.cxrdali.report.pages import AWKWARD, Page, check_figures, check_numbers

pytestmark = pytest.mark.slow

LABELS = "cxr-lt-2023"


@dataclass(frozen=True)
class RunPlan:
    """What a made-up run did."""

    stage: int
    size: int
    batch: int
    epochs: int
    done: int
    images: int = 250_000
    rate: float = 900.0


PLANS = (
    RunPlan(1, 48, 256, 30, 30),
    RunPlan(2, 64, 128, 10, 10, rate=430.0),
    RunPlan(3, 64, 48, 10, 8, rate=160.0),
)


def write_run(folder: Path, dataset: PackedDataset, plan: RunPlan, rename: dict[str, str] | None = None) -> Path:
    """A run folder as the trainer leaves it, with plausible numbers; findings may be renamed."""
    labels = dataset.labels(LABELS)
    train, validation = train_and_validation(dataset, labels, FoldOptions())
    names = [(rename or {}).get(name, name) for name in labels.findings]
    positives = (labels.values[validation] == 1).sum(axis=0)
    generator = np.random.default_rng(plan.stage)
    folder.mkdir(parents=True)
    config = {
        "settings": setting_names().grouped({
            "stage": plan.stage, "arch": "convnext_small.fb_in22k", "size": plan.size, "batch": plan.batch,
            "epochs": plan.epochs, "lr": 1e-3, "seed": 7, "labels": LABELS, "fold": 0, "folds": 5,
            "group": "subject", "fold_rule": "ids", "cutout": "fixed", "uncertain": "negative",
            "init": f"runs/stage{plan.stage - 1}" if plan.stage > 1 else None,
        }),
        "findings": names,
        "dataset": {"id": dataset.id},
        "labels": {"name": LABELS, "sha256": labels.sha256},
        "selection": {
            "train_images": len(train), "val_images": len(validation),
            "train_sha256": rows_sha256(train), "val_sha256": rows_sha256(validation),
        },
        "model": {"parameters": 49_000_000},
        "versions": {"python": "3.11.2", "torch": "2.9.0", "nvidia-dali": "2.4.0"},
    }  # fmt: skip
    (folder / "config.json").write_bytes(sealed_json(config))
    skill = np.clip(generator.beta(2, 4, len(names)), 0.02, 0.9)
    metrics, findings = [], []
    for epoch in range(1, plan.done + 1):
        grown = (0.55 + 0.1 * plan.stage) * (1 - np.exp(-epoch / 4)) - 0.004 * max(epoch - 12, 0)
        ap = np.where(positives > 0, np.clip(skill * grown + generator.normal(0, 0.01, len(names)), 0.004, 1), np.nan)
        seconds = plan.images / plan.rate
        metrics.append(
            {
                "epoch": epoch, "lr": 1e-3 / epoch, "train_loss": 0.32 - 0.04 * plan.stage + 0.1 * np.exp(-epoch / 5),
                "val_loss": 0.33 - 0.03 * plan.stage + 0.08 * np.exp(-epoch / 4) + 0.0015 * max(epoch - 10, 0),
                "mAP": np.nanmean(ap), "LRAP": 0.6 + 0.01 * epoch / plan.epochs, "macro_AUROC": 0.8 + 0.002 * epoch,
                "images": plan.images, "images_per_second": plan.rate, "train_seconds": seconds,
                "wait_seconds": seconds * 0.08 / plan.stage, "val_seconds": seconds * 0.12,
            }
        )  # fmt: skip
        findings += [
            dict(zip(FINDING_COLUMNS, (epoch, name, a, a and 0.5 + a / 2, p, len(validation) - p), strict=True))
            for name, a, p in zip(names, ap, positives, strict=True)
        ]
    pd.DataFrame(metrics, columns=METRIC_COLUMNS).to_csv(folder / "metrics.csv", index=False)
    write_progress(folder)
    pd.DataFrame(findings, columns=FINDING_COLUMNS).to_csv(folder / "findings.csv", index=False)
    return folder


def write_evaluation(path: Path, dataset: PackedDataset, run: str | None = "stage3", lateral: bool = True) -> Path:
    labels = dataset.labels(LABELS)
    generator = np.random.default_rng(5)

    def part(images: int) -> dict:
        findings = []
        for place, name in enumerate(labels.findings):
            positives = int(images * 0.4 / (place + 1) ** 1.7) if place < 24 else 0
            ap = float(generator.beta(2, 4)) if positives else None
            row = {"finding": name, "positives": positives, "negatives": images - positives}
            row |= {"prevalence": positives / images, "AP": ap, "AUROC": ap and 0.5 + ap / 2}
            for metric, half in (("AP", 0.04), ("AUROC", 0.02)):
                row[f"{metric}_low"] = row[metric] and max(row[metric] - half, 0)
                row[f"{metric}_high"] = row[metric] and row[metric] + half
            findings.append(row)
        aps = [row["AP"] for row in findings if row["AP"] is not None]
        mean = float(np.mean(aps))
        return {
            "images": images, "studies": images // 2, "mAP": mean, "mAP_low": mean - 0.02, "mAP_high": mean + 0.02,
            "macro_AUROC": 0.81, "macro_AUROC_low": 0.79, "macro_AUROC_high": 0.83, "LRAP": 0.62,
            "without_positives": [row["finding"] for row in findings if row["AP"] is None], "findings": findings,
        }  # fmt: skip

    content = {
        "predictions": "predictions.parquet", "run": run, "split": "test", "labels": LABELS, "images": 12_345,
        "studies": 6_172, "level": 0.95, "draws": 1000, "unit": "patient", "all": part(12_345), "frontal": part(8_000),
        "lateral": part(4_345) if lateral else None,
    }  # fmt: skip
    path.write_bytes(sealed_json(content))
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> PackedDataset:
    root = tmp_path_factory.mktemp("report")
    write_release(root / "release", SyntheticOptions(studies=120, size=64))
    (root / "release" / SYNTHETIC).unlink()  # these tests are of the page of a real one
    options = PackOptions(sizes=(Size(48), Size(64)), shard_images=64)
    pack(open_release(root / "release"), root / "pack", options)
    return PackedDataset.open(root / "pack")


@pytest.fixture(scope="module")
def runs(dataset, tmp_path_factory) -> list[Path]:
    root = tmp_path_factory.mktemp("runs")
    return [write_run(root / f"stage{plan.stage}", dataset, plan) for plan in PLANS]


@pytest.fixture(scope="module")
def whole(dataset, runs, tmp_path_factory) -> Page:
    """The page of three runs and an evaluation, with images."""
    root = tmp_path_factory.mktemp("whole")
    evaluation = write_evaluation(root / "test.json", dataset)
    options = ReportOptions("Three stages", synthetic=True, images=True)
    return Page(write_report(root / "page.html", runs, pack=dataset.root, evaluations=[evaluation], options=options))


@pytest.fixture(scope="module")
def half(runs, tmp_path_factory) -> Page:
    """The page of stages 1 and 3 and nothing else."""
    out = tmp_path_factory.mktemp("half") / "page.html"
    return Page(write_report(out, [runs[0], runs[2]], options=ReportOptions("Report")))


@pytest.fixture
def render(tmp_path):
    def render(runs=(), title="Report", synthetic=False, images=False, **sources) -> Page:
        options = ReportOptions(title, synthetic, images)
        return Page(write_report(tmp_path / "page.html", runs, options=options, **sources))

    return render


def best_ap(run: Path) -> pd.Series:
    """AP by finding at the run's best epoch, straight from its files."""
    metrics = pd.read_csv(run / "metrics.csv")
    findings = pd.read_csv(run / "findings.csv")
    best = metrics.loc[metrics["mAP"].idxmax(), "epoch"]
    return findings[findings["epoch"] == best].set_index("finding")["AP"]


def test_nothing_is_fetched(whole):
    assert whole.addresses, "the page has drawings, pictures and a contents list"
    assert not [address for address in whole.addresses if not address.startswith(("#", "data:image/jpeg;base64,"))]
    assert not {"script", "link", "iframe", "object"} & set(whole.tags)
    assert not re.search(r"@import|url\((?!#)", whole.source)


def test_every_figure_says_what_it_is_and_can_be_saved(whole, half):
    assert check_figures(whole) == 5 + 3, "five drawings and three contact sheets"
    assert check_figures(half) == 3
    assert all(b"Synthetic data, of no patient. Three stages." in each.file for each in whole.figures if each.file)
    assert not any(b"ynthetic" in each.file for each in half.figures)


def test_every_drawing_has_ids_of_its_own(whole):
    assert whole.source.count("<svg") == 5
    ids = re.findall(r'\bid="([^"]+)"', whole.source)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', whole.source)) <= set(ids)


def test_the_same_files_make_the_same_bytes(half, runs, render):
    assert render([runs[0], runs[2]]).source == half.source


def test_names_are_text_and_never_markup(dataset, tmp_path, render):
    frequent = dataset.labels(LABELS).findings[0]
    run = write_run(tmp_path / "run", dataset, PLANS[0], rename={frequent: AWKWARD})
    page = render([run], title="<i>title</i>")
    assert AWKWARD in page.table("Average precision per finding").index
    assert AWKWARD in page.text and "<i>title</i>" in page.text
    assert not {"b", "i"} & set(page.tags)


def test_every_number_of_a_table_stands_in_the_json_beside_the_page(whole, half):
    assert check_numbers(whole) > 400 and check_numbers(half) > 100
    sections = whole.numbers["sections"]
    figures, ap = [each["data"].get("figure") for each in sections.values()], sections["findings"]["data"]["table"]
    assert sum(bool(figure) for figure in figures) == 4 and ap["rows"][0][1] == pytest.approx(0.5, abs=0.5)
    assert "base64" not in json.dumps(whole.numbers), "pictures stay in the page"


def test_a_file_that_is_not_of_a_page_is_not_replaced_by_its_numbers(dataset, tmp_path):
    evaluation = write_evaluation(tmp_path / "test.json", dataset)
    before = evaluation.read_bytes()
    options = ReportOptions("Report")
    with pytest.raises(UserError, match=r"test\.json: is not of a page, and the numbers of test\.html go there"):
        write_report(tmp_path / "test.html", [], evaluations=[evaluation], options=options)
    with pytest.raises(UserError, match=r"page\.json: a page is HTML, and its numbers go beside it"):
        write_report(tmp_path / "page.json", [], options=options)
    assert evaluation.read_bytes() == before and [path.name for path in tmp_path.iterdir()] == ["test.json"]


def test_head_medium_and_tail_means_are_those_of_the_evaluation(dataset, tmp_path, render):
    path = write_evaluation(tmp_path / "test.json", dataset)
    assert not [name for name in render(evaluations=[path]).tables if name.startswith("Head")]
    content = json.loads(path.read_text())
    group = {"findings": ["Edema"], "mAP": 0.4123, "mAP_low": 0.4, "mAP_high": 0.4256, "macro_AUROC": 0.8}
    content["all"]["groups"] = {"head": group, "medium": group | {"mAP": 0.2}, "tail": {"findings": [], "mAP": None}}
    path.write_bytes(sealed_json(content))
    page = render(evaluations=[path])
    table = page.table("Head, medium and tail by view")
    assert table.loc["All views"].tolist() == [
        "0.412 (0.400 to 0.426)", "0.200 (0.400 to 0.426)", "–", "0.800", "0.800", "–",
    ]  # fmt: skip
    assert table.loc["Frontal"].tolist() == ["–"] * 6 and check_numbers(page)
    group["mAP"] = "high"
    path.write_bytes(sealed_json(content))
    with pytest.raises(UserError, match=r"groups\.'head'\.mAP is 'high', not a number"):
        render(evaluations=[path])


def test_synthetic_data_is_called_so_and_nothing_else_is(whole, half):
    assert whole.text.index("Synthetic data.") < whole.text.index("At a glance")
    assert "ynthetic" not in half.text


def test_the_summary_is_what_metrics_csv_says(whole, runs):
    table = whole.table("One row per run")
    for plan, run in zip(PLANS, runs, strict=True):
        metrics, row = pd.read_csv(run / "metrics.csv"), table.loc[f"Stage {plan.stage}"]
        best = metrics.loc[metrics["mAP"].idxmax()]
        assert row["Validation mAP"] == score(best["mAP"])
        assert row["Best epoch"] == count(best["epoch"])
        assert row["Images/s"] == count(metrics["images"].sum() / metrics["train_seconds"].sum())
        assert row["Training"] == duration(metrics["train_seconds"].sum())
        assert row["of it waiting"] == duration(metrics["wait_seconds"].sum())
        assert row["Validation"] == duration(metrics["val_seconds"].sum())
    assert table["Size"].tolist() == ["48 px", "64 px", "64 px"]
    assert table["Batch"].tolist() == ["256", "128", "48"]
    assert table["Epochs"].tolist() == ["30", "10", "8 of 10"]


def test_seconds_add_up_to_the_files(whole, runs):
    table = whole.table("Time per run")
    metrics = [pd.read_csv(run / "metrics.csv") for run in runs]
    assert table.loc["Stage 1", "Training"] == duration(
        (metrics[0]["train_seconds"] - metrics[0]["wait_seconds"]).sum()
    )
    total = sum(each[["train_seconds", "val_seconds"]].to_numpy().sum() for each in metrics)
    assert table.loc["All runs", "Total"] == duration(total)
    assert table.loc["Stage 1", "Waiting, of training time"] == percent(0.08)


def test_ap_per_finding_is_the_best_epochs_and_no_stage_is_marked(whole, runs):
    caption = "Average precision per finding"
    table = whole.table(caption)
    ap = pd.DataFrame({f"Stage {number}": best_ap(run) for number, run in enumerate(runs, 1)})
    assert set(ap.index) < set(table.index)
    for finding, values in ap.iterrows():
        assert table.loc[finding, ap.columns].tolist() == [score(value) for value in values]
    assert not [where for where, _, _ in whole.bold if where.startswith(caption)], "no interval says which is higher"


def test_the_best_epoch_follows_what_the_run_selects_by(dataset, tmp_path, render):
    run = write_run(tmp_path / "run", dataset, PLANS[0])
    config = json.loads((run / "config.json").read_text())
    config["settings"]["optimizer"]["select_by"] = "lrap"
    (run / "config.json").write_bytes(sealed_json(config))
    metrics = pd.read_csv(run / "metrics.csv")
    assert metrics["LRAP"].idxmax() != metrics["mAP"].idxmax()
    row = render([run]).table("One row per run").loc["Stage 1"]
    assert row["Best epoch"] == "30"
    assert row["Validation mAP"] == score(metrics["mAP"].iloc[-1])


def test_findings_without_positives_are_listed_and_not_zero(whole, runs):
    undefined = best_ap(runs[0])[lambda ap: ap.isna()].index
    assert len(undefined), "the fixture must have such a finding"
    table = whole.table("Average precision per finding")
    said = re.search(r"Without a positive validation image[^.]*\.", whole.text).group()
    for finding in undefined:
        assert table.loc[finding, ["Stage 1", "Stage 2", "Stage 3"]].tolist() == ["–"] * 3
        assert finding in said
    assert whole.table("Metrics per finding").iloc[-1][["AP", "AUROC"]].tolist() == ["–", "–"]


def test_label_counts_are_the_packed_datasets(whole, dataset):
    table, labels = whole.table("Images per finding and split"), dataset.labels(LABELS)
    train, validation = train_and_validation(dataset, labels, FoldOptions())
    rows = {"Train": train, "Validation": validation, "Test": released_rows(dataset, labels, "test")}
    for split, chosen in rows.items():
        counted = (labels.values[chosen] == 1).sum(axis=0)
        assert table.loc[list(labels.findings), split].tolist() == [count(number) for number in counted]
        assert table.loc["All images", split] == count(len(chosen))
    shown = [int(number.replace(",", "")) for number in table["Train"].iloc[1:]]
    assert shown == sorted(shown, reverse=True)


def test_the_evaluation_is_shown_with_its_intervals_and_views(whole):
    table = whole.table("Metrics by view")
    assert table.index.tolist() == ["All views", "Frontal", "Lateral"]
    assert table.loc["All views", "Macro AUROC"] == "0.810 (0.790 to 0.830)"
    assert table["Images"].tolist() == ["12,345", "8,000", "4,345"]
    assert "95 % confidence intervals, by sampling patients with replacement." in whole.text


def test_intervals_of_an_older_version_are_shown_and_said(dataset, tmp_path, render):
    path = write_evaluation(tmp_path / "test.json", dataset)
    content = json.loads(path.read_text())
    del content["unit"]
    path.write_bytes(sealed_json(content))
    text = render(evaluations=[path]).text
    assert "by sampling studies with replacement" in text
    assert "The intervals of stage3, test split are an older version's" in text


def test_few_patients_and_one_finding_are_said_beside_an_evaluation(dataset, tmp_path, render):
    path = write_evaluation(tmp_path / "test.json", dataset)
    content = json.loads(path.read_text())
    one = {"low": 0.31, "low_without": "Edema", "high": 0.36, "high_without": "Hernia"}
    content["all"] |= {"mAP_without_one": one, "macro_ECE": 0.0123, "macro_ECE_low": 0.001, "macro_ECE_high": 0.02}
    content["all"]["mAP_high"] = content["all"]["mAP"] + 0.0001
    thin, *others = content["all"]["findings"]
    thin |= {"positive_patients": 9, "negative_patients": 5000, "AP_low": None, "AP_high": None, "AP": 0.25}
    for row in others:
        row |= {"positive_patients": 10, "negative_patients": 5000}
    path.write_bytes(sealed_json(content | {"fewest_patients": 10}))
    page = render(evaluations=[path])
    mean = score(content["all"]["mAP"])
    assert page.table("mAP without any one finding").loc["All views"].tolist() == [
        mean, "0.310", "Edema", "0.360", "Hernia",
    ]  # fmt: skip
    assert page.table("Probabilities and decisions by view").loc["All views", "ECE"] == "0.0123 (0.0010 to 0.0200)"
    table = page.table("Metrics per finding")
    assert table.loc[thin["finding"], "AP"] == "0.250 (too few for an interval)"
    assert table["AP"].str.contains("too few").sum() == 1 and table.loc[thin["finding"], "Positive patients"] == "9"
    assert "Near the end of its own interval, or outside: mAP. AP of few positives is too high by chance;" in page.text


def test_findings_that_an_evaluation_leaves_out_are_listed(dataset, tmp_path, render):
    path = write_evaluation(tmp_path / "test.json", dataset)
    common = {
        "same": {"Mass": "Mass"}, "only_predictions": ["Scoliosis"], "only_labels": ["Edema", "Hernia"],
        "words": ["Mass: 'Masses' of p.parquet"],
    }  # fmt: skip
    path.write_bytes(sealed_json(json.loads(path.read_text()) | {"common": common}))
    page = render(evaluations=[path])
    for said in (
        "all scores are of the 1 in common.", "Taken as one finding: Mass: 'Masses' of p.parquet.",
        "Left out, as the labels do not know them: Scoliosis.",
        "Left out, as they were not predicted: Edema and Hernia.",
    ):  # fmt: skip
        assert said in page.text


def test_an_evaluation_without_lateral_images_or_intervals(dataset, tmp_path, render):
    path = write_evaluation(tmp_path / "test.json", dataset, run=None, lateral=False)
    content = json.loads(path.read_text())
    content["draws"] = 0
    content["all"] = {name: value for name, value in content["all"].items() if not name.endswith(("_low", "_high"))}
    for row in content["all"]["findings"]:
        row.update(dict.fromkeys(("AP_low", "AP_high", "AUROC_low", "AUROC_high")))
    path.write_bytes(sealed_json(content))
    page = render(evaluations=[path])
    table = page.table("Metrics by view")
    assert table.loc["Lateral"].tolist() == ["–", "–", "–", "no image", "–"]
    assert table.loc["All views", "mAP"] == score(content["all"]["mAP"])
    assert "confidence" not in page.text


def test_what_is_not_there_is_said(half, dataset, runs, tmp_path, render):
    assert "No run of stage 2 was given." in half.text
    assert "what Stage 3 starts from stage2. Drawn from epoch 1." in half.text
    assert "No evaluation was given." in half.text
    assert "No packed dataset was given" in half.text
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_text((runs[1] / "config.json").read_text())
    page = render([runs[0], begun], pack=dataset.root)
    assert "No run of stage 3 was given. No epoch of Stage 2 is complete yet." in page.text
    page = render()
    assert "No run was given." in page.text and "<svg" not in page.source


def test_nothing_is_called_missing_when_all_is_there(whole):
    for said in ("No run of stage", "is complete yet", "No evaluation", "was given"):
        assert said not in whole.text
    assert "Rings: the best epoch of each stage, chosen on these" in whole.text, "stages in a row are one line"
    assert 'class="missing"' not in whole.source


def test_images_only_when_asked_for(dataset, runs, render):
    page = render(runs[:1], pack=dataset.root)
    assert "img" not in page.tags and "data:image/jpeg" not in page.source
    assert "Images are left out" in page.text
    page = render(runs[:1], pack=dataset.root, images=True)
    assert page.tags.count("img") == 1
    assert "Contains medical images." in page.text


def test_the_contact_sheet_is_the_beginning_of_the_runs_own_augmented_epoch(whole, dataset):
    sheets = [base64.b64decode(address.split(",")[1]) for address in whole.addresses if address.startswith("data:")]
    assert len(sheets) == 3
    train, _ = train_and_validation(dataset, dataset.labels(LABELS), FoldOptions())
    # 25 is the run's batch here, not the sheet's: the first twelve must be the same
    options = {"options": LoaderOptions(64, 25), "seed": sampling_seed(7, stage=2), "shuffle": True, "drop_last": True}
    augment = AugmentOptions(vflip=0, cutout="off")
    augmented = next(iter(Loader(dataset, train, augment=augment, **options))).images.numpy()[:12, 0]
    plain = next(iter(Loader(dataset, train, **options))).images.numpy()[:12, 0]
    shown = tiles(sheets[1], 64)
    assert np.abs(shown - augmented).mean() < 3
    changed = (augmented != plain).any(axis=(1, 2))
    assert changed.sum() > 3
    assert (np.abs(shown - plain).mean(axis=(1, 2)) > 3)[changed].any()


def tiles(jpeg: bytes, pixels: int) -> np.ndarray:
    """The contact sheet's images at their own size: float [12, S, S]."""
    sheet = simplejpeg.decode_jpeg(jpeg, "GRAY")[:, :, 0].astype(float)
    side = (sheet.shape[1] - 3 * 6) // 4
    cells = [sheet[r * (side + 6) :, c * (side + 6) :][:side, :side] for r in range(3) for c in range(4)]
    times = side // pixels
    return np.stack([cell.reshape(pixels, times, pixels, times).mean(axis=(1, 3)) for cell in cells])


def test_images_of_another_selection_are_not_shown(dataset, tmp_path, render):
    run = write_run(tmp_path / "run", dataset, PLANS[0])
    config = json.loads((run / "config.json").read_text())
    config["selection"]["train_sha256"] = "0" * 64
    (run / "config.json").write_bytes(sealed_json(config))
    page = render([run], pack=dataset.root, images=True)
    assert "img" not in page.tags and "trained on other rows" in page.text


def change(path: Path, old: str, new: str) -> None:
    """As somebody who can make a checksum would."""
    changed = path.read_text().replace(old, new, 1)
    with contextlib.suppress(ValueError):
        changed = sealed_json(json.loads(changed)).decode()
    path.write_text(changed)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("config.json", None, None, "config.json"),
        ("config.json", "{", "", "config.json"),
        ("config.json", '"settings"', '"other"', "settings is missing"),
        ("metrics.csv", "val_loss", "loss", "'val_loss' is missing"),
        ("metrics.csv", "250000", "many", "'images' holds 'many'"),
    ],
)
def test_a_folder_that_is_no_run_is_an_error_naming_the_file(dataset, tmp_path, render, file, old, new, said):
    run = write_run(tmp_path / "run", dataset, PLANS[0])
    if old is None:
        (run / file).unlink()
    else:
        change(run / file, old, new)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        render([run])
    assert str(run) in str(error.value)


def test_another_dataset_or_a_stranger_as_evaluation_is_an_error(dataset, runs, tmp_path, render):
    run = write_run(tmp_path / "run", dataset, PLANS[0])
    change(run / "config.json", dataset.id, "f" * 64)
    with pytest.raises(UserError, match="run: was trained on another dataset than .*; give the dataset of the runs"):
        render([run], pack=dataset.root)
    with pytest.raises(UserError, match="config.json: not an evaluation"):
        render(evaluations=[runs[0] / "config.json"])


def test_numbers_as_people_read_them():
    assert [percent(share) for share in (0.312, 0.0031, 0.00031, 0, None)] == [
        "31.2 %",
        "0.31 %",
        "0.031 %",
        "0 %",
        "–",
    ]
    assert [duration(seconds) for seconds in (0.417, 4.21, 43, 744, 11_520)] == [
        "0.42 s",
        "4.2 s",
        "43 s",
        "12.4 min",
        "3.2 h",
    ]
    assert [count(1234567), score(float("nan"))] == ["1,234,567", "–"]
