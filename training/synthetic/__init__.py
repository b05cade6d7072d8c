"""Generated H&E-like breast tissue with exact truth, at 0.5 µm/px.

No public image set with cellularity may be shipped with this project, so the demonstration model
learns from tissue of our own making. A picture is built the way a section is: a *layout* says
which tissue lies where, *nuclei* are placed in it, both give the optical density of haematoxylin
and eosin per pixel, and a *stain* and a *camera* turn these into RGB. Everything that varies in
practice (stain, thickness, sharpness, cell size, architecture) is drawn widely at random, since a
model that has seen every generated look is the more likely to take a real one for one more.

**Cellularity**, exactly: the area of malignant cells over the area of tissue.

- A malignant cell is its nucleus and its cytoplasm: the pixels within the cytoplasm's width of a
  malignant nucleus and inside the space its nest or duct leaves it, the clefts between discohesive
  cells included. Nuclei of other cells that lie in between (infiltrating lymphocytes) do not count.
  In-situ carcinoma counts, as in BreastPathQ.
- Tissue is everything but the empty glass around the section. Fat vacuoles, lumens, clefts and
  vessels are tissue, as they are for a pathologist who judges the share of a tumour bed.
- A picture without tissue has cellularity 0.

`generate` is asked for a picture and draws a pattern (`patterns`) into a map of tissue (`layout`);
`nuclei` and `cells` fill it, `ground` lays the dyes between them, and `render` puts them together
with a `stain` and a `camera`. The same seed gives the same picture, whatever is added later.
"""

from training.synthetic.generate import SyntheticConfig, generate_patch, generate_region
from training.synthetic.patch import Patch
from training.synthetic.patterns import PATTERN_WEIGHTS, Pattern

__all__ = [
    "PATTERN_WEIGHTS",
    "Patch",
    "Pattern",
    "SyntheticConfig",
    "generate_patch",
    "generate_region",
]
