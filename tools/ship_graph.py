"""Make the graph that comes with the package: ``python -m tools.ship_graph`` after a new bundle.

The tests compare it with torch, and fail while it is another bundle's.
"""

from wsi_pipeline.engine.export import export
from wsi_pipeline.engine.graphs import write_graph
from wsi_pipeline.engine.shipped import SHIPPED, of
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle


def main() -> None:
    """Export the bundled model in half precision, beside the code that runs it."""
    bundle = ModelBundle.load(BUNDLED_MODEL)
    SHIPPED.parent.mkdir(exist_ok=True)
    write_graph(SHIPPED, export(bundle, half=True), of(bundle))


if __name__ == "__main__":
    main()
