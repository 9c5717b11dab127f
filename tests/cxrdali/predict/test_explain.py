"""Which images a gallery shows, their scores and heat maps, and its page, for a run trained here."""

import base64
import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import simplejpeg
import torch
from scipy.special import expit
from scipy.stats import rankdata

from cxrdali.data.loader import Loader
from cxrdali.data.options import LoaderOptions
from cxrdali.data.targets import targets
from cxrdali.predict import explain as explaining
from cxrdali.predict.explain import Example, ExplainOptions, choose, explain
from cxrdali.predict.predict import PredictOptions, load_run_model, predict
from cxrdali.predictions import read
from cxrdali.report.explanation.page import gallery, write_gallery
from cxrdali.report.explanation.pictures import GAP, PANEL, overlay, pair
from cxrdali.report.kit import page
from cxrdali.runs import layout as runs
from cxrdali.runs.reader import Run
from cxrdali.runs.settings import settings_of
from cxrdali.train.trainer import train
from shards.errors import UserError
from shards.storage.sealed import sealed_json
from tests.releases import FINDINGS


def render(explanation, synthetic: bool) -> str:
    return page.render("explanation/page.html.j2", gallery(explanation, synthetic))


@pytest.fixture(scope="module")
def run(dataset, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    settings = settings_of(
        stage=1, size=64, batch=8, epochs=2, arch="test_byobnet", pretrained=False, device="cpu", lr=3e-3
    )
    train(settings, dataset, out)
    return out


def quietly(run, dataset, options=None, **more):
    return explain(run, dataset, options or ExplainOptions(), PredictOptions(**more))


@pytest.fixture(scope="module")
def explanation(run, dataset):
    return quietly(run, dataset, ExplainOptions(images=2))


# ---------------------------------------------------------------- which images


def test_the_best_the_misses_and_the_false_positives_are_chosen_by_hand():
    truth = np.array([1, 0, 1, np.nan, 1, 1, 1, 0])
    scores = np.array([0.3, 9, 2.0, 8, -4.0, 2.0, -4.0, -9], dtype=np.float32)
    chosen = {images: [each.tolist() for each in choose(truth, scores, images)] for images in (1, 2, 9)}
    assert chosen == {1: [[2], [6], [1]], 2: [[2, 5], [6, 4], [1, 7]], 9: [[2, 5, 0], [6, 4], [1, 7]]}, "none twice"
    one = [each.tolist() for each in choose(truth * [1, 1, 0, 1, 0, 0, 0, 1], scores, 9)]
    assert one == [[0], [], [1, 2, 5, 4, 6, 7]]
    assert [each.tolist() for each in choose(np.zeros(3), scores[:3], 1)] == [[], [], [1]]


@pytest.mark.parametrize(
    ("negative", "best", "misses"),
    [
        (-5.0, [2, 3, 0, 1], []),  # every positive is above it
        (-1.0, [2, 3, 0], [1]),
        (1.0, [2, 3], [1, 0]),  # as high as a positive: that one is not above it
        (7.0, [2, 3], [1, 0]),
    ],
)
def test_a_positive_above_every_negative_is_no_miss(negative, best, misses):
    truth, scores = np.array([1, 1, 1, 1, 0, 0]), np.array([1.0, -2.0, 3.0, 2.0, negative, -9.0])
    assert [each.tolist() for each in choose(truth, scores, 4)] == [best, misses, [4, 5]]
    assert [each.tolist() for each in choose(truth[:4], scores[:4], 4)] == [[2, 3, 0, 1], [], []], "no negatives"


def test_every_finding_shows_its_positives_with_scores_and_ranks_of_the_run_s_own_predictions(
    explanation, run, dataset
):
    table = read(run / runs.VAL_PREDICTIONS)
    rows = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    truth = targets(dataset.labels())[rows]
    assert explanation.without == ("Hernia",)
    counts = {name: int((truth[:, FINDINGS.index(name)] == 1).sum()) for name in FINDINGS if name != "Hernia"}
    assert [each.finding for each in explanation.findings] == sorted(counts, key=lambda name: -counts[name])
    assert len(set(counts.values())) > 1
    for each in explanation.findings:
        column = FINDINGS.index(each.finding)
        values, known = table.values[:, column].astype(np.float64), truth[:, column]
        positives = np.sort(values[known == 1])
        assert each.positives == len(positives) >= 4 and each.images == len(rows)
        np.testing.assert_allclose([one.probability for one in each.best], expit(positives[::-1][:2]), rtol=1e-6)
        np.testing.assert_allclose([one.probability for one in each.misses], expit(positives[:2]), rtol=1e-6)
        negatives = np.sort(values[known == 0])[::-1]
        assert not each.separated and positives[1] <= negatives[0]
        np.testing.assert_array_equal([one.score for one in each.false_positives], negatives[:2])
        ranks = rankdata(-values, method="min")
        for kind, label in ((each.best, 1), (each.misses, 1), (each.false_positives, 0)):
            for one in kind:
                (place,) = np.flatnonzero(rows == one.row)
                assert known[place] == label and one.rank == ranks[place]
                assert one.probability == pytest.approx(expit(values[place])) and one.score == values[place]


def test_the_pixels_are_the_image_s_and_the_heat_is_torch_s_own_gradient(explanation, run, dataset):
    model = load_run_model(Run.open(run)).eval()
    assert explanation.layer == "final_conv"
    for each in explanation.findings[::2]:
        for one in each.best + each.misses + each.false_positives:
            (batch,) = list(Loader(dataset, np.array([one.row]), LoaderOptions(64, 1)))
            np.testing.assert_array_equal(one.pixels, batch.images[0, 0])
            kept = []
            handle = model.backbone.final_conv.register_forward_hook(lambda *call, kept=kept: kept.append(call[2]))
            logit = model(batch.images)[0, FINDINGS.index(each.finding)]
            handle.remove()
            (gradient,) = torch.autograd.grad(logit, kept[0])
            activations, gradient = (value[0].detach().double().numpy() for value in (kept[0], gradient))
            expected = np.maximum(np.einsum("c,chw->hw", gradient.mean(axis=(1, 2)), activations), 0)
            np.testing.assert_allclose(one.heat, expected, rtol=1e-4, atol=1e-7)
    shown = [one for each in explanation.findings for one in each.best + each.misses + each.false_positives]
    assert any(one.heat.any() for one in shown)


def test_only_the_chosen_images_are_loaded_and_passed(run, dataset, monkeypatch):
    loaded, passed = [], []
    whole, maps = Loader.__init__, explaining.heat_maps

    def init(self, dataset, rows, options, **more):
        loaded.append((len(rows), options.batch))
        whole(self, dataset, rows, options, **more)

    monkeypatch.setattr(Loader, "__init__", init)
    monkeypatch.setattr(
        explaining, "heat_maps", lambda *given: passed.append((len(given[2]), given[3].tolist())) or maps(*given)
    )
    made = quietly(run, dataset, ExplainOptions(images=2, findings=("Pneumonia", "Edema"), batch=5))
    assert [each.finding for each in made.findings] == ["Pneumonia", "Edema"], "the most frequent first"
    assert loaded == [(12, 5)]
    assert passed == [(5, [0] * 5), (5, [0, 4, 4, 4, 4]), (2, [4, 4])]
    smaller = quietly(run, dataset, ExplainOptions(images=1, findings=("Pneumonia",), batch=1))
    np.testing.assert_allclose(smaller.findings[0].best[0].heat, made.findings[0].best[0].heat, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("labels", [None, "chexpert"])
def test_another_split_is_predicted_as_predict_does(run, dataset, labels):
    options = ExplainOptions(images=1, split="test", findings=("Edema",))
    (shown,) = quietly(run, dataset, options, labels=labels).findings
    table = predict(run, dataset, "test", PredictOptions(labels))
    rows = dataset.catalog.set_index("image_id").index.get_indexer(table.ids["image_id"])
    known = dataset.labels(labels)
    values, scores = known.values[rows, known.findings.index("Edema")], table.values[:, FINDINGS.index("Edema")]
    assert (shown.positives, shown.images) == ((values == 1).sum(), (values != -1).sum())
    assert (values == -1).any() == (labels == "chexpert"), "uncertain labels, which count as negative in training"
    assert shown.best[0].probability == pytest.approx(expit(scores[values == 1].max()), rel=1e-6)
    assert shown.misses[0].probability == pytest.approx(expit(scores[values == 1].min()), rel=1e-6)
    negative = ~np.isin(values, (1, -1))
    assert shown.false_positives[0].row == rows[negative][scores[negative].argmax()]


@pytest.mark.parametrize(
    ("options", "more", "message"),
    [
        ({"findings": ("Gout",)}, {}, "finding 'Gout': .*small was not trained on it; it has Edema, Hernia, Mass"),
        ({"findings": ("Hernia",)}, {}, "no image of val has 'Hernia', .* choose another --split or other --findings"),
        ({"split": "test"}, {"labels": "chexpert"}, "finding 'Hernia' is not in labels 'chexpert'; name those to show"),
        ({"split": "val"}, {"labels": "chexpert", }, "finding 'Hernia' is not in labels 'chexpert'"),
        ({"findings": ("Edema",)}, {"labels": "chexpert"}, "labels 'cxr-lt-2023', not on 'chexpert' .* its val split"),
        ({"layer": "fc"}, {}, "layer 'fc': the model has none of this name; .* with --layer"),
    ],
)  # fmt: skip
def test_what_cannot_be_shown_is_named_with_the_way_out(run, dataset, options, more, message):
    with pytest.raises(UserError, match=message):
        quietly(run, dataset, ExplainOptions(**options), **more)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": 0}, "images 0: at least 1"),
        ({"batch": 0}, "batch 0: at least 1"),
        ({"split": "valid"}, r"split 'valid': did you mean val\? choose one of train, val, dev, test, all"),
        ({"findings": ("A", "B", "A")}, "finding 'A': is given twice in --findings"),
    ],
)
def test_the_options_check_themselves(given, message):
    with pytest.raises(UserError, match=message):
        ExplainOptions(**given)


