// The CPU kernels' interface: contiguous arrays in the layouts of ddetr.ops.ms_deform_attn, checked by the caller.
#pragma once

#include <cstdint>

#include "../geometry.h"
#include "vec.h"

namespace ddetr {

// value (B, S, M, D) -> out (B, Q, M, D).
template <typename scalar_t>
void forward_cpu(const Sizes& sizes, const scalar_t* value, const Sampling<acc_type<scalar_t>>& sampling,
                 scalar_t* out);

// grad_out (B, Q, M, D) -> grad_value (B, S, M, D), which holds zeros, grad_coordinates and grad_weights, shaped as in
// Sampling. With reference points grad_coordinates is by the place in cells, not by the offset.
template <typename scalar_t>
void backward_cpu(const Sizes& sizes, const scalar_t* grad_out, const scalar_t* value,
                  const Sampling<acc_type<scalar_t>>& sampling, acc_type<scalar_t>* grad_value,
                  acc_type<scalar_t>* grad_coordinates, acc_type<scalar_t>* grad_weights);

}  // namespace ddetr
