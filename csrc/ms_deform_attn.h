// The operator, on any device: checks and layout here, the work in Kernels::forward and Kernels::backward.
// The schemas, gradients, autocast, fake kernels and vmap are in ddetr/ops/library.py.
#pragma once

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <tuple>

#include "check.h"

// All dtypes that the kernels are compiled for.
#define DDETR_DISPATCH(value, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, (value).scalar_type(), "ms_deform_attn", __VA_ARGS__)

namespace ddetr {

using at::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;  // of value, coordinates and weights

// What a kernel reads, contiguous and checked. reference_points is undefined in the plain form, whose coordinates are
// locations and whose weights are used as they are; in the fused form they are offsets and logits.
struct Inputs {
  Sizes sizes;
  Tensor value, reference_points, coordinates, weights;

  template <typename T>
  Sampling<T> sampling() const {
    const bool fused = reference_points.defined();
    return {fused ? reference_points.const_data_ptr<T>() : nullptr, fused ? reference_points.size(3) : 0,
            coordinates.const_data_ptr<T>(), weights.const_data_ptr<T>()};
  }
};

inline Inputs check_and_pack(const Tensor& value, at::IntArrayRef level_sizes, const Tensor& reference_points,
                             const Tensor& coordinates, const Tensor& weights) {
  Sizes sizes = check_inputs(value, level_sizes, coordinates, weights);
  if (reference_points.defined()) check_reference_points(sizes, reference_points, value);
  return {std::move(sizes), value.contiguous(), reference_points.defined() ? reference_points.contiguous() : Tensor(),
          coordinates.contiguous(), weights.contiguous()};
}

inline Tensor empty_out(const Inputs& in) {
  return at::empty({in.sizes.B, in.sizes.Q, in.sizes.M * in.sizes.D}, in.value.options());
}

// The gradient of value is added up in the accumulators' dtype, from zero.
inline Gradients empty_gradients(const Inputs& in) {
  return {at::zeros(in.value.sizes(), in.value.options().dtype(accumulate_type(in.value))),
          at::empty(in.coordinates.sizes(), in.coordinates.options()),
          at::empty(in.weights.sizes(), in.weights.options())};
}

template <class Kernels>
Tensor fused_forward(const Tensor& value, at::IntArrayRef level_sizes, const Tensor& reference_points,
                     const Tensor& coordinates, const Tensor& weights) {
  return Kernels::forward(check_and_pack(value, level_sizes, reference_points, coordinates, weights));
}

template <class Kernels>
Gradients fused_backward(const Tensor& grad_out, const Tensor& value, at::IntArrayRef level_sizes,
                         const Tensor& reference_points, const Tensor& coordinates, const Tensor& weights) {
  const Inputs in = check_and_pack(value, level_sizes, reference_points, coordinates, weights);
  check_grad_out(in.sizes, grad_out, value);
  auto [grad_value, grad_coordinates, grad_weights] = Kernels::backward(in, grad_out.contiguous());
  return {grad_value.to(value.scalar_type()), grad_coordinates, grad_weights};
}

template <class Kernels>
Tensor plain_forward(const Tensor& value, at::IntArrayRef level_sizes, const Tensor& coordinates,
                     const Tensor& weights) {
  return fused_forward<Kernels>(value, level_sizes, Tensor(), coordinates, weights);
}

template <class Kernels>
Gradients plain_backward(const Tensor& grad_out, const Tensor& value, at::IntArrayRef level_sizes,
                         const Tensor& coordinates, const Tensor& weights) {
  return fused_backward<Kernels>(grad_out, value, level_sizes, Tensor(), coordinates, weights);
}

template <class Kernels>
void register_kernels(torch::Library& library) {
  library.impl("ms_deform_attn", TORCH_FN(plain_forward<Kernels>));
  library.impl("ms_deform_attn_backward", TORCH_FN(plain_backward<Kernels>));
  library.impl("ms_deform_attn_fused", TORCH_FN(fused_forward<Kernels>));
  library.impl("ms_deform_attn_fused_backward", TORCH_FN(fused_backward<Kernels>));
}

}  // namespace ddetr
