// The operator on the CPU: the choice of kernel by dtype.
#include "../ms_deform_attn.h"

#include "kernel.h"

namespace ddetr {
namespace {

struct CpuKernels {
  static Tensor forward(const Inputs& in) {
    Tensor out = empty_out(in);
    DDETR_DISPATCH(in.value, [&] {
      forward_cpu(in.sizes, in.value.const_data_ptr<scalar_t>(), in.sampling<acc_type<scalar_t>>(),
                  out.mutable_data_ptr<scalar_t>());
    });
    return out;
  }

  static Gradients backward(const Inputs& in, const Tensor& grad_out) {
    auto [grad_value, grad_coordinates, grad_weights] = empty_gradients(in);
    DDETR_DISPATCH(in.value, [&, &grad_value = grad_value, &grad_coordinates = grad_coordinates,
                              &grad_weights = grad_weights] {
      using acc_t = acc_type<scalar_t>;
      backward_cpu(in.sizes, grad_out.const_data_ptr<scalar_t>(), in.value.const_data_ptr<scalar_t>(),
                   in.sampling<acc_t>(), grad_value.mutable_data_ptr<acc_t>(),
                   grad_coordinates.mutable_data_ptr<acc_t>(), grad_weights.mutable_data_ptr<acc_t>());
    });
    return {grad_value, grad_coordinates, grad_weights};
  }
};

}  // namespace
}  // namespace ddetr

TORCH_LIBRARY_IMPL(ddetr, CPU, library) { ddetr::register_kernels<ddetr::CpuKernels>(library); }
