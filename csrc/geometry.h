// Where a sampling point falls in its level: the four cells around it and how much each counts.
// Plain C++ without any library, so that the CPU kernel, a CUDA thread and a test on the host share it.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#if defined(__CUDACC__)
#define DDETR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define DDETR_HOST_DEVICE inline
#endif

namespace ddetr {

// Sums of half-precision numbers are kept in float.
template <typename scalar_t>
struct Accumulate {
  using type = float;
};
template <>
struct Accumulate<double> {
  using type = double;
};
template <typename scalar_t>
using acc_type = typename Accumulate<scalar_t>::type;

// One feature map: its size in cells and the index of its first token.
struct Level {
  int32_t h, w, start;
};

// The letters of the shapes; S is the sum of h * w over the levels.
struct Sizes {
  int64_t B, S, M, D, Q, P;
  std::vector<Level> levels;
  int64_t L() const { return static_cast<int64_t>(levels.size()); }
  int64_t points() const { return L() * P; }  // that one head of one query reads
};

// Corners count in reading order: top left, top right, bottom left, bottom right.
constexpr int kAllInside = 0b1111;

template <typename T>
struct Corners {
  int32_t row, column;  // of the top left cell; -1 just above or left of the map
  T dx, dy;             // from that cell's centre to the point, in [0, 1)
  int32_t inside;       // bit k is set when corner k lies in the map

  DDETR_HOST_DEVICE T weight(int k) const {
    return (k & 2 ? dy : 1 - dy) * (k & 1 ? dx : 1 - dx);
  }
  // How corner k's weight grows as the point moves right or down by one cell.
  DDETR_HOST_DEVICE T weight_dx(int k) const {
    return (k & 2 ? dy : 1 - dy) * (k & 1 ? T(1) : T(-1));
  }
  DDETR_HOST_DEVICE T weight_dy(int k) const {
    return (k & 1 ? dx : 1 - dx) * (k & 2 ? T(1) : T(-1));
  }
};

// (x, y): cells of an h by w map, counted from the centre of its first cell. Anything a whole cell or more off the map
// has no corner inside, and NaN (for which every comparison is false) and infinity neither; only what is near is ever
// turned into an integer. Free of branches, so that compilers vectorise loops over it.
template <typename T>
DDETR_HOST_DEVICE Corners<T> locate(T x, T y, T h, T w) {
  const bool near = (x > T(-1)) & (x < w) & (y > T(-1)) & (y < h);
  x = near ? x : T(0);
  y = near ? y : T(0);
  const T left = std::floor(x), top = std::floor(y);
  const int32_t is_near = near;
  const int32_t has_left = left >= T(0), has_right = left + 1 < w;
  const int32_t has_top = top >= T(0), has_bottom = top + 1 < h;
  const int32_t inside = is_near * ((has_top & has_left) | (has_top & has_right) << 1 | (has_bottom & has_left) << 2 |
                                    (has_bottom & has_right) << 3);
  return {static_cast<int32_t>(top), static_cast<int32_t>(left), x - left, y - top, inside};
}

// Where the points are and what they weigh. Without reference points, `coordinates` are locations in [0, 1] and
// `weights` are used as they are; with them, `coordinates` are offsets and `weights` are logits.
template <typename T>
struct Sampling {
  const T* reference_points;  // (B, Q, L, 2 | 4) or null
  int64_t reference_size;     // 2 or 4; 0 without reference points
  const T* coordinates;       // (B, Q, M, L, P, 2)
  const T* weights;           // (B, Q, M, L, P)
};

// How a level's coordinates become cells: cell = shift + scale * coordinate.
template <typename T>
struct Axis {
  T shift, scale;
};

// Locations in [0, 1] of the map: its cells' centres sit half a cell further in.
template <typename T>
DDETR_HOST_DEVICE Axis<T> axis_of_locations(T size) {
  return {T(-0.5), size};
}

// Offsets in cells around a point in [0, 1].
template <typename T>
DDETR_HOST_DEVICE Axis<T> axis_of_point(T centre, T size) {
  return {centre * size - T(0.5), T(1)};
}

// Offsets in half sides of a box, one part for each of the num_points points.
template <typename T>
DDETR_HOST_DEVICE Axis<T> axis_of_box(T centre, T side, T size, T num_points) {
  return {centre * size - T(0.5), side * size / (2 * num_points)};
}

template <typename T>
struct Axes {
  Axis<T> x, y;
};

// The axes of one level for one query; query_level counts (b, q, l).
template <typename T>
DDETR_HOST_DEVICE Axes<T> axes_of(const Sampling<T>& sampling, int64_t query_level, const Level& level, T num_points) {
  const T w = level.w, h = level.h;
  if (sampling.reference_size == 0) return {axis_of_locations(w), axis_of_locations(h)};
  const T* point = sampling.reference_points + query_level * sampling.reference_size;
  if (sampling.reference_size == 2) return {axis_of_point(point[0], w), axis_of_point(point[1], h)};
  return {axis_of_box(point[0], point[2], w, num_points), axis_of_box(point[1], point[3], h, num_points)};
}

}  // namespace ddetr
