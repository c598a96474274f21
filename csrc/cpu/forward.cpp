// Forward: one query after the other, all its heads; channels lie across a register and the sums stay in registers.
#include <ATen/Parallel.h>

#include "points.h"
#include "softmax.h"

namespace ddetr {
namespace {

// V registers of channels of one head: out = sum over points and corners of weight * value.
template <int V, typename scalar_t, typename acc_t>
inline void gather(const Points<acc_t>& points, int64_t n, const scalar_t* value, int64_t token_stride, scalar_t* out) {
  constexpr int W = kLanes<acc_t>;
  alignas(kVectorBytes) static const scalar_t zeros[V * W] = {};  // what lies outside the map
  Vec<acc_t> sum[V] = {};
  for (int64_t i = 0; i < n; ++i) {
    const scalar_t* top = value + points.token[i] * token_stride;
    const scalar_t* bottom = top + points.width[i] * token_stride;
    const int32_t inside = points.inside[i];
    // Selected, not branched on: which points are at a border is nothing that a processor could predict.
    const scalar_t* cells[4] = {inside & 1 ? top : zeros, inside & 2 ? top + token_stride : zeros,
                                inside & 4 ? bottom : zeros, inside & 8 ? bottom + token_stride : zeros};
    const acc_t c0 = points.corner[0][i], c1 = points.corner[1][i], c2 = points.corner[2][i], c3 = points.corner[3][i];
    DDETR_UNROLL
    for (int v = 0; v < V; ++v) {
      sum[v] += (load(cells[0] + v * W) * c0 + load(cells[1] + v * W) * c1) +
                (load(cells[2] + v * W) * c2 + load(cells[3] + v * W) * c3);
    }
  }
  DDETR_UNROLL
  for (int v = 0; v < V; ++v) store(out + v * W, sum[v]);
}

// One channel, for what is left over when D is no multiple of a register.
template <typename scalar_t, typename acc_t>
inline void gather_one(const Points<acc_t>& points, int64_t n, const scalar_t* value, int64_t token_stride,
                       scalar_t* out) {
  acc_t sum = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int k = 0; k < 4; ++k) {
      const acc_t weight = points.corner[k][i];
      const bool inside = points.inside[i] >> k & 1;
      const int64_t token = points.token[i] + points.step(i, k);
      sum += weight * (inside ? static_cast<acc_t>(value[token * token_stride]) : acc_t(0));
    }
  }
  *out = static_cast<scalar_t>(sum);
}

// All D channels, in as few passes over the points as registers allow: one for D of 16, 32, 64 and 128.
template <typename scalar_t, typename acc_t>
inline void gather_channels(const Points<acc_t>& points, int64_t n, const scalar_t* value, int64_t token_stride,
                            int64_t D, scalar_t* out) {
  constexpr int W = kLanes<acc_t>;
  int64_t d = 0;
  for (; D - d >= 8 * W; d += 8 * W) gather<8>(points, n, value + d, token_stride, out + d);
  if (D - d >= 4 * W) gather<4>(points, n, value + d, token_stride, out + d), d += 4 * W;
  if (D - d >= 2 * W) gather<2>(points, n, value + d, token_stride, out + d), d += 2 * W;
  if (D - d >= W) gather<1>(points, n, value + d, token_stride, out + d), d += W;
  for (; d < D; ++d) gather_one(points, n, value + d, token_stride, out + d);
}

}  // namespace

template <typename scalar_t>
void forward_cpu(const Sizes& sizes, const scalar_t* value, const Sampling<acc_type<scalar_t>>& sampling,
                 scalar_t* out) {
  using acc_t = acc_type<scalar_t>;
  const int64_t n = sizes.points(), M = sizes.M, D = sizes.D, token_stride = M * D;
  const bool fused = sampling.reference_size != 0;
  const int64_t grain = std::max<int64_t>(1, 20000 / std::max<int64_t>(1, M * n * (D + 8) / 8));
  at::parallel_for(0, sizes.B * sizes.Q, grain, [&](int64_t begin, int64_t end) {
    Points<acc_t> points(n);
    Arena arena(Arena::bytes_of<acc_t>(n + kLanes<acc_t>));
    acc_t* softmaxed = arena.array<acc_t>(n + kLanes<acc_t>);
    for (int64_t l = 0; l < sizes.L(); ++l) points.set_level(l * sizes.P, sizes.P, sizes.levels[l]);
    for (int64_t query = begin; query < end; ++query) {
      if (fused || query == begin) {
        for (int64_t l = 0; l < sizes.L(); ++l) {
          points.set_axes(l * sizes.P, sizes.P,
                          axes_of<acc_t>(sampling, query * sizes.L() + l, sizes.levels[l], sizes.P));
        }
      }
      const scalar_t* image = value + query / sizes.Q * sizes.S * token_stride;
      for (int64_t m = 0; m < M; ++m) {
        const int64_t head = query * M + m;
        const acc_t* weights = sampling.weights + head * n;
        if (fused) softmax(n, weights, softmaxed), weights = softmaxed;
        points.place(n, sampling.coordinates + head * n * 2, weights);
        gather_channels(points, n, image + m * D, token_stride, D, out + head * D);
      }
    }
  });
}

#define INSTANTIATE(scalar_t) \
  template void forward_cpu<scalar_t>(const Sizes&, const scalar_t*, const Sampling<acc_type<scalar_t>>&, scalar_t*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(c10::Half)
INSTANTIATE(c10::BFloat16)

}  // namespace ddetr
