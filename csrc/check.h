// What the native operators accept, checked before any memory is read: they can be called without ddetr.ops in front.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/Exception.h>

#include <limits>
#include <vector>

#include "geometry.h"

namespace ddetr {

// The dtype of coordinates, weights and sums: double for double, float for everything smaller.
inline at::ScalarType accumulate_type(const at::Tensor& value) {
  return value.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// level_sizes: h0, w0, h1, w1, ...
inline std::vector<Level> check_levels(at::IntArrayRef level_sizes, int64_t num_tokens) {
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  TORCH_CHECK(!level_sizes.empty() && level_sizes.size() % 2 == 0,
              "level_sizes must hold h and w of each level, at least one level; got ", level_sizes);
  TORCH_CHECK(num_tokens < most, "value has S = ", num_tokens, " tokens; the operator counts up to ", most - 1);
  std::vector<Level> levels;
  int64_t start = 0;
  for (size_t i = 0; i < level_sizes.size(); i += 2) {
    const int64_t h = level_sizes[i], w = level_sizes[i + 1];
    TORCH_CHECK(h > 0 && w > 0, "level ", i / 2, " must have positive (h, w); got (", h, ", ", w, ")");
    TORCH_CHECK(h <= num_tokens && w <= num_tokens && h * w <= num_tokens - start, "value has S = ", num_tokens,
                " tokens, fewer than the levels of sizes ", level_sizes, " hold");
    levels.push_back({static_cast<int32_t>(h), static_cast<int32_t>(w), static_cast<int32_t>(start)});
    start += h * w;
  }
  TORCH_CHECK(start == num_tokens, "value has S = ", num_tokens, " tokens, but the levels of sizes ", level_sizes,
              " add up to ", start);
  return levels;
}

inline void check_tensor(const char* name, const at::Tensor& tensor, at::IntArrayRef shape, at::ScalarType dtype,
                         const at::Tensor& value) {
  TORCH_CHECK(tensor.sizes() == shape, name, " must have shape ", shape, " to fit value and level_sizes; got ",
              tensor.sizes());
  TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype, " beside a value of ", value.scalar_type(),
              "; got ", tensor.scalar_type());
  TORCH_CHECK(tensor.device() == value.device(), name, " is on ", tensor.device(), ", value on ", value.device());
}

// Coordinates are locations or offsets (B, Q, M, L, P, 2), weights are weights or logits (B, Q, M, L, P).
inline Sizes check_inputs(const at::Tensor& value, at::IntArrayRef level_sizes, const at::Tensor& coordinates,
                          const at::Tensor& weights) {
  TORCH_CHECK(value.dim() == 4, "value must be (B, S, M, D); got ", value.sizes());
  TORCH_CHECK(coordinates.dim() == 6, "locations or offsets must be (B, Q, M, L, P, 2); got ", coordinates.sizes());
  Sizes sizes{value.size(0), value.size(1), value.size(2), value.size(3), coordinates.size(1), coordinates.size(4),
              check_levels(level_sizes, value.size(1))};
  const auto [B, S, M, D, Q, P, levels] = sizes;
  const int64_t L = sizes.L();
  TORCH_CHECK(P > 0, "locations or offsets must have at least one point; got ", coordinates.sizes());
  TORCH_CHECK(L * P < std::numeric_limits<int32_t>::max() / 8, "too many points for a query: L * P = ", L * P);
  check_tensor("locations or offsets", coordinates, {B, Q, M, L, P, 2}, accumulate_type(value), value);
  check_tensor("weights or logits", weights, {B, Q, M, L, P}, accumulate_type(value), value);
  return sizes;
}

// Reference points (B, Q, L, 2) as (x, y) or (B, Q, L, 4) as (cx, cy, w, h).
inline void check_reference_points(const Sizes& sizes, const at::Tensor& reference_points, const at::Tensor& value) {
  const int64_t size = reference_points.dim() == 4 ? reference_points.size(3) : 0;
  TORCH_CHECK(size == 2 || size == 4, "reference_points must be (B, Q, L, 2) or (B, Q, L, 4); got ",
              reference_points.sizes());
  check_tensor("reference_points", reference_points, {sizes.B, sizes.Q, sizes.L(), size}, accumulate_type(value), value);
}

inline void check_grad_out(const Sizes& sizes, const at::Tensor& grad_out, const at::Tensor& value) {
  check_tensor("grad_out", grad_out, {sizes.B, sizes.Q, sizes.M * sizes.D}, value.scalar_type(), value);
}

}  // namespace ddetr
