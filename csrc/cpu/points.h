// A batch of sampling points, one array a property, so that placing them vectorises over points.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>

#include "kernel.h"

namespace ddetr {

// Cuts one aligned piece of memory into arrays.
class Arena {
 public:
  explicit Arena(size_t bytes) : start_(static_cast<char*>(operator new(bytes + kAlign, std::align_val_t(kAlign)))) {
    next_ = start_;
  }
  ~Arena() { operator delete(start_, std::align_val_t(kAlign)); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  template <typename T>
  T* array(int64_t n) {
    T* taken = reinterpret_cast<T*>(next_);
    next_ += bytes_of<T>(n);
    return taken;
  }
  template <typename T>
  static size_t bytes_of(int64_t n) {
    return (n * sizeof(T) + kAlign - 1) / kAlign * kAlign;
  }

 private:
  static constexpr size_t kAlign = 64;
  char *start_, *next_;
};

template <typename acc_t>
struct Points {
  // What is known of each point before it is placed: its level and how coordinates become cells there.
  acc_t *h, *w, *shift_x, *shift_y, *scale_x, *scale_y;
  int32_t *width, *start;
  // Where it falls: its top left corner's token, which corners are inside, and its place between them.
  int32_t *token, *inside;
  acc_t *dx, *dy;
  // What each corner counts, the point's own weight included; corner k of point i at [k][i].
  acc_t* corner[4];

  explicit Points(int64_t n)
      : arena_(12 * Arena::bytes_of<acc_t>(n) + 4 * Arena::bytes_of<int32_t>(n)) {
    for (acc_t** array : {&h, &w, &shift_x, &shift_y, &scale_x, &scale_y, &dx, &dy}) *array = arena_.array<acc_t>(n);
    for (int32_t** array : {&width, &start, &token, &inside}) *array = arena_.array<int32_t>(n);
    for (acc_t*& array : corner) array = arena_.array<acc_t>(n);
  }

  // Points [first, first + count) lie in `level`.
  void set_level(int64_t first, int64_t count, const Level& level) {
    std::fill_n(h + first, count, acc_t(level.h));
    std::fill_n(w + first, count, acc_t(level.w));
    std::fill_n(width + first, count, level.w);
    std::fill_n(start + first, count, level.start);
  }

  void set_axes(int64_t first, int64_t count, const Axes<acc_t>& axes) {
    std::fill_n(shift_x + first, count, axes.x.shift);
    std::fill_n(scale_x + first, count, axes.x.scale);
    std::fill_n(shift_y + first, count, axes.y.shift);
    std::fill_n(scale_y + first, count, axes.y.scale);
  }

  // Place n points from their coordinates (x, y), and share each one's weight among its corners.
  void place(int64_t n, const acc_t* __restrict coordinates, const acc_t* __restrict weights) {
    acc_t *__restrict c0 = corner[0], *__restrict c1 = corner[1], *__restrict c2 = corner[2],
                     *__restrict c3 = corner[3];
#pragma GCC ivdep
    for (int64_t i = 0; i < n; ++i) {
      const acc_t x = shift_x[i] + scale_x[i] * coordinates[2 * i];
      const acc_t y = shift_y[i] + scale_y[i] * coordinates[2 * i + 1];
      const Corners<acc_t> found = locate(x, y, h[i], w[i]);
      token[i] = start[i] + found.row * width[i] + found.column;
      inside[i] = found.inside;
      dx[i] = found.dx;
      dy[i] = found.dy;
      const acc_t bottom = weights[i] * found.dy, top = weights[i] - bottom;
      c1[i] = top * found.dx;
      c0[i] = top - c1[i];
      c3[i] = bottom * found.dx;
      c2[i] = bottom - c3[i];
    }
  }

  // Corner k's token, counted from the top left corner's.
  int64_t step(int64_t i, int k) const { return (k & 1) + (k & 2 ? width[i] : 0); }

 private:
  Arena arena_;
};

}  // namespace ddetr