def test_a_run_trained_with_checkpointing_is_explained_alike(run, dataset, tmp_path):
    """Its layers run twice, and the second time in the backward pass."""
    copy = shutil.copytree(run, tmp_path / "copy")
    config = json.loads((copy / runs.CONFIG).read_text())
    config["settings"]["runtime"]["checkpointing"] = True
    (copy / runs.CONFIG).write_bytes(sealed_json(config))
    options = ExplainOptions(images=1, findings=("Mass",), layer="stages.2")
    one, two = (quietly(each, dataset, options).findings[0].best[0] for each in (run, copy))
    assert one.heat.shape == (4, 4)
    np.testing.assert_array_equal(one.heat, two.heat)


# ---------------------------------------------------------------- the page


def example(side=64, heat=None):
    rng = np.random.default_rng(0)
    heat = np.zeros((4, 4), np.float32) if heat is None else heat
    return Example(0, 0.5, 1, rng.integers(0, 256, (side, side), dtype=np.uint8), heat)


def test_an_overlay_colours_the_place_of_the_heat_and_leaves_the_rest():
    heat = np.zeros((4, 4), np.float32)
    heat[1, 2] = 7e-4
    gray = np.full((80, 80, 3), 100, np.uint8)
    made = overlay(gray, heat)
    changed = (made != gray).any(axis=2)
    assert changed[30, 50] and not changed[:, :25].any() and not changed[55:].any()
    lightest = np.unravel_index(made.astype(int).sum(axis=2).argmax(), changed.shape)
    assert 20 <= lightest[0] < 40 and 40 <= lightest[1] < 60
    np.testing.assert_array_equal(overlay(gray, 1000 * heat), made), "relative to the image's own strongest place"
    np.testing.assert_array_equal(overlay(gray, 0 * heat), gray)


