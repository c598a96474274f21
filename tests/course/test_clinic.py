"""Each patient is really ill, the healthy ones are not, and every fault can be told from every other."""

import pytest
import torch

from ddetr.course import clinic
from ddetr.course.faults import FAULTS

ONLY_IN_COMPANY = {"padding not masked": 0.05, "valid_ratios forgotten": 0.1}  # and how much AP it costs at least


@pytest.fixture(scope="module")
def well():
    return {weights: clinic.look(clinic.healthy(weights)) for weights in ("tiny_two_stage", "tiny")}


def average_precision(look):
    return clinic.judge(look).metrics["AP"]


def same(one, other):
    return all(
        torch.equal(a["labels"], b["labels"]) and torch.allclose(a["boxes"], b["boxes"], atol=0.1)
        for a, b in zip(one.detections, other.detections, strict=True)
    )


def test_there_are_enough_patients_and_two_innocent_suspects():
    assert len(clinic.PATIENTS) >= 8
    assert len({patient.fault for patient in clinic.PATIENTS}) == len(clinic.PATIENTS) == len(FAULTS) - 2


@pytest.mark.parametrize("number", range(1, len(clinic.PATIENTS) + 1))
def test_a_patient_shows_it(number, well):
    fault, weights = clinic.PATIENTS[number - 1]
    healthy = well[weights]
    assert same(clinic.look(clinic.healthy(weights)), healthy)
    alone = clinic.look(clinic.patient(number))
    if fault in ONLY_IN_COMPANY:
        assert same(alone, healthy)
        kept = average_precision(clinic.in_company(clinic.healthy(weights), 4))
        assert average_precision(clinic.in_company(clinic.patient(number), 4)) < kept - ONLY_IN_COMPANY[fault]
    else:
        assert not same(alone, healthy)
        assert average_precision(alone) < average_precision(healthy) - 0.03


@pytest.mark.parametrize("weights", ["tiny_two_stage", "tiny"])
def test_no_two_faults_look_alike(weights):
    symptoms = {fault: tuple(clinic.symptom(fault, weights, company) for company in (False, True)) for fault in FAULTS}
    assert len(set(symptoms.values())) == len(FAULTS)
    for fault, (alone, company) in symptoms.items():
        assert (alone == "none") == (fault in ONLY_IN_COMPANY)
        assert company != "none"


def test_a_patient_looks_like_any_other_detector():
    patient, healthy = clinic.patient(9), clinic.healthy()
    assert type(patient) is type(healthy)
    assert repr(patient) == repr(healthy)
    assert patient.state_dict().keys() == healthy.state_dict().keys()


def test_the_healthy_twin_has_no_difference():
    images = clinic.pair()
    assert images[0].shape != images[1].shape
    assert clinic.first_difference(clinic.healthy().trace(images), clinic.healthy().trace(images)) is None


def test_what_is_square_hides_swapped_axes():
    traces = [model.trace(clinic.square()) for model in (clinic.patient(10), clinic.healthy())]
    assert clinic.first_difference(*traces) is None


def test_traces_of_other_images_are_not_compared():
    model = clinic.healthy()
    with pytest.raises(ValueError, match="do not have the same tensors"):
        clinic.first_difference(model.trace(clinic.pair()), model.trace(clinic.square()))


def test_the_mask_inverted_gives_every_image_the_same_boxes():
    names = ["pre_transformer.images", "decoder.layer0.value", "heads.boxes"]
    ill, well = (clinic.variation(model, names) for model in (clinic.patient(4), clinic.healthy("tiny")))
    assert ill["pre_transformer.images"] == well["pre_transformer.images"] > 0.5
    assert ill["decoder.layer0.value"] == ill["heads.boxes"] == 0
    assert well["heads.boxes"] > 0.1


def test_the_truth_scores_1():
    truth = clinic.truth(clinic.healthy())
    assert average_precision(truth) == pytest.approx(1)
    shifted = [{**found, "labels": (found["labels"] + 1) % 12} for found in truth.detections]
    assert average_precision(truth._replace(detections=shifted)) < 0.05


@pytest.mark.parametrize("number", [0, 11, "1"])
def test_there_is_no_such_patient(number):
    with pytest.raises(ValueError, match="patients are 1 to 10"):
        clinic.patient(number)


def test_an_unknown_suspect_is_named():
    with pytest.raises(ValueError, match="did you mean 'align_corners=True'"):
        clinic.with_fault("align_corners")
    with pytest.raises(ValueError, match="no suspect 0"):
        clinic.symptom(0, "tiny", False)


def test_every_suspect_is_on_the_list():
    assert [line.split("  ")[0] for line in clinic.suspects().splitlines()] == list(FAULTS)
