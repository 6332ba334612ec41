// Products of float32 values, rounded to bfloat16, by bfloat16 weights, summed in float32. The inputs of an output are
// added in the same order in every row, so a row's product does not depend on the rows beside it.
#pragma once
#include "kernels.h"
#include "scratch.h"
#include "vector.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace KERNELS {
namespace {

// One instruction multiplies ROWS rows of DEEP inputs by DEEP inputs of ACROSS outputs, and adds ROWS · ACROSS sums.
// A tile is TALL · ROWS rows of a panel, which has WIDE vectors of outputs: its sums fill most registers.
#if defined(__x86_64__)
constexpr int64_t ROWS = 1, DEEP = 2, ACROSS = 16, TALL = 8, WIDE = 3;
typedef __m512bh Narrow;

inline Narrow inputs_at(const uint16_t *x) {
  int32_t pair;
  memcpy(&pair, x, sizeof pair);
  return (Narrow)_mm512_set1_epi32(pair);
}

inline Vector add_products(Vector sums, Narrow x, Narrow weights) {
  return (Vector)_mm512_dpbf16_ps((__m512)sums, x, weights);
}

inline void round_to(uint16_t *to, Vector value) {
  const __m256bh rounded = _mm512_cvtneps_pbh((__m512)value);
  memcpy(to, &rounded, sizeof rounded);
}

// Writes the sums of one row to its first `columns` outputs.
inline void put(float *out, int64_t, int64_t, const Vector *sums, int64_t columns) {
  for (int v = 0; v < WIDE; v++, out += ACROSS, columns -= ACROSS)
    if (columns > 0) store(out, sums[v], columns < ACROSS ? columns : ACROSS);
}
#else
constexpr int64_t ROWS = 2, DEEP = 4, ACROSS = 2, TALL = 4, WIDE = 4;
typedef bfloat16x8_t Narrow;

inline Narrow inputs_at(const uint16_t *x) { return vreinterpretq_bf16_u16(vld1q_u16(x)); }

inline Vector add_products(Vector sums, Narrow x, Narrow weights) {
  return (Vector)vbfmmlaq_f32((float32x4_t)sums, x, weights);
}

inline void round_to(uint16_t *to, Vector value) {
  vst1_u16(to, vreinterpret_u16_bf16(vcvt_bf16_f32((float32x4_t)value)));
}

// Writes the sums of two rows, or of one if there are not more, to their first `columns` outputs.
inline void put(float *out, int64_t width, int64_t rows, const Vector *sums, int64_t columns) {
  for (int v = 0; v < WIDE; v += 2, out += WIDTH, columns -= WIDTH) {
    const int64_t count = columns < WIDTH ? columns : WIDTH;
    if (count <= 0) return;
    store(out, __builtin_shufflevector(sums[v], sums[v + 1], 0, 1, 4, 5), count);
    if (rows > 1) store(out + width, __builtin_shufflevector(sums[v], sums[v + 1], 2, 3, 6, 7), count);
  }
}
#endif

constexpr int64_t COLUMNS = WIDE * ACROSS;
constexpr int64_t LINE = 16;   // floats in a line of the cache
constexpr int64_t BLOCK = 64;  // rows that stay in the cache while all panels pass

int64_t padded(int64_t number, int64_t to) { return (number + to - 1) / to * to; }

int64_t packed_bytes(int64_t inputs, int64_t outputs) {
  return padded(outputs, COLUMNS) * padded(inputs, WIDTH) * int64_t(sizeof(uint16_t));
}

// Panels of COLUMNS outputs each: for every DEEP inputs, their weights of each output side by side; padded by zeros.
void pack(int64_t inputs, int64_t outputs, const uint16_t *weights, void *memory) {
  const int64_t deep = padded(inputs, WIDTH);
  auto *packed = static_cast<uint16_t *>(memory);
  memset(packed, 0, packed_bytes(inputs, outputs));
  for (int64_t k = 0; k < inputs; k++)
    for (int64_t n = 0; n < outputs; n++)
      packed[n / COLUMNS * COLUMNS * deep + k / DEEP * DEEP * COLUMNS + n % COLUMNS * DEEP + k % DEEP] =
          weights[k * outputs + n];
}

// Rounds rows: groups of ROWS rows, for every DEEP inputs those of each row side by side; padded by zeros.
void round_rows(int64_t rows, int64_t inputs, const float *x, uint16_t *rounded) {
  const int64_t deep = padded(inputs, WIDTH);
  for (int64_t row = 0; row < padded(rows, ROWS); row++) {
    uint16_t *to = rounded + row / ROWS * ROWS * deep + row % ROWS * DEEP;
    along(inputs, [=](int64_t k, auto count) {
      round_to(to + k * ROWS, row < rows ? load(x + row * inputs + k, count) : (Vector)0.0f);
    });
  }
}

// `rows` <= tall · ROWS rows of one panel, which has `columns` outputs, or more.
template <int tall>
inline void tile(int64_t deep, int64_t rows, const uint16_t *x, const uint16_t *panel, float *out, int64_t width,
                 int64_t columns) {
  Vector sums[tall][WIDE] = {};
  for (int64_t row = 0; row < tall * ROWS && row < rows; row++)  // the cache fetches what will be written meanwhile
    for (int64_t n = 0; n < COLUMNS && n < columns; n += LINE) __builtin_prefetch(out + row * width + n, 1);
  for (int64_t k = 0; k < deep; k += DEEP, panel += DEEP * COLUMNS) {
    Narrow weights[WIDE];
    memcpy(weights, panel, sizeof weights);
    for (int t = 0; t < tall; t++) {
      const Narrow values = inputs_at(x + (t * deep + k) * ROWS);
      for (int v = 0; v < WIDE; v++) sums[t][v] = add_products(sums[t][v], values, weights[v]);
    }
  }
  for (int t = 0; t < tall; t++) put(out + t * ROWS * width, width, rows - t * ROWS, sums[t], columns);
}

void multiply(int64_t rows, int64_t inputs, int64_t outputs, const float *x, const void *packed, float *out) {
  const int64_t deep = padded(inputs, WIDTH), tallest = TALL * ROWS;
  const auto *panels = static_cast<const uint16_t *>(packed);
  auto *rounded = reinterpret_cast<uint16_t *>(scratch(BLOCK * deep * sizeof(uint16_t) / sizeof(Vector) + 1));
  for (; rows > 0; rows -= BLOCK, x += BLOCK * inputs, out += BLOCK * outputs) {
    const int64_t count = rows < BLOCK ? rows : BLOCK;
    round_rows(count, inputs, x, rounded);
    for (int64_t n = 0; n < outputs; n += COLUMNS) {
      const auto some = [&](auto tall, int64_t r) {
        tile<tall>(deep, count - r, rounded + r * deep, panels + n * deep, out + r * outputs + n, outputs, outputs - n);
      };
      int64_t r = 0;
      for (; r + tallest <= count; r += tallest) some(std::integral_constant<int, TALL>(), r);
      for (; r < count; r += ROWS) some(std::integral_constant<int, 1>(), r);
    }
  }
}

}  // namespace
}  // namespace KERNELS
