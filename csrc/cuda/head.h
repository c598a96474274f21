// What a group of CUDA threads does for one head of one query. Nothing here needs a GPU: the group is a parameter, and
// on_host.cpp runs the same code with ordinary threads, so that it is tested where there is none.
//
// Each thread of a group holds N neighbouring channels of a token, so a token is read in one piece. Points are placed
// once, each by one thread, and handed round. A group offers
//   size, lane                    how many threads, and which this one is
//   broadcast(x, from)            the x of thread `from`
//   sum(x), max(x)                over all threads, the same result in each
//   add(to, (&numbers)[N])        to[i] += numbers[i], safe against other groups
// and its threads call these together, the same number of times.
#pragma once

#include <limits>

#include "../geometry.h"

namespace ddetr {

constexpr int kMaxLevels = 64;  // what fits a kernel's arguments with room to spare

// Sizes, as a kernel's argument. index_t counts the numbers of the largest tensor.
template <typename index_t>
struct Layout {
  index_t S, M, D, Q, L, P;
  Level levels[kMaxLevels];
};

template <typename index_t>
inline Layout<index_t> layout_of(const Sizes& sizes) {
  Layout<index_t> layout{static_cast<index_t>(sizes.S), static_cast<index_t>(sizes.M), static_cast<index_t>(sizes.D),
                         static_cast<index_t>(sizes.Q), static_cast<index_t>(sizes.L()),
                         static_cast<index_t>(sizes.P), {}};
  for (int64_t l = 0; l < sizes.L(); ++l) layout.levels[l] = sizes.levels[l];
  return layout;
}

// N numbers that are read and written in one instruction.
template <typename T, int N>
struct alignas(N * sizeof(T)) Pack {
  T at[N];
};

template <int N, typename T>
DDETR_HOST_DEVICE Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}

// What turns a logit into a weight: exp(logit - top) * scale.
template <typename T>
struct Normaliser {
  T top, scale;
};

template <typename Group, typename T, typename index_t>
DDETR_HOST_DEVICE Normaliser<T> normalise(const Group& group, const T* logits, index_t n) {
  T top = -std::numeric_limits<T>::infinity(), sum = 0;
  for (index_t i = group.lane; i < n; i += group.size) top = logits[i] > top ? logits[i] : top;
  top = group.max(top);
  for (index_t i = group.lane; i < n; i += group.size) sum += std::exp(logits[i] - top);
  return {top, 1 / group.sum(sum)};
}

// A point in its level: what every thread needs to read its corners.
template <typename T>
struct Placed {
  Corners<T> corners;
  int32_t token, width;  // of the top left corner; cells in a row
  T weight;

  DDETR_HOST_DEVICE bool inside(int k) const { return corners.inside >> k & 1; }
  DDETR_HOST_DEVICE int64_t corner_token(int k) const { return int64_t(token) + (k & 1) + (k & 2 ? width : 0); }
};

// One head of one query, and where its numbers lie.
template <typename T, typename index_t>
struct Head {
  const Layout<index_t>& layout;
  const Sampling<T>& sampling;
  index_t index;  // counts (b, q, m)
  Normaliser<T> normaliser = {0, 1};

  DDETR_HOST_DEVICE bool fused() const { return sampling.reference_size != 0; }
  DDETR_HOST_DEVICE index_t points() const { return layout.L * layout.P; }
  DDETR_HOST_DEVICE index_t first_point() const { return index * points(); }
  DDETR_HOST_DEVICE index_t token_stride() const { return layout.M * layout.D; }
  DDETR_HOST_DEVICE index_t in_value() const {  // of the head's channels in the image's first token
    return index / layout.M / layout.Q * layout.S * token_stride() + index % layout.M * layout.D;
  }
  DDETR_HOST_DEVICE const Level& level_of(index_t i) const { return layout.levels[i / layout.P]; }

  DDETR_HOST_DEVICE T weight(index_t i) const {
    const T given = sampling.weights[first_point() + i];
    return fused() ? std::exp(given - normaliser.top) * normaliser.scale : given;
  }

  DDETR_HOST_DEVICE Placed<T> place(index_t i) const {
    const Level level = level_of(i);
    const int64_t query_level = int64_t(index / layout.M) * layout.L + i / layout.P;
    const Axes<T> axes = axes_of<T>(sampling, query_level, level, static_cast<T>(layout.P));
    const T* coordinates = sampling.coordinates + 2 * int64_t(first_point() + i);
    const Corners<T> corners = locate<T>(axes.x.shift + axes.x.scale * coordinates[0],
                                         axes.y.shift + axes.y.scale * coordinates[1], level.h, level.w);
    return {corners, level.start + corners.row * level.w + corners.column, level.w, weight(i)};
  }
};

template <typename Group, typename T>
DDETR_HOST_DEVICE Placed<T> broadcast(const Group& group, const Placed<T>& own, int from) {
  Placed<T> point;
  point.corners.inside = group.broadcast(own.corners.inside, from);
  point.corners.dx = group.broadcast(own.corners.dx, from);
  point.corners.dy = group.broadcast(own.corners.dy, from);
  point.token = group.broadcast(own.token, from);
  point.width = group.broadcast(own.width, from);
  point.weight = group.broadcast(own.weight, from);
  return point;
}

