"""LazySlide's functions, in the order of its tutorial, in its own environment.

Tiles are given as `wsidata` stores them, by its own `add_tiles`.
"""

import importlib
from typing import Any

from tests.benchmarks.peers.task import Timed, load


def main() -> None:
    task = load()
    lazyslide: Any = importlib.import_module("lazyslide")
    numpy: Any = importlib.import_module("numpy")
    torch: Any = importlib.import_module("torch")
    transforms: Any = importlib.import_module("torchvision.transforms.v2")
    wsidata: Any = importlib.import_module("wsidata")
    wsidata_io: Any = importlib.import_module("wsidata.io")

    network = torch.jit.load(task.model)
    timed = Timed(network)
    wsi = wsidata.open_wsi(
        task.slide, store=str(task.results / "slide.zarr"), reader=task.reader or None
    )
    if wsi.properties.mpp is None:
        wsi.set_mpp(task.slide_mpp)
    if task.tiles is None:
        lazyslide.pp.find_tissues(wsi)
        lazyslide.pp.tile_tissues(wsi, task.tile_px, mpp=task.mpp)
    else:
        spec = wsidata.TileSpec.from_wsidata(wsi, tile_px=task.tile_px, mpp=task.mpp)
        corners = numpy.array(task.tiles)
        wsidata_io.add_tiles(wsi, "tiles", corners, spec, numpy.zeros(len(corners), int))
    logits = lazyslide.tl.feature_extraction(
        wsi,
        timed,
        model_name="cellularity",
        transform=transforms.Compose(
            [
                transforms.ToImage(),
                transforms.ToDtype(torch.float32, scale=True),
                transforms.Normalize(task.mean, task.std),
            ]
        ),
        device="cpu",
        batch_size=task.batch,
        num_workers=task.workers,
        return_features=True,
    )
    wsi.write()
    bounds = wsi.shapes["tiles"].bounds
    scores = torch.sigmoid(torch.as_tensor(logits)).reshape(-1).tolist()
    xy = zip(bounds["minx"], bounds["miny"], strict=True)
    task.give([(round(x), round(y)) for x, y in xy], scores, timed.seconds)


if __name__ == "__main__":
    main()
