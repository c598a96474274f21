"""Wrong inputs, each with a message that says what was given and what was expected."""

import pytest
import torch
from cases import fused_case, plain_case

from ddetr.ops import ms_deform_attn, ms_deform_attn_fused

WRONG_PLAIN = {
    "a value without heads": ({"value": torch.zeros(2, 16, 8)}, r"value must be \(B, S, M, D\); got"),
    "an integer value": ({"value": torch.zeros(2, 16, 2, 4, dtype=torch.int64)}, "value must hold floating-point"),
    "no tensor": ({"value": [1.0]}, "value must be a tensor"),
    "locations of a rank too few": ({"sampling_locations": torch.zeros(2, 3, 2, 2, 2)}, "sampling_locations must be"),
    "locations of three numbers": ({"sampling_locations": torch.zeros(2, 3, 2, 2, 2, 3)}, "sampling_locations must"),
    "another number of heads": ({"sampling_locations": torch.zeros(2, 3, 4, 2, 2, 2)}, "sampling_locations must"),
    "another number of levels": ({"sampling_locations": torch.zeros(2, 3, 2, 3, 2, 2)}, "sampling_locations must"),
    "another batch": ({"sampling_locations": torch.zeros(1, 3, 2, 2, 2, 2)}, "sampling_locations must"),
    "no points": (
        {"sampling_locations": torch.zeros(2, 3, 2, 2, 0, 2), "attention_weights": torch.zeros(2, 3, 2, 2, 0)},
        "no points",
    ),
    "weights of other queries": ({"attention_weights": torch.zeros(2, 4, 2, 2, 2)}, "attention_weights must be"),
    "too few tokens": ({"value": torch.zeros(2, 15, 2, 4)}, r"S = 15 tokens, but spatial_shapes .* add up to 16"),
    "levels that overlap": ({"level_start_index": [0, 11]}, r"level_start_index is \[0, 11\], but .* \[0, 12\]"),
    "a start that is no list": ({"level_start_index": 0}, r"level_start_index is 0, but .* \[0, 12\]"),
    "no levels": ({"spatial_shapes": []}, "spatial_shapes is empty"),
    "a level of no size": ({"spatial_shapes": [(16, 1), (0, 5)]}, r"spatial_shapes\[1\] must be positive"),
    "a negative size": ({"spatial_shapes": [(-3, -4), (2, 2)]}, r"spatial_shapes\[0\] must be positive"),
    "float sizes": ({"spatial_shapes": torch.tensor([[3.0, 4.0], [2.0, 2.0]])}, "spatial_shapes must hold integers"),
    "a list of float sizes": ({"spatial_shapes": [(3.0, 4.0), (2, 2)]}, r"spatial_shapes\[0\] must hold integers"),
    "a size in letters": ({"spatial_shapes": [(3, 4), ("2", 2)]}, r"spatial_shapes\[1\] must hold integers"),
    "sizes in a row": ({"spatial_shapes": torch.tensor([3, 4, 2, 2])}, r"spatial_shapes must be \(L, 2\)"),
    "another device": ({"attention_weights": torch.zeros(2, 3, 2, 2, 2, device="meta")}, "is on meta, value on cpu"),
    "an unknown back end": ({"backend": "abacus"}, "backend is 'abacus'; choose one of 'loop'"),
}

WRONG_FUSED = {
    "reference points of three numbers": ({"reference_points": torch.zeros(2, 3, 2, 3)}, "reference_points must be"),
    "reference points without levels": ({"reference_points": torch.zeros(2, 3, 2)}, "reference_points must be"),
    "reference points of one level": ({"reference_points": torch.zeros(2, 3, 1, 2)}, "reference_points must be"),
    "offsets of other heads": ({"sampling_offsets": torch.zeros(2, 3, 1, 2, 2, 2)}, "sampling_offsets must be"),
    "logits without points": ({"attention_logits": torch.zeros(2, 3, 2, 2)}, "attention_logits must be"),
}


