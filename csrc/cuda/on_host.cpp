// The CUDA code of head.h on the host, one ordinary thread for each CUDA thread of a group. Slow; for tests and for
// looking at.
#include <barrier>
#include <thread>
#include <vector>

#include "../ms_deform_attn.h"
#include "head.h"

namespace ddetr {
namespace {

// What a warp's shuffles do, through shared memory and a barrier.
struct ThreadGroup {
  int size, lane;
  std::vector<double>& slots;  // exact for every int32 and float that goes through
  std::barrier<>& barrier;

  template <typename T>
  T broadcast(T x, int from) const {
    slots[lane] = static_cast<double>(x);
    barrier.arrive_and_wait();
    const T result = static_cast<T>(slots[from]);
    barrier.arrive_and_wait();
    return result;
  }
  template <typename T>
  T sum(T x) const {
    T total = 0;
    for (int i = 0; i < size; ++i) total += broadcast(x, i);
    return total;
  }
  template <typename T>
  T max(T x) const {
    T most = x;
    for (int i = 0; i < size; ++i) most = std::max(most, broadcast(x, i));
    return most;
  }
  template <typename T, int N>
  void add(T* to, const T (&numbers)[N]) const {  // each thread has channels of its own
    for (int i = 0; i < N; ++i) to[i] += numbers[i];
  }
};

// Calls run(group, head, active) in `threads` threads, for each head and one past the last, as a full warp would.
template <typename F>
void for_each_head(const Sizes& sizes, int threads, const F& run) {
  const int64_t heads = sizes.B * sizes.Q * sizes.M;
  if (heads == 0) return;
  std::vector<double> slots(threads);
  std::barrier<> barrier(threads);
  std::vector<std::thread> pool;
  for (int lane = 0; lane < threads; ++lane) {
    pool.emplace_back([&, lane] {
      const ThreadGroup group{threads, lane, slots, barrier};
      for (int64_t head = 0; head < heads; ++head) run(group, head, true);
      run(group, heads - 1, false);
    });
  }
  for (std::thread& thread : pool) thread.join();
}

Inputs pack(const Tensor& value, at::IntArrayRef level_sizes, const std::optional<Tensor>& reference_points,
            const Tensor& coordinates, const Tensor& weights, int64_t threads) {
  TORCH_CHECK(threads >= 1 && threads <= 32, "a group has 1 to 32 threads; got ", threads);
  TORCH_CHECK(value.device().is_cpu(), "value must be on the CPU; got ", value.device());
  Inputs in = check_and_pack(value, level_sizes, reference_points.value_or(Tensor()), coordinates, weights);
  TORCH_CHECK(in.sizes.L() <= kMaxLevels, "at most ", kMaxLevels, " levels; got ", in.sizes.L());
  return in;
}

// As on the GPU: four channels a thread where they fit, else one.
template <typename F>
void with_pack(int64_t D, const F& run) {
  D % 4 == 0 ? run(std::integral_constant<int, 4>()) : run(std::integral_constant<int, 1>());
}

Tensor forward(const Tensor& value, at::IntArrayRef level_sizes, const std::optional<Tensor>& reference_points,
               const Tensor& coordinates, const Tensor& weights, int64_t threads) {
  const Inputs in = pack(value, level_sizes, reference_points, coordinates, weights, threads);
  Tensor out = empty_out(in);
  const auto layout = layout_of<int64_t>(in.sizes);
  DDETR_DISPATCH(value, [&] {
    const auto sampling = in.sampling<acc_type<scalar_t>>();
    with_pack(in.sizes.D, [&](auto n) {
      for_each_head(in.sizes, threads, [&](const ThreadGroup& group, int64_t head, bool active) {
        forward_head<decltype(n)::value>(group, layout, sampling, in.value.const_data_ptr<scalar_t>(),
                                         out.mutable_data_ptr<scalar_t>(), head, active);
      });
    });
  });
  return out;
}

Gradients backward(const Tensor& grad_out, const Tensor& value, at::IntArrayRef level_sizes,
                   const std::optional<Tensor>& reference_points, const Tensor& coordinates, const Tensor& weights,
                   int64_t threads) {
  const Inputs in = pack(value, level_sizes, reference_points, coordinates, weights, threads);
  check_grad_out(in.sizes, grad_out, value);
  const Tensor grad = grad_out.contiguous();
  Gradients gradients = empty_gradients(in);
  const auto layout = layout_of<int64_t>(in.sizes);
  DDETR_DISPATCH(value, [&] {
    using acc_t = acc_type<scalar_t>;
    const auto sampling = in.sampling<acc_t>();
    with_pack(in.sizes.D, [&](auto n) {
      for_each_head(in.sizes, threads, [&](const ThreadGroup& group, int64_t head, bool active) {
        backward_head<decltype(n)::value>(
            group, layout, sampling, grad.const_data_ptr<scalar_t>(), in.value.const_data_ptr<scalar_t>(),
            std::get<0>(gradients).mutable_data_ptr<acc_t>(), std::get<1>(gradients).mutable_data_ptr<acc_t>(),
            std::get<2>(gradients).mutable_data_ptr<acc_t>(), head, active);
      });
    });
  });
  return gradients;
}

}  // namespace
}  // namespace ddetr

TORCH_LIBRARY_FRAGMENT(ddetr, library) {
  library.def(
      "cuda_on_host(Tensor value, int[] level_sizes, Tensor? reference_points, Tensor coordinates, Tensor weights, "
      "int threads) -> Tensor",
      TORCH_FN(ddetr::forward));
  library.def(
      "cuda_on_host_backward(Tensor grad_out, Tensor value, int[] level_sizes, Tensor? reference_points, "
      "Tensor coordinates, Tensor weights, int threads) -> (Tensor, Tensor, Tensor)",
      TORCH_FN(ddetr::backward));
}
