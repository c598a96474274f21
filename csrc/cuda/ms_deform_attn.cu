// The operator on the GPU: a group of a warp's threads for each head of each query.
#include <ATen/Context.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <type_traits>

#include "../ms_deform_attn.h"
#include "head.h"

namespace ddetr {
namespace {

constexpr int kBlock = 256;
constexpr unsigned kWholeWarp = 0xffffffff;

// SIZE neighbouring threads of a warp, a power of two.
template <int SIZE>
struct WarpGroup {
  static constexpr int size = SIZE;
  int lane = threadIdx.x % SIZE;

  template <typename T>
  __device__ T broadcast(T x, int from) const {
    return __shfl_sync(kWholeWarp, x, from, SIZE);
  }
  template <typename T>
  __device__ T sum(T x) const {
#pragma unroll
    for (int step = SIZE / 2; step > 0; step /= 2) x += __shfl_xor_sync(kWholeWarp, x, step, SIZE);
    return x;
  }
  template <typename T>
  __device__ T max(T x) const {
#pragma unroll
    for (int step = SIZE / 2; step > 0; step /= 2) {
      const T other = __shfl_xor_sync(kWholeWarp, x, step, SIZE);
      x = other > x ? other : x;
    }
    return x;
  }
  template <typename T, int N>
  __device__ void add(T* to, const T (&numbers)[N]) const {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    if constexpr (std::is_same_v<T, float> && N % 4 == 0) {
#pragma unroll
      for (int i = 0; i < N; i += 4) {
        atomicAdd(reinterpret_cast<float4*>(to + i),
                  make_float4(numbers[i], numbers[i + 1], numbers[i + 2], numbers[i + 3]));
      }
      return;
    }
#endif
#pragma unroll
    for (int i = 0; i < N; ++i) atomicAdd(to + i, numbers[i]);
  }
};

template <int N, int SIZE, typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kBlock)
    forward_kernel(const __grid_constant__ Layout<index_t> layout,
                   const __grid_constant__ Sampling<acc_type<scalar_t>> sampling, const scalar_t* value, scalar_t* out,
                   index_t heads) {
  const int64_t index = (int64_t(blockIdx.x) * kBlock + threadIdx.x) / SIZE;
  const bool active = index < heads;
  forward_head<N>(WarpGroup<SIZE>(), layout, sampling, value, out, active ? index_t(index) : heads - 1, active);
}

template <int N, int SIZE, typename scalar_t, typename index_t>
__global__ void __launch_bounds__(kBlock)
    backward_kernel(const __grid_constant__ Layout<index_t> layout,
                    const __grid_constant__ Sampling<acc_type<scalar_t>> sampling, const scalar_t* grad_out,
                    const scalar_t* value, acc_type<scalar_t>* grad_value, acc_type<scalar_t>* grad_coordinates,
                    acc_type<scalar_t>* grad_weights, index_t heads) {
  const int64_t index = (int64_t(blockIdx.x) * kBlock + threadIdx.x) / SIZE;
  const bool active = index < heads;
  backward_head<N>(WarpGroup<SIZE>(), layout, sampling, grad_out, value, grad_value, grad_coordinates, grad_weights,
                   active ? index_t(index) : heads - 1, active);
}

template <int N_, int SIZE_, typename index_t_>
struct Variant {
  static constexpr int N = N_, SIZE = SIZE_;
  using index_t = index_t_;
};

bool aligned(const Tensor& tensor) { return reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % 16 == 0; }

// Calls run(Variant) with 16 bytes a thread where channels and addresses allow, as few threads as hold D channels, and
// int32 indices where every tensor has fewer than 2^31 numbers.
template <typename scalar_t, typename F>
void with_variant(const Inputs& in, bool whole_packs, const F& run) {
  constexpr int N = 16 / sizeof(scalar_t);
  constexpr int64_t most = std::numeric_limits<int32_t>::max();
  const int64_t heads = in.sizes.B * in.sizes.Q * in.sizes.M;
  const bool small = in.value.numel() < most && in.coordinates.numel() < most && heads * in.sizes.D < most;
  const int64_t threads = in.sizes.D / N;
  if (!whole_packs || in.sizes.D % N != 0) return run(Variant<1, 32, int64_t>());
  if (!small) return run(Variant<N, 8, int64_t>());
  if (threads <= 4) return run(Variant<N, 4, int32_t>());
  if (threads <= 8) return run(Variant<N, 8, int32_t>());
  if (threads <= 16) return run(Variant<N, 16, int32_t>());
  return run(Variant<N, 32, int32_t>());
}

unsigned blocks_for(int64_t heads, int group) {
  const int64_t blocks = (heads * group + kBlock - 1) / kBlock;
  TORCH_CHECK(blocks <= std::numeric_limits<int32_t>::max(), "too many queries for one launch: B * Q * M = ", heads);
  return static_cast<unsigned>(blocks);
}

void check_level_count(const Inputs& in) {
  TORCH_CHECK(in.sizes.L() <= kMaxLevels, "the GPU operator takes up to ", kMaxLevels, " levels; got ", in.sizes.L());
}

struct CudaKernels {
  static Tensor forward(const Inputs& in) {
    check_level_count(in);
    const c10::cuda::CUDAGuard guard(in.value.device());
    Tensor out = empty_out(in);
    if (out.numel() == 0) return out;
    const int64_t heads = in.sizes.B * in.sizes.Q * in.sizes.M;
    DDETR_DISPATCH(in.value, [&] {
      with_variant<scalar_t>(in, aligned(in.value), [&](auto variant) {
        using V = decltype(variant);
        using index_t = typename V::index_t;
        forward_kernel<V::N, V::SIZE, scalar_t>
            <<<blocks_for(heads, V::SIZE), kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                layout_of<index_t>(in.sizes), in.sampling<acc_type<scalar_t>>(), in.value.const_data_ptr<scalar_t>(),
                out.mutable_data_ptr<scalar_t>(), static_cast<index_t>(heads));
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
    });
    return out;
  }

  static Gradients backward(const Inputs& in, const Tensor& grad_out) {
    check_level_count(in);
    // Atomic additions come in any order.
    at::globalContext().alertNotDeterministic("ms_deform_attn_backward_cuda");
    const c10::cuda::CUDAGuard guard(in.value.device());
    Gradients gradients = empty_gradients(in);
    const int64_t heads = in.sizes.B * in.sizes.Q * in.sizes.M;
    if (heads == 0) return gradients;
    DDETR_DISPATCH(in.value, [&] {
      using acc_t = acc_type<scalar_t>;
      with_variant<scalar_t>(in, aligned(in.value) && aligned(grad_out), [&](auto variant) {
        using V = decltype(variant);
        using index_t = typename V::index_t;
        backward_kernel<V::N, V::SIZE, scalar_t>
            <<<blocks_for(heads, V::SIZE), kBlock, 0, c10::cuda::getCurrentCUDAStream()>>>(
                layout_of<index_t>(in.sizes), in.sampling<acc_t>(), grad_out.const_data_ptr<scalar_t>(),
                in.value.const_data_ptr<scalar_t>(), std::get<0>(gradients).template mutable_data_ptr<acc_t>(),
                std::get<1>(gradients).template mutable_data_ptr<acc_t>(),
                std::get<2>(gradients).template mutable_data_ptr<acc_t>(), static_cast<index_t>(heads));
        C10_CUDA_KERNEL_LAUNCH_CHECK();
      });
    });
    return gradients;
  }
};

}  // namespace
}  // namespace ddetr

TORCH_LIBRARY_IMPL(ddetr, CUDA, library) { ddetr::register_kernels<ddetr::CudaKernels>(library); }