// sum += weight * (what the point reads), for N channels. `value` points at this thread's channels of the first token.
template <int N, typename scalar_t, typename T, typename index_t>
DDETR_HOST_DEVICE void gather(const Placed<T>& point, const scalar_t* value, index_t token_stride, T (&sum)[N]) {
  if (point.corners.inside == 0) {  // zero, or NaN where the weight is no finite number
    for (int c = 0; c < N; ++c) sum[c] += 0 * point.weight;
  }
  for (int k = 0; k < 4; ++k) {
    if (!point.inside(k)) continue;
    const Pack<scalar_t, N> read = load_pack<N>(value + static_cast<index_t>(point.corner_token(k)) * token_stride);
    const T weight = point.weight * point.corners.weight(k);
    for (int c = 0; c < N; ++c) sum[c] += weight * static_cast<T>(read.at[c]);
  }
}

// A point's gradients: by its weight, and by its place in cells but for its weight.
template <typename T>
struct PointGradient {
  T weight, x, y;
};

// Read the corners again and add their gradients to grad_value; N channels of the result's three sums.
template <int N, typename Group, typename scalar_t, typename T, typename index_t>
DDETR_HOST_DEVICE void scatter(const Group& group, const Placed<T>& point, const Pack<scalar_t, N>& grad_out,
                               const scalar_t* value, T* grad_value, index_t token_stride, bool active,
                               PointGradient<T>& sums) {
  for (int k = 0; k < 4; ++k) {
    if (!point.inside(k)) continue;
    const index_t cell = static_cast<index_t>(point.corner_token(k)) * token_stride;
    const Pack<scalar_t, N> read = load_pack<N>(value + cell);
    const T weight = point.corners.weight(k);
    T dot = 0, grads[N];
    for (int c = 0; c < N; ++c) {
      const T grad = static_cast<T>(grad_out.at[c]);
      dot += grad * static_cast<T>(read.at[c]);
      grads[c] = point.weight * weight * grad;
    }
    if (active) group.add(grad_value + cell, grads);
    sums.weight += weight * dot;
    sums.x += point.corners.weight_dx(k) * dot;
    sums.y += point.corners.weight_dy(k) * dot;
  }
}

// A thread of a group past the last head goes through the motions, which its warp needs, and writes nothing.
template <int N, typename Group, typename scalar_t, typename T, typename index_t>
DDETR_HOST_DEVICE void forward_head(const Group& group, const Layout<index_t>& layout, const Sampling<T>& sampling,
                                    const scalar_t* value, scalar_t* out, index_t index, bool active) {
  Head<T, index_t> head{layout, sampling, index};
  const index_t n = head.points(), D = layout.D;
  if (head.fused()) head.normaliser = normalise(group, sampling.weights + head.first_point(), n);
  for (index_t base = 0; base < D; base += group.size * N) {
    const index_t d = base + group.lane * N;
    T sum[N] = {};
    for (index_t first = 0; first < n; first += group.size) {
      Placed<T> own = {};
      if (first + group.lane < n) own = head.place(first + group.lane);
      for (int j = 0; j < group.size && first + j < n; ++j) {
        const Placed<T> point = broadcast(group, own, j);
        if (d < D) gather<N>(point, value + head.in_value() + d, head.token_stride(), sum);
      }
    }
    if (!active || d >= D) continue;
    Pack<scalar_t, N> result;
    for (int c = 0; c < N; ++c) result.at[c] = static_cast<scalar_t>(sum[c]);
    *reinterpret_cast<Pack<scalar_t, N>*>(out + index * D + d) = result;
  }
}

// grad_value is added to; the gradients of coordinates (in the fused form, of cells) and weights are written, each by
// the one thread whose point it is.
template <int N, typename Group, typename scalar_t, typename T, typename index_t>
DDETR_HOST_DEVICE void backward_head(const Group& group, const Layout<index_t>& layout, const Sampling<T>& sampling,
                                     const scalar_t* grad_out, const scalar_t* value, T* grad_value,
                                     T* grad_coordinates, T* grad_weights, index_t index, bool active) {
  Head<T, index_t> head{layout, sampling, index};
  const index_t n = head.points(), D = layout.D;
  if (head.fused()) head.normaliser = normalise(group, sampling.weights + head.first_point(), n);
  T mean = 0;  // of the weights' gradients, for the softmax
  for (index_t first = 0; first < n; first += group.size) {
    const index_t i = first + group.lane;
    Placed<T> own = {};
    PointGradient<T> own_grad = {};
    if (i < n) own = head.place(i);
    for (int j = 0; j < group.size && first + j < n; ++j) {
      const Placed<T> point = broadcast(group, own, j);
      PointGradient<T> sums = {};
      for (index_t d = group.lane * N; d < D; d += group.size * N) {
        const Pack<scalar_t, N> grad = load_pack<N>(grad_out + index * D + d);
        scatter<N>(group, point, grad, value + head.in_value() + d, grad_value + head.in_value() + d,
                   head.token_stride(), active, sums);
      }
      sums = {group.sum(sums.weight), group.sum(sums.x), group.sum(sums.y)};
      if (group.lane == j) own_grad = sums;
    }
    if (!active || i >= n) continue;
    const Level level = head.level_of(i);
    T* grad_place = grad_coordinates + 2 * int64_t(head.first_point() + i);
    grad_place[0] = own.weight * own_grad.x * (head.fused() ? T(1) : static_cast<T>(level.w));
    grad_place[1] = own.weight * own_grad.y * (head.fused() ? T(1) : static_cast<T>(level.h));
    grad_weights[head.first_point() + i] = own_grad.weight;
    mean += own.weight * own_grad.weight;
  }
  if (!head.fused()) return;
  mean = group.sum(mean);
  for (index_t i = group.lane; active && i < n; i += group.size) {
    T& grad = grad_weights[head.first_point() + i];
    grad = head.weight(i) * (grad - mean);
  }
}

}  // namespace ddetr
