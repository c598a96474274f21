// A register full of numbers, in the compilers' vector extension (GCC, Clang): as wide as the instruction set compiled for.
#pragma once

#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "../geometry.h"

#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

namespace ddetr {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;  // SSE2, NEON, or what the compiler makes of it
#endif

// Before a loop over the registers of an array: unrolled, the array is registers and not memory. 8 is the most there are.
#if defined(__clang__)
#define DDETR_UNROLL _Pragma("clang loop unroll(full)")
#else
#define DDETR_UNROLL _Pragma("GCC unroll 8")
#endif

template <typename T, int N>
struct VecOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T>
constexpr int kLanes = kVectorBytes / sizeof(T);
template <typename T>
using Vec = typename VecOf<T, kLanes<T>>::type;

inline Vec<float> load(const float* from) {
  Vec<float> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline Vec<double> load(const double* from) {
  Vec<double> v;
  std::memcpy(&v, from, sizeof(v));
  return v;
}

inline Vec<float> load(const c10::BFloat16* from) {
  typename VecOf<uint16_t, kLanes<float>>::type bits;
  std::memcpy(&bits, from, sizeof(bits));
  using Wide = typename VecOf<uint32_t, kLanes<float>>::type;
  const Wide wide = __builtin_convertvector(bits, Wide) << 16;  // a bfloat16 is the upper half of a float
  Vec<float> v;
  std::memcpy(&v, &wide, sizeof(v));
  return v;
}

inline Vec<float> load(const c10::Half* from) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__AVX2__) && defined(__F16C__)
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#else
  Vec<float> v;
  for (int i = 0; i < kLanes<float>; ++i) v[i] = from[i];
  return v;
#endif
}

inline void store(float* to, Vec<float> v) { std::memcpy(to, &v, sizeof(v)); }

inline void store(double* to, Vec<double> v) { std::memcpy(to, &v, sizeof(v)); }

template <typename scalar_t>
inline void store(scalar_t* to, Vec<float> v) {
  for (int i = 0; i < kLanes<float>; ++i) to[i] = static_cast<scalar_t>(v[i]);
}

// A vector of some lanes of two vectors end to end, by their numbers.
template <int... Lane, typename V>
inline auto pick(V a, V b) {
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, Lane...);
#else  // GCC before 12
  using T = std::remove_reference_t<decltype(a[0])>;
  constexpr int N = sizeof(V) / sizeof(T);
  return typename VecOf<T, sizeof...(Lane)>::type{(Lane < N ? a[Lane % N] : b[Lane % N])...};
#endif
}

// Every second lane of two vectors end to end, from First on.
template <int First, typename V, int... I>
inline V every_second(V a, V b, std::integer_sequence<int, I...>) {
  return pick<(First + 2 * I)...>(a, b);
}
inline Vec<float> evens(Vec<float> a, Vec<float> b) {
  return every_second<0>(a, b, std::make_integer_sequence<int, kLanes<float>>{});
}
inline Vec<float> odds(Vec<float> a, Vec<float> b) {
  return every_second<1>(a, b, std::make_integer_sequence<int, kLanes<float>>{});
}
inline Vec<double> evens(Vec<double> a, Vec<double> b) {
  return every_second<0>(a, b, std::make_integer_sequence<int, kLanes<double>>{});
}
inline Vec<double> odds(Vec<double> a, Vec<double> b) {
  return every_second<1>(a, b, std::make_integer_sequence<int, kLanes<double>>{});
}

// Lanes of a 2 N lane vector from First on, half of them.
template <int First, typename T, int N, int... I>
inline typename VecOf<T, N>::type half_of(typename VecOf<T, 2 * N>::type v, std::integer_sequence<int, I...>) {
  return pick<(First + I)...>(v, v);
}

// Fold a vector onto itself until four lanes are left.
template <typename T, int N>
inline typename VecOf<T, 4>::type fold(typename VecOf<T, N>::type v) {
  if constexpr (N == 4) {
    return v;
  } else {
    constexpr auto lanes = std::make_integer_sequence<int, N / 2>{};
    return fold<T, N / 2>(half_of<0, T, N / 2>(v, lanes) + half_of<N / 2, T, N / 2>(v, lanes));
  }
}

// sums[k] += the sum of v[k]'s lanes, for four vectors at once.
template <typename T>
inline void add_sums(T* sums, const Vec<T> (&v)[4]) {
  if constexpr (kLanes<T> < 4) {
    for (int k = 0; k < 4; ++k) sums[k] += v[k][0] + v[k][1];
  } else {
    constexpr int N = kLanes<T>;
    const auto a = fold<T, N>(v[0]), b = fold<T, N>(v[1]), c = fold<T, N>(v[2]), d = fold<T, N>(v[3]);
    const auto ab = pick<0, 4, 1, 5>(a, b) + pick<2, 6, 3, 7>(a, b);
    const auto cd = pick<0, 4, 1, 5>(c, d) + pick<2, 6, 3, 7>(c, d);
    typename VecOf<T, 4>::type total;
    std::memcpy(&total, sums, sizeof(total));
    total += pick<0, 1, 4, 5>(ab, cd) + pick<2, 3, 6, 7>(ab, cd);
    std::memcpy(sums, &total, sizeof(total));
  }
}

}  // namespace ddetr
