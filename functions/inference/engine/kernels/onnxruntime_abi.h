// The part of onnxruntime's C interface that the operators use. Its table of functions only grows at its end
// (onnxruntime/core/session/onnxruntime_c_api.h: "must not be reordered"), so no function changes its place.
#pragma once
#include <cstddef>
#include <cstdint>

namespace ort {

struct Status;
struct Context;
struct Value;
struct Shape;
struct Info;
struct Domain;
struct Options;

constexpr uint32_t VERSION = 16;  // the first in which an operator can report an error without an exception
enum { FLOAT = 1, UINT8 = 2, INT8 = 3, INT64 = 7, BFLOAT16 = 16 };
enum { INVALID_ARGUMENT = 2 };

struct Api {
  void *functions[250];
  template <int place, class... Arguments>
  Status *call(Arguments... arguments) const {
    return reinterpret_cast<Status *(*)(Arguments...)>(functions[place])(arguments...);
  }
  Status *failed(const char *why) const { return call<0>(int(INVALID_ARGUMENT), why); }
  Status *create_domain(const char *name, Domain **domain) const { return call<26>(name, domain); }
  Status *add_operator(Domain *domain, const struct Operator *added) const { return call<27>(domain, added); }
  Status *add_domain(Options *options, Domain *domain) const { return call<28>(options, domain); }
  Status *data(const Value *value, void **data) const { return call<51>(value, data); }
  Status *rank(const Shape *shape, size_t *rank) const { return call<61>(shape, rank); }
  Status *dimensions(const Shape *shape, int64_t *sizes, size_t rank) const { return call<62>(shape, sizes, rank); }
  Status *shape(const Value *value, Shape **shape) const { return call<65>(value, shape); }
  Status *attribute(const Info *info, const char *name, float *value) const { return call<85>(info, name, value); }
  Status *attribute(const Info *info, const char *name, int64_t *value) const { return call<86>(info, name, value); }
  Status *input(const Context *context, size_t index, const Value **value) const {
    return call<90>(context, index, value);
  }
  Status *output(Context *context, size_t index, const int64_t *sizes, size_t rank, Value **value) const {
    return call<91>(context, index, sizes, rank, value);
  }
  Status *constant(const Info *info, size_t index, int *is_constant, const Value **value) const {
    return call<249>(info, index, is_constant, value);
  }
  void release(Shape *shape) const { call<99>(shape); }
};

struct ApiBase {
  const Api *(*get)(uint32_t version);
  const char *(*version)();
};

struct Operator {  // OrtCustomOp in version 16
  uint32_t version;
  void *(*create_or_throw)(const Operator *, const Api *, const Info *);
  const char *(*name)(const Operator *);
  const char *(*provider)(const Operator *);
  int (*input_type)(const Operator *, size_t);
  size_t (*inputs)(const Operator *);
  int (*output_type)(const Operator *, size_t);
  size_t (*outputs)(const Operator *);
  void (*compute_or_throw)(void *, Context *);
  void (*destroy)(void *);
  int (*input_kind)(const Operator *, size_t);
  int (*output_kind)(const Operator *, size_t);
  int (*input_memory)(const Operator *, size_t);
  int (*least_inputs)(const Operator *);
  int (*alike_inputs)(const Operator *);
  int (*least_outputs)(const Operator *);
  int (*alike_outputs)(const Operator *);
  Status *(*create)(const Operator *, const Api *, const Info *, void **);
  Status *(*compute)(void *, Context *);
};

}  // namespace ort
