"""The five sets of breast tissue, small, in the layouts that training reads."""

import numpy as np
from PIL import Image

PATIENTS = [f"TCGA-A{i}-A0D{i}" for i in range(8)]
PINK, DARK = (225, 160, 200), (90, 40, 130)


def disc(rgb, x, y, radius, colour=DARK):
    rows, columns = np.indices(rgb.shape[:2]) + 0.5
    rgb[np.hypot(rows - y, columns - x) <= radius] = colour


def tissue(height, width, *discs):
    rgb = np.full((height, width, 3), PINK, np.uint8)
    for x, y, radius in discs:
        disc(rgb, x, y, radius)
    return rgb


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def write_breast_sets(root):
    """All five in one folder: eight fields, one of them of a patient whose test is published."""
    brca = root / "brca-m2c"
    names = [f"{p}-01Z-00-DX1_1_2_3_4_0.98.png" for p in PATIENTS]
    for name in names:
        rgb = tissue(140, 150, (30, 40, 7), (100, 60, 9), (60, 110, 6), (120, 115, 7))
        save(brca / "images" / name, rgb)
        (brca / "labels").mkdir(exist_ok=True)
        points = "40 30 1\n60 100 2\n110 60 3\n"
        (brca / "labels" / f"{name[:-4]}_gt_class_coords.txt").write_text(points)
    (brca / "brca_ds_train.txt").write_text("\n".join(names[:5]) + "\n")
    (brca / "brca_ds_val.txt").write_text("\n".join([names[0], *names[5:]]) + "\n")
    (brca / "brca_ds_test.txt").write_text(names[7].replace("DX1", "DX2") + "\n")

    breca = root / "brecahad"
    save(breca / "Case_10-03.jpg", tissue(200, 300, (50, 60, 20), (200, 100, 20), (100, 150, 20)))
    rows = ["Tumor_nuclei,50,60,40,40", "Non_tumor_nuclei,200,100,40,40", "Tubule,150,100,90,90"]
    lines = [f"Case_10-03.jpg,{row}\n" for row in rows]
    (breca / "cells.csv").write_text("image,class,x,y,width,height\n" + "".join(lines))

    save(root / "tnbc" / "1004.png", tissue(100, 120, (40, 30, 10)))
    nuclei = np.zeros((100, 120), np.uint8)
    nuclei[20:40, 30:50] = 255
    save(root / "tnbc" / "1004_nuclei.png", nuclei)

    tumour = np.zeros((120, 160), np.uint8)
    tumour[:, :80] = 255
    save(root / "bcss" / f"{PATIENTS[1]}-DX1.png", tissue(120, 160))
    save(root / "bcss" / f"{PATIENTS[1]}-DX1_mostly_tumour.png", tumour)

    for name, slides in (("tumor", (1, 2)), ("normal", (2, 3))):
        for slide in slides:
            opaque = np.dstack([tissue(64, 64), np.full((64, 64), 255, np.uint8)])
            save(root / "camelyon16" / name / f"tumor_00{slide}_5_6.png", opaque)
    return root
