// The CPU kernels' interface: contiguous arrays in the layouts of ddetr.ops.ms_deform_attn, checked by the caller.
#pragma once

#include <cstdint>

#include "../geometry.h"
#include "vec.h"

namespace ddetr {

// Where the points are and what they weigh. Without reference points, `coordinates` are locations in [0, 1] and
// `weights` are used as they are; with them, `coordinates` are offsets and `weights` are logits.
template <typename acc_t>
struct Sampling {
  const acc_t* reference_points;  // (B, Q, L, 2 | 4) or null
  int64_t reference_size;         // 2 or 4; 0 without reference points
  const acc_t* coordinates;       // (B, Q, M, L, P, 2)
  const acc_t* weights;           // (B, Q, M, L, P)
};

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
