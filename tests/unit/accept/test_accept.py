import json

import numpy as np
import pytest

import wsi_pipeline as wsi
from tests.helpers.real_slides import SAMPLE
from wsi_pipeline.accept import accept as module
from wsi_pipeline.accept.accept import accept, read_table
from wsi_pipeline.accept.page import write_acceptance
from wsi_pipeline.errors import ConfigError
from wsi_pipeline.model.bundle import BUNDLED_MODEL, ModelBundle
from wsi_pipeline.model.score_error import ScoreError
from wsi_pipeline.outputs.summary import SlideSummary
from wsi_pipeline.scoring.config import ScoreConfig


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> SlideSummary:
    with pytest.warns(UserWarning, match="demonstration"):
        found = wsi.score(SAMPLE, tmp_path_factory.mktemp("out"), progress=lambda *_: None)
    return found.summary


@pytest.fixture
def table(scored, monkeypatch, tmp_path):
    """A table of slides with figures of their own, made from one real summary."""

    def make(pairs, **changes):
        made = {}
        for number, (model, _) in enumerate(pairs):
            slide = scored.provenance.slide.model_copy(
                update={"name": f"{number}.svs", "digest": f"{number:032x}"} | changes
            )
            made[f"s{number}"] = scored.model_copy(
                update={
                    "bed": None,
                    "cellularity": scored.cellularity.model_copy(update={"mean": model}),
                    "provenance": scored.provenance.model_copy(update={"slide": slide}),
                }
            )
        monkeypatch.setattr(module, "read_summary", lambda folder: made.get(folder.name))
        path = tmp_path / "slides.csv"
        rows = [f"s{number},{100 * read:.6f}" for number, (_, read) in enumerate(pairs)]
        path.write_text("\n".join(["folder,cellularity_percent", *rows]) + "\n")
        return path

    return make


def pairs(count=30, seed=0):
    rng = np.random.default_rng(seed)
    read = rng.uniform(0, 0.8, count)
    return list(zip(np.clip(read + rng.normal(0.03, 0.06, count), 0, 1), read, strict=True))


def test_a_laboratorys_slides_give_agreement_a_page_and_errors(table, tmp_path):
    result = accept(table(pairs()))
    assert result.agreement.slides == 30
    assert result.agreement.bias == pytest.approx(0.03, abs=0.03)
    assert result.agreement.icc > 0.9
    path = write_acceptance(tmp_path / "accepted", result)
    page = path.read_text()
    for word in ("ICC of absolute agreement", "Accepted by", "29.svs", "all tissue"):
        assert word in page
    errors = ScoreError.read(path.parent / "score-error.json")
    assert errors.patients == 30
    assert 0.05 < errors.patient_deviation < 0.3


def test_its_errors_are_used_in_place_of_the_bundles(table, tmp_path, tiny_bundle):
    path = write_acceptance(tmp_path / "accepted", accept(table(pairs())))
    config = ScoreConfig(score_error=path.parent / "score-error.json")
    bundle = ModelBundle.load(BUNDLED_MODEL)
    assert "this laboratory" in config.errors_of(bundle).measured_on
    assert "BRCA-M2C" in ScoreConfig().errors_of(bundle).measured_on
    with pytest.raises(ConfigError, match="measured on another model"):
        config.errors_of(ModelBundle.load(tiny_bundle))
    with pytest.raises(ConfigError, match="no such file"):
        ScoreConfig(score_error=tmp_path / "none.json").errors_of(bundle)


def test_too_few_slides_or_one_of_them_twice_is_refused(table):
    with pytest.raises(ConfigError, match="9 slides are too few"):
        accept(table(pairs(9)))
    with pytest.raises(ConfigError, match="29 slides are there twice"):
        accept(table(pairs(), digest="0" * 32))


def test_what_is_wrong_with_the_table_is_named_with_its_line(tmp_path):
    path = tmp_path / "slides.csv"
    with pytest.raises(ConfigError, match="there is no such table"):
        read_table(path)
    path.write_text("folder,cellularity_percent\na,30\nb,130\n")
    with pytest.raises(ConfigError, match=r"line 3: .*cellularity_percent"):
        read_table(path)
    path.write_text("slide,percent\na,30\n")
    with pytest.raises(ConfigError, match=r"line 2: .*The columns are folder and"):
        read_table(path)
    path.write_text("folder,cellularity_percent\nnone,30\n")
    with pytest.raises(ConfigError, match="there is no scored slide here"):
        accept(path)


def test_a_drawn_bed_is_what_is_compared(scored, tmp_path, monkeypatch):
    bed = scored.bed.model_copy(update={"source": "drawn", "cellularity": 0.33})
    compared = module._compared(
        module.Reading(folder="a", cellularity_percent=40),
        scored.model_copy(update={"bed": bed}),
    )
    assert (compared.of, compared.model, compared.pathologist) == ("tumour bed", 0.33, 0.4)
    assert json.dumps(compared.slide)
