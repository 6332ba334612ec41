// The kernels as operators of the domain "cosmicai" in onnxruntime, and the choice of the CPU's instruction set.
#include "operators.h"

#include <cstring>
#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__linux__)
#include <sys/auxv.h>
#endif

#if defined(__x86_64__)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
namespace avx512_bf16 {
extern const Bfloat16Products bfloat16;
}
#else
namespace neon {
extern const Kernels kernels;
}
#if defined(__linux__)
namespace neon_bf16 {
extern const Bfloat16Products bfloat16;
}
#endif
#endif

namespace {

#if defined(__x86_64__)
struct Leaf {  // of the instruction CPUID
  uint32_t a = 0, b = 0, c = 0, d = 0;
  Leaf(uint32_t number, uint32_t part) {
    if (!__get_cpuid_count(number, part, &a, &b, &c, &d)) a = b = c = d = 0;
  }
};

bool all(uint32_t found, uint32_t needed) { return (found & needed) == needed; }

// For comparisons, the variable COSMICAI_INSTRUCTIONS=avx2 turns off what is newer.
bool asked_for_avx2() {
  const char *asked = getenv("COSMICAI_INSTRUCTIONS");
  return asked && !strcmp(asked, "avx2");
}
#endif

// The fastest kernels that this CPU and its operating system can run; null without AVX2. Checks for every instruction
// of x86-64-v3 or v4 that the compiler may use (https://gitlab.com/x86-psABIs/x86-64-ABI).
const Kernels *best() {
#if defined(__x86_64__)
  const Leaf basic(1, 0), extended(0x80000001, 0), newer(7, 0);
  if (!all(basic.c, bit_FMA | bit_OSXSAVE | bit_AVX | bit_F16C | bit_MOVBE | bit_POPCNT)) return nullptr;
  uint32_t saved, high;
  __asm__("xgetbv" : "=a"(saved), "=d"(high) : "c"(0));
  if (!all(saved, 0x6) || !all(newer.b, bit_AVX2 | bit_BMI | bit_BMI2) || !all(extended.c, bit_LZCNT)) return nullptr;
  if (asked_for_avx2()) return &avx2::kernels;
  const uint32_t needed = bit_AVX512F | bit_AVX512DQ | bit_AVX512CD | bit_AVX512BW | bit_AVX512VL;
  return all(newer.b, needed) && all(saved, 0xe6) ? &avx512::kernels : &avx2::kernels;
#else
  return &neon::kernels;
#endif
}

const Kernels *const kernels = best();

// Our products of bfloat16; null on a CPU without instructions for them, where onnxruntime computes the definition.
const Bfloat16Products *best_bfloat16() {
#if defined(__x86_64__)
  const bool has_it = Leaf(7, 0).a >= 1 && all(Leaf(7, 1).a, 1 << 5);
  return kernels == &avx512::kernels && has_it ? &avx512_bf16::bfloat16 : nullptr;
#elif defined(__linux__)
  constexpr unsigned long needed = 1 << 14;  // HWCAP2_BF16 of Linux
  return getauxval(AT_HWCAP2) & needed ? &neon_bf16::bfloat16 : nullptr;
#else
  return nullptr;
#endif
}

const Bfloat16Products *const bfloat16 = best_bfloat16();

// Whether our products of integers are faster than onnxruntime's: by AVX2, where it has no VNNI in AVX2's registers. The
// graph says by standard operators what they compute, and onnxruntime does that where they are not registered.
bool own_products() {
#if defined(__x86_64__)
  const bool vnni = Leaf(7, 0).a >= 1 && all(Leaf(7, 1).a, 1 << 4);
  return kernels->multiply && (asked_for_avx2() || !vnni);
#else
  return false;
#endif
}

struct Soften {
  static constexpr const char *name = "Soften";
  static constexpr size_t inputs = 2, outputs = 1, quantised_output = -1;
  explicit Soften(Attributes &) {}

  void compute(Call &call) const {
    const Tensor x = call.input(0), reciprocals = call.input(1);
    if (!call.expect(x.rank == 4 && reciprocals.count == x.sizes[1],
                     "Soften: images (galaxies, channels, size, size), reciprocals (channels,)"))
      return;
    float *out = call.output<float>(0, {x.sizes[0], x.sizes[1], x.sizes[2], x.sizes[3]});
    if (call.wrong) return;
    kernels->soften(x.sizes[0], x.sizes[1], x.sizes[2] * x.sizes[3], x.floats(), reciprocals.floats(), out);
  }
};

template <class Kind>
struct Gelu {
  static constexpr const char *name = Kind::quantised ? "GeluToUint8" : "Gelu";
  static constexpr size_t inputs = 2, outputs = 1, quantised_output = Kind::quantised ? 0 : -1;
  explicit Gelu(Attributes &) {}

