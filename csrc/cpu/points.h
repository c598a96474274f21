// A batch of sampling points, one array a property, so that placing them vectorises over points.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <new>
#include <type_traits>

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

  explicit Points(int64_t count) : Points(whole_registers(count), 0) {}

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

  // Place n points from their coordinates (x, y), and share each one's weight among its corners: `locate`, a register
  // of points at a time.
  void place(int64_t n, const acc_t* coordinates, const acc_t* weights) {
    constexpr int W = kLanes<acc_t>;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      const V first = load(coordinates + 2 * i), second = load(coordinates + 2 * i + W);
      place_register(i, evens(first, second), odds(first, second), load(weights + i));
    }
    if (i == n) return;
    V x = {}, y = {}, weight = {};
    for (int k = 0; k < n - i; ++k) {
      x[k] = coordinates[2 * (i + k)];
      y[k] = coordinates[2 * (i + k) + 1];
      weight[k] = weights[i + k];
    }
    place_register(i, x, y, weight);
  }

  // Corner k's token, counted from the top left corner's.
  int64_t step(int64_t i, int k) const { return (k & 1) + (k & 2 ? width[i] : 0); }

 private:
  static int64_t whole_registers(int64_t n) { return (n + kLanes<acc_t> - 1) / kLanes<acc_t> * kLanes<acc_t>; }

  // Room for n points, set to a level of no size where nothing is inside.
  Points(int64_t n, int) : arena_(12 * Arena::bytes_of<acc_t>(n) + 4 * Arena::bytes_of<int32_t>(n)) {
    for (acc_t** array : {&h, &w, &shift_x, &shift_y, &scale_x, &scale_y, &dx, &dy}) *array = arena_.array<acc_t>(n);
    for (int32_t** array : {&width, &start, &token, &inside}) *array = arena_.array<int32_t>(n);
    for (acc_t*& array : corner) array = arena_.array<acc_t>(n);
    set_level(0, n, {0, 0, 0});
    set_axes(0, n, {});
  }

  using V = Vec<acc_t>;
  using Int = typename VecOf<std::conditional_t<sizeof(acc_t) == 8, int64_t, int32_t>, kLanes<acc_t>>::type;

  // The whole number at or below each of x, all within int32.
  static Int floor(V x) {
    const Int whole = __builtin_convertvector(x, Int);
    return whole + (__builtin_convertvector(whole, V) > x);  // a comparison gives -1 for true
  }

  void place_register(int64_t i, V x, V y, V weight) {
    const V w_ = load(w + i), h_ = load(h + i), zero = {};
    x = load(shift_x + i) + load(scale_x + i) * x;
    y = load(shift_y + i) + load(scale_y + i) * y;
    const Int near = (x > acc_t(-1)) & (x < w_) & (y > acc_t(-1)) & (y < h_);
    x = near ? x : zero;
    y = near ? y : zero;
    const Int column = floor(x), row = floor(y);
    const V left = __builtin_convertvector(column, V), top = __builtin_convertvector(row, V);
    const Int has_left = column >= 0, has_right = left + 1 < w_, has_top = row >= 0, has_bottom = top + 1 < h_;
    store_int(inside + i, near & ((has_top & has_left & 1) | (has_top & has_right & 2) | (has_bottom & has_left & 4) |
                                  (has_bottom & has_right & 8)));
    store_int(token + i, load_int(start + i) + row * load_int(width + i) + column);
    const V x_part = x - left, y_part = y - top, low = weight * y_part, high = weight - low;
    store(dx + i, x_part);
    store(dy + i, y_part);
    store(corner[1] + i, high * x_part);
    store(corner[0] + i, high - high * x_part);
    store(corner[3] + i, low * x_part);
    store(corner[2] + i, low - low * x_part);
  }

  static Int load_int(const int32_t* from) {
    typename VecOf<int32_t, kLanes<acc_t>>::type v;
    std::memcpy(&v, from, sizeof(v));
    return __builtin_convertvector(v, Int);
  }
  static void store_int(int32_t* to, Int x) {
    const auto v = __builtin_convertvector(x, typename VecOf<int32_t, kLanes<acc_t>>::type);
    std::memcpy(to, &v, sizeof(v));
  }

  Arena arena_;
};

}  // namespace ddetr
