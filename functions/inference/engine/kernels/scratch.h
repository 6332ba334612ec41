// Memory for a kernel's intermediate values.
#pragma once
#include <pthread.h>

#include <cstdlib>

#include "vector.h"

namespace KERNELS {
namespace {

// One buffer for each thread, kept between calls and freed when the thread ends.
struct Buffer {
  size_t vectors;
  Vector *memory;
};

pthread_key_t buffers;
const int no_buffers = pthread_key_create(&buffers, [](void *buffer) {
  free(static_cast<Buffer *>(buffer)->memory);
  free(buffer);
});

Vector *scratch(size_t vectors) {
  if (no_buffers) abort();
  auto *buffer = static_cast<Buffer *>(pthread_getspecific(buffers));
  if (!buffer) {
    buffer = static_cast<Buffer *>(calloc(1, sizeof(Buffer)));
    if (!buffer || pthread_setspecific(buffers, buffer)) abort();
  }
  if (buffer->vectors < vectors) {
    free(buffer->memory);
    buffer->memory = static_cast<Vector *>(aligned_alloc(sizeof(Vector), vectors * sizeof(Vector)));
    if (!buffer->memory) abort();  // onnxruntime's operators cannot continue without memory either
    buffer->vectors = vectors;
  }
  return buffer->memory;
}

}  // namespace
}  // namespace KERNELS
