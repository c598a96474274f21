// Backward: one task for each image, head and level. No two tasks write the same number, so there are no atomics, and
// each adds in the order of the queries, so the result does not depend on the number of threads.
#include <ATen/Parallel.h>

#include "points.h"
#include "softmax.h"

namespace ddetr {
namespace {

// V registers of channels of one point: dots[k] += grad . corner k's value; corner k's gradient += its weight * grad.
template <int V, typename scalar_t, typename acc_t>
inline void scatter(const Points<acc_t>& points, int64_t i, const Vec<acc_t> (&grad)[V], const scalar_t* value,
                    acc_t* grad_value, int64_t token_stride, acc_t* dots) {
  constexpr int W = kLanes<acc_t>;
  const int64_t top = points.token[i] * token_stride;
  Vec<acc_t> products[4] = {};
  const auto visit = [&](int k, int64_t cell) {
    const acc_t weight = points.corner[k][i];
    DDETR_UNROLL
    for (int v = 0; v < V; ++v) products[k] += grad[v] * load(value + cell + v * W);
    DDETR_UNROLL
    for (int v = 0; v < V; ++v) {
      acc_t* to = grad_value + cell + v * W;
      store(to, load(to) + grad[v] * weight);
    }
  };
  if (__builtin_expect(points.inside[i] == kAllInside, 1)) {
    const int64_t bottom = top + points.width[i] * token_stride;
    visit(0, top);
    visit(1, top + token_stride);
    visit(2, bottom);
    visit(3, bottom + token_stride);
  } else {
    for (int k = 0; k < 4; ++k) {
      if (points.inside[i] >> k & 1) visit(k, top + points.step(i, k) * token_stride);
    }
  }
  add_sums(dots, products);
}

// The points of `queries` queries, P each, for V registers of channels.
template <int V, typename scalar_t, typename acc_t>
inline void scatter_queries(const Points<acc_t>& points, int64_t queries, int64_t P, const scalar_t* grad_out,
                            const scalar_t* value, acc_t* grad_value, int64_t token_stride, acc_t* dots) {
  for (int64_t q = 0; q < queries; ++q) {
    Vec<acc_t> grad[V];
    DDETR_UNROLL
    for (int v = 0; v < V; ++v) grad[v] = load(grad_out + q * token_stride + v * kLanes<acc_t>);
    for (int64_t i = q * P; i < (q + 1) * P; ++i) {
      scatter<V>(points, i, grad, value, grad_value, token_stride, dots + 4 * i);
    }
  }
}

// The same for a single channel.
template <typename scalar_t, typename acc_t>
inline void scatter_one(const Points<acc_t>& points, int64_t queries, int64_t P, const scalar_t* grad_out,
                        const scalar_t* value, acc_t* grad_value, int64_t token_stride, acc_t* dots) {
  for (int64_t i = 0; i < queries * P; ++i) {
    const acc_t grad = grad_out[i / P * token_stride];
    for (int k = 0; k < 4; ++k) {
      if (!(points.inside[i] >> k & 1)) continue;
      const int64_t cell = (points.token[i] + points.step(i, k)) * token_stride;
      dots[4 * i + k] += grad * static_cast<acc_t>(value[cell]);
      grad_value[cell] += points.corner[k][i] * grad;
    }
  }
}

template <typename scalar_t, typename acc_t>
inline void scatter_channels(const Points<acc_t>& points, int64_t queries, int64_t P, int64_t D,
                             const scalar_t* grad_out, const scalar_t* value, acc_t* grad_value, int64_t token_stride,
                             acc_t* dots) {
  constexpr int W = kLanes<acc_t>;
  const auto run = [&](auto pass, int64_t d) {
    pass(points, queries, P, grad_out + d, value + d, grad_value + d, token_stride, dots);
  };
  int64_t d = 0;
  for (; D - d >= 4 * W; d += 4 * W) run(scatter_queries<4, scalar_t, acc_t>, d);
  if (D - d >= 2 * W) run(scatter_queries<2, scalar_t, acc_t>, d), d += 2 * W;
  if (D - d >= W) run(scatter_queries<1, scalar_t, acc_t>, d), d += W;
  for (; d < D; ++d) run(scatter_one<scalar_t, acc_t>, d);
}

// From the corners' dot products to the gradients by a point's weight and by its place in cells.
template <typename acc_t>
struct PointGradient {
  acc_t weight, x, y;
  PointGradient(const Points<acc_t>& points, int64_t i, acc_t own_weight, const acc_t* dots) {
    const acc_t dx = points.dx[i], dy = points.dy[i];
    const acc_t top = dots[1] - dots[0], bottom = dots[3] - dots[2];
    const acc_t left = dots[2] - dots[0], right = dots[3] - dots[1];
    weight = (1 - dy) * (dots[0] + dx * top) + dy * (dots[2] + dx * bottom);
    x = own_weight * (top + dy * (bottom - top));
    y = own_weight * (left + dx * (right - left));
  }
};

// One image, head and level. grad_weights holds the weights at first: each is read before its gradient replaces it.
template <typename scalar_t, typename acc_t>
void backward_slice(const Sizes& sizes, const scalar_t* grad_out, const scalar_t* value, const Sampling<acc_t>& sampling,
                    acc_t* grad_value, acc_t* grad_coordinates, acc_t* grad_weights, int64_t b, int64_t m, int64_t l) {
  const int64_t P = sizes.P, D = sizes.D, token_stride = sizes.M * D;
  const int64_t block = std::max<int64_t>(1, 64 / P);  // queries at a time, so that placing them fills registers
  Points<acc_t> points(block * P);
  Arena arena(Arena::bytes_of<acc_t>(2 * block * P) + Arena::bytes_of<acc_t>(block * P) +
              Arena::bytes_of<acc_t>(4 * block * P));
  acc_t* coordinates = arena.array<acc_t>(2 * block * P);
  acc_t* weights = arena.array<acc_t>(block * P);
  acc_t* dots = arena.array<acc_t>(4 * block * P);
  points.set_level(0, block * P, sizes.levels[l]);
  const int64_t image = b * sizes.S * token_stride + m * D;
  for (int64_t first = 0; first < sizes.Q; first += block) {
    const int64_t queries = std::min(block, sizes.Q - first);
    const auto at = [&](int64_t q) { return (((b * sizes.Q + first + q) * sizes.M + m) * sizes.L() + l) * P; };
    for (int64_t q = 0; q < queries; ++q) {
      const int64_t query = b * sizes.Q + first + q;
      points.set_axes(q * P, P, axes_of<acc_t>(sampling, query * sizes.L() + l, sizes.levels[l], P));
      std::copy_n(sampling.coordinates + 2 * at(q), 2 * P, coordinates + 2 * q * P);
      std::copy_n(grad_weights + at(q), P, weights + q * P);
    }
    points.place(queries * P, coordinates, weights);
    std::fill_n(dots, 4 * queries * P, acc_t(0));
    scatter_channels(points, queries, P, D, grad_out + ((b * sizes.Q + first) * sizes.M + m) * D, value + image,
                     grad_value + image, token_stride, dots);
    const bool fused = sampling.reference_size != 0;
    for (int64_t i = 0; i < queries * P; ++i) {
      const PointGradient<acc_t> grad(points, i, weights[i], dots + 4 * i);
      weights[i] = grad.weight;
      coordinates[2 * i] = fused ? grad.x : grad.x * points.scale_x[i];
      coordinates[2 * i + 1] = fused ? grad.y : grad.y * points.scale_y[i];
    }
    for (int64_t q = 0; q < queries; ++q) {
      std::copy_n(coordinates + 2 * q * P, 2 * P, grad_coordinates + 2 * at(q));
      std::copy_n(weights + q * P, P, grad_weights + at(q));
    }
  }
}

// Calls run(index, scratch of n numbers rounded up to vectors) for each head of each query.
template <typename acc_t, typename F>
void for_each_head(const Sizes& sizes, const F& run) {
  const int64_t room = sizes.points() + kLanes<acc_t>;
  at::parallel_for(0, sizes.B * sizes.Q * sizes.M, std::max<int64_t>(1, 20000 / room), [&](int64_t begin, int64_t end) {
    Arena arena(Arena::bytes_of<acc_t>(room));
    acc_t* scratch = arena.array<acc_t>(room);
    for (int64_t head = begin; head < end; ++head) run(head, scratch);
  });
}

}  // namespace

template <typename scalar_t>
void backward_cpu(const Sizes& sizes, const scalar_t* grad_out, const scalar_t* value,
                  const Sampling<acc_type<scalar_t>>& sampling, acc_type<scalar_t>* grad_value,
                  acc_type<scalar_t>* grad_coordinates, acc_type<scalar_t>* grad_weights) {
  using acc_t = acc_type<scalar_t>;
  const int64_t n = sizes.points(), M = sizes.M, L = sizes.L();
  const bool fused = sampling.reference_size != 0;
  for_each_head<acc_t>(sizes, [&](int64_t head, acc_t* scratch) {
    const acc_t* weights = sampling.weights + head * n;
    if (fused) softmax(n, weights, scratch), weights = scratch;
    std::copy_n(weights, n, grad_weights + head * n);
  });
  at::parallel_for(0, sizes.B * M * L, 1, [&](int64_t begin, int64_t end) {
    for (int64_t slice = begin; slice < end; ++slice) {
      backward_slice(sizes, grad_out, value, sampling, grad_value, grad_coordinates, grad_weights, slice / L / M,
                     slice / L % M, slice % L);
    }
  });
  if (!fused) return;
  for_each_head<acc_t>(sizes, [&](int64_t head, acc_t* scratch) {
    softmax(n, sampling.weights + head * n, scratch);
    softmax_backward(n, scratch, grad_weights + head * n);
  });
}

#define INSTANTIATE(scalar_t)                                                                            \
  template void backward_cpu<scalar_t>(const Sizes&, const scalar_t*, const scalar_t*,                   \
                                       const Sampling<acc_type<scalar_t>>&, acc_type<scalar_t>*,         \
                                       acc_type<scalar_t>*, acc_type<scalar_t>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(c10::Half)
INSTANTIATE(c10::BFloat16)

}  // namespace ddetr
