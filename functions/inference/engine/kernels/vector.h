// Vectors of WIDTH floats for the instruction set that this file is compiled for, and the functions on vectors that
// the kernels need. clang's vector types: https://clang.llvm.org/docs/LanguageExtensions.html
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
#define WIDTH 16
#elif defined(__AVX2__)
#define WIDTH 8
#else
#define WIDTH 4
#endif

namespace KERNELS {

typedef float Vector __attribute__((ext_vector_type(WIDTH)));
typedef float Unaligned __attribute__((ext_vector_type(WIDTH), aligned(4)));
typedef int32_t Integers __attribute__((ext_vector_type(WIDTH)));
typedef uint8_t Bytes __attribute__((ext_vector_type(WIDTH)));

inline Vector load(const float *from) { return *reinterpret_cast<const Unaligned *>(from); }
inline void store(float *to, Vector value) { *reinterpret_cast<Unaligned *>(to) = value; }

// An x that is NaN stays NaN.
inline Vector at_least(Vector low, Vector x) { return low > x ? low : x; }
inline Vector at_most(Vector high, Vector x) { return high < x ? high : x; }

// The largest of three values, NaN if one of them is. `at_least` passes on only a c that is NaN.
inline Vector largest(Vector a, Vector b, Vector c) {
  const Integers unknown = (a != a) | (b != b);  // all bits set, which is NaN
  return (Vector)((Integers)at_least(a, at_least(b, c)) | unknown);
}

// The last `count` <= WIDTH values of a row, then zeros: every value gets the same arithmetic.
inline Vector load(const float *from, int64_t count) {
  if (count == WIDTH) return load(from);
  Vector value = 0;
  memcpy(&value, from, count * sizeof(float));
  return value;
}

inline void store(float *to, Vector value, int64_t count) {
  if (count == WIDTH) store(to, value);
  else memcpy(to, &value, count * sizeof(float));
}

// step(c, count) for each vector of a row. `count` is the constant WIDTH, except for the row's last values.
template <class Step>
inline void along(int64_t width, Step step) {
  int64_t c = 0;
  for (; c + WIDTH <= width; c += WIDTH) step(c, std::integral_constant<int64_t, WIDTH>());
  if (c < width) step(c, width - c);
}

inline float sum(Vector value) {
  float lanes[WIDTH];
  memcpy(lanes, &value, sizeof lanes);
  for (int half = WIDTH / 2; half; half /= 2)
    for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
  return lanes[0];
}

// 1 / x to a unit in the last place. If the CPU has estimates: an estimate and one step of Newton's method.
inline Vector reciprocal(Vector x) {
#if defined(__AVX512F__)
  Vector estimate = (Vector)_mm512_rcp14_ps((__m512)x);
#elif defined(__AVX2__)
  Vector estimate = (Vector)_mm256_rcp_ps((__m256)x);
#else
  return 1 / x;
#endif
#if defined(__AVX2__)
  return estimate * (2 - x * estimate);
#endif
}

// 2^x for -126 <= x <= 127 with a relative error below 2e-7, and 2^-126 for smaller x. It is 2^n · 2^f, |f| <= 1/2,
// with the minimax polynomial of degree 5, whose relative error is at most 7.5e-8.
inline Vector power_of_two(Vector x) {
  x = at_least(-126.0f, x);
  const Vector n = __builtin_elementwise_roundeven(x), f = x - n;
  Vector p = 0.00132764672f;
  p = p * f + 0.00967554168f;
  p = p * f + 0.0555071329f;
  p = p * f + 0.240221197f;
  p = p * f + 0.693146967f;
  p = p * f + 1.00000007f;
  return (Vector)((Integers)p + (__builtin_convertvector(n, Integers) << 23));
}

constexpr float LOG2_E = 1.44269504088896341f;

inline Vector exponential(Vector x) { return power_of_two(x * LOG2_E); }

// x · Phi(x) = max(x, 0) - |x| · Q(|x|), with the normal distribution's tail Q by Abramowitz and Stegun 7.1.26
// (absolute error of erf below 1.5e-7). GELU: Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415
inline Vector gelu(Vector x) {
  const Vector size = __builtin_elementwise_abs(x);
  const Vector t = reciprocal(1 + 0.3275911f * 0.70710678118654752f * size);
  Vector p = 1.061405429f / 2;
  p = p * t - 1.453152027f / 2;
  p = p * t + 1.421413741f / 2;
  p = p * t - 0.284496736f / 2;
  p = p * t + 0.254829592f / 2;
  return at_least(0.0f, x) - size * t * p * power_of_two(size * size * (-LOG2_E / 2));
}

inline Vector silu(Vector x) { return x * reciprocal(1 + power_of_two(at_most(120.0f, x * -LOG2_E))); }

// ln x for positive normal x, with an error below 1e-7 relative to x - 1: mantissas in [sqrt 1/2, sqrt 2] and the
// minimax polynomial of degree 8 for ln(1 + t) / t, whose error is at most 2.6e-8.
inline Vector logarithm(Vector x) {
  const Integers bits = (Integers)x, exponent = (bits - 0x3f3504f3) >> 23;
  const Vector t = (Vector)(bits - (exponent << 23)) - 1;
  Vector p = 0.0895981239f;
  p = p * t - 0.144821502f;
  p = p * t + 0.149173977f;
  p = p * t - 0.165437443f;
  p = p * t + 0.199584158f;
  p = p * t - 0.250029458f;
  p = p * t + 0.333341605f;
  p = p * t - 0.499999777f;
  p = p * t + 0.999999975f;
  return p * t + __builtin_convertvector(exponent, Vector) * 0.693147180559945f;
}

// asinh x = sign(x) · ln(|x| + sqrt(x² + 1)) for |x| < 1e38, with an absolute or a relative error below 2e-7. Infinity
// and NaN give NaN, because x - x does.
inline Vector inverse_hyperbolic_sine(Vector x) {
  const Vector size = __builtin_elementwise_abs(x);
  const Vector root = size > 1e18f ? size : __builtin_elementwise_sqrt(size * size + 1);
  return __builtin_elementwise_copysign(logarithm(size + root), x) + (x - x);
}

// How float32 values become uint8, or stay as they are: https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
struct Kept {
  using Value = float;
  void put(float *to, Vector value, int64_t count) const { store(to, value, count); }
};

struct Quantised {
  using Value = uint8_t;
  float per_unit, zero;

  void put(uint8_t *to, Vector value, int64_t count) const {
    value = value * per_unit + zero;
    uint8_t bytes[WIDTH];
#if defined(__AVX512F__)
    const __m512i rounded = _mm512_max_epi32(_mm512_cvtps_epi32((__m512)value), _mm512_setzero_si512());
    _mm_storeu_si128(reinterpret_cast<__m128i *>(bytes), _mm512_cvtusepi32_epi8(rounded));
#elif defined(__AVX2__)
    const __m256i rounded = _mm256_cvtps_epi32((__m256)value);
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(rounded), _mm256_extracti128_si256(rounded, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(bytes), _mm_packus_epi16(words, words));
#else
    value = at_most(255.0f, at_least(0.0f, __builtin_elementwise_roundeven(value)));
    const Bytes narrow = __builtin_convertvector(__builtin_convertvector(value, Integers), Bytes);
    memcpy(bytes, &narrow, WIDTH);
#endif
    memcpy(to, bytes, count);
  }
};

}  // namespace KERNELS