  void compute(Call &call) const {
    const Tensor x = call.input(0), bias = call.input(1);
    if (!call.expect(x.rank == 2 && bias.count == x.sizes[1], "Gelu: x (rows, width), bias (width,)")) return;
    const Output<Kind> out(call, 0, inputs, {x.sizes[0], x.sizes[1]});
    if (call.wrong) return;
    kernels->gelu(x.sizes[0], x.sizes[1], x.floats(), bias.floats(), out.quantisation(), out.data);
  }
};

template <class Kind>
struct AddNorm {
  static constexpr const char *name = Kind::quantised ? "AddNormToUint8" : "AddNorm";
  static constexpr size_t inputs = 5, outputs = 2, quantised_output = Kind::quantised ? 1 : -1;
  explicit AddNorm(Attributes &attributes) : epsilon(attributes.get<float>("epsilon")) {}
  float epsilon;

  void compute(Call &call) const {
    const Tensor x = call.input(0), bias = call.input(1), residual = call.input(2);
    const Tensor gamma = call.input(3), beta = call.input(4);
    if (!call.expect(x.rank == 2 && bias.count == x.sizes[1] && residual.count == x.count &&
                         gamma.count == bias.count && beta.count == bias.count,
                     "AddNorm: product and residual (rows, width), bias, gamma and beta (width,)"))
      return;
    float *sum = call.output<float>(0, {x.sizes[0], x.sizes[1]});
    const Output<Kind> out(call, 1, inputs, {x.sizes[0], x.sizes[1]});
    if (call.wrong) return;
    kernels->add_norm(x.sizes[0], x.sizes[1], x.floats(), bias.floats(), residual.floats(), gamma.floats(),
                      beta.floats(), epsilon, out.quantisation(), sum, out.data);
  }
};

template <class Kind>
struct Attention {
  static constexpr const char *name = Kind::quantised ? "AttentionToUint8" : "Attention";
  static constexpr size_t inputs = 2, outputs = 1, quantised_output = Kind::quantised ? 0 : -1;
  explicit Attention(Attributes &attributes)
      : tokens(attributes.get<int64_t>("tokens")),
        heads(attributes.get<int64_t>("heads")),
        skipped(attributes.get<int64_t>("skipped")) {}
  int64_t tokens, heads, skipped;

  void compute(Call &call) const {
    const Tensor qkv = call.input(0), bias = call.input(1);
    if (!call.expect(qkv.rank == 2 && bias.count == qkv.sizes[1] && tokens > 0 && heads > 0 && skipped >= 0 &&
                         skipped < tokens && qkv.sizes[0] % tokens == 0 && qkv.sizes[1] % (3 * heads) == 0,
                     "Attention: qkv (galaxies * tokens, 3 * heads * depth), bias (3 * heads * depth,)"))
      return;
    const int64_t galaxies = qkv.sizes[0] / tokens, width = qkv.sizes[1] / 3;
    const Output<Kind> out(call, 0, inputs, {galaxies * (tokens - skipped), width});
    if (call.wrong) return;
    kernels->attention(galaxies, tokens, width, heads, skipped, qkv.floats(), bias.floats(), out.quantisation(),
                       out.data);
  }
};

struct Parallel {
  static constexpr const char *name = "Parallel";
  static constexpr size_t inputs = 5, outputs = 1, quantised_output = -1;
  explicit Parallel(Attributes &attributes)
      : tokens(attributes.get<int64_t>("tokens")), skipped(attributes.get<int64_t>("skipped")) {}
  int64_t tokens, skipped;

  void compute(Call &call) const {
    const Tensor x = call.input(0), w1 = call.input(1), b1 = call.input(2), w2 = call.input(3), b2 = call.input(4);
    const char *shapes = "Parallel: x (galaxies * tokens, groups * outer), w1 (groups, inner, outer), w2 transposed";
    if (!call.expect(x.rank == 2 && w1.rank == 3 && tokens > 0 && (skipped == 0 || skipped == 1), shapes))
      return;
    const int64_t groups = w1.sizes[0], inner = w1.sizes[1], outer = w1.sizes[2], width = groups * outer;
    if (!call.expect(x.sizes[1] == width && x.sizes[0] % tokens == 0 && b1.count == groups * inner &&
                         w2.count == w1.count && b2.count == width,
                     shapes))
      return;
    const int64_t galaxies = x.sizes[0] / tokens;
    float *out = call.output<float>(0, {galaxies * (tokens - skipped), width});
    if (call.wrong) return;
    kernels->parallel(galaxies, tokens, groups, outer, inner, skipped, x.floats(), w1.floats(), b1.floats(),
                      w2.floats(), b2.floats(), out);
  }
};

struct Inception {
  static constexpr const char *name = "Inception";
  static constexpr size_t inputs = 3, outputs = 1, quantised_output = -1;
  static constexpr int types[] = {ort::FLOAT, ort::INT64, ort::FLOAT};
  static constexpr int64_t fields = sizeof(InceptionBlock) / sizeof(int64_t);
  static constexpr int64_t most_channels = 1 << 16;  // so that no product of sizes overflows
  explicit Inception(Attributes &) {}

