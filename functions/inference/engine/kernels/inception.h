// The Inception branch. Each lane of a vector is one galaxy: WIDTH galaxies are computed at once.
#pragma once
#include <initializer_list>

#include "kernels.h"
#include "scratch.h"
#include "vector.h"

namespace KERNELS {
namespace {

// Images of `size` × `size` pixels, surrounded by `border` zero pixels. Each value is a vector of WIDTH galaxies.
struct Pixels {
  Vector *values;
  int64_t size, channels, border;
  int64_t row() const { return (size + 2 * border) * channels; }
  Vector *at(int64_t y, int64_t x) const { return values + (y + border) * row() + (x + border) * channels; }
  void clear() const {
    for (int64_t i = 0; i < (size + 2 * border) * row(); i++) values[i] = 0;
  }
};

constexpr int PACKED = 4;                    // output channels computed at once: their weights are adjacent in memory
constexpr int AT_ONCE = WIDTH == 8 ? 2 : 4;  // pixels computed at once: AVX2 has 16 registers, the others 32
constexpr int64_t BORDER = 2;                // pixels beyond the image that a 5×5 convolution reads

int64_t weights_of(int64_t inputs, int64_t kernel, int64_t outputs) {
  return (outputs + PACKED - 1) / PACKED * PACKED * (inputs * kernel * kernel + 1);
}

struct Relu {
  static Vector of(Vector x) { return at_least(0.0f, x); }
};
struct Identity {
  static Vector of(Vector x) { return x; }
};

template <int pixels, class Activation>
inline void convolved(const Vector *from, int64_t row, int64_t channels, int kernel, const float *weights,
                      const float *bias, Vector *to, int64_t step, int64_t outputs) {
  Vector sums[pixels][PACKED];
  for (int p = 0; p < pixels; p++)
    for (int o = 0; o < PACKED; o++) sums[p][o] = bias[o];
  for (int ky = 0; ky < kernel; ky++, from += row)
    for (int64_t i = 0; i < kernel * channels; i++, weights += PACKED)
      for (int p = 0; p < pixels; p++)
        for (int o = 0; o < PACKED; o++) sums[p][o] += weights[o] * from[p * channels + i];
  for (int p = 0; p < pixels; p++)
    for (int o = 0; o < PACKED && o < outputs; o++) to[p * step + o] = Activation::of(sums[p][o]);
}

// Computes activation(convolution + bias) of row y. Writes a pixel's channels to to[0], to[1]…, the next pixel's to
// to[step]….
template <class Activation>
inline void convolve_row(const Pixels &in, int64_t y, int kernel, const float *weights, int64_t outputs, Vector *to,
                         int64_t step) {
  const int64_t taps = in.channels * kernel * kernel, padded = (outputs + PACKED - 1) / PACKED * PACKED;
  const auto some = [&](auto pixels, int64_t x, int64_t o) {
    convolved<pixels, Activation>(in.at(y - kernel / 2, x - kernel / 2), in.row(), in.channels, kernel,
                                  weights + o * taps, weights + padded * taps + o, to + x * step + o, step,
                                  outputs - o);
  };
  for (int64_t o = 0; o < outputs; o += PACKED) {
    int64_t x = 0;
    for (; x + AT_ONCE <= in.size; x += AT_ONCE) some(std::integral_constant<int, AT_ONCE>(), x, o);
    for (; x < in.size; x++) some(std::integral_constant<int, 1>(), x, o);
  }
}

// A whole convolution into the channels of `out` from `first` on. Returns the address of the next layer's weights.
template <class Activation = Relu>
const float *convolve(const Pixels &in, int kernel, const float *weights, int64_t outputs, const Pixels &out,
                      int64_t first = 0) {
  for (int64_t y = 0; y < in.size; y++)
    convolve_row<Activation>(in, y, kernel, weights, outputs, out.at(y, 0) + first, out.channels);
  return weights + weights_of(in.channels, kernel, outputs);
}

// The largest of the 3×3 pixels around each pixel of row y. Pixels of an edge are repeated beyond it.
void largest_row(const Pixels &in, int64_t y, Vector *columns, Vector *out) {
  const int64_t channels = in.channels, last = in.size - 1;
  const Vector *above = in.at(y ? y - 1 : y, 0), *here = in.at(y, 0), *below = in.at(y < last ? y + 1 : y, 0);
  for (int64_t i = 0; i < in.size * channels; i++) columns[i] = largest(above[i], here[i], below[i]);
  for (int64_t x = 0; x < in.size; x++, columns += channels, out += channels) {
    const Vector *left = x ? columns - channels : columns, *right = x < last ? columns + channels : columns;
    for (int64_t c = 0; c < channels; c++) out[c] = largest(left[c], columns[c], right[c]);
  }
}

void halved(const Pixels &in, const Pixels &out) {
  for (int64_t y = 0; y < out.size; y++)
    for (int64_t x = 0; x < out.size; x++) {
      const Vector *upper = in.at(2 * y, 2 * x), *lower = in.at(2 * y + 1, 2 * x);
      for (int64_t c = 0; c < in.channels; c++)
        out.at(y, x)[c] = (upper[c] + upper[c + in.channels] + lower[c] + lower[c + in.channels]) * 0.25f;
    }
}

// The mean of 2×2 pixels of each image. If there are fewer than WIDTH galaxies, the first one fills the free lanes.
void halved(const float *images, int64_t galaxies, const Pixels &out) {
  const int64_t size = out.size, channels = out.channels, image = 2 * size;
  for (int64_t lane = 0; lane < WIDTH; lane++)
    for (int64_t c = 0; c < channels; c++) {
      const float *from = images + ((lane < galaxies ? lane : 0) * channels + c) * image * image;
      auto *to = reinterpret_cast<float *>(out.values + c) + lane;
      for (int64_t y = 0; y < size; y++, from += 2 * image)
        for (int64_t x = 0; x < size; x++, to += channels * WIDTH)
          *to = (from[2 * x] + from[2 * x + 1] + from[image + 2 * x] + from[image + 2 * x + 1]) * 0.25f;
    }
}

int64_t outputs_of(const InceptionBlock &block) { return block.one + block.three + block.five + block.pooled; }

// Intermediate values of a block: of the layer before a wide convolution or a pool, and of two rows around the pool.
struct Inner {
  Vector *values, *columns, *pooled;
};

// The parallel paths of one block. Returns the address of the next block's weights.
const float *block_of(const InceptionBlock &block, const Pixels &in, const Inner &inner, const float *weights,
                      const Pixels &out) {
  weights = convolve(in, 1, weights, block.one, out);
  const auto wide = [&](int64_t width, int kernel, int64_t outputs, int64_t first) {
    const Pixels narrow{inner.values, in.size, width, BORDER};
    narrow.clear();
    weights = convolve(in, 1, weights, width, narrow);
    weights = convolve(narrow, kernel, weights, outputs, out, first);
  };
  wide(block.three_inner, 3, block.three, block.one);
  wide(block.five_inner, 5, block.five, block.one + block.three);
  Pixels read = in;
  if (block.stem) {
    read = {inner.values, in.size, block.stem, 0};
    weights = convolve<Identity>(in, 1, weights, block.stem, read);
  }
  const Pixels row{inner.pooled, in.size, read.channels, 0};
  for (int64_t y = 0; y < in.size; y++) {
    largest_row(read, y, inner.columns, row.values);
    convolve_row<Relu>(row, 0, 1, weights, block.pooled, out.at(y, 0) + block.one + block.three + block.five,
                       out.channels);
  }
  return weights + weights_of(read.channels, 1, block.pooled);
}

void inception(int64_t galaxies, int64_t channels, int64_t image, const float *images, int64_t blocks,
               const InceptionBlock *plan, const float *weights, float *out) {
  const int64_t size = image / 2, side = size + 2 * BORDER;
  int64_t most = channels, widest = 0;
  for (int64_t b = 0; b < blocks; b++) {
    const InceptionBlock &block = plan[b];
    most = outputs_of(block) > most ? outputs_of(block) : most;
    for (int64_t width : {block.three_inner, block.five_inner, block.stem}) widest = width > widest ? width : widest;
  }
  const int64_t values = widest * side * side, row = size * (most > widest ? most : widest);
  Vector *front = scratch(2 * most * size * size + values + 2 * row), *back = front + most * size * size;
  Vector *inner_values = back + most * size * size;
  const Inner inner{inner_values, inner_values + values, inner_values + values + row};
  for (int64_t galaxy = 0; galaxy < galaxies; galaxy += WIDTH) {
    const int64_t count = galaxies - galaxy < WIDTH ? galaxies - galaxy : WIDTH;
    Pixels in{front, size, channels, 0};
    halved(images + galaxy * channels * image * image, count, in);
    const float *weight = weights;
    for (int64_t b = 0; b < blocks; b++) {
      const Pixels next{in.values == front ? back : front, in.size, outputs_of(plan[b]), 0};
      weight = block_of(plan[b], in, inner, weight, next);
      if (plan[b].halve) {
        in = {in.values, in.size / 2, next.channels, 0};
        halved(next, in);
      } else {
        in = next;
      }
    }
    const int64_t pixels = in.size * in.size, features = in.channels * pixels;
    for (int64_t lane = 0; lane < count; lane++)
      for (int64_t pixel = 0; pixel < pixels; pixel++)
        for (int64_t c = 0; c < in.channels; c++)
          out[(galaxy + lane) * features + c * pixels + pixel] =
              reinterpret_cast<float *>(in.values + pixel * in.channels + c)[lane];
  }
}

}  // namespace
}  // namespace KERNELS
