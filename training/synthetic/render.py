"""A layout becomes a picture."""

import numpy as np

from training.synthetic.artefacts import apply_artefact
from training.synthetic.blood import dye_blood, place_nuclei_in_blood
from training.synthetic.camera import add_dirt, photograph
from training.synthetic.cells import draw_cells
from training.synthetic.fields import blur, noise
from training.synthetic.glands import dye_glands, place_nuclei_of_glands
from training.synthetic.ground import draw_gaps, fat_walls, ground_dyes
from training.synthetic.layout import Layout, Tissue
from training.synthetic.lymph_node import dye_node, place_nuclei_of_node
from training.synthetic.necrosis import dye_debris, place_nuclei_in_debris
from training.synthetic.nuclei import Section, place_nuclei
from training.synthetic.patch import BACKGROUND, Patch
from training.synthetic.skin import dye_skin, place_nuclei_of_skin
from training.synthetic.stain import Stain

# In the order that they were added: each draws only where its tissue lies, so that a seed of a
# picture without it gives the same picture as before.
_PLACE_MORE = (
    place_nuclei_in_blood,
    place_nuclei_in_debris,
    place_nuclei_of_node,
    place_nuclei_of_glands,
    place_nuclei_of_skin,
)
_DYE_MORE = (dye_blood, dye_debris, dye_node, dye_glands, dye_skin)


def render(rng: np.random.Generator, layout: Layout, stain: Stain) -> Patch:
    """Fill a layout with cells and take its picture."""
    size = layout.size
    fibre_angle = float(rng.uniform(0, np.pi))
    walls = (
        fat_walls(rng, size)
        if (layout.tissue == Tissue.FAT).any()
        else np.zeros((size, size), dtype=np.float32)
    )
    section = Section.draw(rng)
    nuclei, room, malignant = place_nuclei(rng, layout, section, walls, fibre_angle)
    for place in _PLACE_MORE:
        place(rng, layout, nuclei, section)
    cells = draw_cells(rng, nuclei, room, malignant.cytoplasm)
    h, e = ground_dyes(rng, layout, walls, fibre_angle)
    for dye in _DYE_MORE:
        dye(rng, layout, h, e)

    body = cells.tumour
    texture = 1 + rng.uniform(0.05, 0.2) * noise(rng, size, 2.5) + 0.15 * noise(rng, size, 14)
    e = np.where(body, malignant.eosin * texture, e)
    h = np.where(body, malignant.haematoxylin * texture, h)
    membrane = rng.uniform(-0.5, 0.6)
    e[cells.borders] *= 1 + membrane
    h[cells.borders] *= 1 + membrane
    gaps = draw_gaps(rng, layout, cells, malignant.cleft)
    e *= 1 - gaps
    h *= 1 - gaps

    # Below a nucleus lies less of everything else; a slight blur is the section's thickness.
    thick = rng.uniform(0.3, 0.8)
    covered = blur((cells.mask > 0).astype(np.float32), thick)
    nuclear = blur(cells.haematoxylin, thick)
    if rng.random() < 0.25:  # a thick section: other nuclei shine through, out of focus
        shift = tuple(rng.integers(-12, 13, 2).tolist())
        deeper = blur(np.roll(cells.haematoxylin, shift, (0, 1)), rng.uniform(2, 5))
        deep = np.clip(0.5 + 0.7 * noise(rng, size, rng.uniform(60, 200)), 0, 1)
        nuclear += rng.uniform(0.3, 0.9) * deep * deeper * (layout.tissue != Tissue.GLASS)
    h = stain.ground * blur(h, thick) * (1 - 0.7 * covered) + stain.nuclei * nuclear
    e = stain.ground * blur(e, thick) * (1 - 0.6 * covered)
    shade = 1 + rng.uniform(0, 0.02) * noise(rng, size, size / 2)
    channels = zip(stain.glass, stain.haematoxylin, stain.eosin, strict=True)
    rgb = np.dstack(
        [shade * glass * np.exp(-(h * per_h + e * per_e)) for glass, per_h, per_e in channels]
    )
    for pigment in layout.pigments:
        rgb *= np.exp(-pigment.density[..., None] * pigment.colour)
    mask = cells.mask
    if layout.artefact is not None:
        rgb, hidden = apply_artefact(rng, layout, layout.artefact, rgb)
        mask = np.where(hidden, BACKGROUND, mask).astype(np.uint8)
    add_dirt(rng, rgb)
    return Patch(
        rgb=photograph(rng, rgb),
        mask=mask,
        tumour=body,
        tissue=np.asarray(layout.tissue != Tissue.GLASS),
    )
