"""Files in the layouts of slides that are several files."""

from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

VMS = """[Virtual Microscope Specimen]\r
NoLayers=1\r
NoJpegColumns=2\r
NoJpegRows=1\r
ImageFile=s.jpg\r
ImageFile(1,0) = s(1,0).jpg \r
ImageFile(2,0)=missing.jpg\r
MapFile=s_map2.jpg\r
OptimisationFile=s.opt\r
MacroImage=../s_macro.jpg\r
"""


def write_dicom(path: Path, series: str, modality: str = "SM", instance: int = 1) -> Path:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset.Modality = modality
    dataset.SeriesInstanceUID = series
    dataset.InstanceNumber = instance
    dataset.add_new(0x7FE0_0010, "OB", bytes([instance]) * 1000)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write(path: Path, content: bytes = b"bytes") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path
