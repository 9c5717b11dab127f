"""A run of frontal images alone, and what it needs to read new ones."""

from types import SimpleNamespace

import pandas as pd
import pytest

FRONTAL = ("AP", "PA")


@pytest.fixture(scope="session")
def frontal(tmp_path_factory):
    """path: a small network's run on the frontal images of a synthetic release; dataset; images, laterals: paths of
    JPEGs, those of the pack by image_id."""
    from cxrdali.runs.settings import settings_of
    from cxrdali.train.trainer import train
    from shards.dataset.packed import PackedDataset
    from shards.packing.options import PackOptions
    from shards.packing.pack import pack
    from shards.releases.open import open_release
    from shards.renditions.options import Size
    from shards.synthetic.plan import SyntheticOptions
    from shards.synthetic.release import write_release

    root = tmp_path_factory.mktemp("frontal")
    write_release(root / "release", SyntheticOptions(560, 96, only=("Cardiomegaly", "Pleural Effusion")))
    files = {path.stem: path for path in (root / "release").rglob("*.jpg")}
    laterals = _only_frontal(root / "release")
    pack(open_release(root / "release"), root / "pack", PackOptions(sizes=(Size(64),)))
    dataset = PackedDataset.open(root / "pack")
    settings = settings_of(
        stage=1, size=64, batch=16, epochs=1, arch="test_byobnet", pretrained=False, device="cpu", lr=3e-3, folds=2,
        labels="cxr-lt-2023", seed=0, fold_seed=0,
    )  # fmt: skip
    train(settings, dataset, root / "run")
    images = {name: files[name] for name in dataset.catalog["image_id"]}
    return SimpleNamespace(
        path=root / "run", dataset=dataset, images=images, laterals=[files[name] for name in laterals]
    )


def _only_frontal(release) -> list[str]:
    """Take all other images out of a release's tables; returns the ids of the laterals."""
    views = pd.read_csv(release / "mimic-cxr-2.0.0-metadata.csv.gz", dtype=str, keep_default_na=False)
    kept = views["dicom_id"][views["ViewPosition"].isin(FRONTAL)]
    for path in [*release.glob("*.csv.gz"), *release.glob("*/*.csv")]:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if "dicom_id" in table:
            table[table["dicom_id"].isin(kept)].to_csv(path, index=False)
    return views["dicom_id"][views["ViewPosition"].isin(("LATERAL", "LL"))].tolist()
