// The kernels for one instruction set. kernels.cpp is compiled once for each set. All arrays are row-major.
#pragma once
#include <cstdint>

struct Quantisation {
  float scale;
  uint8_t zero;
};

// Numbers of channels. Both are 0 for a 5×5 path that is not used. `stem`: channels of a 1×1 convolution without
// activation before the pooled path, 0 for none. `halve`: whether 2×2 pixels are averaged after the block.
struct InceptionBlock {
  int64_t inputs, one, three_inner, three, five_inner, five, stem, pooled, halve;
};

struct Kernels {
  const char *name;

  // asinh(x / softening of its channel); x (galaxies, channels, pixels), reciprocals of the softening (channels,).
  void (*soften)(int64_t galaxies, int64_t channels, int64_t pixels, const float *x, const float *reciprocals,
                 float *out);

  // The output is uint8 if `quantisation` is not null, otherwise float.

  // GELU(x + bias); x (rows, width), bias (width,).
  void (*gelu)(int64_t rows, int64_t width, const float *x, const float *bias, const Quantisation *quantisation,
               void *out);

  // sum = product + bias + residual, and its layer normalisation; both (rows, width).
  void (*add_norm)(int64_t rows, int64_t width, const float *product, const float *bias, const float *residual,
                   const float *gamma, const float *beta, float epsilon, const Quantisation *quantisation,
                   float *sum, void *out);

  // Attention among the `tokens` rows of each galaxy; qkv (galaxies · tokens, 3 · width) without its bias
  // (3 · width,). The first `skipped` tokens of each galaxy are only keys and values: they get no row.
  void (*attention)(int64_t galaxies, int64_t tokens, int64_t width, int64_t heads, int64_t skipped,
                    const float *qkv, const float *bias, const Quantisation *quantisation, void *out);

  // x + W2 · SiLU(W1 · x + b1) + b2 with grouped matrices, for all tokens except each galaxy's first, which is
  // copied or, with skipped = 1, gets no row. w1 (groups, inner, outer), w2 (groups, outer, inner).
  void (*parallel)(int64_t galaxies, int64_t tokens, int64_t groups, int64_t outer, int64_t inner, int64_t skipped,
                   const float *x, const float *w1, const float *b1, const float *w2, const float *b2, float *out);

  // Products of uint8 by int8, exact in int32; null where onnxruntime's own are as fast. `pack` arranges weights
  // (inputs, outputs) in `packed_bytes` bytes, and returns false for weights whose sums could overflow on the way.
  int64_t (*packed_bytes)(int64_t inputs, int64_t outputs);
  bool (*pack)(int64_t inputs, int64_t outputs, const int8_t *weights, void *packed);

  // (x - zero) · weights · the scale of x and of each output, scales (outputs,); x (rows, inputs).
  void (*multiply)(int64_t rows, int64_t inputs, int64_t outputs, const uint8_t *x, Quantisation quantisation,
                   const void *packed, const float *scales, float *out);

  // The Inception branch up to its flat features; images (galaxies, channels, size, size) are first averaged over
  // 2×2 pixels. A block's paths: 1×1; 1×1 and 3×3; 1×1 and 5×5; stem, the largest of 3×3 pixels, 1×1. ReLU follows
  // every convolution except the stem. weights: each block's convolutions in the order of InceptionBlock. Each is
  // (outputs / 4, k, k, inputs, 4), then its bias, with outputs padded by zeros to a multiple of 4.
  void (*inception)(int64_t galaxies, int64_t channels, int64_t size, const float *images, int64_t blocks,
                    const InceptionBlock *plan, const float *weights, float *out);
};

// Products of float32 by bfloat16 on CPUs that have instructions for them.
struct Bfloat16Products {
  const char *name;

  // `pack` arranges weights (inputs, outputs) in `packed_bytes` bytes.
  int64_t (*packed_bytes)(int64_t inputs, int64_t outputs);
  void (*pack)(int64_t inputs, int64_t outputs, const uint16_t *weights, void *packed);

  // x, rounded to bfloat16, · weights; x (rows, inputs). Subnormal numbers may count as zeros.
  void (*multiply)(int64_t rows, int64_t inputs, int64_t outputs, const float *x, const void *packed, float *out);
};