  void compute(Call &call) const {
    const Tensor images = call.input(0), plan = call.input(1), weights = call.input(2);
    if (!call.expect(images.rank == 4 && images.sizes[2] == images.sizes[3] && images.sizes[2] % 2 == 0 &&
                         plan.count > 0 && plan.count % fields == 0,
                     "Inception: images (galaxies, channels, size, size) with an even size, plan (blocks, 9)"))
      return;
    const auto *numbers = static_cast<const int64_t *>(plan.data);
    for (int64_t field = 0; field < plan.count; field++)
      if (!call.expect(numbers[field] >= 0, "Inception: the plan has negative numbers") ||
          !call.expect(numbers[field] <= most_channels, "Inception: the plan has more than 65536 channels"))
        return;
    const auto *blocks = static_cast<const InceptionBlock *>(plan.data);
    const int64_t count = plan.count / fields;
    int64_t size = images.sizes[2] / 2, channels = images.sizes[1], needed = 0;
    for (int64_t b = 0; b < count; b++) {
      const InceptionBlock &block = blocks[b];
      if (!call.expect(block.inputs == channels && (!block.halve || size % 2 == 0), "Inception: blocks do not fit"))
        return;
      needed += weights_of(block);
      channels = block.one + block.three + block.five + block.pooled;
      size /= block.halve ? 2 : 1;
    }
    if (!call.expect(needed == weights.count, "Inception: there are more or fewer weights than the plan says")) return;
    float *out = call.output<float>(0, {images.sizes[0], channels * size * size});
    if (call.wrong) return;
    kernels->inception(images.sizes[0], images.sizes[1], images.sizes[2], images.floats(), count, blocks,
                       weights.floats(), out);
  }

  static int64_t weights_of(const InceptionBlock &block) {
    const auto layer = [](int64_t inputs, int64_t taps, int64_t outputs) {
      return (outputs + 3) / 4 * 4 * (inputs * taps + 1);
    };
    int64_t all = layer(block.three_inner, 9, block.three) + layer(block.five_inner, 25, block.five);
    for (int64_t outputs : {block.one, block.three_inner, block.five_inner, block.stem})
      all += layer(block.inputs, 1, outputs);
    return all + layer(block.stem ? block.stem : block.inputs, 1, block.pooled);
  }
};

// Memory that its owner frees.
struct Owned {
  explicit Owned(size_t bytes) : memory(aligned_alloc(64, (bytes + 63) / 64 * 64)) {}
  Owned(Owned &&other) : memory(other.memory) { other.memory = nullptr; }
  ~Owned() { free(memory); }
  void *memory;
};

// Constant weights (inputs, outputs), arranged by `pack` in `bytes` bytes. `pack` returns what is wrong with them.
struct Packed {
  template <class Pack>
  Packed(Attributes &attributes, int64_t (*bytes)(int64_t, int64_t), Pack pack)
      : Packed(attributes, attributes.constant(1), bytes, pack) {}
  template <class Pack>
  Packed(Attributes &attributes, const Tensor &weights, int64_t (*bytes)(int64_t, int64_t), Pack pack)
      : deep(weights.sizes[0]), wide(weights.sizes[1]), owned(bytes(deep, wide)) {
    if (attributes.wrong) return;
    const char *fault = weights.rank != 2 ? "weights (inputs, outputs)" : nullptr;
    if (!fault && !owned.memory) fault = "no memory is left";
    if (!fault) fault = pack(weights.data, *this);
    if (fault) attributes.wrong = attributes.api->failed(fault);
  }
  int64_t deep, wide;
  Owned owned;
};

// x (rows, inputs) as uint8 by weights (inputs, outputs) as int8, in float; onnxruntime's MatMulIntegerToFloat.
struct Multiply {
  static constexpr const char *name = "MatMulUint8";
  static constexpr size_t inputs = 5, outputs = 1, quantised_output = -1;
  static constexpr int types[] = {ort::UINT8, ort::INT8, ort::FLOAT, ort::FLOAT, ort::UINT8};
  explicit Multiply(Attributes &attributes)
      : packed(attributes, kernels->packed_bytes, [](const void *weights, const Packed &to) {
          const bool safe = kernels->pack(to.deep, to.wide, static_cast<const int8_t *>(weights), to.owned.memory);
          return safe ? nullptr : "MatMulUint8: sums of these weights could overflow";
        }) {}
  Packed packed;

