// Reads rows, inputs, outputs (int64), x (float32) and weights (bfloat16) from standard input, and writes the product
// (float32) by the kernels' instructions.
#include <cstdio>
#include <cstdlib>

#include "kernels.h"

namespace KERNELS {
extern const Bfloat16Products bfloat16;
}

template <class Number>
Number *read(size_t count) {
  auto *numbers = static_cast<Number *>(calloc(count + 1, sizeof(Number)));
  if (!numbers || fread(numbers, sizeof(Number), count, stdin) != count) exit(1);
  return numbers;
}

int main() {
  const auto *sizes = read<int64_t>(3);
  const auto *x = read<float>(sizes[0] * sizes[1]);
  const auto *weights = read<uint16_t>(sizes[1] * sizes[2]);
  void *packed = aligned_alloc(64, (KERNELS::bfloat16.packed_bytes(sizes[1], sizes[2]) + 63) / 64 * 64);
  auto *out = static_cast<float *>(calloc(sizes[0] * sizes[2] + 1, sizeof(float)));
  if (!packed || !out) return 1;
  KERNELS::bfloat16.pack(sizes[1], sizes[2], weights, packed);
  KERNELS::bfloat16.multiply(sizes[0], sizes[1], sizes[2], x, packed, out);
  fwrite(out, sizeof(float), sizes[0] * sizes[2], stdout);
}
