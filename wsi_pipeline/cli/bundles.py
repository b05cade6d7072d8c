"""Commands on model bundles: which are here, and to and from the hub."""

from typing import Annotated

import typer

from wsi_pipeline.cli.app import app
from wsi_pipeline.cli.options import Bundle
from wsi_pipeline.shown import shown

bundles = typer.Typer(no_args_is_help=True, help="Model bundles here and on the Hugging Face hub.")
app.add_typer(bundles, name="bundle")


@bundles.command(name="list")
def list_bundles() -> None:
    """Show the bundles on this machine, with what `--bundle` takes for each."""
    from wsi_pipeline.model.hub_repository import here

    for address, bundle in here():
        card = bundle.card
        kind = "demonstration" if card.demonstration else "research"
        typer.echo(shown(f"{card.name} {card.version}, {kind}: {address}"))


@bundles.command()
def pull(
    address: Annotated[str, typer.Argument(help="hf://owner/name[@revision][#digest].")],
) -> None:
    """Fetch a bundle, and print the pinned address for configurations: nights ask no network."""
    from wsi_pipeline.model.hub import HubAddress
    from wsi_pipeline.model.hub_repository import pull as fetch

    pinned, bundle = fetch(HubAddress.parse(address))
    typer.echo(shown(f"{bundle.card.name} {bundle.card.version} is here. Pin it as:"))
    typer.echo(shown(f"bundle: {pinned}"))


@bundles.command()
def push(
    repository: Annotated[str, typer.Argument(help="owner/name; made if there is none.")],
    bundle: Bundle = None,
    public: Annotated[
        bool, typer.Option("--public", help="Make a new repository one that everybody sees.")
    ] = False,
) -> None:
    """Give a bundle to the hub, with its card; the token is `hf auth login`'s, or HF_TOKEN."""
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.model.hub_repository import push as give

    typer.echo(shown(f"bundle: {give(ModelBundle.load(bundle), repository, private=not public)}"))


@bundles.command()
def card(bundle: Bundle = None) -> None:
    """Print a bundle's card as the hub shows it: Markdown under a header in YAML."""
    from wsi_pipeline.model.bundle import ModelBundle
    from wsi_pipeline.model.hub_repository import model_card

    typer.echo(model_card(ModelBundle.load(bundle).card))
