// Products of uint8 by int8 where the CPU has AVX2 and nothing newer: onnxruntime's own take a third longer there.
#pragma once
#include "kernels.h"
#include "scratch.h"
#include "vector.h"

namespace KERNELS {
namespace {

#if defined(__AVX2__) && !defined(__AVX512F__)
#define OWN_INTEGER_PRODUCTS packed_bytes, pack, multiply

// Panels of COLUMNS outputs each: for every four inputs, four weights of each output side by side.
constexpr int64_t COLUMNS = 2 * WIDTH, FOUR = 4, DEEP = 2 * FOUR, STEP = COLUMNS * FOUR;
constexpr int64_t BLOCK = 64;           // rows that stay in the cache while all panels pass
constexpr int32_t MOST = 32767 / 255;   // of four weights of one sign: 255 times that is still an int16

int64_t padded(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

// The weights, padded by zeros, then the sum of each output's.
int64_t packed_bytes(int64_t inputs, int64_t outputs) {
  return padded(outputs, COLUMNS) * (padded(inputs, DEEP) + int64_t(sizeof(int32_t)));
}

const int32_t *sums_in(const int8_t *packed, int64_t inputs, int64_t outputs) {
  return reinterpret_cast<const int32_t *>(packed + padded(outputs, COLUMNS) * padded(inputs, DEEP));
}

// `multiply` adds the products of a pair of inputs, and of the pair four inputs later, in 16 bits. These sums cannot
// overflow, nor saturate, if the weights of each sign among those four add up to MOST at most, as x is at most 255.
bool pack(int64_t inputs, int64_t outputs, const int8_t *weights, void *memory) {
  const int64_t deep = padded(inputs, DEEP);
  auto *packed = static_cast<int8_t *>(memory);
  auto *sums = const_cast<int32_t *>(sums_in(packed, inputs, outputs));
  memset(packed, 0, packed_bytes(inputs, outputs));
  for (int64_t n = 0; n < outputs; n++) {
    int8_t *to = packed + n / COLUMNS * COLUMNS * deep + n % COLUMNS * FOUR;
    for (int64_t k = 0; k < deep; k += DEEP) {
      int32_t positive[2] = {}, negative[2] = {};
      for (int64_t i = k; i < k + DEEP && i < inputs; i++) {
        const int8_t weight = weights[i * outputs + n];
        to[i / FOUR * STEP + i % FOUR] = weight;
        sums[n] += weight;
        (weight > 0 ? positive : negative)[i % FOUR / 2] += weight;
      }
      for (int pair = 0; pair < 2; pair++)
        if (positive[pair] > MOST || negative[pair] < -MOST) return false;
    }
  }
  return true;
}

inline __m256i pairs(__m256i x, const int8_t *weights) {
  return _mm256_maddubs_epi16(x, *reinterpret_cast<const __m256i *>(weights));
}

// `rows` rows of one panel, which has `columns` outputs, or more.
template <int rows>
inline void tile(int64_t deep, const uint8_t *x, int64_t stride, const int8_t *panel, const int32_t *offsets,
                 const float *scales, float *out, int64_t width, int64_t columns) {
  __m256i sums[rows][2];
  for (int row = 0; row < rows; row++)
    for (int half = 0; half < 2; half++) memcpy(&sums[row][half], offsets + half * WIDTH, sizeof(__m256i));
  const __m256i ones = _mm256_set1_epi16(1);
  for (int64_t k = 0; k < deep; k += DEEP, panel += 2 * STEP)
    for (int row = 0; row < rows; row++) {
      int32_t four[2];
      memcpy(four, x + row * stride + k, sizeof four);
      const __m256i first = _mm256_set1_epi32(four[0]), second = _mm256_set1_epi32(four[1]);
      for (int half = 0; half < 2; half++) {
        const int8_t *weights = panel + half * WIDTH * FOUR;
        const __m256i both = _mm256_add_epi16(pairs(first, weights), pairs(second, weights + STEP));
        sums[row][half] = _mm256_add_epi32(sums[row][half], _mm256_madd_epi16(both, ones));
      }
    }
  for (int row = 0; row < rows; row++)
    for (int half = 0; half < 2; half++) {
      const int64_t left = columns - half * WIDTH, count = left < WIDTH ? left : WIDTH;
      const Vector value = (Vector)_mm256_cvtepi32_ps(sums[row][half]) * load(scales + half * WIDTH);
      if (count > 0) store(out + row * width + half * WIDTH, value, count);
    }
}

void multiply(int64_t rows, int64_t inputs, int64_t outputs, const uint8_t *x, Quantisation quantisation,
              const void *memory, const float *scales, float *out) {
  const int64_t deep = padded(inputs, DEEP), wide = padded(outputs, COLUMNS);
  const int64_t copied = inputs < deep ? BLOCK * deep : 0;
  Vector *values = scratch(2 * wide / WIDTH + copied / int64_t(sizeof(Vector)) + 1);
  auto *offsets = reinterpret_cast<int32_t *>(values);
  auto *factors = reinterpret_cast<float *>(offsets + wide);
  auto *copy = reinterpret_cast<uint8_t *>(factors + wide);
  const auto *packed = static_cast<const int8_t *>(memory);
  const int32_t *sums = sums_in(packed, inputs, outputs);
  for (int64_t n = 0; n < wide; n++) {
    offsets[n] = -int32_t(quantisation.zero) * sums[n];
    factors[n] = n < outputs ? quantisation.scale * scales[n] : 0;
  }
  for (int64_t row = 0; row < rows; row += BLOCK, x += BLOCK * inputs, out += BLOCK * outputs) {
    const int64_t count = rows - row < BLOCK ? rows - row : BLOCK;
    const uint8_t *from = x;
    if (copied) {
      memset(copy, 0, copied);
      for (int64_t r = 0; r < count; r++) memcpy(copy + r * deep, x + r * inputs, inputs);
      from = copy;
    }
    for (int64_t n = 0; n < outputs; n += COLUMNS) {
      const auto some = [&](auto number, int64_t r) {
        tile<number>(deep, from + r * deep, deep, packed + n * deep, offsets + n, factors + n, out + r * outputs + n,
                     outputs, outputs - n);
      };
      int64_t r = 0;
      for (; r + 4 <= count; r += 4) some(std::integral_constant<int, 4>(), r);
      for (; r < count; r++) some(std::integral_constant<int, 1>(), r);
    }
  }
}
#else
#define OWN_INTEGER_PRODUCTS nullptr, nullptr, nullptr
#endif

}  // namespace
}  // namespace KERNELS
