"""The options of `opsin explain`; what it does is in `cli.commands.explain`."""

from pathlib import Path
from typing import Annotated, Literal

import typer


def explain(  # noqa: PLR0917 (typer reads options from the parameters)
    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO", help="Image files.")],
    method: Annotated[
        Literal[
            "grad_cam",
            "hires_cam",
            "grad_cam_plus_plus",
            "layer_cam",
            "score_cam",
            "smooth_grad",
            "integrated_gradients",
            "occlusion",
        ],
        typer.Option(help="How the evidence is found."),
    ] = "grad_cam",
    out: Annotated[
        Path | None, typer.Option(help="A PNG, or a folder. Default: beside the photo.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The network. Default: the first.")] = None,
    class_index: Annotated[
        int | None, typer.Option("--class", min=0, help="Default: the most probable.")
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Default: the last convolution.")] = None,
    legend: Annotated[bool, typer.Option("--legend", help="With title and color bar.")] = False,
    all_methods: Annotated[
        bool, typer.Option("--all-methods", help="One sheet of all eight.")
    ] = False,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Of the map over the photo.")] = 0.5,
    colormap: Annotated[
        Literal["jet", "turbo", "viridis", "inferno", "magma", "plasma", "gray"],
        typer.Option(help="The map's colors."),
    ] = "jet",
    server: Annotated[str | None, typer.Option(help="Ask this server, e.g. http://gpu:8000.")] = (
        None
    ),
    local: Annotated[bool, typer.Option("--local", help="Use no server.")] = False,
    key: Annotated[str | None, typer.Option(help="The server's key, if not OPSIN_API_KEY.")] = None,
) -> None:
    """Show which parts of photos speak for their class.

    The server answers if one runs, else a version of the store in this process.
    """
    from cli.commands.explain import Wanted
    from cli.commands.explain import explain as show
    from cli.settings import load

    settings = load(key=key)
    wanted = Wanted(model, method, class_index, layer, legend, alpha, colormap)
    show(settings, photos, wanted, out=out, all_methods=all_methods, server=server, local=local)
