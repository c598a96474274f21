// The operators' CPU side: checks, allocations, and the choice of kernel by dtype.
#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include "../check.h"
#include "kernel.h"

namespace ddetr {
namespace {

using at::Tensor;

// All dtypes that the kernels are compiled for.
#define DDETR_DISPATCH(value, ...) \
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, (value).scalar_type(), "ms_deform_attn", __VA_ARGS__)

template <typename acc_t>
Sampling<acc_t> sampling_of(const Tensor& reference_points, const Tensor& coordinates, const Tensor& weights) {
  const bool fused = reference_points.defined();
  return {fused ? reference_points.const_data_ptr<acc_t>() : nullptr, fused ? reference_points.size(3) : 0,
          coordinates.const_data_ptr<acc_t>(), weights.const_data_ptr<acc_t>()};
}

// All tensors contiguous; reference_points undefined in the plain form.
Tensor run_forward(const Sizes& sizes, const Tensor& value, const Tensor& reference_points, const Tensor& coordinates,
                   const Tensor& weights) {
  Tensor out = at::empty({sizes.B, sizes.Q, sizes.M * sizes.D}, value.options());
  DDETR_DISPATCH(value, [&] {
    const auto sampling = sampling_of<acc_type<scalar_t>>(reference_points, coordinates, weights);
    forward_cpu(sizes, value.const_data_ptr<scalar_t>(), sampling, out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

std::tuple<Tensor, Tensor, Tensor> run_backward(const Sizes& sizes, const Tensor& grad_out, const Tensor& value,
                                                const Tensor& reference_points, const Tensor& coordinates,
                                                const Tensor& weights) {
  Tensor grad_value = at::zeros(value.sizes(), value.options().dtype(accumulate_type(value)));
  Tensor grad_coordinates = at::empty(coordinates.sizes(), coordinates.options());
  Tensor grad_weights = at::empty(weights.sizes(), weights.options());
  DDETR_DISPATCH(value, [&] {
    using acc_t = acc_type<scalar_t>;
    const auto sampling = sampling_of<acc_t>(reference_points, coordinates, weights);
    backward_cpu(sizes, grad_out.const_data_ptr<scalar_t>(), value.const_data_ptr<scalar_t>(), sampling,
                 grad_value.mutable_data_ptr<acc_t>(), grad_coordinates.mutable_data_ptr<acc_t>(),
                 grad_weights.mutable_data_ptr<acc_t>());
  });
  return {grad_value.to(value.scalar_type()), grad_coordinates, grad_weights};
}

Tensor forward(const Tensor& value, at::IntArrayRef level_sizes, const Tensor& sampling_locations,
               const Tensor& attention_weights) {
  const Sizes sizes = check_inputs(value, level_sizes, sampling_locations, attention_weights);
  return run_forward(sizes, value.contiguous(), {}, sampling_locations.contiguous(), attention_weights.contiguous());
}

std::tuple<Tensor, Tensor, Tensor> backward(const Tensor& grad_out, const Tensor& value, at::IntArrayRef level_sizes,
                                            const Tensor& sampling_locations, const Tensor& attention_weights) {
  const Sizes sizes = check_inputs(value, level_sizes, sampling_locations, attention_weights);
  check_grad_out(sizes, grad_out, value);
  return run_backward(sizes, grad_out.contiguous(), value.contiguous(), {}, sampling_locations.contiguous(),
                      attention_weights.contiguous());
}

Tensor fused_forward(const Tensor& value, at::IntArrayRef level_sizes, const Tensor& reference_points,
                     const Tensor& sampling_offsets, const Tensor& attention_logits) {
  const Sizes sizes = check_inputs(value, level_sizes, sampling_offsets, attention_logits);
  check_reference_points(sizes, reference_points, value);
  return run_forward(sizes, value.contiguous(), reference_points.contiguous(), sampling_offsets.contiguous(),
                     attention_logits.contiguous());
}

std::tuple<Tensor, Tensor, Tensor> fused_backward(const Tensor& grad_out, const Tensor& value,
                                                  at::IntArrayRef level_sizes, const Tensor& reference_points,
                                                  const Tensor& sampling_offsets, const Tensor& attention_logits) {
  const Sizes sizes = check_inputs(value, level_sizes, sampling_offsets, attention_logits);
  check_reference_points(sizes, reference_points, value);
  check_grad_out(sizes, grad_out, value);
  return run_backward(sizes, grad_out.contiguous(), value.contiguous(), reference_points.contiguous(),
                      sampling_offsets.contiguous(), attention_logits.contiguous());
}

}  // namespace
}  // namespace ddetr

// The schemas are in ddetr/ops/library.py.
TORCH_LIBRARY_IMPL(ddetr, CPU, m) {
  m.impl("ms_deform_attn", TORCH_FN(ddetr::forward));
  m.impl("ms_deform_attn_backward", TORCH_FN(ddetr::backward));
  m.impl("ms_deform_attn_fused", TORCH_FN(ddetr::fused_forward));
  m.impl("ms_deform_attn_fused_backward", TORCH_FN(ddetr::fused_backward));
}
