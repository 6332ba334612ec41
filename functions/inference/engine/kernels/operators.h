// Operators of the domain "cosmicai" in the form that onnxruntime expects: their tensors, attributes and functions.
#pragma once
#include <cstdlib>
#include <initializer_list>
#include <new>
#include <utility>

#include "kernels.h"
#include "onnxruntime_abi.h"

namespace {

struct Tensor {
  void *data = nullptr;
  size_t rank = 0;
  int64_t sizes[4] = {};
  int64_t count = 1;
  const float *floats() const { return static_cast<const float *>(data); }
};

// Its data and shape.
inline ort::Status *read(const ort::Api *api, const ort::Value *value, Tensor &tensor) {
  ort::Shape *shape = nullptr;
  if (ort::Status *wrong = api->shape(value, &shape)) return wrong;
  ort::Status *wrong = api->rank(shape, &tensor.rank);
  if (!wrong && tensor.rank > 4) wrong = api->failed("a tensor has more than four dimensions");
  if (!wrong) wrong = api->dimensions(shape, tensor.sizes, tensor.rank);
  api->release(shape);
  if (!wrong) wrong = api->data(value, &tensor.data);
  for (size_t i = 0; !wrong && i < tensor.rank; i++) tensor.count *= tensor.sizes[i];
  return wrong;
}

// One execution of an operator. Keeps the first error in `wrong`, which the operator returns.
class Call {
 public:
  Call(const ort::Api *api, ort::Context *context) : api_(api), context_(context) {}

  Tensor input(size_t index) {
    Tensor tensor;
    const ort::Value *value = nullptr;
    if (done(api_->input(context_, index, &value))) done(read(api_, value, tensor));
    return tensor;
  }

  template <class Element>
  Element *output(size_t index, std::initializer_list<int64_t> sizes) {
    ort::Value *value = nullptr;
    void *data = nullptr;
    if (!wrong && done(api_->output(context_, index, sizes.begin(), sizes.size(), &value)))
      done(api_->data(value, &data));
    return static_cast<Element *>(data);
  }

  bool expect(bool holds, const char *what) {
    if (!holds && !wrong) wrong = api_->failed(what);
    return !wrong;
  }

  ort::Status *wrong = nullptr;

 private:
  bool done(ort::Status *status) {
    if (status && !wrong) wrong = status;
    return !wrong;
  }

  const ort::Api *api_;
  ort::Context *context_;
};

struct Attributes {
  const ort::Api *api;
  const ort::Info *info;
  ort::Status *wrong = nullptr;
  template <class Number>
  Number get(const char *name) {
    Number value{};
    if (!wrong) wrong = api->attribute(info, name, &value);
    return value;
  }

  // An input that is the same in every execution.
  Tensor constant(size_t index) {
    Tensor tensor;
    const ort::Value *value = nullptr;
    int is_constant = 0;
    if (!wrong) wrong = api->constant(info, index, &is_constant, &value);
    if (!wrong && !is_constant) wrong = api->failed("weights are constants of the graph");
    if (!wrong) wrong = read(api, value, tensor);
    return tensor;
  }
};

// The output `index` of an operator: float or, if a scale and a zero follow the inputs, uint8.
template <class Kind>
class Output {
 public:
  Output(Call &call, size_t index, size_t inputs, std::initializer_list<int64_t> sizes) {
    if (Kind::quantised) {
      const Tensor scale = call.input(inputs), zero = call.input(inputs + 1);
      if (!call.expect(scale.count == 1 && zero.count == 1, "scale and zero are one number each")) return;
      quantisation_ = {*scale.floats(), *static_cast<const uint8_t *>(zero.data)};
      data = call.output<uint8_t>(index, sizes);
    } else {
      data = call.output<float>(index, sizes);
    }
  }
  const Quantisation *quantisation() const { return Kind::quantised ? &quantisation_ : nullptr; }
  void *data = nullptr;

 private:
  Quantisation quantisation_{};
};

struct AsFloat {
  static constexpr bool quantised = false;
};
struct AsUint8 {
  static constexpr bool quantised = true;
};

// An operator in the form that onnxruntime expects. Its inputs are float unless `types` lists their types.
template <class Made>
struct Registered : ort::Operator {
  static constexpr bool quantised = Made::quantised_output != size_t(-1);
  struct Kernel {
    Made made;
    const ort::Api *api;
  };

  Registered() : ort::Operator{} {
    version = ort::VERSION;
    name = [](const ort::Operator *) { return Made::name; };
    provider = [](const ort::Operator *) -> const char * { return nullptr; };  // the CPU
    inputs = [](const ort::Operator *) { return Made::inputs + (quantised ? 2 : 0); };
    outputs = [](const ort::Operator *) { return Made::outputs; };
    input_type = [](const ort::Operator *, size_t index) -> int {
      if constexpr (requires { Made::types; }) return Made::types[index];
      return index == Made::inputs + 1 ? ort::UINT8 : ort::FLOAT;
    };
    output_type = [](const ort::Operator *, size_t index) -> int {
      return index == Made::quantised_output ? ort::UINT8 : ort::FLOAT;
    };
    input_kind = output_kind = input_memory = [](const ort::Operator *, size_t) { return 0; };
    least_inputs = least_outputs = alike_inputs = alike_outputs = [](const ort::Operator *) { return 1; };
    create = [](const ort::Operator *, const ort::Api *api, const ort::Info *info, void **kernel) {
      Attributes attributes{api, info};
      Made made(attributes);
      void *memory = malloc(sizeof(Kernel));
      if (!attributes.wrong && !memory) attributes.wrong = api->failed("no memory is left");
      if (!attributes.wrong) *kernel = new (memory) Kernel{std::move(made), api};
      else free(memory);
      return attributes.wrong;
    };
    compute = [](void *kernel, ort::Context *context) {
      const auto *created = static_cast<const Kernel *>(kernel);
      Call call(created->api, context);
      created->made.compute(call);
      return call.wrong;
    };
    destroy = [](void *kernel) {
      static_cast<Kernel *>(kernel)->~Kernel();
      free(kernel);
    };
  }
};

}  // namespace
