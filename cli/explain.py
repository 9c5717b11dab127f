"""cxrdali explain: what a run looks at, as a gallery of heat maps."""

from pathlib import Path

import click

from cli.options import folders


@click.command()
@click.option(
    "--run", required=True, type=click.Path(path_type=Path, file_okay=False), metavar="RUN", help="Run folder."
)
@folders.data_option
@click.option(
    "--split",
    type=click.Choice(["val", "train", "dev", "test", "all"]),
    default="val",
    show_default=True,
    help="val and train are the run's own fold, dev and test the released splits. All but val are predicted first.",
)
@click.option(
    "--images",
    type=int,
    default=4,
    show_default=True,
    help="Images per finding of each kind, best-scored positives and worst misses.",
)
@click.option("--findings", metavar="A,B", help="Findings to show.  [default: all of the run's]")
@click.option(
    "--layer",
    metavar="NAME",
    help="Module of the timm model whose output is shown, as stages.2: an earlier one has more places.  "
    "[default: the last map before the pooling]",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Page to write, .html; or a folder, made when it is not there, for its explain.html.",
)
@click.option("--synthetic", is_flag=True, help="Say on the page that the images are drawn, and belong to nobody.")
@click.option("--labels", metavar="NAME", help="Label release whose findings are meant.  [default: the run's]")
@click.option("--batch", type=int, default=8, show_default=True, help="Images at a time for the heat maps.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--precision", type=click.Choice(["auto", "bf16", "fp16", "fp32"]), default="auto", show_default=True,
              help="Of predicting; heat maps are computed in fp32.")  # fmt: skip
@click.option("--decode", type=click.Choice(["auto", "cpu", "mixed", "hybrid"]), default="auto", show_default=True)
def explain(run, data, split, images, findings, layer, out, synthetic, labels, batch, device, precision, decode):
    """Show per finding the images that a run scores best and those it misses worst, with Grad-CAM heat maps.

    The page holds pictures of patients: their data-use terms hold for it.
    """
    from cxrdali.predictions import check_writable
    from cxrdali.report.kit.page import check_numbers_file

    names = tuple(name.strip() for name in findings.split(",")) if findings is not None else ()
    if findings is not None and not all(names):
        raise click.UsageError(f"--findings '{findings}': names with commas between them, such as \"Mass,Nodule\"")
    if out.suffix not in ("", ".html") and not out.is_dir():
        raise click.UsageError(f"--out {out}: the page is a .html, or a folder")
    if out.suffix == ".html":
        check_writable(out)  # before an hour of work, not after
        check_numbers_file(out)
    else:
        out.mkdir(parents=True, exist_ok=True)
        out = out / "explain.html"

    from cxrdali.predict.explain import ExplainOptions, explain
    from cxrdali.predict.predict import PredictOptions
    from cxrdali.report.explanation.page import write_gallery

    options = ExplainOptions(images, split, names, layer, batch)
    how = PredictOptions(labels, device=device, precision=precision, decode=decode)
    found = explain(run, folders.open_packed(data), options, how)
    if found.without:
        click.echo(f"no positive image in {split}, so not shown: {', '.join(found.without)}")
    write_gallery(out, found, synthetic=synthetic)
    click.echo(f"{out}: {len(found.findings)} findings, {out.stat().st_size / 1e6:.1f} MB")