@pytest.mark.parametrize(("side", "shown"), [(64, 320), (224, 224), (512, PANEL)])
def test_a_pair_is_the_image_and_the_same_under_its_map(side, shown):
    heat = np.eye(4, dtype=np.float32)
    one = replace(example(side), pixels=np.add.outer(np.arange(side), np.arange(side)).astype(np.float32))
    one = replace(one, pixels=(one.pixels * 255 / one.pixels.max()).astype(np.uint8), heat=heat)
    made = simplejpeg.decode_jpeg(pair(one), "RGB").astype(int)
    assert made.shape == (shown, 2 * shown + GAP, 3)
    left, right = made[:, :shown], made[:, -shown:]
    assert np.ptp(left, axis=2).max() < 12, "gray"
    assert abs(left[shown // 4, shown // 4].mean() - 255 / 4) < 12 and left[-9, -9].mean() > 235
    diagonal, off = right[shown // 8, shown // 8], right[-shown // 8, shown // 8]
    assert np.ptp(diagonal) > 40 and np.ptp(off) < 12


def test_the_page_shows_every_example_and_says_what_it_is(explanation, dataset, tmp_path):
    out = write_gallery(tmp_path / "page.html", explanation)
    text = out.read_text()
    shown = [one for each in explanation.findings for one in each.best + each.misses + each.false_positives]
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == len(shown) == 4 * 6
    assert simplejpeg.decode_jpeg(base64.b64decode(pictures[0]), "RGB").shape == (320, 2 * 320 + GAP, 3)
    for one in shown:
        at = dataset.catalog.iloc[one.row]
        for said in (at["image_id"], f"study {at['study_id']}", f"rank {one.rank} of "):
            assert said in text
    assert "Contains medical images." in text and "pass it on only to people who have signed them" in text
    assert "Without a positive image in val, so not shown: Hernia." in text
    assert "4 x" not in text and "2 x 2 places (layer <code>final_conv</code>, 64 px)" in text
    assert "http" not in text, "self-contained"
    empty = sum(not one.heat.any() for one in shown)
    assert text.count("Empty map: no place raises this score.") == empty
    assert text.count("<strong>Present</strong>, probability") == 4 * 4
    assert text.count("<strong>Absent</strong>, probability") == 4 * 2
    assert text.count("<h3>False positives: absent, highest scores</h3>") == 4
    assert "Findings with most positive images in val come first." in re.sub(r"\s+", " ", text)
    check_json(explanation, json.loads(out.with_suffix(".json").read_text()))
    drawn = render(explanation, synthetic=True)
    assert "Synthetic data." in drawn and "medical images" not in drawn


def check_json(explanation, numbers):
    for each, stored in zip(explanation.findings, numbers["findings"], strict=True):
        assert (stored["finding"], stored["positives"], stored["images"]) == (each.finding, each.positives, each.images)
        for kind in ("best", "misses", "false_positives"):
            for one, its in zip(getattr(each, kind), stored[kind], strict=True):
                assert (its["rank"], its["present"]) == (one.rank, kind != "false_positives")
                assert (its["score"], its["probability"]) == (one.score, pytest.approx(expit(one.score)))
                assert its["image_id"] == explanation.dataset.catalog["image_id"].iloc[one.row]
                assert its["empty"] == (None if one.heat.any() else "no place raises this score")


def test_a_network_whose_features_only_lower_the_score_has_empty_maps_that_say_so(run, dataset, monkeypatch):
    """Rectified features and a classifier of negative weights: every place's sum is below zero."""
    load = explaining.load_run_model

    def lowering(run, *weights):
        model = load(run, *weights)
        with torch.no_grad():
            model.backbone.get_classifier().weight.abs_().neg_()
        return model

    monkeypatch.setattr(explaining, "load_run_model", lowering)
    found = quietly(run, dataset, ExplainOptions(images=1, findings=("Edema",)))
    shown = [*found.findings[0].best, *found.findings[0].misses, *found.findings[0].false_positives]
    assert len(shown) == 3 and not any(one.heat.any() for one in shown)
    assert render(found, synthetic=True).count("Empty map: no place raises this score.") == 3


def test_an_empty_map_is_said_on_the_picture():
    plain = replace(example(), pixels=np.full((64, 64), 128, np.uint8))
    one, two = (simplejpeg.decode_jpeg(pair(each), "GRAY")[..., 0] for each in (plain, replace(plain, heat=np.eye(4))))
    assert (abs(one[:, :320].astype(int) - 128) < 12).all()
    strip = one[-30:, 326:].astype(int)
    assert (strip < 20).mean() > 0.5 and (strip > 200).mean() > 0.02, "white letters on black"
    assert not (two[-30:, 326:] < 20).mean() > 0.5


def test_a_finding_without_a_ranking_error_has_no_false_positive(explanation):
    edema = explanation.findings[0]
    separated = replace(edema, separated=True, misses=())
    text = render(replace(explanation, findings=(separated,)), synthetic=False)
    assert "Every image with it scores above every image without it, so there is no miss here." in text
    assert "<h3>Absent, highest scores</h3>" in text and "<h3>False" not in text and "<h3>Misses" not in text


def test_what_comes_from_the_data_is_text_and_not_markup(explanation):
    strange = replace(explanation, run="<i>", findings=(replace(explanation.findings[0], finding="<b>x</b>"),))
    strange = replace(strange, layer="<u>", without=("<s>",))
    text = render(strange, synthetic=False)
    assert not re.search(r"<(i|u|s|b)>(?!</i>)", text) and "&lt;b&gt;x&lt;/b&gt;" in text


def test_a_run_without_its_own_predictions_is_predicted(run, dataset, tmp_path, explanation):
    copy = shutil.copytree(run, tmp_path / "copy")
    (copy / runs.VAL_PREDICTIONS).unlink()
    made = quietly(copy, dataset, ExplainOptions(images=1))
    for one, two in zip(made.findings, explanation.findings, strict=True):
        assert one.best[0].row == two.best[0].row
        assert one.best[0].probability == pytest.approx(two.best[0].probability, rel=1e-5)
    config = json.loads((copy / runs.CONFIG).read_text())
    (copy / runs.CONFIG).write_bytes(sealed_json(config | {"dataset": {"id": "other"}}))
    with pytest.raises(UserError, match="was trained on another dataset .* so its val split is not there"):
        quietly(copy, dataset)
