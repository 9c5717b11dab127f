"""A mistyped name of anything gets the nearest one there is; wrong usage still ends with 2."""

import pytest

from tests.cli.cli import call

TOML = "[mine]\nstage = 1\nsamplr = 'sqrt'\n"


@pytest.mark.parametrize(
    "words, code, said",
    [
        ("trian", 2, "no such command 'trian'; did you mean train?"),
        ("loss_design", 2, "did you mean loss-design?"),
        ("train --stage 1 --sampelr sqrt", 2, "--sampler"),
        ("train --stage 1 --sampler sqr", 1, "sampler 'sqr': did you mean sqrt? choose one of"),
        ("train --stage 1 --loss ldam_drw", 1, "loss 'ldam_drw': did you mean ldam-drw"),
        ("train --stage 1 --head linaer", 1, "head 'linaer': did you mean linear?"),
        ("train --stage 1 --select-by mpa", 2, "'mpa': did you mean map?"),
        ("train --stage 1 --set optimizer.weight_decya=1", 1, "did you mean optimizer.weight_decay?"),
        ("train --stage 1 --set data.flips=bth", 1, "flips 'bth': did you mean both?"),
        ("train --recipe modle3", 1, "no recipe 'modle3'; did you mean model3"),
        ("train --recipes mine.toml --recipe mine", 1, "did you mean sampler?"),
        ("predict --run . --tta hflp --out p.parquet", 2, "'hflp': did you mean hflip"),
        ("predict --run . --split tets --out p.parquet", 2, "'tets': did you mean test?"),
        ("calibrate --fit p.parquet --method plat --out p.json", 2, "'plat': did you mean platt?"),
        ("ensemble a.parquet b.parquet --method geometry --out c.parquet", 2, "did you mean geometric?"),
        ("shard --engine desk", 2, "'desk': did you mean dask?"),
        ("paper --scale dmo", 2, "'dmo': did you mean demo?"),
        ("paper --scale demo --out x --tta hflop", 1, "tta 'hflop': did you mean hflip"),
        ("loss-design --scale demo --out x --models ld-ldma", 1, "no recipe 'ld-ldma'; did you mean ld-ldam"),
    ],
)
def test_a_typo_gets_the_nearest_name(tmp_path, words, code, said):
    (tmp_path / "mine.toml").write_text(TOML)
    result = call(*words.split(), cwd=tmp_path)
    assert result.returncode == code and said in result.stderr, result.stderr


@pytest.mark.parametrize(
    "arch, alike",
    [
        ("resnet10", "resnet10t"), ("efficientnet_v2_s", "efficientnetv2_s"), ("ResNet50", "resnet50"),
        ("densnet121", "densenet121"), ("convnext", "convnext"), ("tf_efficientnetv2", "tf_efficientnetv2_"),
    ],
)  # fmt: skip
def test_an_architecture_gets_those_that_are_alike(arch, alike):
    from cxrdali.models.classifier import check_arch
    from shards.errors import UserError

    with pytest.raises(UserError, match=rf"is no timm model \(alike: {alike}"):
        check_arch(arch)


def test_a_plugin_s_name_is_one_of_them():
    from cxrdali.data.sampler import Sampler
    from cxrdali.registry import Registry
    from shards.errors import UserError

    known = Registry("sampler", "cxrdali.data.samplers", Sampler)
    known.add(type("Quadratic", (Sampler,), {"name": "quadratic"}))
    with pytest.raises(UserError, match=r"sampler 'quadratik': did you mean quadratic\?"):
        known["quadratik"]


def test_labels_and_findings_get_the_nearest_name(dataset):
    from cxrdali.runs.oversampling import chosen_findings
    from shards.errors import UserError

    with pytest.raises(UserError, match=r"no labels 'cxr-lt-2024'; did you mean cxr-lt-2023\? attached are"):
        dataset.labels("cxr-lt-2024")
    with pytest.raises(UserError, match=r"no such finding; did you mean Hernia\? the labels have"):
        chosen_findings(["hernai"], None, None, dataset.labels("cxr-lt-2023").findings)


@pytest.mark.parametrize("command", ["predict", "explain"])
def test_who_gives_weights_for_a_run_is_told_where_they_go(tmp_path, command):
    (tmp_path / "avg.safetensors").touch()
    ended = call(command, "--run", "avg.safetensors", "--out", "p.parquet", cwd=tmp_path)
    assert ended.returncode == 2 and "avg.safetensors is a file; give the folder of the run" in ended.stderr
    assert "beside it with --weights (predict, explain)" in ended.stderr