@pytest.mark.parametrize("wrong", WRONG_PLAIN)
def test_plain(wrong):
    changes, message = WRONG_PLAIN[wrong]
    case = plain_case(dtype=torch.float32)
    arguments = {
        "value": case.value, "spatial_shapes": case.sizes, "level_start_index": None,
        "sampling_locations": case.locations, "attention_weights": case.weights,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ms_deform_attn(**(arguments | changes))


@pytest.mark.parametrize("wrong", WRONG_FUSED)
def test_fused(wrong):
    changes, message = WRONG_FUSED[wrong]
    case = fused_case(dtype=torch.float32)
    arguments = {
        "value": case.value, "spatial_shapes": case.sizes, "level_start_index": None,
        "reference_points": case.reference_points, "sampling_offsets": case.offsets,
        "attention_logits": case.logits,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        ms_deform_attn_fused(**(arguments | changes))


NATIVE_WRONG = {
    "levels that hold more than S": ({"level_sizes": [3, 4, 2, 3]}, "fewer than the levels"),
    "levels that hold less than S": ({"level_sizes": [3, 4]}, "add up to 12"),
    "an odd number of sizes": ({"level_sizes": [3, 4, 2]}, "h and w of each level"),
    "no levels": ({"level_sizes": []}, "at least one level"),
    "sizes whose product overflows": ({"level_sizes": [2**62, 4, 2, 2]}, "fewer than the levels"),
    "a negative size": ({"level_sizes": [-3, -4, 2, 2]}, "must have positive"),
    "a value of rank 3": ({"value": torch.zeros(2, 16, 8)}, "value must be"),
    "locations of rank 5": ({"sampling_locations": torch.zeros(2, 3, 2, 2, 2)}, "must be"),
    "locations of three numbers": ({"sampling_locations": torch.zeros(2, 3, 2, 2, 2, 3)}, "must have shape"),
    "locations in half": ({"sampling_locations": torch.zeros(2, 3, 2, 2, 2, 2).half()}, "must be Float"),
    "weights of another batch": ({"attention_weights": torch.zeros(1, 3, 2, 2, 2)}, "must have shape"),
    "no points": (
        {"sampling_locations": torch.zeros(2, 3, 2, 2, 0, 2), "attention_weights": torch.zeros(2, 3, 2, 2, 0)},
        "at least one point",
    ),
    "an integer value": ({"value": torch.zeros(2, 16, 2, 4, dtype=torch.int64)}, "Long"),
}


@pytest.mark.parametrize("wrong", NATIVE_WRONG)
def test_the_native_operator_checks_for_itself(cpu_backend, wrong):
    changes, message = NATIVE_WRONG[wrong]
    case = plain_case(dtype=torch.float32)
    arguments = {
        "value": case.value,
        "level_sizes": [3, 4, 2, 2],
        "sampling_locations": case.locations,
        "attention_weights": case.weights,
    }
    with pytest.raises((RuntimeError, NotImplementedError), match=message):
        torch.ops.ddetr.ms_deform_attn(**(arguments | changes))


def test_the_native_gradients_check_for_themselves(cpu_backend):
    case, fused = plain_case(dtype=torch.float32), fused_case(dtype=torch.float32)
    inputs = case.value, [3, 4, 2, 2], case.locations, case.weights
    with pytest.raises(RuntimeError, match="grad_out must have shape"):
        torch.ops.ddetr.ms_deform_attn_backward(torch.zeros(2, 3, 7), *inputs)
    with pytest.raises(RuntimeError, match="grad_out must be Float"):
        torch.ops.ddetr.ms_deform_attn_backward(torch.zeros(2, 3, 8).double(), *inputs)
    three = torch.zeros(2, 3, 2, 3)
    with pytest.raises(RuntimeError, match="reference_points must be"):
        torch.ops.ddetr.ms_deform_attn_fused(fused.value, [3, 4, 2, 2], three, fused.offsets, fused.logits)
