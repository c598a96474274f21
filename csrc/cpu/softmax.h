// Softmax over the few points of one head, and its gradient.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "vec.h"

namespace ddetr {

// e^x for x <= 0, within 2 units in the last place: x = n ln 2 + r, e^r by its Taylor polynomial, 2^n by the exponent.
inline Vec<float> exp_nonpositive(Vec<float> x) {
  using Int = typename VecOf<int32_t, kLanes<float>>::type;
  const Vec<float> zero = {};
  const Vec<float> safe = x > -87.0f ? x : zero;  // smaller ones become 0 below; NaN stays NaN
  const float round = 12582912.0f;                // 1.5 * 2^23: adding it leaves no bit for a fraction
  const Vec<float> n = (safe * 1.44269504f + round) - round;
  const Vec<float> r = (safe - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec<float> p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const Int bits = (__builtin_convertvector(n, Int) + 127) << 23;
  Vec<float> power;
  std::memcpy(&power, &bits, sizeof(power));
  const Vec<float> result = x <= -87.0f ? zero : p * power;
  return x == x ? result : x;
}

inline Vec<double> exp_nonpositive(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

// weights = softmax(logits); `weights` has room for n numbers rounded up to whole vectors.
template <typename T>
inline void softmax(int64_t n, const T* logits, T* weights) {
  constexpr int W = kLanes<T>;
  const int64_t padded = (n + W - 1) / W * W;
  for (int64_t i = 0; i < n; ++i) weights[i] = logits[i];
  for (int64_t i = n; i < padded; ++i) weights[i] = -std::numeric_limits<T>::infinity();
  Vec<T> largest = load(weights);
  for (int64_t i = W; i < padded; i += W) {
    const Vec<T> v = load(weights + i);
    largest = v > largest ? v : largest;
  }
  T top = largest[0];
  for (int k = 1; k < W; ++k) top = largest[k] > top ? largest[k] : top;
  Vec<T> sums = {};
  for (int64_t i = 0; i < padded; i += W) {
    const Vec<T> e = exp_nonpositive(load(weights + i) - top);
    store(weights + i, e);
    sums += e;
  }
  T sum = 0;
  for (int k = 0; k < W; ++k) sum += sums[k];
  const T scale = 1 / sum;
  for (int64_t i = 0; i < n; ++i) weights[i] *= scale;
}

// grad: by the weights -> by the logits, in place.
template <typename T>
inline void softmax_backward(int64_t n, const T* weights, T* grad) {
  T mean = 0;
  for (int64_t i = 0; i < n; ++i) mean += weights[i] * grad[i];
  for (int64_t i = 0; i < n; ++i) grad[i] = weights[i] * (grad[i] - mean);
}

}  // namespace ddetr