  void compute(Call &call) const {
    const int64_t deep = packed.deep, wide = packed.wide;
    const Tensor x = call.input(0), scale = call.input(2), scales = call.input(3), zero = call.input(4);
    if (!call.expect(x.rank == 2 && x.sizes[1] == deep && scales.count == wide && scale.count == 1 && zero.count == 1,
                     "MatMulUint8: x (rows, inputs), scales (outputs,), scale and zero of x are one number each"))
      return;
    float *out = call.output<float>(0, {x.sizes[0], wide});
    if (call.wrong) return;
    kernels->multiply(x.sizes[0], deep, wide, static_cast<const uint8_t *>(x.data),
                      {*scale.floats(), *static_cast<const uint8_t *>(zero.data)}, packed.owned.memory,
                      scales.floats(), out);
  }
};

// x (rows, inputs), rounded to bfloat16, by weights (inputs, outputs) as bfloat16, in float.
struct MultiplyBfloat16 {
  static constexpr const char *name = "MatMulBfloat16";
  static constexpr size_t inputs = 2, outputs = 1, quantised_output = -1;
  static constexpr int types[] = {ort::FLOAT, ort::BFLOAT16};
  explicit MultiplyBfloat16(Attributes &attributes)
      : packed(attributes, bfloat16->packed_bytes, [](const void *weights, const Packed &to) -> const char * {
          bfloat16->pack(to.deep, to.wide, static_cast<const uint16_t *>(weights), to.owned.memory);
          return nullptr;
        }) {}
  Packed packed;

  void compute(Call &call) const {
    const Tensor x = call.input(0);
    if (!call.expect(x.rank == 2 && x.sizes[1] == packed.deep, "MatMulBfloat16: x (rows, inputs)")) return;
    float *out = call.output<float>(0, {x.sizes[0], packed.wide});
    if (call.wrong) return;
    bfloat16->multiply(x.sizes[0], packed.deep, packed.wide, x.floats(), packed.owned.memory, out);
  }
};

const Registered<Soften> soften;
const Registered<Gelu<AsFloat>> gelu;
const Registered<Gelu<AsUint8>> gelu8;
const Registered<AddNorm<AsFloat>> add_norm;
const Registered<AddNorm<AsUint8>> add_norm8;
const Registered<Attention<AsFloat>> attention;
const Registered<Attention<AsUint8>> attention8;
const Registered<Parallel> parallel;
const Registered<Inception> inception;
const Registered<Multiply> multiply;
const Registered<MultiplyBfloat16> multiply_bfloat16;
const ort::Operator *const operators[] = {&soften,    &gelu,       &gelu8,    &add_norm, &add_norm8,
                                          &attention, &attention8, &parallel, &inception};

}  // namespace

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

// The name of the instruction set in use; null if there are no kernels for this CPU.
EXPORTED const char *cosmicai_instructions() { return kernels ? kernels->name : nullptr; }

// The instruction set of the products of bfloat16; null if this CPU has none.
EXPORTED const char *cosmicai_bfloat16() { return bfloat16 ? bfloat16->name : nullptr; }

// Called by onnxruntime's SessionOptions.register_custom_ops_library.
EXPORTED ort::Status *RegisterCustomOps(ort::Options *options, const ort::ApiBase *base) {
  const ort::Api *api = base->get(ort::VERSION);
  if (!kernels) return api->failed("this CPU lacks AVX2, which CosmicAI's kernels need");
  ort::Domain *domain = nullptr;  // lives as long as the process: sessions refer to it
  if (ort::Status *wrong = api->create_domain("cosmicai", &domain)) return wrong;
  for (const ort::Operator *added : operators)
    if (ort::Status *wrong = api->add_operator(domain, added)) return wrong;
  if (own_products())
    if (ort::Status *wrong = api->add_operator(domain, &multiply)) return wrong;
  if (bfloat16)
    if (ort::Status *wrong = api->add_operator(domain, &multiply_bfloat16)) return wrong;
  return api->add_domain(options, domain);
}
}
