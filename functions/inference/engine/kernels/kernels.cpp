// The parts of AstroMAE other than products of large matrices. With onnxruntime's own operators they would take half
// of the time. A value is computed by the same operations at every place in a batch.
#include "kernels.h"

#include <cmath>

#include "inception.h"
#include "integers.h"
#include "scratch.h"
#include "vector.h"

namespace KERNELS {
namespace {

template <class Then>
void quantised_or_not(const Quantisation *quantisation, Then then) {
  if (quantisation) then(Quantised{1 / quantisation->scale, float(quantisation->zero)});
  else then(Kept{});
}

void soften(int64_t galaxies, int64_t channels, int64_t pixels, const float *x, const float *reciprocals, float *out) {
  for (int64_t plane = 0; plane < galaxies * channels; plane++, x += pixels, out += pixels) {
    const Vector factor = reciprocals[plane % channels];
    along(pixels, [=](int64_t p, auto count) {
      store(out + p, inverse_hyperbolic_sine(load(x + p, count) * factor), count);
    });
  }
}

void gelu_rows(int64_t rows, int64_t width, const float *x, const float *bias, const Quantisation *quantisation,
               void *out) {
  quantised_or_not(quantisation, [=](auto output) {
    for (int64_t row = 0; row < rows; row++) {
      const float *from = x + row * width;
      auto *to = static_cast<typename decltype(output)::Value *>(out) + row * width;
      along(width, [=](int64_t c, auto count) {
        output.put(to + c, gelu(load(from + c, count) + load(bias + c, count)), count);
      });
    }
  });
}

void add_norm(int64_t rows, int64_t width, const float *product, const float *bias, const float *residual,
              const float *gamma, const float *beta, float epsilon, const Quantisation *quantisation, float *sums,
              void *out) {
  quantised_or_not(quantisation, [=](auto output) {
    for (int64_t row = 0; row < rows; row++) {
      const float *added = product + row * width, *old = residual + row * width;
      float *fresh = sums + row * width;
      auto *to = static_cast<typename decltype(output)::Value *>(out) + row * width;
      Vector total = 0, squares = 0;
      along(width, [&](int64_t c, auto count) {
        const Vector value = load(added + c, count) + load(bias + c, count) + load(old + c, count);
        store(fresh + c, value, count);
        total += value;
      });
      const float mean = sum(total) / width;
      along(width, [&](int64_t c, auto count) {
        Vector from_mean = load(fresh + c, count) - mean;
        for (int64_t lane = count; lane < WIDTH; lane++) from_mean[lane] = 0;
        squares += from_mean * from_mean;
      });
      const float scale = 1 / std::sqrt(sum(squares) / width + epsilon);
      along(width, [=](int64_t c, auto count) {
        const Vector value = (load(fresh + c, count) - mean) * scale;
        output.put(to + c, value * load(gamma + c, count) + load(beta + c, count), count);
      });
    }
  });
}

// Transposes WIDTH × WIDTH values. Each round interleaves the two halves of the list.
inline void transpose(Vector *rows) {
#pragma clang loop unroll(full)
  for (int round = 1; round < WIDTH; round *= 2) {
    Vector next[WIDTH];
    for (int i = 0; i < WIDTH / 2; i++) {
      const Vector a = rows[i], b = rows[i + WIDTH / 2];
#if WIDTH == 16
      next[2 * i] = __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#elif WIDTH == 8
      next[2 * i] = __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
#else
      next[2 * i] = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      next[2 * i + 1] = __builtin_shufflevector(a, b, 2, 6, 3, 7);
#endif
    }
    for (int i = 0; i < WIDTH; i++) rows[i] = next[i];
  }
}

struct Matrix {  // single values, `row` and `column` apart in memory
  const float *values;
  int64_t row, column;
};

// out (rows, `vectors` vectors) = left (rows, inner) · right (inner, `vectors` vectors). `step` is left.row if that is
// known to the compiler, otherwise 0.
template <int rows, int step>
void product(int64_t inner, int64_t vectors, Matrix left, const Vector *right, Vector *out) {
  for (int64_t v = 0; v < vectors; v++) {
    Vector sums[rows] = {};
    for (int64_t k = 0; k < inner; k++) {
      const Vector value = right[k * vectors + v];
      const float *column = left.values + k * left.column;
      for (int row = 0; row < rows; row++) sums[row] += column[row * (step ? step : left.row)] * value;
    }
    for (int row = 0; row < rows; row++) out[row * vectors + v] = sums[row];
  }
}

// Up to nine rows at once: nine independent sums hide the latency of additions.
template <int step>
void stepping_product(int64_t rows, int64_t inner, int64_t vectors, Matrix left, const Vector *right, Vector *out) {
  while (rows > 0) {
    const int64_t parts = (rows + 8) / 9, now = (rows + parts - 1) / parts;
    switch (now) {
      case 9: product<9, step>(inner, vectors, left, right, out); break;
      case 8: product<8, step>(inner, vectors, left, right, out); break;
      case 7: product<7, step>(inner, vectors, left, right, out); break;
      case 6: product<6, step>(inner, vectors, left, right, out); break;
      case 5: product<5, step>(inner, vectors, left, right, out); break;
      case 4: product<4, step>(inner, vectors, left, right, out); break;
      case 3: product<3, step>(inner, vectors, left, right, out); break;
      case 2: product<2, step>(inner, vectors, left, right, out); break;
      default: product<1, step>(inner, vectors, left, right, out);
    }
    left.values += now * left.row, out += now * vectors, rows -= now;
  }
}

void product(int64_t rows, int64_t inner, int64_t vectors, Matrix left, const Vector *right, Vector *out) {
  const auto chosen = left.row == 1 ? stepping_product<1> : left.row == 32 ? stepping_product<32> : stepping_product<0>;
  chosen(rows, inner, vectors, left, right, out);
}

// Each lane is the query of one token, so softmax needs no sums across lanes.
void attention(int64_t galaxies, int64_t tokens, int64_t width, int64_t heads, int64_t skipped, const float *qkv,
               const float *bias, const Quantisation *quantisation, void *out) {
  const int64_t depth = width / heads, stride = 3 * width, asking = tokens - skipped;
  const int64_t across = (asking + WIDTH - 1) / WIDTH, deep = (depth + WIDTH - 1) / WIDTH;
  Vector *queries = scratch(deep * WIDTH * across + tokens * (deep + deep + across) + asking * deep);
  Vector *keys = queries + deep * WIDTH * across, *values = keys + tokens * deep, *weights = values + tokens * deep;
  Vector *mixed = weights + tokens * across;
  const float scale = 1 / std::sqrt(float(depth));
  quantised_or_not(quantisation, [=](auto output) {
    auto *to = static_cast<typename decltype(output)::Value *>(out);
    for (int64_t galaxy = 0; galaxy < galaxies; galaxy++)
      for (int64_t head = 0; head < heads; head++) {
        if (galaxy + 1 < galaxies) {  // a head's rows are too far apart for the CPU to prefetch them
          const auto *next = reinterpret_cast<const char *>(qkv + (galaxy + 1) * tokens * stride);
          const int64_t bytes = tokens * stride * int64_t(sizeof(float)), part = (bytes + heads - 1) / heads;
          for (int64_t at = head * part; at < (head + 1) * part; at += 64) __builtin_prefetch(next + at, 0, 2);
        }
        const float *q = qkv + galaxy * tokens * stride + head * depth, *k = q + width, *v = k + width;
        const float *q_bias = bias + head * depth, *k_bias = q_bias + width, *v_bias = k_bias + width;
        along(depth, [=](int64_t at, auto count) {
          const int64_t d = at / WIDTH;
          const Vector key_bias = load(k_bias + at, count), query_bias = load(q_bias + at, count);
          for (int64_t token = 0; token < tokens; token++) {
            keys[token * deep + d] = load(k + token * stride + at, count) + key_bias;
            values[token * deep + d] = load(v + token * stride + at, count);
          }
          for (int64_t token = 0; token < asking; token += WIDTH) {
            const float *from = q + (token + skipped) * stride + at;
            const int64_t rows = asking - token < WIDTH ? asking - token : WIDTH;
            Vector tile[WIDTH] = {};
            for (int64_t row = 0; row < rows; row++) tile[row] = (load(from + row * stride, count) + query_bias) * scale;
            transpose(tile);
            for (int64_t row = 0; row < WIDTH; row++) queries[(at + row) * across + token / WIDTH] = tile[row];
          }
        });
        product(tokens, depth, across, {reinterpret_cast<float *>(keys), deep * WIDTH, 1}, queries, weights);
        for (int64_t a = 0; a < across; a++) {
          Vector highest = weights[a], total = 0;
          for (int64_t token = 1; token < tokens; token++) highest = at_least(highest, weights[token * across + a]);
          for (int64_t token = 0; token < tokens; token++) {
            Vector &weight = weights[token * across + a];
            weight = exponential(weight - highest);
            total += weight;
          }
          const Vector share = 1 / total;
          for (int64_t token = 0; token < tokens; token++) weights[token * across + a] *= share;
        }
        product(asking, tokens, deep, {reinterpret_cast<float *>(weights), 1, across * WIDTH}, values, mixed);
        auto *rows = to + galaxy * asking * width + head * depth;
        along(depth, [=](int64_t at, auto count) {
          const Vector value_bias = load(v_bias + at, count);
          for (int64_t token = 0; token < asking; token++)
            output.put(rows + token * width + at, mixed[token * deep + at / WIDTH] + value_bias, count);
        });
      }
  });
}

// Each lane is one token: WIDTH tokens at once. `outers` and `inners` are known to the compiler, or 0.
template <int outers, int inners>
void parallel(int64_t galaxies, int64_t tokens, int64_t groups, int64_t some_outer, int64_t some_inner, int64_t skipped,
              const float *x, const float *w1, const float *b1, const float *w2, const float *b2, float *out) {
  const int64_t outer = outers ? outers : some_outer, inner = inners ? inners : some_inner;
  const int64_t width = groups * outer, padded = (width + WIDTH - 1) / WIDTH * WIDTH;
  Vector *columns = scratch(padded + outer);
  Vector few[outers ? outers : 1], *sums = outers ? few : columns + padded;
  for (int64_t galaxy = 0; galaxy < galaxies; galaxy++) {
    const float *first = x + galaxy * tokens * width;
    float *to = out + galaxy * (tokens - skipped) * width;
    if (!skipped) memcpy(to, first, width * sizeof(float)), to += width;
    for (int64_t token = 1; token < tokens; token += WIDTH) {
      const int64_t count = tokens - token < WIDTH ? tokens - token : WIDTH;
      along(width, [=](int64_t c, auto present) {
        for (int64_t row = 0; row < WIDTH; row++)
          columns[c + row] = row < count ? load(first + (token + row) * width + c, present) : (Vector)0.0f;
        transpose(columns + c);
      });
      for (int64_t group = 0; group < groups; group++) {
        Vector *in = columns + group * outer;
        const float *expand = w1 + group * inner * outer, *contract = w2 + group * inner * outer;
        for (int64_t o = 0; o < outer; o++) sums[o] = in[o] + b2[group * outer + o];
        for (int64_t h = 0; h < inner; h++) {
          Vector value = b1[group * inner + h];
          for (int64_t o = 0; o < outer; o++) value += expand[h * outer + o] * in[o];
          value = silu(value);
          for (int64_t o = 0; o < outer; o++) sums[o] += contract[o * inner + h] * value;
        }
        for (int64_t o = 0; o < outer; o++) in[o] = sums[o];
      }
      along(width, [=](int64_t c, auto present) {
        transpose(columns + c);
        for (int64_t row = 0; row < count; row++) store(to + (token - 1 + row) * width + c, columns[c + row], present);
      });
    }
  }
}

void any_parallel(int64_t galaxies, int64_t tokens, int64_t groups, int64_t outer, int64_t inner, int64_t skipped,
                  const float *x, const float *w1, const float *b1, const float *w2, const float *b2, float *out) {
  const auto chosen = outer == 4 && inner == 16 ? parallel<4, 16> : parallel<0, 0>;  // AstroMAE has 4 and 16
  chosen(galaxies, tokens, groups, outer, inner, skipped, x, w1, b1, w2, b2, out);
}

}  // namespace

#define TEXT_(name) #name
#define TEXT(name) TEXT_(name)
extern const Kernels kernels{TEXT(KERNELS), soften, gelu_rows, add_norm, attention, any_parallel, OWN_INTEGER_PRODUCTS,
                             inception};

}  // namespace KERNELS
